"""The gRPC door of dealers' targets: converts and decides nothing."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from troika.orchestrator.v1 import lead_service_pb2
from troika.orchestrator.v1 import target_service_pb2 as pb
from troika.orchestrator.v1.target_service_pb2_grpc import TargetServiceServicer

from chassis import paging
from chassis.rpc import caller_of
from services.orchestrator.leads.reading import name_of
from services.orchestrator.targets import handlers
from services.orchestrator.targets.closing import Metric
from services.orchestrator.targets.handlers import Board, Call, Line
from services.orchestrator.targets.measuring import Comparison
from services.orchestrator.targets.store import Target

PAGE, MOST = 20, 100
DAYS, WINDOW_DAYS = 30, 14
Context = grpc.aio.ServicerContext[Any, Any]


class TargetRpc(TargetServiceServicer):
    """troika.orchestrator.v1.TargetService."""

    def __init__(self, board: Board) -> None:
        self._board = board

    async def SetTargets(self, request: pb.SetTargetsRequest, context: Context) -> pb.SetTargetsResponse:
        """See the contract."""
        stated = [
            Target(t.advisor, Metric(t.metric), t.goal, t.value_fen, dict(t.values_fen), t.version) for t in request.targets
        ]
        kept = await handlers.set_targets(self._board, request.dealer_code, request.month, stated, caller_of(context))
        return pb.SetTargetsResponse(targets=[_target(each) for each in kept])

    async def GetTargetReport(self, request: pb.GetTargetReportRequest, context: Context) -> pb.GetTargetReportResponse:
        """See the contract."""
        found = await handlers.report(self._board, request.dealer_code, request.month)
        return pb.GetTargetReportResponse(
            lines=[_line(each) for each in found.lines],
            days_left=found.days_left,
            list_time=_stamp(found.made_at),
            realised=found.realised,
        )

    async def ListOpportunities(self, request: pb.ListOpportunitiesRequest, context: Context) -> pb.ListOpportunitiesResponse:
        """See the contract."""
        size = paging.size(request.page_size, PAGE, MOST)
        listing = f"opportunities {request.dealer_code} {request.metric} {request.advisor}"
        (after,) = paging.read(listing, request.page_token, (0,))
        calls, more, made_at = await handlers.opportunities(
            self._board, request.dealer_code, Metric(request.metric), request.advisor, after, size
        )
        return pb.ListOpportunitiesResponse(
            opportunities=[_opportunity(call) for call in calls],
            next_page_token=paging.token(listing, calls[-1].candidate.rank) if more and calls else "",
            list_time=_stamp(made_at),
        )

    async def MeasureOpportunities(
        self, request: pb.MeasureOpportunitiesRequest, context: Context
    ) -> pb.MeasureOpportunitiesResponse:
        """See the contract."""
        found = await handlers.measure(
            self._board,
            request.dealer_code,
            Metric(request.metric),
            request.days or DAYS,
            request.window_days or WINDOW_DAYS,
        )
        return pb.MeasureOpportunitiesResponse(
            lists=found.lists,
            places=found.places,
            conversions=found.conversions,
            list_area=_known(found.own.area),
            own_order=_comparison(found.own),
            oldest_first=_comparison(found.oldest),
        )


def _target(target: Target) -> pb.DealerTarget:
    return pb.DealerTarget(
        advisor=target.advisor,
        metric=pb.TargetMetric.ValueType(target.metric.value),
        goal=target.goal,
        value_fen=target.value_fen,
        values_fen=target.values_fen,
        version=target.version,
        author=target.author,
    )


def _line(line: Line) -> pb.TargetLine:
    found = line.closing
    needed, low, high = (-1 if each is None else each for each in (found.needed, found.low, found.high))
    return pb.TargetLine(
        target=_target(line.target),
        actual=line.actual,
        gap=line.gap,
        candidates=line.candidates,
        expected=found.expected,
        chance=found.chance,
        needed=needed,
        needed_low=low,
        needed_high=high,
        words=line.words,
    )


def _opportunity(call: Call) -> pb.Opportunity:
    each = call.candidate
    known = each.known
    return pb.Opportunity(
        rank=each.rank,
        person_id=known.person_id,
        lead=name_of(known.lead_id) if known.lead_id else "",
        stage=lead_service_pb2.LeadStage.ValueType(known.stage.value if known.stage else 0),
        advisor=known.advisor,
        score=each.score,
        probability=each.probability,
        value_fen=each.value_fen,
        expected_fen=each.expected_fen,
        last_contact_time=_stamp(known.spoken_at),
        reasons=call.reasons,
        next_action=call.rule.action,
        next_action_words=call.rule.words,
        offer=call.offer,
        neutral=each.neutral,
    )


def _comparison(found: Comparison) -> pb.OrderComparison:
    return pb.OrderComparison(
        area=_known(found.other),
        difference=_known(found.difference),
        low=_known(found.low),
        high=_known(found.high),
        verdict=found.verdict,
    )


def _known(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _stamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp
