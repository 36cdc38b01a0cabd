"""The whole service tells of a named audience: killed at any moment, everybody enters once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from troika.identity.v1 import events_pb2 as identity
from troika.tags.v1 import audience_service_pb2 as pb
from troika.tags.v1 import events_pb2
from troika.tags.v1.audience_service_pb2_grpc import AudienceServiceStub

from chassis import rpc
from chassis.bus import Bus, Message, Stream
from chassis.testing import DatabaseFactory, drop_database
from services.tags import events
from tests.conftest import Servers
from tests.integration.tags.service import TOKEN, Service
from tests.integration.tags.test_service import ENTITIES, PEOPLE, PERSON, RESOLVED, SCORES, people, publish

STUDENTS = {number for number in range(1, PEOPLE + 1) if number % 3 == 0}


@pytest.fixture
async def service(servers: Servers, databases: DatabaseFactory, bus: Bus, tmp_path: Path) -> AsyncIterator[Service]:
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


async def test_everybody_enters_once_however_often_the_service_is_killed(service: Service, bus: Bus) -> None:
    told: list[events_pb2.AudienceChange] = []

    async def hear(message: Message) -> None:
        told.extend(events_pb2.AudiencesChanged.FromString(message.data).changes)

    hearing = asyncio.create_task(bus.follow(events.AUDIENCES_CHANGED, 0, hear))
    channel = rpc.connect(f"127.0.0.1:{service.grpc_port}", "operator", TOKEN)
    stub = AudienceServiceStub(channel)
    request = pb.CreateAudienceRequest(name="students", entity_kind=PERSON, predicate="job = 'student'", owner="m")
    await stub.CreateAudience(request)
    stated = people(range(1, PEOPLE + 1))
    batches = [identity.ResolvedBatch(events=stated[start : start + 50]) for start in range(0, PEOPLE, 50)]
    for part in range(2):
        await publish(bus, RESOLVED, *batches[6 * part : 6 * part + 6])
        await asyncio.sleep(0.6)
        service.kill()
        await service.start()

    def entered() -> Counter[int]:
        return Counter(i for change in told for i in np.frombuffer(change.entered, "<u4").tolist())

    async with asyncio.timeout(60):
        while set(entered()) != STUDENTS:
            await asyncio.sleep(0.1)
    assert {1} == set(entered().values())
    assert not any(change.left for change in told)
    assert list(range(1, len(told) + 1)) == sorted(change.number for change in told)
    assert len(STUDENTS) == max(told, key=lambda change: change.number).count
    sizes = await stub.ListAudienceSizes(pb.ListAudienceSizesRequest(name="students"))
    assert len(STUDENTS) == sizes.sizes[-1].count
    hearing.cancel()
    await channel.close()
