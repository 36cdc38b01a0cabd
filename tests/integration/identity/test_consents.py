"""The consent ledger through its doors: events in, callers in, what holds out, and nothing lost to merges."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.exc import DBAPIError
from troika.identity.v1 import consent_service_pb2 as pb
from troika.identity.v1 import events_pb2, identity_service_pb2
from troika.identity.v1.consent_service_pb2_grpc import ConsentServiceStub, add_ConsentServiceServicer_to_server

from chassis import rpc
from chassis.consents import MESSAGES as CHASSIS_MESSAGES
from chassis.rpc import reason_of
from services.identity import consents, erasure, stewardship
from services.identity.domain.consents import CHANNELS, MESSAGES
from services.identity.rpc_consent import ConsentRpc
from services.identity.stewardship import MergeOrder
from tests.integration.identity.world import NOW, World

MOBILE, OTHER = "13912345679", "15012345679"
VIN = "LSVAA49J132047371"
NONE, EXPIRED, GIVEN, WITHDRAWN = 1, 2, 3, 4
SERVICE = "troika.identity.v1.ConsentService"
CALLERS = ("operator", "touchpoints")


@pytest.fixture
async def callers(world: World) -> AsyncIterator[dict[str, Any]]:
    hashes = {caller: hashlib.sha256(f"{caller}-secret".encode()).hexdigest() for caller in CALLERS}
    server = rpc.Server(hashes, {SERVICE: frozenset(CALLERS)}, with_reflection=False)
    add_ConsentServiceServicer_to_server(ConsentRpc(world.database, world.store, world.vault), server.aio)
    port = await server.start("127.0.0.1:0")
    channels = [rpc.connect(f"127.0.0.1:{port}", caller, f"{caller}-secret") for caller in CALLERS]
    yield {caller: ConsentServiceStub(channel) for caller, channel in zip(CALLERS, channels, strict=True)}
    for channel in channels:
        await channel.close()
    await server.stop(0)


@pytest.fixture
def ask(callers: dict[str, Any]) -> Any:
    return callers["operator"]


def at(micros: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(micros)
    return stamp


def statement(consent_id: str, **changes: Any) -> pb.ConsentStatement:
    stated: dict[str, Any] = {"purpose": "marketing", "channel": "app", "given": True, "stated_at": at(NOW)}
    return pb.ConsentStatement(consent_id=consent_id, **(stated | changes))


def mobile(value: str) -> identity_service_pb2.IdentifierRef:
    return identity_service_pb2.IdentifierRef(kind="mobile", value=value)


async def record(ask: Any, *statements: pb.ConsentStatement) -> list[tuple[str, int, int]]:
    answer = await ask.RecordConsents(pb.RecordConsentsRequest(consents=statements))
    assert [s.consent_id for s in statements] == [o.consent_id for o in answer.outcomes]
    return [(o.outcome, o.anchor_id, o.person_id) for o in answer.outcomes]


async def holds(ask: Any, person: int) -> dict[tuple[str, str], tuple[int, int]]:
    """(purpose, channel) → (state, anchor of the deciding statement)."""
    answer = await ask.GetConsents(pb.GetConsentsRequest(person_id=person))
    return {(c.purpose, c.channel): (c.state, c.because.anchor_id) for c in answer.consents}


async def says(world: World, source: str, who: tuple[str, ...], name: str, at_us: int = NOW, **properties: Any) -> Any:
    """One event of a person with properties; returns its owner."""
    (event,) = await world.see((source, who, {"name": name, "at": at_us, "properties": properties}))
    return event.person


APP, CENTRE = ("crm_id", "app", "U1"), ("crm_id", "call_center", "C1")


async def changes(world: World) -> list[tuple[str, str, bool, int, int]]:
    _, changed, _ = await world.published()
    return [
        (c.purpose, c.channel, c.opted_out, c.stated_at_us, c.person_id) for batch in changed for c in batch.consent_changes
    ]


def test_both_sides_of_the_bus_mean_the_same_by_messages() -> None:
    assert CHASSIS_MESSAGES == MESSAGES


async def test_an_opt_out_is_told_for_all_messages_and_an_older_statement_does_not_undo_it(world: World, ask: Any) -> None:
    key = world.key()
    events = [
        world.event(key, "app", APP, name="Unsubscribed", at=NOW - 5, properties={"channel": "app"}),
        world.event(key, "app", APP, name="Unsubscribed", at=NOW - 4, properties={"channel": "pigeon"}),
        world.event(key, "app", APP, name="Consent Given", at=NOW - 9, properties={"channel": "app", "purpose": "marketing"}),
    ]
    await world.take(world.batch(key, events[:2]))
    await world.take(world.batch(key, events[1:]))
    person = (await world.rows("SELECT entity_id FROM identifier WHERE anchor"))[0].entity_id
    told = [*(("app", NOW - 5, True, p) for p in MESSAGES), *(("all", NOW - 4, True, p) for p in MESSAGES)]
    told.append(("app", NOW - 9, False, "marketing"))
    assert sorted((p, c, out, when, person) for c, when, out, p in told) == sorted(await changes(world))
    assert {WITHDRAWN} == {state for state, _ in (await holds(ask, person)).values()}
    assert len(MESSAGES) * len(CHANNELS) == len(await holds(ask, person))


async def test_an_opt_out_that_stood_on_the_loser_of_a_merge_is_not_lost_and_unmerging_gives_each_its_own(
    world: World, ask: Any
) -> None:
    winner = await says(world, "app", APP, "Consent Given", NOW - 10, purpose="marketing", channel="all")
    loser = await says(world, "call_center", CENTRE, "Unsubscribed", NOW - 900, channel="app")
    assert winner.entity_id < loser.entity_id
    before = {owner.entity_id: await holds(ask, owner.entity_id) for owner in (winner, loser)}
    assert (GIVEN, winner.anchor_id) == before[winner.entity_id]["marketing", "app"]
    order = MergeOrder("op1", winner.entity_id, [loser.entity_id], 100, "test", "operator")
    async with world.database.transaction() as uow:
        merged = await stewardship.merge_persons(uow, world.store, order)
    assert ["MERGED"] == [o.outcome for o in merged.outcomes]
    together = await holds(ask, winner.entity_id)
    assert (WITHDRAWN, loser.anchor_id) == together["marketing", "app"]
    assert (WITHDRAWN, loser.anchor_id) == together["service", "app"]
    assert (GIVEN, winner.anchor_id) == together["marketing", "sms"]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await holds(ask, loser.entity_id)
    assert ("ENTITY_NOT_FOUND", "person_id") == reason_of(refused.value)
    async with world.database.transaction() as uow:
        await stewardship.unmerge(uow, world.store, "op1", "test", "operator", False)
    (again,) = await world.see(("call_center", CENTRE))
    assert before[winner.entity_id] == await holds(ask, winner.entity_id)
    assert before[loser.entity_id] == await holds(ask, again.person.entity_id)


async def test_an_expired_consent_is_replaced_by_the_newer_one_and_not_removed(world: World, ask: Any) -> None:
    real_us = time.time_ns() // 1000
    past, future = "2026-03-02T00:00:00Z", "2999-01-01T00:00:00Z"
    assert real_us > NOW + 2 * 86_400_000_000
    old = await says(world, "app", APP, "Consent Given", NOW - 9, purpose="marketing", channel="sms", expires_at=past)
    assert {("marketing", "sms"): (EXPIRED, old.anchor_id)} == await holds(ask, old.entity_id)
    await says(world, "app", APP, "Consent Given", NOW - 8, purpose="marketing", channel="sms", expires_at=future)
    assert {("marketing", "sms"): (GIVEN, old.anchor_id)} == await holds(ask, old.entity_id)
    # An older one that ran out comes late: it hides nothing.
    await says(world, "app", APP, "Consent Given", NOW - 20, purpose="marketing", channel="sms", expires_at=past)
    assert {("marketing", "sms"): (GIVEN, old.anchor_id)} == await holds(ask, old.entity_id)
    history = await ask.ListConsentHistory(pb.ListConsentHistoryRequest(person_id=old.entity_id))
    assert [NOW - 20, NOW - 8, NOW - 9] == [line.stated_at.ToMicroseconds() for line in history.consents]


async def test_the_ledger_refuses_to_be_changed(world: World) -> None:
    await says(world, "app", APP, "Unsubscribed", channel="app")
    with pytest.raises(DBAPIError, match="append-only"):
        async with world.database.transaction() as uow:
            await uow.execute("UPDATE consent SET given = true")


async def test_a_clock_that_runs_ahead_does_not_outweigh_what_is_said_later(world: World, ask: Any) -> None:
    ahead = NOW + 365 * 86_400_000_000
    who = await says(world, "app", APP, "Consent Given", ahead, purpose="marketing", channel="app")
    await record(ask, statement("later", anchor_id=who.anchor_id, given=False, stated_at=at(NOW + 1)))
    assert (WITHDRAWN, who.anchor_id) == (await holds(ask, who.entity_id))["marketing", "app"]


async def test_statements_of_callers_are_recorded_once_and_each_has_its_outcome(world: World, callers: dict[str, Any]) -> None:
    ask = callers["operator"]
    seen = await world.see(("app", APP, ("vin", VIN)))
    anchor, person, vehicle = seen[0].person.anchor_id, seen[0].person.entity_id, seen[0].vehicle.anchor_id
    given = statement("c1", anchor_id=anchor, text_version="2026-10", text_sha256=b"x" * 32, language="zh", screen="sign-up")
    batch = [
        given,
        given,
        statement("c2", anchor_id=vehicle),
        statement("c3", anchor_id=999_999),
        statement("c4", identifier=mobile("13800138000")),
        statement("c1", anchor_id=anchor, given=False),
        statement("c5", identifier=identity_service_pb2.IdentifierRef(kind="vin", value=VIN)),
    ]
    expected = [
        ("RECORDED", anchor, person),
        ("ALREADY_RECORDED", anchor, person),
        ("NOT_A_PERSON", 0, 0),
        ("UNKNOWN_ANCHOR", 0, 0),
        ("PLACEHOLDER", 0, 0),
        ("CONSENT_ID_REUSED", 0, 0),
        ("NOT_A_PERSON", 0, 0),
    ]
    assert expected == await record(ask, *batch)
    assert [("marketing", "app", False, NOW, person)] == await changes(world)
    assert [("ALREADY_RECORDED", anchor, person), ("CONSENT_ID_REUSED", 0, 0)] == await record(
        ask, given, statement("c1", anchor_id=anchor, channel="sms")
    )
    assert [] == await changes(world)
    # Ids are each caller's own.
    assert [("RECORDED", anchor, person)] == await record(callers["touchpoints"], given)
    history = await ask.ListConsentHistory(pb.ListConsentHistoryRequest(anchor_id=anchor))
    assert [("touchpoints", "c1"), ("operator", "c1")] == [(line.source, line.consent_id) for line in history.consents]
    kept = history.consents[1]
    assert ("2026-10", b"x" * 32, "zh", "sign-up", NOW) == (
        kept.text_version,
        kept.text_sha256,
        kept.language,
        kept.screen,
        kept.stated_at.ToMicroseconds(),
    )


async def test_a_number_that_opts_out_before_its_record_comes_is_known_when_it_does(world: World, ask: Any) -> None:
    [(outcome, anchor, person)] = await record(ask, statement("sms", identifier=mobile(MOBILE), channel="sms", given=False))
    assert "RECORDED" == outcome and anchor > 0 and person > 0
    (record_,) = await world.see(("dealer:D001", ("crm_id", "dealer:D001", "7"), ("mobile", MOBILE), {"who": "张伟"}))
    assert (WITHDRAWN, anchor) == (await holds(ask, record_.person.entity_id))["marketing", "sms"]
    # Here the number is known, but nothing hangs on it yet.
    (second,) = await world.see(("dealer:D002", ("crm_id", "dealer:D002", "8"), ("mobile", OTHER), {"who": "王芳"}))
    stated = statement("sms2", identifier=mobile("150 1234 5679"), channel="sms", given=False)
    [(outcome, on, whose)] = await record(ask, stated)
    assert ("RECORDED", second.person.entity_id) == (outcome, whose)
    assert on != second.person.anchor_id
    assert [("ALREADY_RECORDED", on, whose)] == await record(ask, stated)
    assert (WITHDRAWN, on) == (await holds(ask, second.person.entity_id))["marketing", "sms"]


async def test_the_same_calls_at_once_record_each_statement_once(world: World, ask: Any) -> None:
    batch = [statement(f"c{n}", identifier=mobile(f"1391234560{n}"), channel="sms", given=False) for n in range(6)]
    answers = await asyncio.gather(*(record(ask, *batch[start:], *batch[:start]) for start in range(6)))
    outcomes = [outcome for answer in answers for outcome, _, _ in answer]
    assert {"RECORDED": 6, "ALREADY_RECORDED": 30} == Counter(outcomes)
    assert 6 == len({anchor for answer in answers for _, anchor, _ in answer})
    assert 6 == len(await changes(world))


@pytest.mark.parametrize(
    ("reason", "field", "wrong"),
    [
        ("UNKNOWN_PURPOSE", "consents[1].purpose", {"purpose": "spam"}),
        ("UNKNOWN_CHANNEL", "consents[1].channel", {"channel": "pigeon"}),
        ("SEPARATE_CONSENT_REQUIRED", "consents[1].kind", {"purpose": "biometric"}),
        ("SEPARATE_CONSENT_REQUIRED", "consents[1].kind", {"channel": "car"}),
        ("STATED_IN_FUTURE", "consents[1].stated_at", {"stated_at": at(time.time_ns() // 1000 + 86_400_000_000)}),
        ("TIME_OUT_OF_RANGE", "consents[1].stated_at", {"stated_at": Timestamp(seconds=-1)}),
        ("TIME_OUT_OF_RANGE", "consents[1].expires_at", {"expires_at": Timestamp(seconds=2**60)}),
        ("INVALID_EXPIRY", "consents[1].expires_at", {"expires_at": at(NOW)}),
        ("INVALID_EXPIRY", "consents[1].expires_at", {"expires_at": at(NOW + 1), "given": False}),
        ("INVALID_ARGUMENT", "consents[1].text_sha256", {"text_sha256": b"short"}),
        ("INVALID_ARGUMENT", "consents[1].stated_at", {"stated_at": None}),
        ("NUL_CHARACTER", "consents[1].screen", {"screen": "a\0b"}),
    ],
)
async def test_what_can_never_be_right_refuses_the_call_and_names_the_field(
    world: World, ask: Any, reason: str, field: str, wrong: dict[str, Any]
) -> None:
    (event,) = await world.see(("app", APP))
    good = statement("good", anchor_id=event.person.anchor_id)
    bad = statement("bad", anchor_id=event.person.anchor_id, **wrong)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await record(ask, good, bad)
    assert (grpc.StatusCode.INVALID_ARGUMENT, (reason, field)) == (refused.value.code(), reason_of(refused.value))
    assert 0 == (await world.rows("SELECT count(*) AS n FROM consent"))[0].n


async def test_separate_consent_is_recorded_and_told_with_its_kind_and_end(world: World, ask: Any) -> None:
    (event,) = await world.see(("app", APP))
    ends = time.time_ns() // 1000 + 3_600_000_000
    separate = {"kind": events_pb2.CONSENT_KIND_SEPARATE, "channel": "dealer", "expires_at": at(ends)}
    await record(ask, statement("b", anchor_id=event.person.anchor_id, purpose="biometric", **separate))
    _, changed, _ = await world.published()
    [change] = [c for batch in changed for c in batch.consent_changes]
    assert ("biometric", events_pb2.CONSENT_KIND_SEPARATE, ends) == (change.purpose, change.kind, change.expires_at_us)
    answer = await ask.GetConsents(pb.GetConsentsRequest(person_id=event.person.entity_id, purpose="biometric"))
    [found] = answer.consents
    assert (GIVEN, True, "dealer", "b") == (found.state, found.needs_separate, found.channel, found.because.consent_id)
    assert [] == list((await ask.GetConsents(pb.GetConsentsRequest(person_id=1, purpose="location"))).consents)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask.GetConsents(pb.GetConsentsRequest(person_id=1, purpose="spam"))
    assert ("UNKNOWN_PURPOSE", "purpose") == reason_of(refused.value)


async def test_history_is_paged_and_shows_what_never_counted(world: World, ask: Any) -> None:
    who = await says(world, "app", APP, "Consent Given", NOW - 1, purpose="biometric", channel="app")
    assert [] == await changes(world)
    assert {} == await holds(ask, who.entity_id)
    await record(ask, *(statement(f"c{n}", anchor_id=who.anchor_id, stated_at=at(NOW + n)) for n in range(5)))
    seen, token = [], ""
    while True:
        request = pb.ListConsentHistoryRequest(person_id=who.entity_id, page_size=2, page_token=token)
        answer = await ask.ListConsentHistory(request)
        seen += [(line.consent_id, line.void_reason) for line in answer.consents]
        if not (token := answer.next_page_token):
            break
    assert sorted([*((f"c{n}", "") for n in range(5)), ("", "SEPARATE_CONSENT_REQUIRED")]) == sorted(seen)
    assert ("", "SEPARATE_CONSENT_REQUIRED") == seen[-1]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        request = pb.ListConsentHistoryRequest(anchor_id=who.anchor_id, page_token=answer.next_page_token or "x" * 20)
        await ask.ListConsentHistory(request)
    assert ("INVALID_PAGE_TOKEN", "page_token") == reason_of(refused.value)


async def test_an_erased_person_leaves_no_statement_and_gets_none(world: World, ask: Any) -> None:
    (event,) = await world.see(("app", APP, ("mobile", MOBILE)))
    owner = event.person
    await record(ask, statement("c1", anchor_id=owner.anchor_id), statement("c2", identifier=mobile(MOBILE)))
    async with world.database.transaction() as uow:
        await erasure.erase(
            uow, world.store, world.vault, person_id=owner.entity_id, request_id="r", caller="o", reason="", dry_run=False
        )
    assert 0 == (await world.rows("SELECT count(*) AS n FROM consent"))[0].n
    assert [("UNKNOWN_ANCHOR", 0, 0), ("ERASED", 0, 0)] == await record(
        ask, statement("c3", anchor_id=owner.anchor_id), statement("c4", identifier=mobile(MOBILE))
    )


async def test_the_ledger_is_read_by_index(world: World) -> None:
    async with world.database.transaction() as uow:
        await uow.execute(
            "INSERT INTO consent (statement_id, anchor_id, purpose, channel, kind, given, stated_us, expires_us, text_version,"
            " text_sha256, language, screen, event_id, consent_id, source, void)"
            " SELECT decode(lpad(to_hex(i), 32, '0'), 'hex'), i / 4, 'marketing',"
            " 'app', 'general', true, i, 0, '', '', '', '', '', '', 'app', '' FROM generate_series(1, 40000) AS i"
        )
        plans = {
            statement: "\n".join(row[0] for row in await uow.fetch(f"EXPLAIN {statement}", *parameters))
            for statement, parameters in (
                (consents.OF_ANCHORS, ([1, 2],)),
                (consents.PAGE, ([1, 2], 2**60, 100)),
                (consents.BY_ID, ([b"0" * 16],)),
            )
        }
    assert all("ix_consent_anchor_id_number" in plans[s] for s in (consents.OF_ANCHORS, consents.PAGE))
    assert "pk_consent" in plans[consents.BY_ID]
    assert [] == [plan for plan in plans.values() if "Seq Scan" in plan]
