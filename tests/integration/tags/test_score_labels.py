"""A model of classes gives a category tag the likeliest class; where none may be told, the tag goes away."""

from __future__ import annotations

import time

from troika.scoring.v1 import events_pb2 as scoring

from chassis.bus import Message
from chassis.db import Database
from services.tags import consumers
from services.tags.catalogue import yaml_files
from services.tags.catalogue.defining import define
from services.tags.domain.catalogue import Catalogue, Kind, TagDefinition
from services.tags.handlers import TagRules
from services.tags.lake import storage
from services.tags.lake.asof import AsOf
from services.tags.lake.reading import Lake
from services.tags.profiles import loading
from tests.integration.tags import world
from tests.integration.tags.lake_world import written

MODEL = "age_band"


def made(name: str, **body: str) -> TagDefinition:
    definition, _ = define(Kind.PERSON, name, {"description": "d", "title": name} | body)
    assert definition
    return definition


RULES = TagRules(
    Catalogue(
        [
            *yaml_files.load().definitions,
            made("guessed_band", type="category", score=MODEL),
            made("age_band_score", type="number", score=MODEL),
            made("likely_young", type="boolean", expression="guessed_band = '18-30'"),
        ]
    )
)


async def told(database: Database, *said: tuple[int, str, float, int]) -> None:
    """(person, label, probability, second)."""
    scores = [
        scoring.PersonScore(person_id=p, label=label, probability=share, score=share * 1000, scored_at_us=at * 1_000_000)
        for p, label, share, at in said
    ]
    payload = scoring.ScoresChanged(model=MODEL, scores=scores).SerializeToString()
    async with database.transaction() as uow:
        await consumers.consumers(RULES)[2].handle(uow, [Message("m", "s", payload, {}, 1)])


async def test_a_class_becomes_a_tag_with_its_probability_and_goes_away_again(database: Database, tmp_path: object) -> None:
    await world.resolved(database, world.event(1, person=(1, 10, 1)))
    await told(database, (10, "18-30", 0.7, 5), (10, "31-45", 0.4, 4))
    tags = (await world.tags(database))[10]
    assert ("18-30", 700.0, True) == (tags["guessed_band"], tags["age_band_score"], tags["likely_young"])
    async with database.read() as uow:
        found = await loading.load(uow, RULES, Kind.PERSON, 10)
    assert found
    lines = {line.definition.name: line for line in found.tags}
    assert (f"score:{MODEL}", 0.7) == (lines["guessed_band"].source, lines["guessed_band"].confidence)
    assert 1.0 == lines["age_band_score"].confidence
    lake = Lake(storage.opened(f"{tmp_path}/lake"))
    message = Message("m", "s", world.batch(world.event(1, person=(1, 10, 1))).SerializeToString(), {}, 1)
    await written(database, lake.storage, [message])
    asked = AsOf(database, lake, RULES.catalogue, 512)

    async def then(second: int) -> list[str]:
        rows = (await asked.tags(Kind.PERSON, second * 1_000_000, ["guessed_band"])).to_pylist()
        return [row["guessed_band"] for row in rows if row["entity_id"] == 10]

    assert ["18-30"] == await then(int(time.time()))

    # She has forbidden it: no class, and what is said of everybody.
    await told(database, (10, "", 0.25, 6))
    tags = (await world.tags(database))[10]
    assert {"guessed_band", "likely_young"}.isdisjoint(tags) and 250.0 == tags["age_band_score"]
    assert [] == [row for row in await then(int(time.time())) if row]
    # What comes late, and a merge, bring nothing back.
    await told(database, (10, "18-30", 0.7, 5))
    await world.resolved(database, world.event(2, person=(2, 10, 1)))
    assert {"guessed_band", "likely_young"}.isdisjoint((await world.tags(database))[10])
    await told(database, (10, "31-45", 0.5, 7))
    assert "31-45" == (await world.tags(database))[10]["guessed_band"]
