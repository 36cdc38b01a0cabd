"""The gRPC door of holders: protobuf in, protobuf out; it decides nothing."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

from typing import Any

import grpc
import orjson
from troika.identity.v1 import holder_service_pb2 as pb
from troika.identity.v1.holder_service_pb2_grpc import HolderServiceServicer

from chassis.db import Reader
from chassis.errors import PermissionDenied
from chassis.rpc import caller_of
from services.identity import holders
from services.identity.domain.identifiers import Known
from services.identity.vault import Vault

Context = grpc.aio.ServicerContext[Any, Any]


class HolderRpc(HolderServiceServicer):
    """Answers what is asked of each car that arrives."""

    def __init__(self, reader: Reader, vault: Vault, reveal_callers: frozenset[str]) -> None:
        self._reader, self._vault, self._reveal_callers = reader, vault, reveal_callers

    async def FindHolders(self, request: pb.FindHoldersRequest, context: Context) -> pb.FindHoldersResponse:
        """Nobody for plates that are none."""
        known = [self._vault.known("plate", "", plate) for plate in request.plates]
        found = await holders.find(
            self._reader, [self._vault.lookup_tokens(each) if isinstance(each, Known) else () for each in known]
        )
        return pb.FindHoldersResponse(holders=[pb.Holder(**each._asdict()) for each in found])

    async def RevealNames(self, request: pb.RevealNamesRequest, context: Context) -> pb.RevealNamesResponse:
        """Only for callers on the reveal list; who was shown to whom is in the audit when the answer leaves."""
        caller = caller_of(context)
        if caller not in self._reveal_callers:
            raise PermissionDenied(f"{caller} may not see names", reason="REVEAL_NOT_ALLOWED", field="authorization")
        found = await holders.names(self._reader, request.person_ids, caller, request.purpose)
        return pb.RevealNamesResponse(
            names=[
                pb.PersonName(person_id=each.person_id, name=orjson.loads(self._vault.open(*each.profile)).get("name", ""))
                for each in found
            ]
        )
