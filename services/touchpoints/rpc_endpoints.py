"""gRPC door: EndpointService."""

from __future__ import annotations

from typing import Any

import grpc
from troika.touchpoints.v1 import endpoints_service_pb2 as pb
from troika.touchpoints.v1.endpoints_service_pb2_grpc import EndpointServiceServicer

from services.touchpoints.selfservice.desk import Desk

Context = grpc.aio.ServicerContext[Any, Any]


class EndpointRpc(EndpointServiceServicer):
    """Keys for owners of endpoints."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def CreateManagementKey(  # noqa: N802, D102
        self, request: pb.CreateManagementKeyRequest, context: Context
    ) -> pb.CreateManagementKeyResponse:
        return pb.CreateManagementKeyResponse(management_key=await self._desk.new_key(request.name))

    async def RevokeManagementKey(  # noqa: N802, D102
        self, request: pb.RevokeManagementKeyRequest, context: Context
    ) -> pb.RevokeManagementKeyResponse:
        await self._desk.revoke_key(request.name)
        return pb.RevokeManagementKeyResponse()
