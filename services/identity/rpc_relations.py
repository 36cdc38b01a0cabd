"""The gRPC door for relations, households, dealers and quality: protobuf in, protobuf out; it decides nothing."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

import struct
import time
from typing import Any

import grpc
from troika.identity.v1 import relation_service_pb2 as pb
from troika.identity.v1.relation_service_pb2_grpc import RelationServiceServicer

from chassis import paging
from chassis.db import Database
from chassis.errors import InvalidArgument
from chassis.rpc import caller_of
from services.identity import households, quality, registry
from services.identity.messages import timestamp
from services.identity.quality import Quality
from services.identity.registry import DealerRecord
from services.identity.rpc import DEFAULT_PAGE, LARGEST_PAGE
from services.identity.vault import Vault

Context = grpc.aio.ServicerContext[Any, Any]

LATEST_S = 253_402_300_799


class RelationRpc(RelationServiceServicer):
    """Who lives with whom by a person's decision; whose records are how good."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database, self._vault = database, vault

    async def ListHouseholdSuggestions(
        self, request: pb.ListHouseholdSuggestionsRequest, context: Context
    ) -> pb.ListHouseholdSuggestionsResponse:
        """Goes on behind the confidence and number of the last suggestion shown."""
        size, state = paging.size(request.page_size, DEFAULT_PAGE, LARGEST_PAGE), request.state or "pending"
        listing = f"household suggestions {state}"
        bits, last = paging.read(listing, request.page_token, (_bits(2.0), paging.BIGINT_MAX))
        async with self._database.read() as uow:
            found = await households.page(uow, state, (_float(bits), last), size)
        answer = pb.ListHouseholdSuggestionsResponse()
        for s in found:
            answer.household_suggestions.add(
                suggestion_id=s.id,
                person_a=s.person_a,
                person_b=s.person_b,
                confidence=s.confidence,
                residents=s.residents,
                shared=s.shared,
                since=timestamp(s.since_us),
                state=s.state,
                decided_by=s.decided_by,
            )
        if len(found) == size:
            answer.next_page_token = paging.token(listing, _bits(found[-1].confidence), found[-1].id)
        return answer

    async def DecideHouseholdSuggestion(
        self, request: pb.DecideHouseholdSuggestionRequest, context: Context
    ) -> pb.DecideHouseholdSuggestionResponse:
        """What a decision comes to is its outcome; only an unknown suggestion is an error."""
        async with self._database.transaction() as uow:
            outcome, household = await households.decide(uow, request.suggestion_id, request.accept, caller_of(context))
        return pb.DecideHouseholdSuggestionResponse(outcome=outcome, household_id=household)

    async def EndMembership(self, request: pb.EndMembershipRequest, context: Context) -> pb.EndMembershipResponse:
        """Now, when no time is given."""
        at_us = time.time_ns() // 1000
        if request.HasField("ended_at"):
            if not 0 < request.ended_at.seconds <= LATEST_S:
                raise InvalidArgument("lies outside of calendars", reason="TIME_OUT_OF_RANGE", field="ended_at")
            at_us = request.ended_at.ToMicroseconds()
        async with self._database.transaction() as uow:
            ended = await households.end_membership(uow, request.household_id, request.person_id, at_us)
        return pb.EndMembershipResponse(ended=ended)

    async def RegisterDealers(self, request: pb.RegisterDealersRequest, context: Context) -> pb.RegisterDealersResponse:
        """Good records are taken, bad ones told."""
        records = [DealerRecord(d.code, d.uscc, d.address) for d in request.dealers]
        async with self._database.transaction() as uow:
            ids, refused = await registry.register(uow, self._vault, records)
        rejections = [
            pb.DealerRejection(index=r.index, field=f"dealers[{r.index}].{r.field}", reason=r.reason) for r in refused
        ]
        return pb.RegisterDealersResponse(dealer_ids=ids, rejections=rejections)

    async def GetQualityReport(self, request: pb.GetQualityReportRequest, context: Context) -> pb.GetQualityReportResponse:
        """Counted, not estimated; owners as of the last inference."""
        async with self._database.read() as uow:
            return pb.GetQualityReportResponse(sources=[_quality(q) for q in await quality.report(uow, request.source)])


def _quality(q: Quality) -> pb.SourceQuality:
    return pb.SourceQuality(
        source=q.source,
        records=q.records,
        events=q.events,
        identifiers=q.identifiers,
        invalid_share=q.invalid,
        placeholder_share=q.placeholder,
        shared_share=q.shared,
        conflicting_share=q.conflicting,
        duplicate_share=q.duplicates,
        missing_shares=q.missing,
        refusals=[pb.QualityCount(kind=kind, reason=reason, values=count) for kind, reason, count in q.refusals],
        conflicts=q.conflicts,
        defects_per_record=q.defects,
    )


def _bits(confidence: float) -> int:
    """The bits of a 32-bit float, which are ordered as the float is when it is positive."""
    return int(struct.unpack(">i", struct.pack(">f", confidence))[0])


def _float(bits: int) -> float:
    try:
        return float(struct.unpack(">f", struct.pack(">i", bits))[0])
    except struct.error as error:
        raise InvalidArgument("not a page token of this list", reason="INVALID_PAGE_TOKEN", field="page_token") from error
