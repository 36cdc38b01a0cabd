"""Erased persons are forgotten: facts, documents, scores and index; whatever comes late, and in whatever order."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis.db import Database
from services.tags.domain.catalogue import Kind
from services.tags.index.index import AudienceIndex
from services.tags.index.projection import project
from tests.integration.tags import world
from tests.integration.tags.world import RULES, erasure, event, move

PERSON, VEHICLE = Kind.PERSON, Kind.VEHICLE
# Everything that may hold anything of a person, tombstones aside.
TRACES = (
    "SELECT 'anchor' AS place FROM anchor WHERE entity_kind = 1 AND anchor_id = ANY(CAST(:anchors AS bigint[]))"
    " UNION ALL SELECT 'relation' FROM relation WHERE person_anchor = ANY(CAST(:anchors AS bigint[]))"
    " UNION ALL SELECT 'told_relation' FROM told_relation WHERE subject_kind = 1 AND subject_id = :person"
    " UNION ALL SELECT 'entity_relation' FROM entity_relation WHERE subject_kind = 1 AND subject_id = :person AND NOT removed"
    " UNION ALL SELECT 'entity' FROM entity WHERE entity_kind = 1 AND entity_id = :person"
    " AND (present OR CAST(tags AS text) <> '{}' OR CAST(scores AS text) <> '{}')"
)


async def traces(database: Database, person: int, *anchors: int) -> list[str]:
    async with database.read() as uow:
        return [row.place for row in await uow.rows(TRACES, person=person, anchors=list(anchors))]


def a_life() -> list[Any]:
    """Person 10 with two anchors, a car and an answer; person 20 beside it with the same car."""
    return [
        event(1, person=(1, 10, 1), vehicle=(1, 50, 1), relation="owns"),
        event(2, "Offer Answered", source="dealer:D001", person=(2, 10, 2), properties={"answer": "yes"}),
        event(3, person=(3, 20, 3), vehicle=(1, 50, 1), relation="drives"),
    ]


async def test_nothing_is_left_of_an_erased_person_and_the_others_keep_theirs(database: Database) -> None:
    await world.resolved(database, *a_life())
    await world.scored(database, [(10, 900.0, 5), (20, 100.0, 5)])
    before, cars = await world.tags(database), await world.tags(database, VEHICLE)
    assert {50} == cars.keys()
    assert {"anchor", "relation", "entity_relation", "entity"} == set(await traces(database, 10, 1, 2))
    for _ in range(2):
        await world.changed(database, erasure(10, 1, 2))
        assert [] == await traces(database, 10, 1, 2)
        assert {20: before[20]} == await world.tags(database)
        assert cars == await world.tags(database, VEHICLE)
        assert {(20, 50, "drives")} == await world.relations(database)


async def test_whoever_follows_forgets_too(database: Database) -> None:
    await world.resolved(database, *a_life())
    await world.scored(database, [(10, 900.0, 5)])
    index = AudienceIndex(RULES.catalogue)
    for message in await world.published(database):
        project(index, message)
    assert 10 in index.present[PERSON] and 10 in index.column(PERSON, "lead_score").known()
    await world.empty_outbox(database)
    await world.changed(database, erasure(10, 1, 2))
    for message in await world.published(database):
        project(index, message)
    assert [20] == list(index.present[PERSON])
    assert [] == [tag for tag, column in index.columns(PERSON).items() if 10 in column.known()]
    assert [20] == list(index.relations.reached(PERSON, VEHICLE, index.present[VEHICLE]))


async def test_what_comes_late_brings_nobody_back(database: Database) -> None:
    await world.changed(database, erasure(10, 1, 2))
    await world.resolved(database, *a_life())
    await world.scored(database, [(10, 900.0, 9)])
    await world.moved(database, move(PERSON, (2, 10, 2)))
    assert [] == await traces(database, 10, 1, 2)
    assert {20} == (await world.tags(database)).keys()
    assert {(20, 50, "drives")} == await world.relations(database)


async def test_what_an_anchor_said_before_it_was_merged_into_the_erased_person_goes_too(database: Database) -> None:
    """The event is older than the merge, and both come after the erasure."""
    await world.changed(database, erasure(10, 1, 2))
    await world.resolved(database, event(1, person=(2, 7, 1), vehicle=(1, 50, 1), relation="owns"))
    await world.moved(database, move(PERSON, (2, 10, 4)))
    assert [] == await traces(database, 7, 1, 2)
    assert {} == await world.tags(database)
    # Now it is known since when the anchor was the person's.
    await world.resolved(database, event(2, person=(2, 7, 1)))
    assert {} == await world.tags(database)


async def test_a_shared_device_is_its_next_users_own(database: Database) -> None:
    await world.resolved(database, event(1, person=(1, 10, 5)), event(2, person=(1, 10, 5)))
    await world.changed(database, erasure(10, 1))
    await world.resolved(database, event(3, person=(1, 30, 9)), event(4, person=(1, 10, 5)))
    assert {30: 1.0} == {id_: tags["app_opens"] for id_, tags in (await world.tags(database)).items()}


async def test_an_event_under_way_is_waited_for(database: Database) -> None:
    async with database.transaction() as uow:
        await world.RESOLVED.handle(uow, [world.message(world.batch(event(1, person=(1, 10, 1))))])
        erasing = asyncio.create_task(world.changed(database, erasure(10, 1)))
        await asyncio.sleep(0.2)
        assert not erasing.done()
    await erasing
    assert [] == await traces(database, 10, 1)


Step = tuple[str, int, int]
lives = st.lists(st.tuples(st.sampled_from(("event", "move")), st.integers(1, 4), st.integers(10, 12)), min_size=1, max_size=12)


@given(lives, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_in_any_order_only_the_living_are_left(database: Database, life: list[Step], rnd: random.Random) -> None:
    """Person 10 is erased at the end of a life of events and moves; told in any order, some of it twice."""
    await world.empty(database)
    facts: list[tuple[str, Any]] = []
    owner: dict[int, tuple[int, int]] = {}
    opens: dict[int, int] = {}
    for number, (what, anchor, entity) in enumerate(life, start=1):
        if what == "move" or anchor not in owner:
            owner[anchor] = (entity, number)
            facts += [("changed", world.moves(move(PERSON, (anchor, entity, number))))] * rnd.randint(1, 2)
        facts.append(("event", event(number, person=(anchor, *owner[anchor]))))
        opens[anchor] = opens.get(anchor, 0) + 1
    mine = [anchor for anchor, (entity, _) in owner.items() if entity == 10]
    facts += [("changed", erasure(10, *mine))] * 2 if mine else []
    rnd.shuffle(facts)
    while facts:
        cut = rnd.randint(1, len(facts))
        part, facts = facts[:cut], facts[cut:]
        await world.resolved(database, *(fact for what, fact in part if what == "event"))
        await world.changed(database, *(fact for what, fact in part if what == "changed"))
    left: dict[int, float] = {}
    for anchor, (entity, _) in owner.items():
        if entity != 10:
            left[entity] = left.get(entity, 0.0) + opens[anchor]
    assert left == {id_: tags["app_opens"] for id_, tags in (await world.tags(database)).items()}
    assert [] == await traces(database, 10, *mine)
