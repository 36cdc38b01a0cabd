"""Time goes by: what leaves a window, or is long enough ago, changes tags without an event, found by index."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from troika.identity.v1 import events_pb2 as identity

from chassis.db import Database
from services.tags import events, expiry, handlers
from services.tags.catalogue import yaml_files
from services.tags.domain.catalogue import Kind
from services.tags.domain.facts import Occurrence
from services.tags.handlers import Batch, Sighting, TagRules
from tests.integration.tags import world

TEXT = """
person:
  opens:
    {type: number, description: d, expression: "COUNT(*) FILTER (WHERE occurred_at > NOW() - INTERVAL '10 seconds')"}
  spent: {type: number, description: d, expression: "SUM(x) FILTER (WHERE occurred_at > NOW() - INTERVAL '1 minute')"}
  seen: {type: time, description: d, expression: MAX(occurred_at)}
  active: {type: boolean, description: d, expression: "opens >= 2"}
  asleep: {type: boolean, description: d, expression: "seen < NOW() - INTERVAL '30 seconds'"}
  days: {type: number, description: d, expression: "DAYS_SINCE(seen)"}
"""
RULES = TagRules(yaml_files.parse(TEXT))
SECOND = 1_000_000
DAY = 86_400 * SECOND


async def told(database: Database, at_us: int, *events: tuple[int, int, int]) -> None:
    """(anchor, second at which it happened, x), as of a moment; the anchor is its person's only one."""
    batch = Batch()
    for anchor, second, x in events:
        occurrence = Occurrence("s", "E", second * SECOND, random.randrange(2**62), second * SECOND)
        statements = RULES.facts.stated(Kind.PERSON, occurrence, orjson.dumps({"x": x}))
        batch.sightings[Kind.PERSON].append(Sighting(anchor, anchor // 10, 1, occurrence, statements))
    async with database.transaction() as uow:
        await handlers.apply(uow, RULES, batch, at_us)


async def due(database: Database) -> list[int]:
    return [row[0] for row in await database.fetch("SELECT due_us FROM entity WHERE due_us IS NOT NULL ORDER BY 1")]


async def test_what_leaves_its_window_leaves_the_tag_and_what_is_built_on_it(database: Database) -> None:
    await told(database, 5 * SECOND, (10, 1, 3), (10, 3, 4))
    assert {"opens": 2.0, "spent": 7.0, "active": True, "asleep": False} == _but(await world.tags(database), "seen", "days")
    assert [11 * SECOND] == await due(database)
    assert 0 == await expiry.expire(database, RULES, 11 * SECOND - 1)
    assert 1 == await expiry.expire(database, RULES, 11 * SECOND)
    assert {"opens": 1.0, "spent": 7.0, "active": False, "asleep": False} == _but(await world.tags(database), "seen", "days")
    assert 1 == await expiry.expire(database, RULES, 13 * SECOND)
    tags = _but(await world.tags(database), "seen", "days")
    assert {"spent": 7.0, "asleep": False} == tags
    assert [33 * SECOND + 1] == await due(database)
    # By the clock alone, to the microsecond: 30 seconds ago is not yet more than 30 seconds ago.
    assert 0 == await expiry.expire(database, RULES, 33 * SECOND)
    assert 1 == await expiry.expire(database, RULES, 33 * SECOND + 1)
    assert (await world.tags(database))[1]["asleep"] is True
    assert [True] == [e.tags["asleep"] for m in await world.published(database) for e in events.told(m) if "asleep" in e.tags]


async def test_an_event_that_comes_before_anybody_looked_does_not_hide_what_was_due(database: Database) -> None:
    await told(database, 0, (10, 0, 3))
    await told(database, 40 * SECOND, (10, 0, 4))
    # The first event has left its window, and the last one is long ago: nobody asks for either again.
    assert {"spent": 7.0, "active": None, "asleep": True} | {"opens": None} == {
        name: (await world.tags(database))[1].get(name) for name in ("spent", "active", "asleep", "opens")
    }


async def test_whole_days_are_counted_as_they_go_by(database: Database) -> None:
    await told(database, 0, (10, 0, 1))
    for day in range(1, 4):
        await expiry.expire(database, RULES, day * DAY - 1)
        assert day - 1 == (await world.tags(database))[1]["days"]
        await expiry.expire(database, RULES, day * DAY)
        assert day == (await world.tags(database))[1]["days"]


@given(st.lists(st.tuples(st.sampled_from([10, 11, 20]), st.integers(0, 90), st.integers(-3, 3)), max_size=12), st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_events_and_time_in_any_interleaving_end_as_if_told_at_once(
    database: Database, events: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    end = 100 * SECOND
    await world.empty(database)
    await told(database, end, *events)
    expected = await world.tags(database)
    await world.empty(database)
    for event in data.draw(st.permutations(events)):
        await told(database, 0, event)
        await expiry.expire(database, RULES, data.draw(st.integers(0, 100)) * SECOND)
    while await expiry.expire(database, RULES, end):
        pass
    assert expected == await world.tags(database)


@pytest.mark.parametrize("kind", ["household", "dealer"])
async def test_a_household_and_a_dealer_exist_while_somebody_is_related_to_them(database: Database, kind: str) -> None:
    number, relation = (3, "member_of") if kind == "household" else (4, "advised_by")

    def change(until: int) -> identity.EntitiesChanged:
        made: dict[str, Any] = {"subject_kind": 1, "object_kind": number, "valid_to_us": until, "valid_from_us": 1}
        told = identity.RelationChange(kind=relation, subject_id=5, object_id=7, confidence=1.0, **made)
        return identity.EntitiesChanged(relation_changes=[told])

    await world.changed(database, change(0))
    assert {7: {}} == await world.tags(database, Kind(number))
    assert {(5, 7, relation)} == await world.relations(database)
    await world.changed(database, change(9), first=2)
    assert {} == await world.tags(database, Kind(number))
    assert set() == await world.relations(database)
    presences = [e.present for m in await world.published(database) for e in events.told(m) if e.kind == number]
    assert [True, False] == presences


def _but(tags: dict[int, dict[str, Any]], *names: str) -> dict[str, Any]:
    return {name: value for name, value in tags[1].items() if name not in names}
