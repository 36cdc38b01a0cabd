"""The engine: order, rates, circuits, parking and replay, hours and caps at the moment of sending, outcomes nobody knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from troika.orchestrator.v1.events_pb2 import PushCap
from troika.touchpoints.v1 import delivery_service_pb2 as pb
from troika.touchpoints.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from troika.touchpoints.v1.events_pb2 import ChannelsHealth

from chassis import rpc
from chassis.bus import Bus
from chassis.testing import DatabaseFactory, drop_database
from services.touchpoints.addresses import Addresses
from services.touchpoints.channels.contract import Lookup, Plan, Push
from services.touchpoints.domain.deliveries import Accepted, Channel, Delivery, Outcome, Refused, Retry
from services.touchpoints.endpoints import Endpoint, Endpoints
from services.touchpoints.engine import sweeping
from services.touchpoints.engine.sender import Sender
from services.touchpoints.store import deliveries
from services.touchpoints.vault import Vault
from tests.conftest import Servers
from tests.integration.touchpoints.identity import Identity
from tests.integration.touchpoints.receivers import APP, DEALER
from tests.integration.touchpoints.receiving import Receiver, receiving
from tests.integration.touchpoints.room import NEIGHBOURS, TOKEN, Room, eventually, request, running, settings_for

QUEUED, SENDING, ACCEPTED, FAILED = 1, 2, 3, 9


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def why(room: Room, delivery_id: str) -> str:
    found = await room.delivery(delivery_id)
    return found.reason if found else ""


async def accepted(room: Room) -> int:
    return int((await room.database.fetch("SELECT count(*) AS n FROM delivery WHERE state >= 3 AND state < 9"))[0]["n"])


async def test_an_endpoint_gets_one_push_after_the_other_and_no_more_than_its_rate(room: Room, receiver: Receiver) -> None:
    for person in range(1, 50):
        room.identity.book[person, "mobile", ""] = (100 + person, f"+86138{person:08d}")
        room.identity.book[person, "crm_id", "app"] = (200 + person, f"u{person}")
    came: list[tuple[float, str]] = []

    def answer(number: int, body: dict[str, dict[str, str]]) -> tuple[int, dict[str, str]]:
        name = body["data"].get("lead_id") or body["data"]["delivery_id"]
        came.append((time.monotonic(), name))
        # The second lead fails twice; those behind it wait for it.
        return (500 if name == "l02" and [n for _, n in came].count("l02") < 3 else 200), {}

    receiver.answer = answer
    await room.endpoint("dealer-d001", DEALER, receiver.url, "D001", settings={"order": "ordered"})
    await room.endpoint("app", APP, receiver.url, settings={"rate_per_s": "10", "burst": "4"})
    await room.request(*(request(f"l{n:02}", n, "dealer") for n in range(1, 9)))
    await room.request(*(request(f"a{n:02}", n, "app") for n in range(1, 31)))
    await eventually(lambda: accepted(room), lambda n: n == 38)
    leads = [name for _, name in came if name.startswith("l")]
    assert ["l01", "l02", "l02", "l02", "l03", "l04", "l05", "l06", "l07", "l08"] == leads
    times = [at for at, name in came if name.startswith("a")]
    assert 30 == len(times)
    # Whatever stretch one looks at; calls of one batch may leave a moment later than they were let through.
    for first in range(30):
        for last in range(first + 6, 30):
            assert last - first + 1 <= 4 + 10 * (times[last] - times[first] + 0.25) + 1


async def test_who_fails_again_and_again_is_left_alone_and_what_was_parked_goes_when_somebody_says_so(
    servers: Servers, databases: DatabaseFactory, bus: Bus, identity: Identity, receiver: Receiver
) -> None:
    dsn, name = await databases.address("touchpoints")
    await bus.declare(*NEIGHBOURS)
    for person in range(1, 41):
        identity.book[person, "crm_id", "app"] = (100 + person, f"u{person}")
    receiver.answer = lambda number, body: (503, {})
    settings = settings_for(dsn, servers.nats_url, identity, breaker_failures=5, park_after_s=1)
    async with running(settings, identity, bus, servers.nats_url) as room:
        channel = rpc.connect(f"127.0.0.1:{settings.grpc_port}", "operator", TOKEN)
        stub = DeliveryServiceStub(channel)
        await room.endpoint("app", APP, receiver.url)
        await room.request(*(request(f"d{n}", n, "app") for n in range(1, 41)))

        async def parked() -> int:
            rows = await room.database.fetch("SELECT count(*) AS n FROM delivery WHERE held = 'endpoint_failing'")
            return int(rows[0]["n"])

        await eventually(parked, lambda n: n >= 39)
        [backlog] = await room.database.fetch(sweeping.BACKLOG)
        assert (int(Channel.APP), True) == (backlog["channel"], backlog["parked"] >= 39)
        [oldest] = await room.database.fetch(sweeping.OLDEST)
        assert oldest["seconds"] >= 0

        async def noted() -> pb.Health:
            """Of the app, once the last call is written down, too."""
            while True:
                before = len(receiver.calls)
                [app] = (await stub.GetChannelHealth(pb.GetChannelHealthRequest())).channels
                if app.calls >= before:
                    return app
                await asyncio.sleep(0.05)

        async with asyncio.timeout(10):
            app = await noted()
        # Each push was tried once, perhaps twice before the circuit opened, and one is the probe.
        calls = len(receiver.calls)
        assert calls < 2 * 40
        assert (pb.HEALTH_CONDITION_FAILING, "calls_fail", 0) == (app.condition, app.reason, app.accepted)
        # The probe may come in between.
        assert calls - 2 <= app.calls == app.failed <= calls + 2
        told = [ChannelsHealth.FromString(data).channels[0] for data in await room.messages("CHANNELS_HEALTH")]
        assert ("app", True, "calls_fail") == (told[-1].channel, told[-1].failing, told[-1].reason)
        receiver.answer = lambda number, body: (200, {})
        for _ in range(2):
            await stub.ReplayDeliveries(pb.ReplayDeliveriesRequest(request_id="r1", endpoint="app", reason="endpoint_failing"))

        async def replay() -> pb.DeliveryReplay:
            return (await stub.GetDeliveryReplay(pb.GetDeliveryReplayRequest(request_id="r1"))).replay

        done = await eventually(replay, lambda r: r.finished)
        assert 39 <= done.replayed <= 40
        await eventually(lambda: accepted(room), lambda n: n == 40)
        # A repeat of every id is allowed: it may have been taken before. None was let go twice.
        assert 40 <= len(receiver.calls) - calls <= 45
        with pytest.raises(grpc.aio.AioRpcError, match="nobody asked"):
            await stub.GetDeliveryReplay(pb.GetDeliveryReplayRequest(request_id="other"))
        await channel.close()
    await drop_database(servers.postgres_dsn, name)


async def test_hours_and_caps_are_asked_again_at_the_moment_of_sending(room: Room, receiver: Receiver) -> None:
    for person in (1, 2, 3):
        room.identity.book[person, "crm_id", "app"] = (100 + person, f"u{person}")
    await room.endpoint("app", APP, receiver.url)
    now = datetime.now(UTC)
    quiet = f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=2):%H:%M}"
    day = 86_400_000_000
    end = time.time_ns() // 1000 + day
    once = [PushCap(pushes=1, days=1), PushCap(channel="dealer", pushes=1, days=7)]
    await room.request(
        request("night", 1, "app", quiet_hours=quiet, time_zone="UTC", expires_at_us=end),
        request("elsewhere", 1, "app", quiet_hours=quiet, time_zone="Asia/Tokyo", expires_at_us=end),
        *(request(f"c{n}", 2, "app", caps=once, expires_at_us=end + day) for n in range(4)),
        request("other", 3, "app", caps=once),
        request("wrong", 3, "app", quiet_hours="soon", time_zone="UTC"),
    )
    await eventually(lambda: accepted(room), lambda n: n == 3)
    assert "quiet_hours" == await eventually(lambda: why(room, "night"), bool)

    async def waiting() -> list[float]:
        rows = await room.database.fetch(
            "SELECT extract(epoch FROM due_at - now()) AS s FROM delivery WHERE reason = 'frequency_cap' AND person_id = 2"
        )
        return [float(row["s"]) for row in rows]

    waits = await eventually(waiting, lambda found: len(found) == 3 and all(s > 80_000 for s in found))
    assert all(s < 86_401 for s in waits)
    [night] = await room.database.fetch(
        "SELECT extract(epoch FROM due_at - now()) AS s FROM delivery WHERE delivery_id = 'night'"
    )
    assert 7_000 < night["s"] <= 7_260
    assert {"msg_elsewhere", "msg_other"} < set(receiver.ids())
    assert 3 == len(receiver.calls)
    assert None is await room.delivery("wrong")


async def test_a_call_goes_at_night_and_what_it_falls_back_to_does_not(room: Room, receiver: Receiver) -> None:
    room.identity.book[1, "mobile", ""] = (101, "+8613800000001")
    room.identity.book[2, "crm_id", "app"] = (202, "u2")
    await room.endpoint("dealer-d001", DEALER, receiver.url, "D001")
    await room.endpoint("app", APP, receiver.url)
    now = datetime.now(UTC)
    night = {"quiet_hours": f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=2):%H:%M}", "time_zone": "UTC"}
    # The second one cannot be called: nobody knows her number.
    await room.request(request("call", 1, "dealer", **night), request("fall", 2, "dealer", fallback_channels=["app"], **night))
    await room.in_state("call", ACCEPTED)
    assert "quiet_hours" == await eventually(lambda: why(room, "fall"), bool)
    assert ["msg_call"] == receiver.ids()


async def test_caps_count_pushes_alone_and_keep_no_turn(room: Room, receiver: Receiver) -> None:
    """What a dealer was told of somebody is no push to her; who waits for a cap holds up nobody at an ordered endpoint."""
    for person in (2, 3):
        room.identity.book[person, "mobile", ""] = (100 + person, f"+86138{person:08d}")
    await room.endpoint("dealer-d001", DEALER, receiver.url, "D001", settings={"order": "ordered"})
    once = [PushCap(pushes=1, days=1)]
    await room.request(request("told", 2, "dealer"))
    await eventually(lambda: accepted(room), lambda n: n == 1)
    async with room.database.transaction() as uow:
        await uow.execute("UPDATE delivery SET kind = 'lead.assigned' WHERE delivery_id = 'told'")
    await room.request(request("first", 2, "dealer", caps=once))
    await eventually(lambda: accepted(room), lambda n: n == 2)
    await room.request(request("capped", 2, "dealer", caps=once), request("behind", 3, "dealer"))
    await eventually(lambda: accepted(room), lambda n: n == 3)
    assert "msg_behind" in receiver.ids() and "msg_capped" not in receiver.ids()


@dataclass
class Keyless:
    """A provider that knows no idempotency keys and answers nothing in time; asked later, it says what it saw."""

    answers: Mapping[str, Outcome | None]
    sent: list[str] = field(default_factory=list)
    remembers_s: float = 0.0
    memory: None = None

    def forbids(self, delivery: Delivery) -> str:
        return ""

    def plan(self, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        return Plan([Lookup("crm_id", "app", tuple((d, endpoints[0]) for d in deliveries))])

    async def send(self, push: Push) -> Outcome:
        self.sent.append(push.delivery.delivery_id)
        return Retry("timeout") if self.sent.count(push.delivery.delivery_id) == 1 else Accepted()

    async def outcome(self, delivery: Delivery, endpoint: Endpoint) -> Outcome | None:
        return self.answers[delivery.delivery_id]


async def test_what_may_have_gone_to_a_provider_without_keys_is_asked_for_and_never_sent_again(
    databases: DatabaseFactory, identity: Identity
) -> None:
    answers: dict[str, Outcome | None] = {
        "there": Accepted("p7"),
        "refused": Refused("content_refused"),
        "nowhere": Retry("never_came", sent_perhaps=False),
        "silent": None,
    }
    channel, now = Keyless(answers), datetime.now(UTC)
    async with databases.database("touchpoints") as database:
        settings = settings_for("postgresql://unused", "nats://unused", identity, unknown_wait_s=2)
        endpoints = Endpoints(database, Vault(b"k" * 32))
        async with database.transaction() as uow:
            await endpoints.register(uow, Endpoint("app", Channel.APP, "", "https://a.example/"), signed=False)
            pushes = [
                Delivery(name, "t", n, Channel.APP, (), "", "", "", "service", 0, 0, (), "", now, now + timedelta(days=1), now)
                for n, name in enumerate(answers, 1)
            ]
            await deliveries.add(uow, pushes)
        for person in range(1, 5):
            identity.book[person, "crm_id", "app"] = (100 + person, f"u{person}")
        peer = rpc.connect(identity.target, "touchpoints", "x" * 20)
        addresses = Addresses(IdentityServiceStub(peer))
        sending = asyncio.create_task(Sender(database, endpoints, addresses, {Channel.APP: channel}, settings).run())

        async def ends() -> dict[str, tuple[int, str]]:
            rows = await database.fetch("SELECT delivery_id, state, reason FROM delivery")
            return {row["delivery_id"]: (row["state"], row["reason"]) for row in rows}

        found = await eventually(ends, lambda all_: all(state > SENDING for state, _ in all_.values()))
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await peer.close()
    assert {
        "there": (ACCEPTED, ""),
        "refused": (FAILED, "content_refused"),
        "nowhere": (ACCEPTED, ""),
        "silent": (FAILED, "outcome_unknown"),
    } == found
    # Only what never came there went again.
    assert {"there": 1, "refused": 1, "nowhere": 2, "silent": 1} == {name: channel.sent.count(name) for name in answers}
