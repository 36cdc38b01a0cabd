"""What the tables hold now and what the lake says of now are the same; and the lake knows what the tables held before."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pyarrow as pa
from troika.identity.v1 import events_pb2 as identity

from chassis.bus import Message
from chassis.db import Database
from services.tags.domain import imported
from services.tags.domain.catalogue import Catalogue, FromImport, Kind, TagDefinition, TagType
from services.tags.domain.predicates import parse_predicate
from services.tags.lake.asof import AsOf
from services.tags.lake.reading import Lake
from tests.integration.tags import world
from tests.integration.tags.lake_world import written
from tests.integration.tags.world import RULES, event, move

PERSON, VEHICLE = Kind.PERSON, Kind.VEHICLE
# An hour ago, so that no day goes by between two looks: the suite may come here minutes after this was read.
NOW = time.time_ns() // 1_000_000_000 - 3600


def life(number: int) -> list[identity.ResolvedEvent]:
    """A record with a car, some steps in the app and perhaps an answer, over the last days."""
    person, vehicle, at = (number, number, 1), (number % 5 + 1, number % 5 + 1, 1), NOW - 86_400 * (number % 9 + 1)
    record = {"age": 20 + number, "job": ("student", "retired")[number % 2], "calls_this_campaign": number % 4}
    car = {"model": "X5", "mileage_km": 9_000 * number, "sold_on": "2022-03-01"}
    return [
        event(
            number * 10,
            "Record Updated",
            source=f"dealer:D00{number % 3}",
            person=person,
            vehicle=vehicle,
            relation="owns",
            at=at,
            properties=record,
            vehicle_properties=car,
        ),
        event(number * 10 + 1, "App Opened", person=person, at=at + 60),
        event(number * 10 + 2, "Model Viewed", person=person, at=at + 90, properties={"model": f"M{number % 3}"}),
        event(number * 10 + 3, "Offer Answered", person=person, at=at + 99, properties={"answer": ("yes", "no")[number % 2]}),
    ]


async def tell(database: Database, lake: Lake, *events: identity.ResolvedEvent) -> None:
    """Both consumers get the same message."""
    await world.resolved(database, *events)
    message = Message("m", "s", world.batch(*events).SerializeToString(), {}, 1)
    await written(database, lake.storage, [message])


async def as_of(database: Database, lake: Lake, kind: Kind, at: int) -> dict[int, dict[str, Any]]:
    """All tags that are stored; views are not."""
    views = RULES.catalogue.views[kind]
    names = [name for name in RULES.catalogue.of(kind) if name not in views]
    table: pa.Table = await AsOf(database, lake, RULES.catalogue, 512).tags(kind, at * 1_000_000, names)
    return {row.pop("entity_id"): {n: v for n, v in row.items() if v is not None} for row in table.to_pylist()}


async def test_the_lake_says_of_now_what_the_tables_hold(database: Database, lake: Lake) -> None:
    await tell(database, lake, *(each for number in range(1, 30) for each in life(number)))
    await world.scored(database, [(3, 812.0, NOW - 5), (4, 100.0, NOW - 5)])
    for kind in (PERSON, VEHICLE):
        stored = await world.tags(database, kind)
        assert stored == await as_of(database, lake, kind, int(time.time()) + 1)
        assert len(stored) == {PERSON: 29, VEHICLE: 5}[kind]


async def test_an_unmerged_past_is_as_if_never_merged(database: Database, lake: Lake) -> None:
    await tell(database, lake, *life(1), *life(2))
    present = int(time.time()) + 1
    apart = await as_of(database, lake, PERSON, present)
    await world.moved(database, move(PERSON, (2, 1, 5)))
    together = await as_of(database, lake, PERSON, present)
    assert {1} == together.keys() and await world.tags(database) == together
    await world.moved(database, move(PERSON, (2, 2, 6)))
    assert apart == await as_of(database, lake, PERSON, present)


async def test_what_had_not_happened_is_not_known(database: Database, lake: Lake) -> None:
    await tell(database, lake, *life(1), *life(2))
    first = (NOW - 86_400 * 2, NOW - 86_400 * 3)
    assert {} == await as_of(database, lake, PERSON, first[1] - 1)
    assert {2} == (await as_of(database, lake, PERSON, first[1])).keys()
    tags = (await as_of(database, lake, PERSON, first[1] + 60))[2]
    assert 1.0 == tags["app_opens"] and "offer_answer" not in tags


async def test_an_audience_of_the_past_asks_the_relations_of_then(database: Database, lake: Lake) -> None:
    await tell(database, lake, *life(1), *life(2))
    when, sold = (NOW - 86_400 * 3) * 1_000_000, (NOW - 3600) * 1_000_000
    ended = identity.RelationChange(
        kind="owns",
        subject_kind=identity.ENTITY_KIND_PERSON,
        subject_id=2,
        object_kind=identity.ENTITY_KIND_VEHICLE,
        object_id=3,
        valid_from_us=when,
        valid_to_us=sold,
        confidence=1.0,
    )
    await world.changed(database, identity.EntitiesChanged(relation_changes=[ended]))
    asked = AsOf(database, lake, RULES.catalogue, 512)
    term = parse_predicate("ANY(vehicle, mileage_km > 1000)", PERSON, RULES.catalogue)
    assert [1, 2] == await asked.audience(PERSON, term, sold - 1)
    assert [1] == await asked.audience(PERSON, term, sold)
    assert [{"entity_id": 1, "age": 21.0}] == (await asked.tags(PERSON, sold, ["age"], term)).to_pylist()


async def test_what_partners_said_is_known_from_its_date_on(database: Database, lake: Lake) -> None:
    origin = FromImport(("acme",))
    kinds = {"income": TagType.NUMBER, "hobby": TagType.SET, "moved": TagType.TIME, "heads": TagType.CATEGORY}
    catalogue = Catalogue([TagDefinition(PERSON, name, of, "made", origin) for name, of in kinds.items()])
    await tell(database, lake, *life(1))
    facts: imported.Facts = {}
    rule = imported.Imported.of(origin)
    for key, (tag, value, at, until) in enumerate(
        [
            ("income", 100.0, NOW - 500, None),
            ("income", 200.0, NOW - 100, None),
            ("hobby", ["golf", "车"], NOW - 500, None),
            ("heads", "two", NOW - 500, NOW - 50),
            ("moved", 1e9, NOW - 50, None),
        ]
    ):
        said = imported.Statement(tag, value, at * 1_000_000, 1.0, until and until * 1_000_000)
        imported.add(facts, rule, said, key=key, partner="acme", line=1)
    async with database.transaction() as uow:
        await uow.execute(
            "UPDATE anchor SET facts = CAST(:facts AS json) WHERE entity_kind = 1", facts=orjson.dumps(facts).decode()
        )

    async def then(at: int) -> dict[str, Any]:
        asked = AsOf(database, lake, catalogue, 512)
        [row] = (await asked.tags(PERSON, at * 1_000_000, list(kinds))).to_pylist()
        return {name: value for name, value in row.items() if value is not None and name != "entity_id"}

    assert {} == await then(NOW - 501)
    assert {"income": 100.0, "hobby": ["golf", "车"], "heads": "two"} == await then(NOW - 300)
    assert {"income": 200.0, "hobby": ["golf", "车"], "moved": 1e9} == await then(NOW)
