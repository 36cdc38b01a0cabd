"""What journeys hear on the bus: events, audiences and scores; what cannot be read is set aside alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import numpy as np
import orjson
import pytest
from google.protobuf.message import Message as Proto
from troika.identity.v1 import events_pb2 as identity_pb2
from troika.orchestrator.v1 import events_pb2 as orchestrator_pb2
from troika.scoring.v1 import events_pb2 as scoring_pb2
from troika.tags.v1 import events_pb2 as tags_pb2

from chassis.bus import Message
from chassis.testing import DatabaseFactory
from services.orchestrator.journeys import consuming
from services.orchestrator.journeys.referral import Referrals, Terms
from tests.integration.orchestrator.journey_world import World, open_world

STEPS = "steps:\n- id: greet\n  push: {theme: hello}\n- id: rest\n  wait: 2 days\n"
HEAD = "title: T\nthemes: {hello: themes/1}\n"


@pytest.fixture
async def world(databases: DatabaseFactory) -> AsyncIterator[World]:
    async with open_world(databases) as opened:
        yield opened


async def hear(world: World, subject: str, *batches: Proto | bytes) -> None:
    none: Any = None
    terms = Terms("Order Placed", 1, 1, 1, timedelta(1), 1)
    handlers = {
        each.subject: each.handle for each in consuming.consumers(world.house, Referrals(world.house, none, terms, b""))
    }
    data = [each if isinstance(each, bytes) else each.SerializeToString() for each in batches]
    async with world.database.transaction() as uow:
        await handlers[subject](uow, [Message(str(n), subject, each, {}, n) for n, each in enumerate(data)])


def event(world: World, person: int, name: str = "Begun", properties: bytes = b"", vehicle: int = 0) -> Any:
    return identity_pb2.ResolvedEvent(
        event_id=person.to_bytes(16, "big"),
        name=name,
        occurred_at_us=int(world.clock.now.timestamp() * 1e6),
        person=identity_pb2.AnchorOwner(anchor_id=person + 1000, entity_id=person, version=1),
        vehicle=identity_pb2.AnchorOwner(anchor_id=vehicle, entity_id=vehicle, version=1),
        properties_json=properties,
    )


async def dead(world: World) -> list[str]:
    rows = await world.rows("SELECT headers->>'troika-reason' AS reason FROM outbox WHERE subject LIKE 'troika.deadletters.%'")
    return sorted(row.reason for row in rows)


async def test_events_enter_and_bad_ones_stop_nobody(world: World) -> None:
    await world.start(HEAD + "trigger: {event: Begun, where: {model: X5}}\nentry: {per: vehicle}\n" + STEPS)
    good = orjson.dumps({"model": "X5"})
    batch = identity_pb2.ResolvedBatch(
        events=[
            event(world, 1, properties=b"[]", vehicle=7),
            event(world, 2, properties=b"{", vehicle=7),
            event(world, 3, properties=good, vehicle=7),
            event(world, 4, properties=good),
            event(world, 0, properties=good, vehicle=7),
        ]
    )
    await hear(world, "troika.events.resolved.v1", batch, b"\xff Begun")
    assert [(1, 3)] == await world.proposals()
    assert ["7"] == [row.object for row in await world.rows("SELECT object FROM enrolment")]
    assert ["INVALID_EVENT", "INVALID_EVENT", "UNREADABLE"] == await dead(world)


async def test_audiences_of_persons_let_in_by_data_and_not_by_definition(world: World) -> None:
    await world.start(HEAD + "trigger: {audience: {name: owners}}\n" + STEPS)
    at_us = int(world.clock.now.timestamp() * 1e6)

    def change(persons: list[int], **more: Any) -> Any:
        stated: dict[str, Any] = {"name": "owners", "entity_kind": 1, "reason": "data", "at_us": at_us}
        return tags_pb2.AudienceChange(**(stated | {"entered": np.array(persons, "<u4").tobytes()} | more))

    changes = [
        change([1, 2]),
        change([3], reason="definition"),
        change([4], entity_kind=2),
        change([5], name="others"),
        change([], entered=b"abc"),
        change([6], at_us=at_us - 1),
        change([7]),
    ]
    await hear(world, "troika.audiences.changed.v1", tags_pb2.AudiencesChanged(changes=changes), b"\xff")
    assert {1, 2, 7} == {person for _, person in await world.proposals()}
    assert ["INVALID_IDS", "UNREADABLE"] == await dead(world)


async def test_scores_let_in_who_crosses(world: World) -> None:
    await world.start(HEAD + "trigger: {score: {model: intent, crosses: 600}}\n" + STEPS)

    def scores(model: str, *given: tuple[int, float, int]) -> Any:
        told = [scoring_pb2.PersonScore(person_id=p, score=s, scored_at_us=at) for p, s, at in given]
        return scoring_pb2.ScoresChanged(model=model, scores=told)

    subject = "troika.scores.changed.v1"
    await hear(world, subject, scores("intent", (1, 700, 1), (2, 500, 1)), scores("other", (3, 900, 1)), b"\xff")
    await hear(world, subject, scores("intent", (2, 650, 2), (2, 640, 3), (1, 800, 2)))
    assert [(1, 1), (1, 2)] == await world.proposals()
    assert ["UNREADABLE"] == await dead(world)


async def test_a_tag_is_stated_and_a_task_made_with_the_step(world: World) -> None:
    steps = "- id: say\n  update_tag: {tag: journey_stage, value: invited}\n"
    steps += "- id: unsay\n  update_tag: {tag: journey_stage, value: null}\n"
    steps += "- id: call\n  create_task: {kind: follow_up, text: Call her., due: 2 days}\n"
    await world.start("title: T\ntrigger: {event: Begun}\nsteps:\n" + steps)
    await world.event("Begun", 1, 2)
    rows = await world.rows("SELECT payload FROM outbox WHERE subject = 'troika.tags.stated.v1' ORDER BY id")
    told = [each for row in rows for each in orchestrator_pb2.TagsStated.FromString(row.payload).tags]
    assert [(1, "invited"), (2, "invited"), (1, ""), (2, "")] == [(each.person_id, each.word) for each in told]
    tasks = await world.rows("SELECT person_id, kind, words, author, due_at FROM lead_task ORDER BY person_id")
    due = world.clock.now + timedelta(days=2)
    expected = [(person, "follow_up", "Call her.", "journeys/1", due) for person in (1, 2)]
    assert expected == [tuple(row) for row in tasks]
