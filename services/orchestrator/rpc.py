"""The gRPC door: converts and decides nothing."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb
from troika.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceServicer

from chassis import paging
from chassis.errors import InvalidArgument
from services.orchestrator import handlers
from services.orchestrator.domain.explaining import Decision
from services.orchestrator.domain.reporting import BAND_WIDTH, Rate
from services.orchestrator.domain.statistics import Interval
from services.orchestrator.domain.themes import Budget, Goal, Offer, PersonId, Theme, ThemeDraft, id_of
from services.orchestrator.handlers import Room

Context = grpc.aio.ServicerContext[Any, Any]
THEMES_PAGE, THEMES_MOST = 50, 500
DECISIONS_PAGE, DECISIONS_MOST = 1_000, 10_000


class OrchestratorRpc(OrchestratorServiceServicer):
    """troika.orchestrator.v1.OrchestratorService."""

    def __init__(self, room: Room) -> None:
        self._room = room

    async def CreateTheme(self, request: pb.CreateThemeRequest, context: Context) -> pb.CreateThemeResponse:  # noqa: N802
        """See the contract."""
        theme = await handlers.create_theme(self._room, _draft(request.theme), request.request_id)
        return pb.CreateThemeResponse(theme=_theme(theme))

    async def GetTheme(self, request: pb.GetThemeRequest, context: Context) -> pb.GetThemeResponse:  # noqa: N802
        """See the contract."""
        return pb.GetThemeResponse(theme=_theme(await handlers.get_theme(self._room, id_of(request.name))))

    async def ListThemes(self, request: pb.ListThemesRequest, context: Context) -> pb.ListThemesResponse:  # noqa: N802
        """See the contract."""
        size = paging.size(request.page_size, THEMES_PAGE, THEMES_MOST)
        (before,) = paging.read("themes", request.page_token, (paging.BIGINT_MAX,))
        themes = await handlers.list_themes(self._room, before, size + 1)
        more = len(themes) > size
        return pb.ListThemesResponse(
            themes=[_theme(theme) for theme in themes[:size]],
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
        return pb.LaunchThemeResponse(theme=_theme(await handlers.launch_theme(self._room, id_of(request.name))))

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


def _draft(theme: pb.Theme) -> ThemeDraft:
    for name, text in (("title", theme.title), ("audience", theme.audience)):
        if not text.strip():
            raise InvalidArgument(f"{name} is blank", field=f"theme.{name}")
    return ThemeDraft(
        theme.title,
        theme.audience,
        Goal(theme.goal.event, theme.goal.property, theme.goal.value),
        Offer(theme.offer.name, theme.offer.title, theme.offer.body, theme.offer.purpose),
        Budget(theme.budget.max_contacts, theme.budget.max_calls, dict(theme.budget.unit_cost_fen)),
        theme.holdout_share,
        theme.model,
        theme.call_score,
    )


def _theme(theme: Theme) -> pb.Theme:
    draft = theme.draft
    return pb.Theme(
        name=theme.name,
        title=draft.title,
        audience=draft.audience,
        goal=pb.Goal(event=draft.goal.event, property=draft.goal.field, value=draft.goal.value),
        offer=pb.Offer(name=draft.offer.name, title=draft.offer.title, body=draft.offer.body, purpose=draft.offer.purpose),
        budget=pb.Budget(
            max_contacts=draft.budget.max_contacts,
            max_calls=draft.budget.max_calls,
            unit_cost_fen=draft.budget.unit_cost_fen,
        ),
        holdout_share=draft.holdout_share,
        model=draft.model,
        call_score=draft.call_score,
        state=pb.ThemeState.ValueType(theme.state.value),
        create_time=_timestamp(theme.created_at),
        launch_failure=theme.launch_failure,
    )


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
