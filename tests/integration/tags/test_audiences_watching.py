"""Watching an audience: where it starts, what changes, and every way to end."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from pyroaring import BitMap
from troika.tags.v1 import audience_service_pb2 as pb

from chassis import rpc
from chassis.db import Database
from services.tags.audiences.live import Change
from tests.integration.tags.audience_house import PERSON, YOUNG, House, create, ids, record, refused, until


async def test_watching_tells_where_it_starts_then_what_changes(house: House, database: Database) -> None:
    await record(database, 1, 1, age=20)
    await house.settled()
    running = asyncio.create_task(house.live.run())
    call = house.audiences.WatchAudience(
        pb.WatchAudienceRequest(entity_kind=PERSON, predicate=YOUNG, with_members=True), timeout=30
    )
    first, there = await call.read(), await call.read()
    assert (1, [1], False) == (first.start.count, ids(there.change.entered), there.change.more)
    await record(database, 2, 2, age=25)
    await record(database, 3, 1, age=35)
    while await house.relay.relay_once():
        pass
    entered, left = set[int](), set[int]()
    while not (entered and left):
        message = await call.read()
        entered |= set(ids(message.change.entered))
        left |= set(ids(message.change.left))
    assert ({2}, {1}) == (entered, left)
    call.cancel()
    await until(lambda: not house.live.keys)
    running.cancel()


async def test_watching_a_name_follows_its_definition_to_its_end(house: House, database: Database) -> None:
    await record(database, 1, 1, age=20)
    await record(database, 2, 2, age=35)
    await house.settled()
    await house.audiences.CreateAudience(create())
    call = house.audiences.WatchAudience(pb.WatchAudienceRequest(audience="young"), timeout=30)
    assert (1, 1) == ((start := (await call.read()).start).count, start.version)
    await house.audiences.UpdateAudience(
        pb.UpdateAudienceRequest(name="young", predicate="age BETWEEN 30 AND 40", owner="m", version=1)
    )
    await house.settled()
    change = (await call.read()).change
    assert ([2], [1], 2) == (ids(change.entered), ids(change.left), change.version)
    await house.audiences.DeleteAudience(pb.DeleteAudienceRequest(name="young"))
    await house.settled()
    assert (grpc.StatusCode.NOT_FOUND, "AUDIENCE_ENDED", "audience") == await refused(call)


async def test_a_watch_may_have_an_end(house: House) -> None:
    call = house.audiences.WatchAudience(pb.WatchAudienceRequest(entity_kind=PERSON, duration_s=1), timeout=30)
    kinds = [message.WhichOneof("kind") async for message in call]
    assert "start" == kinds[0] and set(kinds[1:]) <= {"heartbeat"}


async def test_a_reader_that_stops_reading_is_cut_off(house: House) -> None:
    call = house.audiences.WatchAudience(pb.WatchAudienceRequest(entity_kind=PERSON), timeout=60)
    await call.read()
    (followed,) = house.live._followed.values()
    (watch,) = followed.watches
    many = Change(BitMap(range(1, 100_001)), BitMap(), 1, 0.0, 100_000, 0)
    told = 0
    while watch._end is None and told < 1_000:
        watch.offer(many)
        told += 1
        await asyncio.sleep(0.002)
    heard = 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while True:
            await call.read()
            heard += 1
    assert (grpc.StatusCode.RESOURCE_EXHAUSTED, "READER_TOO_SLOW") == (caught.value.code(), rpc.reason_of(caught.value)[0])
    assert heard < told
    await until(lambda: not house.live.keys)
