"""The lake in the running service: from the bus into files, acknowledged when durable, compacted by its verb."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from troika.identity.v1 import events_pb2 as identity
from troika.tags.v1 import tags_service_pb2 as pb
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub

from chassis import rpc
from chassis.bus import Bus, Consumer, Message, Stream
from chassis.db import Database, UnitOfWork
from chassis.outbox import Outgoing
from chassis.testing import DatabaseFactory, drop_database
from services.tags.lake import storage, writing
from services.tags.lake.reading import Lake
from tests.conftest import ROOT, Servers
from tests.integration.tags.lake_world import DAY, held, messages, raw
from tests.integration.tags.service import TOKEN, Service
from tests.integration.tags.world import event

RESOLVED, ENTITIES, SCORES = "troika.events.resolved.v1", "troika.entities.changed.v1", "troika.scores.changed.v1"


@pytest.fixture
async def service(servers: Servers, databases: DatabaseFactory, bus: Bus, tmp_path: Path) -> AsyncIterator[Service]:
    await bus.declare(Stream("EVENTS_RESOLVED", (RESOLVED,)), Stream("ENTITIES_CHANGED", (ENTITIES,)))
    await bus.declare(Stream("SCORES_CHANGED", (SCORES,)))
    dsn, name = await databases.address("tags")
    service = Service.prepared(dsn, servers, tmp_path / "log")
    service.environment["TROIKA_LAKE"] = str(tmp_path / "lake")
    await service.start()
    try:
        yield service
    finally:
        service.kill()
        await drop_database(servers.postgres_dsn, name)


async def publish(bus: Bus, given: list[Message]) -> None:
    await bus.publish_all([Outgoing(m.id, RESOLVED, m.data, {}) for m in given])


async def reaches(lake: Lake, rows: int) -> None:
    async with asyncio.timeout(60):
        while raw(lake) < rows:
            await asyncio.sleep(0.1)


async def test_a_killed_service_writes_what_it_had_not_acknowledged(service: Service, bus: Bus, tmp_path: Path) -> None:
    lake = Lake(storage.opened(str(tmp_path / "lake")))
    await publish(bus, messages()[:100])
    await asyncio.sleep(2.2)
    service.kill()
    await publish(bus, messages()[100:])
    await service.start()
    await reaches(lake, 1333)
    expected = {event.event_id for m in messages() for event in identity.ResolvedBatch.FromString(m.data).events}
    assert expected == {row["event_id"] for row in held(lake)}
    assert (1333, 12) == (raw(lake), len(lake.storage.below("rows")))

    argv = [sys.executable, "-m", "services.tags", "compact", "--json"]
    done = await asyncio.to_thread(
        subprocess.run, argv, env=service.environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    said = json.loads(done.stdout)
    assert (3, 0, 1333) == (said["days"], said["failed_days"], said["rows"])
    assert "2026-03-01 1/3" in done.stderr
    assert 1333 == raw(lake)


async def test_a_message_waits_for_company_but_not_for_long(database: Database, bus: Bus) -> None:
    await bus.declare(Stream("EVENTS_RESOLVED", (RESOLVED,)))
    seen: list[tuple[int, float]] = []

    async def handle(_: UnitOfWork, given: list[Message]) -> None:
        seen.append((len(given), time.monotonic()))

    start = time.monotonic()
    task = asyncio.create_task(bus.consume(Consumer("gathering", RESOLVED, handle, 64, gather_s=1.0), database))  # type: ignore[arg-type]
    try:
        await publish(bus, messages(1))
        await asyncio.sleep(0.3)
        await publish(bus, messages(3)[1:])
        async with asyncio.timeout(20):
            while sum(count for count, _ in seen) < 3:
                await asyncio.sleep(0.05)
        assert [3] == [count for count, _ in seen]
        assert 1.0 <= seen[0][1] - start < 15
        assert writing.GATHER_S * 2 < 10
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_past_is_asked_of_the_lake(service: Service, bus: Bus, tmp_path: Path) -> None:
    """Two persons open the app on the first day, one of them again on the second."""
    opened = [(1, 1, DAY), (2, 2, DAY + 60), (3, 1, DAY + 86_400)]
    events = [event(number, person=(person, person, 1), at=at) for number, person, at in opened]
    batch = identity.ResolvedBatch(events=events)
    await publish(bus, [Message("m", "s", batch.SerializeToString(), {}, 1)])
    await reaches(Lake(storage.opened(str(tmp_path / "lake"))), 3)
    first, second = Timestamp(seconds=DAY + 3600), Timestamp(seconds=DAY + 90_000)
    again = {"entity_kind": 1, "predicate": "app_opens >= 2"}
    async with rpc.connect(f"127.0.0.1:{service.grpc_port}", "operator", TOKEN) as channel:
        stub = TagsServiceStub(channel)

        async def counted(as_of: Timestamp) -> tuple[int, int]:
            answer = await stub.CountAudience(pb.CountAudienceRequest(**again, as_of=as_of))
            return answer.count, answer.base

        assert [(0, 2), (1, 2)] == [await counted(first), await counted(second)]
        assert (0, 1) == await counted(Timestamp(seconds=DAY + 30))
        ids = [id_ async for a in stub.StreamAudience(pb.StreamAudienceRequest(**again, as_of=second)) for id_ in a.entity_ids]
        assert [1] == ids
        asked = pb.StreamTagValuesRequest(entity_kind=1, entity_ids=[1], tags=["app_opens", "job", "has_app"], as_of=first)
        [values] = [answer async for answer in stub.StreamTagValues(asked)]
        assert ([1], [1.0], [-1], [1.0]) == (
            list(values.entity_ids),
            list(values.columns[0].numbers),
            list(values.columns[1].word_indexes),
            list(values.columns[2].numbers),
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await counted(Timestamp(seconds=2**33))
        assert ("NOT_IN_THE_PAST", "as_of") == rpc.reason_of(caught.value)
    service.kill()
    service.environment["TROIKA_LAKE"] = ""
    await service.start()
    async with rpc.connect(f"127.0.0.1:{service.grpc_port}", "operator", TOKEN) as channel:
        stub = TagsServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CountAudience(pb.CountAudienceRequest(**again, as_of=first))
        assert grpc.StatusCode.FAILED_PRECONDITION == caught.value.code()
        assert ("NO_LAKE", "as_of") == rpc.reason_of(caught.value)
