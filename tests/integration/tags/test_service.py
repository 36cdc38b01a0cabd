"""The whole service: facts go in over the bus, answers come out of its doors, and a kill changes nothing."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from troika.identity.v1 import events_pb2 as identity
from troika.scoring.v1 import events_pb2 as scoring
from troika.tags.v1 import tags_service_pb2 as pb
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub

from chassis.bus import Bus, Stream
from chassis.outbox import Outgoing
from chassis.testing import DatabaseFactory, drop_database
from services.tags.domain.catalogue import Kind
from tests.conftest import Servers
from tests.integration.tags.service import Service
from tests.integration.tags.world import event, move

RESOLVED, ENTITIES, SCORES = "troika.events.resolved.v1", "troika.entities.changed.v1", "troika.scores.changed.v1"
PERSON, VEHICLE = identity.ENTITY_KIND_PERSON, identity.ENTITY_KIND_VEHICLE
PEOPLE = 600


@pytest.fixture
async def service(servers: Servers, databases: DatabaseFactory, bus: Bus, tmp_path: Path) -> AsyncIterator[Service]:
    """A running service with the streams of its neighbours in place."""
    await bus.declare(Stream("EVENTS_RESOLVED", (RESOLVED,)), Stream("ENTITIES_CHANGED", (ENTITIES,)))
    await bus.declare(Stream("SCORES_CHANGED", (SCORES,)))
    dsn, name = await databases.address("tags")
    service = Service.prepared(dsn, servers, tmp_path / "log")
    await service.start()
    try:
        yield service
    finally:
        service.kill()
        await drop_database(servers.postgres_dsn, name)


def job(number: int) -> str:
    return ("student", "retired", "services")[number % 3]


def people(numbers: range) -> list[identity.ResolvedEvent]:
    """Record Updated of persons with one vehicle each; now at the door."""
    made = []
    for n in numbers:
        each = event(
            n,
            "Record Updated",
            source="call_center",
            person=(n, n, 1),
            vehicle=(n, n + 5000, 1),
            relation="owns",
            properties={"age": 20 + n % 50, "job": job(n), "calls_this_campaign": 1},
            vehicle_properties={"model": "X5", "mileage_km": 1000 * (n % 100), "sold_on": "2022-03-01"},
        )
        each.received_at_us = time.time_ns() // 1000
        made.append(each)
    return made


async def publish(bus: Bus, subject: str, *payloads: object) -> None:
    messages = [
        Outgoing(f"{subject}{time.time_ns()}{i}", subject, p.SerializeToString(), {})  # type: ignore[attr-defined]
        for i, p in enumerate(payloads)
    ]
    await bus.publish_all(messages)


async def count(stub: TagsServiceStub, predicate: str, kind: int = PERSON) -> int:
    answer = await stub.CountAudience(pb.CountAudienceRequest(entity_kind=kind, predicate=predicate))  # type: ignore[arg-type]
    return answer.count


async def reaches(stub: TagsServiceStub, expected: int, predicate: str) -> None:
    async with asyncio.timeout(30):
        while await count(stub, predicate) != expected:
            await asyncio.sleep(0.02)


async def test_what_the_bus_states_the_doors_answer(service: Service, bus: Bus) -> None:
    stub = service.stub()
    stated = people(range(1, PEOPLE + 1))
    await publish(bus, RESOLVED, identity.ResolvedBatch(events=stated[:300]), identity.ResolvedBatch(events=stated[300:]))
    await reaches(stub, PEOPLE, "job IS NOT NULL")

    assert PEOPLE // 3 == await count(stub, "job = 'student'")
    high = [n for n in range(1, PEOPLE + 1) if n % 100 > 60]
    assert len(high) == await count(stub, "ANY(vehicle, high_mileage)")
    assert PEOPLE == await count(stub, "", VEHICLE)

    ids = [i async for chunk in stub.StreamAudience(_audience("ANY(vehicle, high_mileage)")) for i in chunk.entity_ids]
    assert high == ids

    profile = await stub.GetProfile(pb.GetProfileRequest(entity_kind=PERSON, entity_id=7))
    by_tag = {tag.tag: tag for tag in profile.tags}
    assert (27.0, [7], 7) == (by_tag["age"].value.number, list(by_tag["age"].anchor_ids), by_tag["age"].occurred_at.seconds)
    assert ("is_new_lead", True, []) == (
        by_tag["is_new_lead"].tag,
        by_tag["is_new_lead"].value.boolean,
        list(by_tag["is_new_lead"].anchor_ids),
    )
    assert [5007] == list(profile.related_ids)

    request = pb.StreamTagValuesRequest(entity_kind=PERSON, entity_ids=[7, 4_000_000], tags=["age", "job", "is_new_lead"])
    [values] = [chunk async for chunk in stub.StreamTagValues(request)]
    age, words, lead = values.columns
    assert [7, 4_000_000] == list(values.entity_ids)
    assert (27.0, True) == (age.numbers[0], math.isnan(age.numbers[1]))
    assert (["retired"], [0, -1]) == (list(words.words), list(words.word_indexes))
    assert (1.0, True) == (lead.numbers[0], math.isnan(lead.numbers[1]))

    described = await stub.DescribeAudience(pb.DescribeAudienceRequest(entity_kind=PERSON, predicate="job = 'student'"))
    assert (PEOPLE // 3, PEOPLE) == (described.audience, described.base)
    assert "job" not in {term.tag for term in described.terms}
    assert PEOPLE == service.metric("troika_events_tagged_total")
    assert service.metric("troika_visible_seconds_count") >= PEOPLE


def _audience(predicate: str) -> pb.StreamAudienceRequest:
    return pb.StreamAudienceRequest(entity_kind=PERSON, predicate=predicate)


async def test_a_killed_service_comes_back_with_everything(service: Service, bus: Bus) -> None:
    stub = service.stub()
    stated = people(range(1, PEOPLE + 1))
    halves = [identity.ResolvedBatch(events=stated[i : i + 50]) for i in range(0, PEOPLE, 50)]
    await publish(bus, RESOLVED, *halves[:6])
    # A kill with messages in hand costs the acknowledgement wait on top; tests/chaos does that.
    await reaches(stub, PEOPLE // 2, "")
    await asyncio.sleep(0.2)
    service.kill()
    await publish(bus, RESOLVED, *halves[6:])
    await publish(bus, ENTITIES, identity.EntitiesChanged(anchor_moves=[move(Kind.PERSON, (2, 1, 2))]))
    await publish(bus, SCORES, scoring.ScoresChanged(model="purchase_intent", scores=[_score(1, 900.0)]))
    await service.start()
    await reaches(stub, PEOPLE - 1, "job IS NOT NULL")
    await reaches(stub, 1, "score_band = 'A'")
    service.kill()
    await service.start()
    assert PEOPLE - 1 == await count(stub, "")
    assert 1 == await count(stub, "score_band = 'A' AND lead_score = 900")
    expected = Counter(job(n) for n in range(1, PEOPLE + 1) if n != 1)  # 2 happened last, so 1 has its job
    for word, times in expected.items():
        assert times == await count(stub, f"job = '{word}'")
    assert [5001, 5002] == list((await stub.GetProfile(pb.GetProfileRequest(entity_kind=PERSON, entity_id=1))).related_ids)


def _score(person: int, value: float) -> scoring.PersonScore:
    return scoring.PersonScore(person_id=person, score=value, scored_at_us=1)
