"""gRPC door: DeliveryService."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from troika.touchpoints.v1 import delivery_service_pb2 as pb
from troika.touchpoints.v1.delivery_service_pb2_grpc import DeliveryServiceServicer

from chassis.db import Database
from chassis.errors import NotFound
from services.touchpoints.domain.health import WINDOW_S, Health
from services.touchpoints.engine import replaying
from services.touchpoints.engine.sweeping import Sweeper

Context = grpc.aio.ServicerContext[Any, Any]


class DeliveriesRpc(DeliveryServiceServicer):
    """Converts between messages and the engine's own functions."""

    def __init__(self, database: Database, sweeper: Sweeper) -> None:
        self._database, self._sweeper = database, sweeper

    async def ReplayDeliveries(self, request: pb.ReplayDeliveriesRequest, context: Context) -> pb.ReplayDeliveriesResponse:  # noqa: N802, D102
        asked = replaying.Replay(
            request.request_id,
            request.endpoint,
            request.theme,
            request.reason,
            _moment(request.from_time) if request.HasField("from_time") else None,
            _moment(request.to_time) if request.HasField("to_time") else None,
        )
        async with self._database.transaction() as uow:
            await replaying.ask(uow, asked)
        return pb.ReplayDeliveriesResponse(replay=await self._replay(request.request_id))

    async def GetDeliveryReplay(self, request: pb.GetDeliveryReplayRequest, context: Context) -> pb.GetDeliveryReplayResponse:  # noqa: N802, D102
        return pb.GetDeliveryReplayResponse(replay=await self._replay(request.request_id))

    async def GetChannelHealth(self, request: pb.GetChannelHealthRequest, context: Context) -> pb.GetChannelHealthResponse:  # noqa: N802, D102
        endpoints, channels = await self._sweeper.health(request.window_seconds or WINDOW_S)
        return pb.GetChannelHealthResponse(channels=map(_health, channels), endpoints=map(_health, endpoints))

    async def _replay(self, request_id: str) -> pb.DeliveryReplay:
        row = await replaying.progress(self._database, request_id)
        if row is None:
            raise NotFound("nobody asked for this replay", reason="REPLAY_NOT_FOUND", field="request_id")
        return pb.DeliveryReplay(
            request_id=row["request_id"], replayed=row["replayed"], remaining=row["remaining"], finished=row["finished"]
        )


def _moment(given: Timestamp) -> datetime:
    return given.ToDatetime(UTC)


def _health(each: Health) -> pb.Health:
    return pb.Health(
        channel=int(each.channel),  # type: ignore[arg-type]  # the numbers are the contract's
        endpoint=each.name,
        condition=int(each.condition),  # type: ignore[arg-type]  # likewise
        reason=each.reason,
        calls=each.tally.calls,
        accepted=each.tally.accepted,
        failed=each.tally.failed,
        p50_ms=1000 * (each.tally.quantile_s(0.5) or 0.0),
        p95_ms=1000 * (each.tally.quantile_s(0.95) or 0.0),
        quota_left=each.quota_left,
        credits=each.credits,
    )
