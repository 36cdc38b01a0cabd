"""Audiences in this process: an index that follows, a teller, and the door."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from troika.identity.v1 import events_pb2 as identity
from troika.tags.v1 import audience_service_pb2 as questions_pb
from troika.tags.v1 import events_pb2 as pb
from troika.tags.v1.audience_service_pb2_grpc import AudienceServiceStub, add_AudienceServiceServicer_to_server
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub, add_TagsServiceServicer_to_server

from chassis import rpc
from chassis.bus import Bus
from chassis.consents import DEFAULT_REGIMES
from chassis.db import Database
from chassis.outbox import Relay
from services.tags import events
from services.tags.audiences.consents import ReachConsents
from services.tags.audiences.live import Live
from services.tags.audiences.naming import redefine
from services.tags.audiences.previewing import CHANNELS
from services.tags.audiences.telling import Teller
from services.tags.index.index import AudienceIndex
from services.tags.index.projection import Projection
from services.tags.lake.reading import Lake
from services.tags.questions import Questions
from services.tags.rpc import TagsRpc
from services.tags.rpc_audiences import AudienceRpc
from services.tags.settings import Settings
from tests.integration.tags.world import RULES, event, resolved

TOKEN = "t" * 16
PERSON, VEHICLE = identity.ENTITY_KIND_PERSON, identity.ENTITY_KIND_VEHICLE
YOUNG = "age < 30"


@dataclass
class House:
    """A replica. Nothing is told by itself: `round` does what its tasks do."""

    database: Database
    projection: Projection
    questions: Questions
    live: Live
    teller: Teller
    audiences: AudienceServiceStub
    tags: TagsServiceStub
    relay: Relay

    async def settled(self) -> None:
        """Publishes what waits, and lets the index follow it to its end."""
        while await self.relay.relay_once():
            pass
        last = (await self.projection._bus.extent(events.TAGS_CHANGED.name)).last
        await until(lambda: self.live.position >= last)
        await redefine(self.database, self.questions, self.live)
        await self.live.settle()

    async def told(self) -> list[pb.AudienceChange]:
        """Settles, tells, and returns what that was."""
        await self.settled()
        await self.teller.look()
        await self.live.settle()
        await self.teller.tell()
        return await untold(self.database)


async def untold(database: Database) -> list[pb.AudienceChange]:
    """Takes what waits in the outbox for AUDIENCES_CHANGED."""
    async with database.transaction() as uow:
        rows = await uow.rows("SELECT payload FROM outbox WHERE subject = 'troika.audiences.changed.v1' ORDER BY id")
        await uow.execute("DELETE FROM outbox WHERE subject = 'troika.audiences.changed.v1'")
    return [change for row in rows for change in pb.AudiencesChanged.FromString(row.payload).changes]


async def record(database: Database, number: int, person: int, vehicle: int = 0, **properties: Any) -> None:
    """What a record says of a person, whose anchor is its id and thousand, and of a car that the person owns."""
    stated = event(
        number,
        "Record Updated",
        source="dealer:D001",
        person=(1000 + person, person, 1),
        vehicle=(5000 + vehicle, vehicle, 1) if vehicle else (0, 0, 0),
        relation="owns" if vehicle else "",
        properties=properties,
        vehicle_properties={"mileage_km": 10_000 * vehicle} if vehicle else None,
    )
    await resolved(database, stated)


def ids(packed: bytes) -> list[int]:
    found: list[int] = np.frombuffer(packed, "<u4").tolist()
    return found


def create(name: str = "young", predicate: str = YOUNG, **more: Any) -> questions_pb.CreateAudienceRequest:
    return questions_pb.CreateAudienceRequest(name=name, entity_kind=PERSON, predicate=predicate, owner="marketing", **more)


async def refused(call: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    return caught.value.code(), *rpc.reason_of(caught.value)


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not met():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def replica(database: Database, bus: Bus, lake: Lake | None = None) -> AsyncIterator[House]:
    """One replica with its doors; several may stand on one database and bus."""
    projection = Projection(AudienceIndex(RULES.catalogue), database, bus)
    following = asyncio.create_task(projection.run())
    questions, live = Questions(RULES.catalogue, projection), Live(projection)
    consents = ReachConsents(database, DEFAULT_REGIMES, CHANNELS)
    server = rpc.Server(
        {"operator": hashlib.sha256(TOKEN.encode()).hexdigest()},
        {name: frozenset({"operator"}) for name in (Settings.rpc_service, "troika.tags.v1.AudienceService")},
        with_reflection=False,
    )
    add_AudienceServiceServicer_to_server(AudienceRpc(database, questions, live, consents), server.aio)
    add_TagsServiceServicer_to_server(TagsRpc(RULES, projection, database, lake), server.aio)
    channel = rpc.connect(f"127.0.0.1:{await server.start('127.0.0.1:0')}", "operator", TOKEN)
    try:
        async with asyncio.timeout(15):
            while True:
                try:
                    await projection.check()
                    break
                except Exception:
                    await asyncio.sleep(0.01)
        yield House(
            database,
            projection,
            questions,
            live,
            Teller(database, questions, live),
            AudienceServiceStub(channel),
            TagsServiceStub(channel),
            Relay(database, bus),
        )
    finally:
        await channel.close()
        await server.stop(0)
        following.cancel()
