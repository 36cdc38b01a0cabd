"""The gRPC door: converts and decides nothing."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb
from troika.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceServicer

from chassis import paging
from services.orchestrator import handlers
from services.orchestrator.domain.explaining import Decision
from services.orchestrator.domain.reporting import BAND_WIDTH, Rate
from services.orchestrator.domain.statistics import Interval
from services.orchestrator.domain.themes import PersonId, id_of
from services.orchestrator.handlers import Room
from services.orchestrator.themes import handlers as theme_handlers
from services.orchestrator.themes.door import caller, definition, told

Context = grpc.aio.ServicerContext[Any, Any]
THEMES_PAGE, THEMES_MOST = 50, 500
DECISIONS_PAGE, DECISIONS_MOST = 1_000, 10_000


class OrchestratorRpc(OrchestratorServiceServicer):
    """troika.orchestrator.v1.OrchestratorService."""

    def __init__(self, room: Room) -> None:
        self._room = room

    async def CreateTheme(self, request: pb.CreateThemeRequest, context: Context) -> pb.CreateThemeResponse:  # noqa: N802
        """See the contract."""
        theme = await theme_handlers.create_theme(self._room, definition(request.theme), request.request_id, caller(context))
        return pb.CreateThemeResponse(theme=told(theme))

    async def GetTheme(self, request: pb.GetThemeRequest, context: Context) -> pb.GetThemeResponse:  # noqa: N802
        """See the contract."""
        return pb.GetThemeResponse(theme=told(await theme_handlers.get_theme(self._room, id_of(request.name))))

    async def ListThemes(self, request: pb.ListThemesRequest, context: Context) -> pb.ListThemesResponse:  # noqa: N802
        """See the contract."""
        size = paging.size(request.page_size, THEMES_PAGE, THEMES_MOST)
        (before,) = paging.read("themes", request.page_token, (paging.BIGINT_MAX,))
        themes = await theme_handlers.list_themes(self._room, before, size + 1)
        more = len(themes) > size
        return pb.ListThemesResponse(
            themes=[told(theme) for theme in themes[:size]],
            next_page_token=paging.token("themes", themes[size - 1].theme_id) if more else "",
        )

    async def SuggestAudience(  # noqa: N802
        self, request: pb.SuggestAudienceRequest, context: Context
    ) -> pb.SuggestAudienceResponse:
        """See the contract."""
        found = await handlers.suggest_audience(
            self._room,
            responders=request.responders,
            asked=request.asked,
            eligible=request.eligible,
            excluded_tags=list(request.excluded_tags),
            model=request.model,
        )
        return pb.SuggestAudienceResponse(
            audience=found.audience,
            terms=[pb.SuggestedTerm(predicate=t.predicate, lift=t.lift, support=t.support) for t in found.terms],
            size=found.size,
            expected_response=found.expected_response,
            eligible_size=found.eligible_size,
            eligible_expected_response=found.eligible_expected_response,
        )

    async def PreviewTheme(self, request: pb.PreviewThemeRequest, context: Context) -> pb.PreviewThemeResponse:  # noqa: N802
        """See the contract."""
        preview = await handlers.preview_theme(self._room, id_of(request.name))
        return pb.PreviewThemeResponse(
            audience=preview.audience,
            chosen=preview.chosen,
            holdout=preview.holdout,
            pushes_by_channel=preview.pushes_by_channel,
            expected_responses=preview.expected_responses,
            expected_cost_fen=preview.expected_cost_fen,
            passed_over=preview.passed_over,
        )

    async def LaunchTheme(self, request: pb.LaunchThemeRequest, context: Context) -> pb.LaunchThemeResponse:  # noqa: N802
        """See the contract."""
        return pb.LaunchThemeResponse(theme=told(await theme_handlers.launch_theme(self._room, id_of(request.name))))

    async def GetThemeReport(  # noqa: N802
        self, request: pb.GetThemeReportRequest, context: Context
    ) -> pb.GetThemeReportResponse:
        """See the contract."""
        report = await handlers.theme_report(self._room, id_of(request.name))
        return pb.GetThemeReportResponse(
            decisions=report.decisions,
            channels=[
                pb.ChannelFunnel(
                    channel=f.channel,
                    requested=f.requested,
                    accepted=f.accepted,
                    delivered=f.delivered,
                    answered=f.answered,
                    goals=f.goals,
                    failed=f.failed,
                )
                for f in report.funnels
            ],
            pushed=_rate(report.pushed),
            holdout=_rate(report.holdout),
            effect=_interval(report.effect),
            cost_fen=report.cost_fen,
            bands=[
                pb.BandRate(from_score=i * BAND_WIDTH, to_score=(i + 1) * BAND_WIDTH, rate=_rate(rate))
                for i, rate in enumerate(report.bands)
            ],
        )

    async def ListDecisions(self, request: pb.ListDecisionsRequest, context: Context) -> pb.ListDecisionsResponse:  # noqa: N802
        """See the contract."""
        size = paging.size(request.page_size, DECISIONS_PAGE, DECISIONS_MOST)
        (after,) = paging.read(request.name, request.page_token, (0,))
        decisions = await handlers.list_decisions(self._room, id_of(request.name), after, size + 1)
        more = len(decisions) > size
        return pb.ListDecisionsResponse(
            decisions=[_decision(decision) for decision in decisions[:size]],
            next_page_token=paging.token(request.name, decisions[size - 1].person_id) if more else "",
        )

    async def ExplainDecision(  # noqa: N802
        self, request: pb.ExplainDecisionRequest, context: Context
    ) -> pb.ExplainDecisionResponse:
        """See the contract."""
        decision, reasons = await handlers.explain_decision(self._room, id_of(request.name), PersonId(request.person_id))
        return pb.ExplainDecisionResponse(decision=_decision(decision), reasons=reasons)


def _decision(decision: Decision) -> pb.Decision:
    return pb.Decision(
        person_id=decision.person_id,
        outcome=decision.outcome,
        channel=decision.channel,
        score=decision.score,
        probability=decision.probability,
        delivery_id=decision.delivery_id,
        decide_time=_timestamp(decision.decided_at),
    )


def _timestamp(moment: Any) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def _rate(rate: Rate) -> pb.Rate:
    interval = rate.interval
    return pb.Rate(persons=rate.persons, goals=rate.goals, rate=interval.value, low=interval.low, high=interval.high)


def _interval(interval: Interval) -> pb.Interval:
    return pb.Interval(value=interval.value, low=interval.low, high=interval.high)
