"""The engine when things go wrong: refusals that sent nothing, late answers, a database that is away for a moment, notices."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceStub

from chassis import rpc
from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.touchpoints.addresses import Addresses
from services.touchpoints.channels.contract import Lookup, Plan, Push
from services.touchpoints.domain.deliveries import (
    ERASED,
    Accepted,
    Channel,
    Delivery,
    Outcome,
    Refused,
    Retry,
    State,
    after_attempt,
)
from services.touchpoints.endpoints import Endpoint, Endpoints
from services.touchpoints.engine import replaying, store
from services.touchpoints.engine.replaying import Replay
from services.touchpoints.engine.sender import Sender
from services.touchpoints.engine.store import Attempt
from services.touchpoints.store import deliveries
from services.touchpoints.store.consents import STANDING_NOW
from services.touchpoints.store.feedback import Progress, advance
from services.touchpoints.vault import Vault
from services.touchpoints.wechat.choice import FOR_EVER
from services.touchpoints.wechat.memory import FollowerMemory, follower_of
from services.touchpoints.wechat.store import add_credits
from services.touchpoints.wechat.templates import Form
from tests.integration.touchpoints.identity import Identity
from tests.integration.touchpoints.room import eventually, settings_for

NOW = datetime.now(UTC)
UNSENT = Retry("busy", sent_perhaps=False)


@dataclass
class Scripted:
    """A channel whose provider answers as `script` says: push → outcomes in order, and Accepted after those."""

    script: dict[str, list[Outcome]] = field(default_factory=dict)
    remembers_s: float = 3600.0
    memory: Any = None
    sent: list[str] = field(default_factory=list)

    def forbids(self, delivery: Delivery) -> str:
        return ""

    def plan(self, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        routes = tuple((d, endpoints[0]) for d in deliveries)
        direct = [(d, e) for d, e in routes if d.kind]
        return Plan([Lookup("crm_id", "app", tuple((d, e) for d, e in routes if not d.kind))], direct)

    async def send(self, push: Push) -> Outcome:
        self.sent.append(push.delivery.delivery_id)
        outcomes = self.script.get(push.delivery.delivery_id)
        return outcomes.pop(0) if outcomes else Accepted()


def push(name: str, person: int = 1, **changes: Any) -> Delivery:
    made = Delivery(
        name, "t", person, Channel.APP, (), "", "", "", "service", 0, 0, (), "", NOW, NOW + timedelta(days=1), NOW
    )  # fmt: skip
    return replace(made, **changes)


async def given(database: Database, pushes: Iterable[Delivery], channels: Iterable[Channel] = (Channel.APP,)) -> Endpoints:
    endpoints = Endpoints(database, Vault(b"k" * 32))
    async with database.transaction() as uow:
        for channel in channels:
            await endpoints.register(uow, Endpoint(channel.label, channel, "", "https://a.example/"), signed=False)
        await deliveries.add(uow, list(pushes))
    return endpoints


@asynccontextmanager
async def sending(
    database: Database, identity: Identity, endpoints: Endpoints, channels: dict[Channel, Scripted], **changes: Any
) -> AsyncIterator[Sender]:
    """A sender at work; everybody has an address."""
    for person in range(1, 10):
        identity.book[person, "crm_id", "app"] = (100 + person, f"u{person}")
    peer = rpc.connect(identity.target, "touchpoints", "x" * 20)
    settings = settings_for("postgresql://unused", "nats://unused", identity, **changes)
    sender = Sender(database, endpoints, Addresses(IdentityServiceStub(peer)), channels, settings)
    task = asyncio.create_task(sender.run())
    try:
        yield sender
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await peer.close()


async def ended(database: Database, wanted: Callable[[dict[str, Any]], bool] | None = None) -> dict[str, Any]:
    """Rows by push, once all have ended or are as wanted."""

    async def read() -> dict[str, Any]:
        return {row["delivery_id"]: row for row in await database.fetch("SELECT * FROM delivery")}

    return await eventually(read, wanted or (lambda rows: all(row["state"] > State.SENDING for row in rows.values())))


async def test_what_was_surely_not_sent_goes_to_the_next_channel_and_nothing_else_does(
    databases: DatabaseFactory, identity: Identity
) -> None:
    refused = Refused("no_permission")
    first = Scripted({"at_once": [refused], "later": [UNSENT, refused], "unsure": [Retry("timeout"), refused]})
    second = Scripted()
    async with databases.database("touchpoints") as database:
        pushes = [push(name, n, fallback_channels=(Channel.SMS,)) for n, name in enumerate(first.script, 1)]
        endpoints = await given(database, pushes, (Channel.APP, Channel.SMS))
        async with sending(database, identity, endpoints, {Channel.APP: first, Channel.SMS: second}):
            rows = await ended(database)
    assert ["at_once", "later"] == sorted(second.sent)
    assert {
        "at_once": (State.ACCEPTED, Channel.SMS, "sms", 1),
        "later": (State.ACCEPTED, Channel.SMS, "sms", 1),
        "unsure": (State.FAILED, Channel.APP, "app", 2),
    } == {name: (row["state"], row["channel"], row["endpoint"], row["attempts"]) for name, row in rows.items()}


@pytest.mark.parametrize("late", [UNSENT, Refused("http_400"), Accepted("p7")], ids=["busy", "refused", "accepted"])
async def test_a_late_answer_says_nothing_of_the_call_that_was_begun_since(databases: DatabaseFactory, late: Outcome) -> None:
    one = push("d1", fallback_channels=(Channel.SMS,))
    async with databases.database("touchpoints") as database:
        await given(database, [one])
        for _ in range(2):
            async with database.transaction() as uow:
                counts = await store.begin(uow, [Attempt("d1", "app", 101)], 30)
        assert {"d1": 2} == counts
        async with database.transaction() as uow:
            change = after_attempt(one, 1, late, 12, 0)
            await (store.fall_back if change.state is State.QUEUED else store.conclude)(uow, [change])
        row = (await ended(database, lambda rows: True))["d1"]
    assert row["unsure_since"] is not None
    assert (State.ACCEPTED if late == Accepted("p7") else State.SENDING, Channel.APP) == (row["state"], row["channel"])


class Hiccups(Database):
    """The database, away for a moment after calls were noted."""

    failing = 0

    async def fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        if statement == STANDING_NOW and self.failing:
            self.failing -= 1
            raise ConnectionError("away")
        return await super().fetch(statement, *values)


async def test_a_call_that_was_noted_and_not_made_is_as_if_it_had_not_been_noted(
    databases: DatabaseFactory, identity: Identity
) -> None:
    # At a provider without keys: what may have been sent there would be lost.
    keyless = Scripted(remembers_s=0.0)
    async with databases.lent("touchpoints") as dsn:
        database = Hiccups(dsn, "touchpoints")
        endpoints = await given(database, [push(f"d{n}", n) for n in range(1, 4)])
        database.failing = 1
        async with sending(database, identity, endpoints, {Channel.APP: keyless}) as sender:
            rows = await ended(database)
            await eventually(lambda: asyncio.sleep(0, sender._calls.free), lambda free: free == 512)
        await database.close()
    assert {(State.ACCEPTED, 1)} == {(row["state"], row["attempts"]) for row in rows.values()}
    assert ["d1", "d2", "d3"] == sorted(keyless.sent)


async def test_a_notice_is_tried_for_its_whole_time_then_parked_with_what_it_tells_and_goes_when_replayed(
    databases: DatabaseFactory, identity: Identity
) -> None:
    about: dict[str, Any] = {"person_id": 0, "kind": ERASED, "details": '{"lead_ids":["l1"]}'}
    dealer = Scripted({"tried": [UNSENT] * 2, "refused": [Refused("http_400")]})
    async with databases.database("touchpoints") as database:
        names = [push(name, **about) for name in ("tried", "refused")]
        over = push("over", **about, expires_at=NOW - timedelta(hours=1))
        endpoints = await given(database, [*names, over])
        async with sending(database, identity, endpoints, {Channel.APP: dealer}, send_attempts=1):
            rows = await ended(database, lambda rows: rows["tried"]["state"] == State.ACCEPTED)
            rows = await ended(database, lambda rows: bool(rows["refused"]["held"] and rows["over"]["held"]))
            assert {"tried": ("", ""), "refused": ("refused", about["details"]), "over": ("unheard", about["details"])} == {
                name: (row["held"], row["details"]) for name, row in rows.items()
            }
            assert all(row["due_at"] > NOW + timedelta(hours=23) for row in rows.values() if row["held"])
            async with database.transaction() as uow:
                await replaying.ask(uow, Replay("r1", "", "", "", None, None))
                assert await replaying.work(uow)
            rows = await ended(database)
    assert {(State.ACCEPTED, "")} == {(row["state"], row["details"]) for row in rows.values()}
    assert {"tried": 3, "refused": 2, "over": 1} == Counter(dealer.sent)


async def test_a_notice_keeps_trying_where_pushes_are_parked(databases: DatabaseFactory, identity: Identity) -> None:
    async with databases.database("touchpoints") as database:
        endpoints = await given(database, [push("d1"), push("n1", kind=ERASED)])
        async with database.transaction() as uow:
            await uow.execute(
                "INSERT INTO circuit (endpoint, opened_at, open_until)"
                " VALUES ('app', now() - interval '1 hour', now() + interval '500 ms')"
            )
        async with sending(database, identity, endpoints, {Channel.APP: (channel := Scripted())}, park_after_s=1):
            rows = await ended(database, lambda rows: rows["n1"]["state"] == State.ACCEPTED)
    assert "endpoint_failing" == rows["d1"]["held"]
    assert ["n1"] == channel.sent


async def test_what_must_not_be_called_again_waits_for_the_providers_own_word(
    databases: DatabaseFactory, identity: Identity
) -> None:
    vault = Vault(b"k" * 32)
    lost: list[Outcome] = [Retry("timeout")]
    wechat = Scripted({"told": lost[:], "silent": lost[:]}, 2.0, FollowerMemory(vault, frozenset({Form.SUBSCRIPTION})))
    async with databases.database("touchpoints") as database:
        endpoints = await given(database, [push("told", 1, channel=Channel.WECHAT), push("silent", 2, channel=Channel.WECHAT)])
        yes = [{"id": "S1", "form": "subscription", "purpose": "service", "data": {"thing1": "{title}"}}]
        account = Endpoint("wechat", Channel.WECHAT, "wx1", "https://a.example/", settings={"templates": json.dumps(yes)})
        async with database.transaction() as uow:
            await endpoints.register(uow, account, signed=False)
            for user in ("u1", "u2"):
                await add_credits(uow, follower_of(vault, "wechat:wx1", user), {"credit:S1": 2}, FOR_EVER)
        async with sending(database, identity, endpoints, {Channel.WECHAT: wechat}):
            await ended(database, lambda rows: {"outcome_unknown"} == {row["reason"] for row in rows.values()})
            async with database.transaction() as uow:
                await advance(uow, [Progress("told", State.DELIVERED, "", NOW)])
            rows = await ended(database)
    assert {"told": State.DELIVERED, "silent": State.FAILED} == {name: row["state"] for name, row in rows.items()}
    assert ["silent", "told"] == sorted(wechat.sent)
