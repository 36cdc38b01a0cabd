"""The gRPC door of advertising lists: protobuf in, protobuf out."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

from typing import Any, Final

import grpc
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON
from troika.tags.v1.tags_service_pb2 import CountAudienceRequest
from troika.touchpoints.v1 import advertising_service_pb2 as pb
from troika.touchpoints.v1.advertising_service_pb2_grpc import AdvertisingServiceServicer

from chassis import paging
from chassis.db import Database, Reader
from chassis.errors import InvalidArgument, NotFound
from chassis.moments import stamp
from chassis.rpc import reason_of
from services.touchpoints.channels.ads import store
from services.touchpoints.channels.ads.store import AdList
from services.touchpoints.domain.deliveries import Channel
from services.touchpoints.endpoints import Endpoints

Context = grpc.aio.ServicerContext[Any, Any]

EVERY_S: Final = 3600
COUNT_TIMEOUT_S: Final = 10.0
_STATES: Final = {
    store.ACTIVE: pb.AD_LIST_STATE_ACTIVE,
    store.ENDING: pb.AD_LIST_STATE_ENDING,
    store.ENDED: pb.AD_LIST_STATE_ENDED,
    store.FAILED: pb.AD_LIST_STATE_FAILED,
}


class AdvertisingRpc(AdvertisingServiceServicer):
    """Makes lists, tells how they do, ends them; uploading.py works on them."""

    def __init__(self, database: Database, endpoints: Endpoints, tags: Any) -> None:
        """`tags`: the stub that is asked whether a predicate is one."""
        self._database, self._endpoints, self._tags = database, endpoints, tags

    async def SaveAdList(self, request: pb.SaveAdListRequest, context: Context) -> pb.SaveAdListResponse:
        """Raises NotFound for an endpoint that is no advertiser's account, InvalidArgument for a predicate that tags refuse."""
        given = request.list
        endpoint = await self._endpoints.named(given.endpoint)
        if endpoint is None or endpoint.channel is not Channel.ADS:
            raise NotFound("no such endpoint", reason="ENDPOINT_NOT_FOUND", field="list.endpoint")
        await self._check(given.predicate)
        async with self._database.transaction() as uow:
            ads = await store.save(uow, given.name, given.endpoint, given.predicate, given.every_s or EVERY_S)
            return pb.SaveAdListResponse(list=await _message(uow, ads))

    async def _check(self, predicate: str) -> None:
        asked = CountAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate)
        try:
            await self._tags.CountAudience(asked, timeout=COUNT_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            reason, _ = reason_of(error)
            message = error.details() or "tags do not take this predicate"
            raise InvalidArgument(message, reason=reason or "INVALID_PREDICATE", field="list.predicate") from error

    async def GetAdList(self, request: pb.GetAdListRequest, context: Context) -> pb.GetAdListResponse:
        """Raises NotFound."""
        async with self._database.read() as uow:
            return pb.GetAdListResponse(list=await _message(uow, await store.get(uow, request.name)))

    async def ListAdLists(self, request: pb.ListAdListsRequest, context: Context) -> pb.ListAdListsResponse:
        """Goes on behind the last one shown."""
        size = paging.size(request.page_size, 100, 1000)
        async with self._database.read() as uow:
            found = await store.page(uow, request.page_token, size)
            return pb.ListAdListsResponse(
                lists=[await _message(uow, ads) for ads in found],
                next_page_token=found[-1].name if len(found) == size else "",
            )

    async def UploadAdList(self, request: pb.UploadAdListRequest, context: Context) -> pb.UploadAdListResponse:
        """Raises NotFound."""
        async with self._database.transaction() as uow:
            return pb.UploadAdListResponse(list=await _message(uow, await store.hurry(uow, request.name)))

    async def EndAdList(self, request: pb.EndAdListRequest, context: Context) -> pb.EndAdListResponse:
        """Raises NotFound."""
        async with self._database.transaction() as uow:
            return pb.EndAdListResponse(list=await _message(uow, await store.end(uow, request.name)))


async def _message(reader: Reader, ads: AdList) -> pb.AdList:
    members, leaving = await store.members(reader, ads.name)
    return pb.AdList(
        name=ads.name,
        endpoint=ads.endpoint,
        predicate=ads.predicate,
        every_s=int(ads.every_s),
        state=_STATES[ads.state],
        reason=ads.reason,
        members=members,
        leaving=leaving,
        looked_at=ads.looked_at,
        added=ads.added,
        removed=ads.removed,
        pass_time=stamp(ads.passed_at) if ads.passed_at else None,
        create_time=stamp(ads.created_at),
    )
