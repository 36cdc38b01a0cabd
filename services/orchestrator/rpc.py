"""The gRPC door: converts and decides nothing."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

from typing import Any

import grpc
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb
from troika.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceServicer

from chassis import paging
from chassis.errors import InvalidArgument
from chassis.moments import stamp
from chassis.rpc import caller_of
from services.orchestrator import handlers
from services.orchestrator.domain.explaining import Decision
from services.orchestrator.domain.themes import PersonId, id_of
from services.orchestrator.handlers import Room
from services.orchestrator.offers.definitions import OfferId, name_of
from services.orchestrator.reports import door as reports
from services.orchestrator.reports.cells import Breakdown
from services.orchestrator.reports.drawing import Format, Picture
from services.orchestrator.reports.handlers import theme_picture, theme_report
from services.orchestrator.suggesting import door as suggestions
from services.orchestrator.suggesting.handlers import Suggester
from services.orchestrator.themes import handlers as themes
from services.orchestrator.themes.definitions import checked
from services.orchestrator.themes.door import definition, told, told_wave
from services.orchestrator.themes.previewing import preview_theme
from services.orchestrator.themes.states import ThemeState

Context = grpc.aio.ServicerContext[Any, Any]
THEMES_PAGE, THEMES_MOST = 50, 500
INT_MAX = 2**31 - 1
DECISIONS_PAGE, DECISIONS_MOST = 1_000, 10_000


class OrchestratorRpc(OrchestratorServiceServicer):
    """troika.orchestrator.v1.OrchestratorService."""

    def __init__(self, room: Room) -> None:
        self._room = room

    async def CreateTheme(self, request: pb.CreateThemeRequest, context: Context) -> pb.CreateThemeResponse:
        """See the contract."""
        stated = definition(request.theme)
        theme = await themes.create_theme(self._room, stated, request.request_id, caller_of(context), request.dry_run)
        return pb.CreateThemeResponse(theme=told(theme))

    async def UpdateTheme(self, request: pb.UpdateThemeRequest, context: Context) -> pb.UpdateThemeResponse:
        """See the contract."""
        given = request.theme
        if not given.name:
            raise InvalidArgument("which theme?", field="theme.name")
        theme = await themes.update_theme(
            self._room, id_of(given.name), given.version, definition(given), caller_of(context), request.dry_run
        )
        return pb.UpdateThemeResponse(theme=told(theme))

    async def GetTheme(self, request: pb.GetThemeRequest, context: Context) -> pb.GetThemeResponse:
        """See the contract."""
        return pb.GetThemeResponse(theme=told(await themes.get_theme(self._room, id_of(request.name), request.version)))

    async def ListThemes(self, request: pb.ListThemesRequest, context: Context) -> pb.ListThemesResponse:
        """See the contract."""
        size = paging.size(request.page_size, THEMES_PAGE, THEMES_MOST)
        wanted = [ThemeState(state) for state in sorted(set(request.states))]
        listing = f"themes {wanted}"
        (before,) = paging.read(listing, request.page_token, (paging.BIGINT_MAX,))
        found = await themes.list_themes(self._room, before, size + 1, wanted)
        more = len(found) > size
        return pb.ListThemesResponse(
            themes=[told(theme) for theme in found[:size]],
            next_page_token=paging.token(listing, found[size - 1].theme_id) if more else "",
        )

    async def ListThemeVersions(self, request: pb.ListThemeVersionsRequest, context: Context) -> pb.ListThemeVersionsResponse:
        """See the contract."""
        size = paging.size(request.page_size, THEMES_PAGE, THEMES_MOST)
        listing = f"{request.name}/versions"
        (before,) = paging.read(listing, request.page_token, (INT_MAX,))
        found = await themes.list_versions(self._room, id_of(request.name), before, size + 1)
        more = len(found) > size
        return pb.ListThemeVersionsResponse(
            versions=[told(theme) for theme in found[:size]],
            next_page_token=paging.token(listing, found[size - 1].version) if more else "",
        )

    async def SubmitTheme(self, request: pb.SubmitThemeRequest, context: Context) -> pb.SubmitThemeResponse:
        """See the contract."""
        theme = await themes.submit_theme(
            self._room, id_of(request.name), request.version, caller_of(context), request.confirm_everybody, request.dry_run
        )
        return pb.SubmitThemeResponse(theme=told(theme))

    async def ApproveTheme(self, request: pb.ApproveThemeRequest, context: Context) -> pb.ApproveThemeResponse:
        """See the contract."""
        theme = await themes.approve_theme(
            self._room, id_of(request.name), request.version, caller_of(context), request.dry_run
        )
        return pb.ApproveThemeResponse(theme=told(theme))

    async def RejectTheme(self, request: pb.RejectThemeRequest, context: Context) -> pb.RejectThemeResponse:
        """See the contract."""
        if not request.reason.strip():
            raise InvalidArgument("say what has to be other", field="reason")
        theme = await themes.reject_theme(
            self._room, id_of(request.name), request.version, caller_of(context), request.reason, request.dry_run
        )
        return pb.RejectThemeResponse(theme=told(theme))

    async def LaunchTheme(self, request: pb.LaunchThemeRequest, context: Context) -> pb.LaunchThemeResponse:
        """See the contract."""
        return pb.LaunchThemeResponse(theme=told(await themes.launch_theme(self._room, id_of(request.name), request.dry_run)))

    async def PauseTheme(self, request: pb.PauseThemeRequest, context: Context) -> pb.PauseThemeResponse:
        """See the contract."""
        return pb.PauseThemeResponse(theme=told(await themes.pause_theme(self._room, id_of(request.name), request.dry_run)))

    async def ResumeTheme(self, request: pb.ResumeThemeRequest, context: Context) -> pb.ResumeThemeResponse:
        """See the contract."""
        return pb.ResumeThemeResponse(theme=told(await themes.resume_theme(self._room, id_of(request.name), request.dry_run)))

    async def FinishTheme(self, request: pb.FinishThemeRequest, context: Context) -> pb.FinishThemeResponse:
        """See the contract."""
        return pb.FinishThemeResponse(theme=told(await themes.finish_theme(self._room, id_of(request.name), request.dry_run)))

    async def SuggestAudience(self, request: pb.SuggestAudienceRequest, context: Context) -> pb.SuggestAudienceResponse:
        """See the contract."""
        room = self._room
        suggester = Suggester(room.database, room.tags, room.scoring, room.settings)
        return suggestions.told(await suggester.suggest(suggestions.wanted(request)))

    async def PreviewTheme(self, request: pb.PreviewThemeRequest, context: Context) -> pb.PreviewThemeResponse:
        """See the contract."""
        if bool(request.name) == request.HasField("theme"):
            raise InvalidArgument("either a theme's name or a theme", field="name")
        if request.name:
            theme = await themes.get_theme(self._room, id_of(request.name), request.version)
        else:
            theme = themes.unmade(checked(definition(request.theme)), caller_of(context))
        preview = await preview_theme(self._room, theme)
        return pb.PreviewThemeResponse(
            audience=preview.audience,
            base=preview.base,
            reach_by_channel=preview.reach_by_channel,
            chosen=preview.chosen,
            holdout=preview.holdout,
            pushes_by_channel=preview.pushes_by_channel,
            expected_responses=preview.expected_responses,
            expected_cost_fen=preview.expected_cost_fen,
            passed_over=preview.passed_over,
            obstacles=[
                pb.Obstacle(command=each.command, reason=each.reason, field=each.field, message=each.message)
                for each in preview.obstacles
            ],
            words=[
                pb.ThemeWords(offer=o.name, offer_version=o.version, channel=channel, title=words.title, body=words.body)
                for o, channel, words in await themes.words_told(self._room, theme)
            ],
        )

    async def ListThemeWaves(self, request: pb.ListThemeWavesRequest, context: Context) -> pb.ListThemeWavesResponse:
        """See the contract."""
        found = await themes.list_waves(self._room, id_of(request.name))
        return pb.ListThemeWavesResponse(waves=[told_wave(wave) for wave in found])

    async def GetThemeReport(self, request: pb.GetThemeReportRequest, context: Context) -> pb.GetThemeReportResponse:
        """See the contract."""
        return reports.told(await theme_report(self._room, id_of(request.name), Breakdown(request.by)))

    async def GetThemeReportPicture(
        self, request: pb.GetThemeReportPictureRequest, context: Context
    ) -> pb.GetThemeReportPictureResponse:
        """See the contract."""
        form = Format(request.format or Format.SVG)
        drawn = await theme_picture(self._room, id_of(request.name), Breakdown(request.by), Picture(request.picture), form)
        return pb.GetThemeReportPictureResponse(content=drawn, media_type=form.media_type)

    async def ListDecisions(self, request: pb.ListDecisionsRequest, context: Context) -> pb.ListDecisionsResponse:
        """See the contract."""
        size = paging.size(request.page_size, DECISIONS_PAGE, DECISIONS_MOST)
        person, occasion = paging.read(request.name, request.page_token, (0, 0))
        after = person, occasion
        decisions = await handlers.list_decisions(self._room, id_of(request.name), after, size + 1)
        more = len(decisions) > size
        return pb.ListDecisionsResponse(
            decisions=[_decision(decision) for decision in decisions[:size]],
            next_page_token=paging.token(request.name, *_key(decisions[size - 1])) if more else "",
        )

    async def ExplainDecision(self, request: pb.ExplainDecisionRequest, context: Context) -> pb.ExplainDecisionResponse:
        """See the contract."""
        decision, reasons = await handlers.explain_decision(
            self._room, id_of(request.name), PersonId(request.person_id), request.occasion
        )
        return pb.ExplainDecisionResponse(decision=_decision(decision), reasons=reasons)


def _key(decision: Decision) -> tuple[int, int]:
    return decision.person_id, decision.occasion


def _decision(decision: Decision) -> pb.Decision:
    return pb.Decision(
        person_id=decision.person_id,
        outcome=decision.outcome,
        channel=decision.channel,
        score=decision.score,
        probability=decision.probability,
        delivery_id=decision.delivery_id,
        decide_time=stamp(decision.decided_at),
        occasion=decision.occasion,
        reason=decision.reason,
        due_time=stamp(decision.due_at),
        expire_time=stamp(decision.expires_at),
        offer=name_of(OfferId(decision.offer_id)) if decision.offer_id else "",
        theme_version=decision.theme_version,
        value=decision.value,
        cost_fen=decision.cost_fen,
    )
