"""Consent at the moment of sending: the projection answers as identity's ledger does, and the sender obeys it."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator

import pytest
from troika.identity.v1.events_pb2 import (
    CONSENT_KIND_SEPARATE,
    ENTITY_KIND_PERSON,
    ClusterChange,
    ConsentChange,
    EntitiesChanged,
    Erasure,
)

from chassis.bus import Bus
from chassis.consents import DEFAULT_REGIMES, OPT_OUT, regime, uses
from chassis.outbox import Outgoing
from chassis.testing import DatabaseFactory, drop_database
from services.identity.domain import consents as ledger
from services.identity.domain.consents import State
from services.touchpoints.domain.consents import NO_END, Statement
from services.touchpoints.domain.deliveries import Channel
from services.touchpoints.handlers import follow_entities
from services.touchpoints.store.consents import STANDING, Asked, forbidden, move_anchors, save_consents
from tests.conftest import Servers
from tests.integration.touchpoints.dealers import NOTICES
from tests.integration.touchpoints.identity import Identity
from tests.integration.touchpoints.receivers import APP
from tests.integration.touchpoints.receiving import Receiver, receiving
from tests.integration.touchpoints.room import NEIGHBOURS, Room, eventually, request, running, settings_for

ACCEPTED, SUPPRESSED = 3, 10
PERSONS = 400
REGIMES = dict(DEFAULT_REGIMES) | {"service": "opt_in", "dealer_sharing": "separate"}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


def ledger_of(draw: random.Random, person: int, now_us: int) -> list[ledger.Statement]:
    """A few statements through up to three anchors of a person, close together so that they meet."""
    made = []
    for number in range(draw.randint(0, 6)):
        purpose, given = draw.choice(["marketing", "service", "dealer_sharing", "location"]), draw.random() < 0.6
        channel, kind = draw.choice(["app", "app", "dealer", "all", "sms"]), draw.choice(ledger.KINDS)
        made.append(
            ledger.Statement(
                ledger.statement_id(f"{person} {number}".encode(), purpose, channel),
                person * 10 + draw.randrange(3),
                purpose,
                channel,
                kind,
                given,
                now_us - draw.randint(1, 4) * 3_600_000_000,
                draw.choice([ledger.NEVER, now_us - 60_000_000, now_us + 3_600_000_000]) if given else ledger.NEVER,
                void=ledger.void_reason(purpose, channel, kind, given=given),
            )
        )
    return made


def expected(statements: list[ledger.Statement], push: Asked, now_us: int) -> str | None:
    """What the ledger's own algebra makes of a push."""
    found = {
        use: ledger.of_person(statements, use, push.channel.label, now_us).state
        for use in uses(push.purpose, push.channel.label)
    }
    if State.WITHDRAWN in found.values():
        return "opted_out"
    needed = [use for use in found if regime(REGIMES, use, push.channel.label) != OPT_OUT]
    return "no_consent" if any(found[use] is not State.GIVEN for use in needed) else None


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_projection_answers_as_the_ledger_does(databases: DatabaseFactory, seed: int) -> None:
    draw, now_us = random.Random(seed), time.time_ns() // 1000
    told = {person: ledger_of(draw, person, now_us) for person in range(1, PERSONS + 1)}
    # Every third anchor was somebody else's when the statement was made and has moved since.
    moves = [(anchor, anchor // 10, 5) for anchor in range(10, PERSONS * 10 + 10) if anchor % 3 == 0]
    stale = [(anchor, 77_777, 4) for anchor, _, _ in moves]
    facts = [
        Statement(
            s.anchor_id,
            99_999 if s.anchor_id % 3 == 0 else person,
            s.purpose,
            s.channel,
            s.kind == ledger.SEPARATE,
            s.given,
            s.stated_us,
            s.expires_us or NO_END,
        )
        for person, statements in told.items()
        for s in statements
    ]
    pushes = [
        Asked(f"{person} {purpose} {channel.label}", person, 0, purpose, channel)
        for person in told
        for purpose in ("marketing", "service", "location")
        for channel in (Channel.APP, Channel.DEALER)
    ]
    async with databases.database("touchpoints") as database:
        # Twice and in another order, in batches of any size.
        for _ in range(2):
            draw.shuffle(facts)
            start = 0
            while start < len(facts):
                size = draw.randint(1, 300)
                async with database.transaction() as uow:
                    await save_consents(uow, facts[start : start + size])
                start += size
            async with database.transaction() as uow:
                await move_anchors(uow, draw.sample(moves + stale, len(moves) * 2))
        async with database.read() as uow:
            found = await forbidden(uow, pushes, REGIMES)
    wanted = {p.delivery_id: why for p in pushes if (why := expected(told[p.person_id], p, now_us))}
    assert {"opted_out", "no_consent"} == set(wanted.values())
    assert len(wanted) < len(pushes)
    assert wanted == found


async def test_what_erased_persons_said_is_forgotten(databases: DatabaseFactory) -> None:
    async with databases.database("touchpoints") as database, database.transaction() as uow:
        changed = EntitiesChanged(
            consent_changes=[ConsentChange(anchor_id=a, person_id=1, channel="app", opted_out=True) for a in (10, 11)],
            erasures=[Erasure(erasure_id=1, person_id=1, anchor_ids=[10])],
        )
        await move_anchors(uow, [(10, 2, 1), (11, 2, 1)])
        await follow_entities(uow, [changed.SerializeToString()], NOTICES)
        kept = await uow.rows("SELECT anchor_id FROM consent UNION SELECT anchor_id FROM anchor_owner")
    assert [11] == [row.anchor_id for row in kept]


async def test_what_the_survivor_of_a_merge_said_holds_for_pushes_under_the_other_number(databases: DatabaseFactory) -> None:
    said = ConsentChange(anchor_id=30, person_id=3, purpose="marketing", channel="app", opted_out=True, stated_at_us=9)
    merged = [
        ClusterChange(op_id=n, entity_kind=ENTITY_KIND_PERSON, operation="merge", survivor_id=n + 1, other_id=n) for n in (1, 2)
    ]
    apart = ClusterChange(op_id=4, entity_kind=ENTITY_KIND_PERSON, operation="split", survivor_id=3, other_id=2)
    pushes = [Asked(str(person), person, 10 * person, "marketing", Channel.APP) for person in (1, 2, 3, 4)]
    async with databases.database("touchpoints") as database, database.transaction() as uow:
        changes = (EntitiesChanged(consent_changes=[said], cluster_changes=merged), EntitiesChanged(cluster_changes=[apart]))
        found = []
        for change in changes:
            await follow_entities(uow, [change.SerializeToString()], NOTICES)
            found.append(set(await forbidden(uow, pushes, DEFAULT_REGIMES)))
    assert [{"1", "2", "3"}, {"3"}] == found


async def test_standing_is_read_by_index(databases: DatabaseFactory) -> None:
    async with databases.database("touchpoints") as database, database.transaction() as uow:
        await uow.execute(
            "INSERT INTO consent SELECT i, 'marketing', 'app', false, i, i, -1, 0 FROM generate_series(1, 50000) i"
        )
        await uow.execute("INSERT INTO anchor_owner SELECT i, i + 1, 1 FROM generate_series(1, 50000, 3) i")
        await uow.execute("INSERT INTO person_alias SELECT i, i + 1, 1 FROM generate_series(1, 50000, 5) i")
        for table in ("consent", "anchor_owner", "person_alias"):
            await uow.execute(f"ANALYZE {table}")
        one = {"persons": [1], "anchors": [2], "purposes": ["marketing"], "channels": ["app"], "separate": [False]}
        plan = "\n".join(row[0] for row in await uow.rows(f"EXPLAIN {STANDING}", numbers=[1], **one))
    for index in ("pk_consent", "ix_consent_person_id", "ix_anchor_owner_person_id", "pk_person_alias"):
        assert index in plan
    assert "Seq Scan on consent" not in plan


async def state(room: Room, *changes: ConsentChange) -> None:
    payload = EntitiesChanged(consent_changes=changes).SerializeToString()
    before = await rows(room)
    await room.bus.publish_all([Outgoing.now("troika.entities.changed.v1", payload)])
    await eventually(lambda: rows(room), lambda n: n > before)


async def rows(room: Room) -> int:
    async with room.database.read() as uow:
        return int((await uow.rows("SELECT count(*) AS n FROM consent"))[0].n)


async def test_an_opt_out_seen_now_stops_a_push_planned_for_the_next_second(room: Room, receiver: Receiver) -> None:
    for person in (1, 2, 3):
        room.identity.book[person, "crm_id", "app"] = (100 + person, f"u{person}")
    await room.endpoint("app", APP, receiver.url)
    now_us = time.time_ns() // 1000
    planned = [request(f"d{n}", n, "app", purpose="marketing", not_before_us=now_us + 1_000_000) for n in (1, 2, 3)]
    await room.request(*planned)
    await eventually(lambda: room.delivery("d3"), bool)
    await state(
        room,
        ConsentChange(anchor_id=101, person_id=1, purpose="marketing", channel="all", opted_out=True, stated_at_us=now_us),
        ConsentChange(anchor_id=102, person_id=2, purpose="service", channel="app", opted_out=True, stated_at_us=now_us),
    )
    assert "opted_out" == (await room.in_state("d1", SUPPRESSED)).reason
    # Who wants no service messages may still be asked for a test drive, and the other way round.
    for delivery in ("d2", "d3"):
        await room.in_state(delivery, ACCEPTED)
    assert {"msg_d2", "msg_d3"} == set(receiver.ids())


async def test_where_consent_is_needed_one_that_ran_out_or_was_never_given_stops_the_push(
    servers: Servers, databases: DatabaseFactory, bus: Bus, identity: Identity, receiver: Receiver
) -> None:
    dsn, name = await databases.address("touchpoints")
    await bus.declare(*NEIGHBOURS)
    for person in range(1, 6):
        identity.book[person, "crm_id", "app"] = (100 + person, f"u{person}")
    settings = settings_for(dsn, servers.nats_url, identity, consent_regimes={"marketing": "separate", "service": "opt_out"})
    now_us = time.time_ns() // 1000
    async with running(settings, identity, bus, servers.nats_url) as room:
        await room.endpoint("app", APP, receiver.url)

        def given(person: int, ends_us: int, kind: int = CONSENT_KIND_SEPARATE) -> ConsentChange:
            return ConsentChange(
                anchor_id=100 + person,
                person_id=person,
                purpose="marketing",
                channel="app",
                stated_at_us=now_us - 10_000_000,
                expires_at_us=ends_us,
                kind=kind,  # type: ignore[arg-type]
            )

        # In force when the push is planned, but no more when it is sent; for ever; general only; ran out; nothing said.
        soon_us = now_us + 1_000_000
        await state(room, given(1, soon_us), given(2, 0), given(3, 0, kind=1), given(4, now_us - 1))
        planned = [request(f"d{n}", n, "app", purpose="marketing", not_before_us=soon_us) for n in range(1, 6)]
        await room.request(*planned, request("s5", 5, "app", purpose="service"))
        for delivery in ("d1", "d3", "d4", "d5"):
            assert "no_consent" == (await room.in_state(delivery, SUPPRESSED)).reason
        for delivery in ("d2", "s5"):
            await room.in_state(delivery, ACCEPTED)
    assert {"msg_d2", "msg_s5"} == set(receiver.ids())
    await drop_database(servers.postgres_dsn, name)
