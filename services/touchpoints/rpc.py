"""gRPC door: TouchpointsService."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from troika.touchpoints.v1 import touchpoints_service_pb2 as pb
from troika.touchpoints.v1.touchpoints_service_pb2_grpc import TouchpointsServiceServicer

from chassis.db import Database
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from services.touchpoints import store
from services.touchpoints.channels.forms import filled
from services.touchpoints.channels.http import forbidden
from services.touchpoints.channels.table import TABLE
from services.touchpoints.domain.deliveries import Channel
from services.touchpoints.endpoints import Endpoint, Endpoints
from services.touchpoints.store import deliveries, feedback

Context = grpc.aio.ServicerContext[Any, Any]


class TouchpointsRpc(TouchpointsServiceServicer):
    """Converts between messages and the room's own functions."""

    def __init__(self, database: Database, endpoints: Endpoints, allow_private: bool) -> None:
        self._database, self._endpoints, self._allow_private = database, endpoints, allow_private

    async def CreateSource(self, request: pb.CreateSourceRequest, context: Context) -> pb.CreateSourceResponse:  # noqa: N802, D102
        source = request.source
        if source.user_id_kind == pb.USER_ID_KIND_OPENID and not source.appid:
            raise InvalidArgument("a source whose users are openids needs its appid", field="source.appid")
        write_key = secrets.token_urlsafe(24)
        hashed = hashlib.sha256(write_key.encode()).digest()
        async with self._database.transaction() as uow:
            await store.save_source(
                uow, source.name, source.user_id_kind, source.appid, hashed, server_side=request.server_side
            )
        return pb.CreateSourceResponse(source=source, write_key=write_key)

    async def CreateEndpoint(self, request: pb.CreateEndpointRequest, context: Context) -> pb.CreateEndpointResponse:  # noqa: N802, D102
        given = Endpoint(
            request.endpoint.name,
            Channel(request.endpoint.channel),
            request.endpoint.scope,
            request.endpoint.url,
            settings=dict(request.endpoint.settings),
            secrets=dict(request.endpoint.secrets),
        )
        row = TABLE.get(given.channel)
        if row is None:
            raise InvalidArgument("this channel takes no endpoints yet", reason="CHANNEL_UNSUPPORTED", field="endpoint.channel")
        async with self._database.transaction() as uow:
            await store.hold_endpoints(uow)
            endpoint = filled(row.form, given, _place(given, await self._endpoints.read(uow)))
            if why := forbidden(endpoint.url, self._allow_private):
                raise InvalidArgument(f"url {why}", field="endpoint.url")
            secret = await self._endpoints.register(uow, endpoint, row.form.signed)
        self._endpoints.forget()
        kept = pb.Endpoint(
            name=endpoint.name,
            channel=request.endpoint.channel,
            url=endpoint.url,
            scope=endpoint.scope,
            settings=endpoint.settings,
        )
        return pb.CreateEndpointResponse(endpoint=kept, secret=secret)

    async def GetDelivery(self, request: pb.GetDeliveryRequest, context: Context) -> pb.GetDeliveryResponse:  # noqa: N802, D102
        async with self._database.read() as uow:
            row = await deliveries.one(uow, request.delivery_id)
        if row is None:
            raise NotFound("no such delivery", reason="DELIVERY_NOT_FOUND", field="delivery_id")
        updated = Timestamp()
        updated.FromDatetime(row.updated_at)
        return pb.GetDeliveryResponse(
            delivery=pb.Delivery(
                delivery_id=row.delivery_id,
                person_id=row.person_id,
                channel=row.channel,
                state=row.state,
                reason=row.held or row.reason,
                attempts=row.attempts,
                update_time=updated,
            )
        )

    async def GetDeliveryStatistics(  # noqa: N802, D102
        self, request: pb.GetDeliveryStatisticsRequest, context: Context
    ) -> pb.GetDeliveryStatisticsResponse:
        async with self._database.read() as uow:
            counts = await deliveries.counts(uow, request.theme)
            events = await feedback.count(uow)
        return pb.GetDeliveryStatisticsResponse(
            counts=[pb.DeliveryCount(channel=c, state=s, deliveries=n) for c, s, n in counts],  # type: ignore[arg-type]
            feedback_events=events,
        )


def _place(given: Endpoint, others: Sequence[Endpoint]) -> Endpoint | None:
    """The endpoint that is to be changed, None for a new one; raises when it would take another one's place."""
    known = next((e for e in others if e.name == given.name), None)
    if known and known.channel is not given.channel:
        raise FailedPrecondition("an endpoint keeps its channel", reason="CHANNEL_FIXED", field="endpoint.channel")
    if any(e.name != given.name and (e.channel, e.scope) == (given.channel, given.scope) for e in others):
        raise FailedPrecondition("another endpoint has this scope", reason="SCOPE_TAKEN", field="endpoint.scope")
    return known
