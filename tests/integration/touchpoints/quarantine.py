"""The quarantine as a test sees it: its rows, and what their sealed part says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from troika.touchpoints.v1.plan_service_pb2_grpc import PlanServiceStub

from chassis import rpc
from services.touchpoints.plan.held import Holder, Kept
from tests.integration.touchpoints.room import TOKEN, Room, eventually


async def rows(room: Room) -> Any:
    return await room.database.fetch("SELECT * FROM quarantined ORDER BY id")


async def held(room: Room, count: int) -> list[tuple[Any, Kept]]:
    """The held events, once there are so many."""
    found = await eventually(lambda: rows(room), lambda given: len(given) >= count)
    assert count == len(found)
    holder = Holder(bytes.fromhex(room.settings.secrets_key.get_secret_value()))
    return [(row, holder.open(row["event_id"], row["sealed"])) for row in found]


async def nothing_held(room: Room) -> bool:
    """Whether the doors set nothing aside: at once, for it is asked of the stream."""
    return [] == await room.messages("EVENTS_QUARANTINED")


@asynccontextmanager
async def plan_door(room: Room) -> AsyncIterator[Any]:
    """PlanService of a running room."""
    async with rpc.connect(f"127.0.0.1:{room.settings.grpc_port}", "operator", TOKEN) as channel:
        yield PlanServiceStub(channel)
