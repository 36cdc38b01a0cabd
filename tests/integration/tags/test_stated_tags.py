"""Tags that journeys write: of the person, the newest word counts, and only what the catalogue gives to journeys."""

from __future__ import annotations

from typing import Any

from troika.orchestrator.v1 import events_pb2 as pb

from chassis.bus import Message
from chassis.db import Database
from services.tags import consumers
from services.tags.catalogue import yaml_files
from services.tags.handlers import TagRules
from tests.integration.tags import world

RULES = TagRules(yaml_files.load())


async def told(database: Database, *tags: pb.StatedTag) -> None:
    [consumer] = [each for each in consumers.consumers(RULES) if each.name == consumers.STATED_TAGS]
    async with database.transaction() as uow:
        await consumer.handle(uow, [Message("m", "s", pb.TagsStated(tags=tags).SerializeToString(), {}, 1)])


def stage(person: int, word: str, second: int, **more: Any) -> pb.StatedTag:
    value: dict[str, Any] = {"word": word} if word else {}
    return pb.StatedTag(**({"tag": "journey_stage", "person_id": person, "stated_at_us": second * 1_000_000} | value | more))


async def test_the_newest_word_of_a_journey_counts_until_it_is_taken_back(database: Database) -> None:
    await world.resolved(database, world.event(1, person=(1, 10, 1)))
    await told(database, stage(10, "invited", 5), stage(10, "asleep", 4))
    assert "invited" == (await world.tags(database))[10]["journey_stage"]
    await told(database, stage(10, "late", 3))
    assert "invited" == (await world.tags(database))[10]["journey_stage"]
    await told(database, stage(10, "", 6))
    assert "journey_stage" not in (await world.tags(database))[10]


async def test_journeys_write_nothing_else(database: Database) -> None:
    await world.resolved(database, world.event(1, person=(1, 10, 1)))
    await told(
        database, stage(10, "x", 5, tag="lead_score"), stage(10, "x", 5, tag="nothing"), stage(10, "", 5, number=3.0),
        stage(10, "kept", 5),
    )  # fmt: skip
    tags = (await world.tags(database))[10]
    assert "kept" == tags["journey_stage"] and {"lead_score", "nothing"}.isdisjoint(tags)
    async with database.read() as uow:
        rows = await uow.rows("SELECT count(*) AS n FROM outbox WHERE subject = 'troika.deadletters.tags-stated'")
    assert 3 == rows[0].n
