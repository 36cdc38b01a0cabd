"""Facts stay with their anchors: whatever the order, tags are those of the present view of who is who."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import defaultdict
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis.db import Database
from services.tags.domain.catalogue import Kind
from services.tags.domain.facts import Facts, Occurrence, fold
from services.tags.handlers import now_us
from services.tags.index import loading
from services.tags.index.columns import BooleanColumn, CategoryColumn, Column
from services.tags.index.index import AudienceIndex
from services.tags.index.projection import project
from services.tags.store import EntityRow
from tests.integration.tags import world
from tests.integration.tags.world import RULES, event, move

PERSON, VEHICLE = Kind.PERSON, Kind.VEHICLE


async def test_merged_and_unmerged_is_as_never_merged(database: Database) -> None:
    await world.resolved(
        database,
        event(1, person=(1, 10, 1), vehicle=(1, 50, 1), relation="owns"),
        event(2, "Offer Answered", source="dealer:D001", person=(2, 20, 2), properties={"answer": "yes"}),
        event(3, person=(2, 20, 2)),
    )
    before, related = await world.tags(database), await world.relations(database)
    await world.moved(database, move(PERSON, (2, 10, 3)))
    merged = await world.tags(database)
    assert {10} == merged.keys()
    assert (2.0, "yes", "D001") == tuple(merged[10][tag] for tag in ("app_opens", "offer_answer", "dealer_code"))
    await world.moved(database, move(PERSON, (1, 20, 4)))
    assert {(20, 50, "owns")} == await world.relations(database)
    await world.moved(database, move(PERSON, (1, 10, 5)), move(PERSON, (2, 20, 5)))
    assert before == await world.tags(database)
    assert related == await world.relations(database)


async def test_an_older_move_never_overrides_a_newer_one(database: Database) -> None:
    await world.resolved(database, event(1, person=(1, 10, 5)))
    await world.moved(database, move(PERSON, (1, 30, 9)))
    await world.moved(database, move(PERSON, (1, 20, 7)))
    await world.resolved(database, event(2, person=(1, 20, 8)))
    assert [(30, 2.0)] == [(id_, tags["app_opens"]) for id_, tags in (await world.tags(database)).items()]


async def test_an_event_that_confirms_the_owner_outdates_older_moves(database: Database) -> None:
    await world.resolved(database, event(1, person=(1, 10, 1)))
    await world.resolved(database, event(2, person=(1, 10, 3)))
    await world.moved(database, move(PERSON, (1, 20, 2)))
    assert {10} == (await world.tags(database)).keys()


async def test_a_score_belongs_to_the_entity_and_the_newest_wins(database: Database) -> None:
    await world.scored(database, [(10, 900.0, 5)])
    assert {} == await world.tags(database)
    await world.resolved(database, event(1, person=(1, 10, 1)))
    await world.scored(database, [(10, 100.0, 4)])
    await world.scored(database, [(10, 1.0, 9)], model="other")
    tags = (await world.tags(database))[10]
    assert (900.0, "A") == (tags["lead_score"], tags["score_band"])
    await world.scored(database, [(10, 650.0, 6)])
    tags = (await world.tags(database))[10]
    assert (650.0, "B") == (tags["lead_score"], tags["score_band"])


async def test_only_what_changed_is_published(database: Database) -> None:
    await world.resolved(database, event(1, person=(1, 10, 1), at=100))
    await world.empty_outbox(database)
    await world.resolved(database, event(2, person=(1, 10, 1), at=50))
    assert {"app_opens"} == {c.tag for m in await world.published(database) for c in m.columns}
    await world.empty_outbox(database)
    await world.resolved(database, event(3, "Something Else", person=(1, 10, 1), at=50))
    assert [] == await world.published(database)


async def test_a_property_of_another_type_says_nothing_and_the_others_do(database: Database) -> None:
    await world.resolved(database, event(2, "Record Updated", person=(1, 10, 1), properties={"age": 41, "job": 3}))
    tags = (await world.tags(database))[10]
    assert 41.0 == tags["age"] and "job" not in tags
    assert [] == await world.dead_letters(database)


async def test_a_bad_event_is_set_aside_alone_and_whole(database: Database) -> None:
    bad = event(2, "Record Updated", person=(1, 10, 1), properties={"age": 41}, vehicle=(1, 5, 1))
    bad.properties_json = b"[41]"
    await world.resolved(database, event(1, person=(1, 10, 1)), bad, event(3, person=(1, 10, 1)))
    tags = (await world.tags(database))[10]
    assert 2.0 == tags["app_opens"]
    assert "age" not in tags
    assert {} == await world.tags(database, VEHICLE)
    [(reason, payload)] = await world.dead_letters(database)
    assert "INVALID_JSON" == reason
    assert bad.SerializeToString() in payload


async def test_batches_at_the_same_time_lose_nothing(database: Database) -> None:
    """Two anchors of one person, eight transactions at once, and merges in between."""
    numbers = itertools.count(1)
    batches = [[event(next(numbers), person=(a, 10, 1), at=5) for a in (1, 2, 1, 3)] for _ in range(8)]
    moves = [[move(PERSON, (3, 10 + version % 2, version))] for version in range(2, 9)]

    async def until_done(work: Any, *arguments: Any) -> None:
        for _ in range(20):
            try:
                return await work(database, *arguments)
            except Exception:
                await asyncio.sleep(0.05)
        raise AssertionError("never got through")

    await asyncio.gather(
        *(until_done(world.resolved, *batch) for batch in batches), *(until_done(world.moved, *each) for each in moves)
    )
    assert {10: 32.0} == {id_: tags["app_opens"] for id_, tags in (await world.tags(database)).items()}


Plan = tuple[str, int, int, int]  # (what, anchor, entity, version)
plans = st.lists(
    st.tuples(st.sampled_from(("event", "event", "move")), st.integers(1, 5), st.integers(10, 13)), min_size=1, max_size=14
)


@given(plans, st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_order_of_events_and_moves_ends_in_the_same_tags_and_the_index_follows(
    database: Database, plan: list[tuple[str, int, int]], rnd: random.Random
) -> None:
    await world.empty(database)
    # An owner at a version is one truth for all who state it, so versions grow along the plan.
    facts: list[tuple[str, Any]] = []
    owners: dict[tuple[Kind, int], tuple[int, int]] = {}
    stated: dict[tuple[Kind, int], Facts] = defaultdict(dict)
    claims = set()
    for number, (what, anchor, entity) in enumerate(plan, start=1):
        owner = (anchor, entity, number)
        owners[PERSON, anchor] = owners[VEHICLE, anchor] = (entity, number)
        if what == "move":
            facts += [("move", move(PERSON, owner)), ("move", move(VEHICLE, owner))]
            continue
        properties = {"answer": str(number)}
        made = event(
            number, "Offer Answered", person=owner, vehicle=owner, relation="owns", at=number % 3, properties=properties
        )
        facts.append(("event", made))
        claims.add(anchor)
        occurrence = Occurrence("app", made.name, made.occurred_at_us, int.from_bytes(made.event_id[:8], "big") >> 1, 0)
        fold(stated[PERSON, anchor], occurrence, RULES.facts.stated(PERSON, occurrence, made.properties_json))
        fold(stated[VEHICLE, anchor], occurrence, RULES.facts.stated(VEHICLE, occurrence, b""))
    rnd.shuffle(facts)
    while facts:
        cut = rnd.randint(1, len(facts))
        part, facts = facts[:cut], facts[cut:]
        await world.resolved(database, *(f for what, f in part if what == "event"))
        await world.moved(database, *(f for what, f in part if what == "move"))

    messages = [*await world.published(database)] * 2
    rnd.shuffle(messages)
    index = AudienceIndex(RULES.catalogue)
    for each in messages:
        project(index, each)
    # What overtook something else is read again.
    while await loading.mend(index, database):
        pass
    for kind in (PERSON, VEHICLE):
        expected = _derived(kind, owners, stated)
        assert expected == await world.tags(database, kind)
        assert expected == _in(index, kind)
    assert {(owners[PERSON, a][0], owners[VEHICLE, a][0], "owns") for a in claims} == await world.relations(database)


def _derived(kind: Kind, owners: Any, stated: Any) -> dict[int, dict[str, Any]]:
    """The pure function: the last owner of each anchor, and what events said of the anchors."""
    anchors: dict[int, list[Facts]] = defaultdict(list)
    for (k, anchor), (entity, _) in sorted(owners.items()):
        if k is kind:
            anchors[entity].append(stated[kind, anchor])
    derived = {entity: EntityRow(entity, 0, False, {}, {}) for entity in anchors}
    for entity, facts in anchors.items():
        RULES.renew(kind, derived[entity], facts, 0, now_us())
    return {entity: row.tags for entity, row in derived.items()}


def _in(index: AudienceIndex, kind: Kind) -> dict[int, dict[str, Any]]:
    """What an index holds, entity by entity."""
    found: dict[int, dict[str, Any]] = {entity: {} for entity in index.present[kind]}
    for tag, column in index.columns(kind).items():
        for entity in column.known():
            found[entity][tag] = _cell(column, entity)
    return found


def _cell(column: Column, entity: int) -> Any:
    taken = column.take(np.array([entity], np.int64))
    if isinstance(column, CategoryColumn):
        return taken[1][taken[0][0]]
    return bool(taken[0]) if isinstance(column, BooleanColumn) else float(taken[0])
