"""Asks identity whose hashes these are. Hashes go into the question and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import grpc
from troika.identity.v1 import matching_service_pb2 as pb
from troika.identity.v1.matching_service_pb2_grpc import MatchingServiceStub

from chassis.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from chassis.rpc import reason_of
from services.tags.handlers import Move

MOST_HASHES: Final = 10_000
# A partner's hour may be used up, or its hashes may still be in the making: neither is a mistake.
PATIENCE: Final = {"MATCHING_LIMIT": 60.0, "HASHES_NOT_READY": 5.0}


class Matcher:
    """Whose a hash is: the anchor that facts hang on, its owner and the version that is true of; None for nobody."""

    def __init__(self, channel: grpc.aio.Channel, patient: bool = False) -> None:
        """`patient`: waits where identity says that it cannot answer yet, rather than raise."""
        self._stub, self._patient = MatchingServiceStub(channel), patient

    async def match(self, partner: str, kind: str, hashes: Sequence[bytes]) -> list[Move | None]:
        """Raises ResourceExhausted, FailedPrecondition or InvalidArgument as identity does."""
        found: list[Move | None] = []
        for start in range(0, len(hashes), MOST_HASHES):
            request = pb.MatchHashesRequest(partner=partner, kind=kind, hashes=b"".join(hashes[start : start + MOST_HASHES]))
            answer = await self._ask(request)
            found += [
                Move(*owner) if owner[0] else None
                for owner in zip(answer.anchor_ids, answer.entity_ids, answer.versions, strict=True)
            ]
        return found

    async def _ask(self, request: pb.MatchHashesRequest) -> pb.MatchHashesResponse:
        while True:
            try:
                return await self._stub.MatchHashes(request)
            except grpc.aio.AioRpcError as error:
                reason, field = reason_of(error)
                if self._patient and reason in PATIENCE:
                    await asyncio.sleep(PATIENCE[reason])
                    continue
                message = error.details() or "refused"
                match error.code():
                    case grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise ResourceExhausted(message, reason=reason or None, field=field) from None
                    case grpc.StatusCode.FAILED_PRECONDITION | grpc.StatusCode.PERMISSION_DENIED:
                        raise FailedPrecondition(message, reason=reason or None, field=field) from None
                    case grpc.StatusCode.NOT_FOUND | grpc.StatusCode.INVALID_ARGUMENT:
                        raise InvalidArgument(message, reason=reason or None, field=field) from None
                raise
