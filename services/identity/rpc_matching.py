"""The gRPC door of matching: protobuf in, protobuf out; it decides nothing and shows no value."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from troika.identity.v1 import matching_service_pb2 as pb
from troika.identity.v1.matching_service_pb2_grpc import MatchingServiceServicer

from chassis import paging
from chassis.db import Database
from chassis.errors import InvalidArgument, PermissionDenied
from chassis.rpc import caller_of
from services.identity import matching, partner_hashes
from services.identity.domain.kinds import KINDS
from services.identity.matching import Limits
from services.identity.partners import HASH_BYTES, Partners
from services.identity.rpc import DEFAULT_PAGE, LARGEST_PAGE

Context = grpc.aio.ServicerContext[Any, Any]


class MatchingRpc(MatchingServiceServicer):
    """Matches, and shows who asked for how much."""

    def __init__(self, database: Database, partners: Partners, limits: Limits, match_callers: frozenset[str]) -> None:
        self._database, self._partners, self._limits, self._match_callers = database, partners, limits, match_callers

    async def MatchHashes(self, request: pb.MatchHashesRequest, context: Context) -> pb.MatchHashesResponse:
        """Only for callers on the list; raises as `matching.match` does."""
        caller = caller_of(context)
        if caller not in self._match_callers:
            raise PermissionDenied(f"{caller} may not match hashes", reason="MATCHING_NOT_ALLOWED", field="authorization")
        if len(request.hashes) % HASH_BYTES:
            raise InvalidArgument("hashes are 32 bytes each", reason="INVALID_HASH", field="hashes")
        kind = KINDS[request.kind]
        async with self._database.transaction() as uow:
            found = await matching.match(
                uow,
                self._partners,
                self._limits,
                caller=caller,
                partner=request.partner,
                kind=kind,
                hashes=request.hashes,
            )
        return pb.MatchHashesResponse(
            entity_kind=int(kind.space),  # type: ignore[arg-type]  # the numbers are the contract's
            anchor_ids=[owner.anchor_id if owner else 0 for owner in found],
            entity_ids=[owner.entity_id if owner else 0 for owner in found],
            versions=[owner.version if owner else 0 for owner in found],
        )

    async def ListPartners(self, request: pb.ListPartnersRequest, context: Context) -> pb.ListPartnersResponse:
        """Counted, not estimated."""
        keys = await partner_hashes.register(self._database, self._partners)
        answer = pb.ListPartnersResponse()
        async with self._database.read() as uow:
            for name, key in sorted(keys.items()):
                rows = await uow.fetch("SELECT count(*) FROM partner_hash WHERE partner_key_id = $1", key.id)
                waiting = await partner_hashes.waiting(uow, key)
                answer.partners.add(partner=name, complete=key.complete, hashes=rows[0][0], waiting=waiting)
        return answer

    async def ListMatchings(self, request: pb.ListMatchingsRequest, context: Context) -> pb.ListMatchingsResponse:
        """Goes on behind the number of the last one shown."""
        size = paging.size(request.page_size, DEFAULT_PAGE, LARGEST_PAGE)
        (before,) = paging.read("matchings", request.page_token, (paging.BIGINT_MAX,))
        async with self._database.read() as uow:
            lines: Any = await matching.audit_page(uow, before, size)
        answer = pb.ListMatchingsResponse(next_page_token=paging.token("matchings", lines[-1][0]) if len(lines) == size else "")
        for id_, caller, partner, kind, asked, matched, at in lines:
            stamp = Timestamp()
            stamp.FromDatetime(at)
            answer.matchings.add(
                matching_id=id_, caller=caller, partner=partner, kind=kind, asked=asked, matched=matched, at=stamp
            )
        return answer
