"""Erased persons are nobody here any more, experiments keep their counts, and what comes late brings nobody back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from troika.identity.v1 import events_pb2 as identity_pb2
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb
from troika.touchpoints.v1 import events_pb2 as touchpoints_pb2

from chassis.bus import Message
from services.orchestrator.arbiter.proposing import Proposal, propose
from services.orchestrator.consumers import reach_goals
from services.orchestrator.domain.themes import PersonId, id_of
from services.orchestrator.launching import Launcher
from tests.integration.orchestrator.conftest import House
from tests.integration.orchestrator.test_consents import said
from tests.integration.orchestrator.test_feedback import (
    DELIVERIES,
    ENTITIES,
    EVENTS,
    EVERYBODY,
    event,
    merged,
    moved,
    split,
    update,
)


def erasure(person: int, *anchors: int) -> identity_pb2.EntitiesChanged:
    return identity_pb2.EntitiesChanged(
        erasures=[identity_pb2.Erasure(erasure_id=1, person_id=person, anchor_ids=anchors or (person, person + 10_000))]
    )


async def traces(house: House, persons: Iterable[int], anchors: Iterable[int], deliveries: Iterable[str] = ()) -> list[str]:
    """Everything that may hold anything of persons, tombstones aside."""
    who, via, ids = (f"({', '.join(map(repr, [*given, -(10**9)]))})" for given in (persons, anchors, deliveries))
    ids = ids.replace("-1000000000", "''")
    found = await house.rows(
        f"SELECT 'decision' AS place FROM decision WHERE person_id IN {who} OR delivery_id IN {ids}"
        f" UNION ALL SELECT 'delivery' FROM delivery WHERE delivery_id IN {ids}"
        f" UNION ALL SELECT 'goal' FROM goal WHERE person_id IN {who} OR anchor_id IN {via}"
        f" UNION ALL SELECT 'consent' FROM consent WHERE person_id IN {who} OR anchor_id IN {via}"
        f" UNION ALL SELECT 'anchor_owner' FROM anchor_owner WHERE person_id IN {who} OR anchor_id IN {via}"
        f" UNION ALL SELECT 'person_alias' FROM person_alias WHERE person_id IN {who} OR survivor_id IN {who}"
    )
    return [row.place for row in found]


async def counted(house: House, name: str) -> pb.GetThemeReportResponse:
    """A theme's report without how long people took: of erased persons only the day is known."""
    report = await house.report(name)
    report.ClearField("response_times")
    return report


@pytest.fixture
async def campaign(house: House) -> tuple[str, list[int], list[int]]:
    """A theme in which everybody was pushed or kept out, with answers: (name, pushed, kept out)."""
    name = await house.launch(budget=EVERYBODY, holdout_share=0.3)
    pushed, kept = await split(house, name)
    ids = {push.person_id: push.delivery_id for push in await house.pushes()}
    updates = [update(ids[person], 6, answer="yes") for person in pushed[:4]]
    await house.hear(DELIVERIES, touchpoints_pb2.DeliveriesUpdated(updates=updates))
    await house.hear(EVENTS, identity_pb2.ResolvedBatch(events=[event(person) for person in pushed[:4] + kept[:2]]))
    return name, pushed, kept


async def test_the_report_counts_as_before_and_nobody_finds_the_person(
    house: House, campaign: tuple[str, list[int], list[int]]
) -> None:
    name, pushed, kept = campaign
    winner, loser, swallowed, quiet = pushed[0], pushed[-1], pushed[1], kept[0]
    gone, ids = [winner, loser, swallowed, quiet], {p.person_id: p.delivery_id for p in await house.pushes()}
    anchors = [anchor for person in gone for anchor in (person, person + 10_000)]
    deliveries = [ids[person] for person in gone if person in ids]
    # One of them went into another one before.
    await house.hear(
        ENTITIES,
        identity_pb2.EntitiesChanged(
            consent_changes=[said(person, "marketing", "app", given=False) for person in gone],
            cluster_changes=[merged(winner, swallowed, 1)],
            anchor_moves=[moved(swallowed + 10_000, winner, 7), moved(quiet + 10_000, quiet, 3)],
        ),
    )
    before, names = await counted(house, name), {d.person_id for d in await house.decisions(name)}
    assert {"decision", "delivery", "goal", "consent", "anchor_owner", "person_alias"} == set(
        await traces(house, gone, anchors, deliveries)
    )
    for _ in range(2):
        await house.hear(
            ENTITIES,
            erasure(winner, winner, swallowed, winner + 10_000, swallowed + 10_000),
            erasure(loser),
            erasure(quiet),
        )
        assert [] == await traces(house, gone, anchors, deliveries)
        assert before == await counted(house, name)
        assert names - set(gone) == {d.person_id for d in await house.decisions(name)}
    kept_rows = await house.rows("SELECT * FROM decision WHERE person_id < 0")
    assert 4 == len(kept_rows)
    assert {(0, 0, 0, 0, 0, "")} == {
        (r.probability, r.position, r.call_rank, r.channels, r.recent_pushes, r.dealer_code) for r in kept_rows
    }
    assert {0.0} == {row.score % 200 for row in kept_rows}
    assert {(0, 0)} == {(row.decided_at.hour, row.decided_at.minute) for row in kept_rows}


async def test_who_has_no_anchor_is_forgotten_by_number(house: House, campaign: tuple[str, list[int], list[int]]) -> None:
    _, (winner, *_, loser), _ = campaign
    ids = {push.person_id: push.delivery_id for push in await house.pushes()}
    gone = identity_pb2.EntitiesChanged(erasures=[identity_pb2.Erasure(erasure_id=1, person_id=p) for p in (winner, loser)])
    await house.hear(ENTITIES, gone)
    assert [] == await traces(house, [winner, loser], [], [ids[winner], ids[loser]])


async def test_what_comes_late_brings_nobody_back(house: House, campaign: tuple[str, list[int], list[int]]) -> None:
    name, pushed, _ = campaign
    person, other = pushed[5], pushed[6]
    delivery = next(push.delivery_id for push in await house.pushes() if push.person_id == person)
    anchors = (person + 10_000, 77_001)
    await house.hear(ENTITIES, erasure(person, *anchors))
    before = await counted(house, name)
    late = identity_pb2.EntitiesChanged(
        consent_changes=[said(person, "marketing", "app", given=False)],
        anchor_moves=[moved(77_001, person, 9)],
        cluster_changes=[merged(person, other, 5)],
    )
    late.consent_changes[0].anchor_id = person + 10_000
    for _ in range(2):
        await house.hear(DELIVERIES, touchpoints_pb2.DeliveriesUpdated(updates=[update(delivery, 6, answer="yes")]))
        await house.hear(EVENTS, identity_pb2.ResolvedBatch(events=[event(person), event(person, anchor=77_001)]))
        await house.hear(ENTITIES, late)
        # Older than the move that made it the erased person's.
        await house.hear(EVENTS, identity_pb2.ResolvedBatch(events=[event(other, anchor=77_001, version=4)]))
    # Who went into the erased person is the erased person.
    assert [] == await traces(house, [person, other], anchors, [delivery])
    assert before == await counted(house, name)


async def test_a_shared_value_is_its_next_users_own(house: House, campaign: tuple[str, list[int], list[int]]) -> None:
    name, pushed, _ = campaign
    person, other = pushed[5], pushed[6]
    await house.hear(ENTITIES, identity_pb2.EntitiesChanged(anchor_moves=[moved(77_001, person, 9)]))
    await house.hear(ENTITIES, erasure(person, 77_001))
    goals = (await house.report(name)).pushed.goals
    await house.hear(EVENTS, identity_pb2.ResolvedBatch(events=[event(other, anchor=77_001, version=12)]))
    change = said(other, "service", "all", given=False)
    change.anchor_id = 77_001
    await house.hear(ENTITIES, identity_pb2.EntitiesChanged(consent_changes=[change]))
    assert goals + 1 == (await house.report(name)).pushed.goals
    assert [77_001] == [row.anchor_id for row in await house.rows("SELECT anchor_id FROM consent")]


async def test_who_is_erased_while_a_launch_runs_is_not_pushed(house: House) -> None:
    name = await house.ready(budget=EVERYBODY, holdout_share=0.0)
    await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
    # An audience was read before tags had heard of it.
    known, late = 1, 9
    await house.hear(ENTITIES, erasure(known))
    launcher = Launcher(house.room, chunk=50)
    decide = launcher._decide_chunk

    async def erase_first(*given: object) -> None:
        await house.hear(ENTITIES, erasure(late))
        await decide(*given)  # type: ignore[arg-type]

    launcher._decide_chunk = erase_first  # type: ignore[method-assign]
    assert await launcher.work_once()
    assert {known, late}.isdisjoint(push.person_id for push in await house.pushes())
    assert [] == await traces(house, [known, late], [])
    report = await house.report(name)
    assert report.decisions["push"] == len(await house.pushes()) > 0


async def test_what_was_put_off_for_an_erased_person_is_dropped_and_not_proposed_again(house: House) -> None:
    name = await house.launch(budget=EVERYBODY, holdout_share=0.0)
    theme_id, person = id_of(name), 3
    later = datetime.now(UTC) + timedelta(days=1)
    proposals = [Proposal(theme_id, PersonId(person), occasion, None, later, later) for occasion in (1, 2)]
    async with house.transaction() as uow:
        await propose(uow, proposals)
    await house.hear(ENTITIES, erasure(person))
    assert 2 == (await house.report(name)).decisions["erased"]
    async with house.transaction() as uow:
        await propose(uow, proposals)
    assert [] == await traces(house, [person], [])


async def test_an_erasure_waits_for_goals_under_way(house: House, campaign: tuple[str, list[int], list[int]]) -> None:
    _, pushed, _ = campaign
    person = pushed[7]
    async with house.transaction() as uow:
        data = identity_pb2.ResolvedBatch(events=[event(person)]).SerializeToString()
        await reach_goals(uow, [Message("1", EVENTS, data, {}, 1)])
        erasing = asyncio.create_task(house.hear(ENTITIES, erasure(person)))
        await asyncio.sleep(0.2)
        assert not erasing.done()
    await erasing
    assert [] == await traces(house, [person], [person + 10_000])


async def test_relations_decide_nothing_here(house: House) -> None:
    ended = identity_pb2.RelationChange(
        kind="owns", subject_kind=1, subject_id=1, object_kind=2, object_id=2, valid_from_us=1, valid_to_us=2, confidence=1
    )
    await house.hear(ENTITIES, identity_pb2.EntitiesChanged(relation_changes=[ended]))
    assert 0 == await house.dead_letters()
