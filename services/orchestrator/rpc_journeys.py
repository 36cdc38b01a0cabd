"""The gRPC doors of journeys and referrals: convert and decide nothing."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import grpc
import orjson
from troika.orchestrator.v1 import journey_service_pb2 as pb
from troika.orchestrator.v1.journey_service_pb2_grpc import JourneyServiceServicer, ReferralServiceServicer

from chassis import paging
from chassis.errors import InvalidArgument
from chassis.moments import moment, stamp
from chassis.rpc import caller_of
from services.orchestrator.journeys import handlers
from services.orchestrator.journeys.catalogue import library
from services.orchestrator.journeys.documents import Fault
from services.orchestrator.journeys.handlers import Room
from services.orchestrator.journeys.hearing import Happened
from services.orchestrator.journeys.programs import Kind, Node, Program
from services.orchestrator.journeys.programs import read as read_program
from services.orchestrator.journeys.referral import CREDITED, Referral, Referrals
from services.orchestrator.journeys.states import Journey, id_of, name_of
from services.orchestrator.journeys.statistics import Enrolment

Context = grpc.aio.ServicerContext[Any, Any]
PAGE, MOST = 50, 500


class JourneyRpc(JourneyServiceServicer):
    """troika.orchestrator.v1.JourneyService."""

    def __init__(self, room: Room) -> None:
        self._room = room

    async def CreateJourney(self, request: pb.CreateJourneyRequest, context: Context) -> pb.CreateJourneyResponse:
        """See the contract."""
        made = await handlers.create(self._room, request.document, request.request_id, caller_of(context))
        return pb.CreateJourneyResponse(journey=_journey(made))

    async def UpdateJourney(self, request: pb.UpdateJourneyRequest, context: Context) -> pb.UpdateJourneyResponse:
        """See the contract."""
        given = id_of(request.name)
        changed = await handlers.update(self._room, given, request.version, request.document, caller_of(context))
        return pb.UpdateJourneyResponse(journey=_journey(changed))

    async def ValidateJourney(self, request: pb.ValidateJourneyRequest, context: Context) -> pb.ValidateJourneyResponse:
        """See the contract."""
        faults = await handlers.validate(self._room, request.document)
        return pb.ValidateJourneyResponse(faults=[_fault(fault) for fault in faults])

    async def SubmitJourney(self, request: pb.SubmitJourneyRequest, context: Context) -> pb.SubmitJourneyResponse:
        """See the contract."""
        journey = await handlers.submit(self._room, id_of(request.name), request.version, caller_of(context))
        return pb.SubmitJourneyResponse(journey=_journey(journey))

    async def ApproveJourney(self, request: pb.ApproveJourneyRequest, context: Context) -> pb.ApproveJourneyResponse:
        """See the contract."""
        journey, moved = await handlers.approve(self._room, id_of(request.name), request.version, caller_of(context))
        return pb.ApproveJourneyResponse(journey=_journey(journey), moved=moved)

    async def StartJourney(self, request: pb.StartJourneyRequest, context: Context) -> pb.StartJourneyResponse:
        """See the contract."""
        return pb.StartJourneyResponse(journey=_journey(await handlers.start(self._room, id_of(request.name))))

    async def PauseJourney(self, request: pb.PauseJourneyRequest, context: Context) -> pb.PauseJourneyResponse:
        """See the contract."""
        return pb.PauseJourneyResponse(journey=_journey(await handlers.pause(self._room, id_of(request.name))))

    async def ResumeJourney(self, request: pb.ResumeJourneyRequest, context: Context) -> pb.ResumeJourneyResponse:
        """See the contract."""
        return pb.ResumeJourneyResponse(journey=_journey(await handlers.resume(self._room, id_of(request.name))))

    async def FinishJourney(self, request: pb.FinishJourneyRequest, context: Context) -> pb.FinishJourneyResponse:
        """See the contract."""
        return pb.FinishJourneyResponse(journey=_journey(await handlers.finish(self._room, id_of(request.name))))

    async def GetJourney(self, request: pb.GetJourneyRequest, context: Context) -> pb.GetJourneyResponse:
        """See the contract."""
        journey_id = id_of(request.name)
        answer = pb.GetJourneyResponse(journey=_journey(await handlers.get(self._room, journey_id)))
        for each in await handlers.versions(self._room, journey_id):
            answer.versions.add(
                version=each.version,
                author=each.author,
                submitted_by=each.submitted_by,
                approved_by=each.approved_by,
                create_time=stamp(each.stated_at),
                approve_time=stamp(each.approved_at),
            )
        return answer

    async def ListJourneys(self, request: pb.ListJourneysRequest, context: Context) -> pb.ListJourneysResponse:
        """See the contract."""
        size = paging.size(request.page_size, PAGE, MOST)
        (before,) = paging.read("journeys", request.page_token, (paging.BIGINT_MAX,))
        found = await handlers.page(self._room, before, size + 1)
        more = len(found) > size
        return pb.ListJourneysResponse(
            journeys=[_journey(each) for each in found[:size]],
            next_page_token=paging.token("journeys", found[size - 1].journey_id) if more else "",
        )

    async def GetJourneyStatistics(
        self, request: pb.GetJourneyStatisticsRequest, context: Context
    ) -> pb.GetJourneyStatisticsResponse:
        """See the contract."""
        counted, programs = await handlers.counts(self._room, id_of(request.name))
        places = sorted({*counted.standing, *counted.left})
        return pb.GetJourneyStatisticsResponse(
            entered=counted.entered,
            under_way=counted.under_way,
            goals=counted.goals,
            exits=counted.exits,
            steps=[
                pb.StepCount(
                    version=version,
                    step=programs[version].nodes[step].id,
                    standing=counted.standing.get((version, step), 0),
                    left=counted.left.get((version, step), {}),
                )
                for version, step in places
            ],
        )

    async def ListEnrolments(self, request: pb.ListEnrolmentsRequest, context: Context) -> pb.ListEnrolmentsResponse:
        """See the contract."""
        size = paging.size(request.page_size, PAGE, MOST)
        listing = f"enrolments {request.person_id}"
        (before,) = paging.read(listing, request.page_token, (paging.BIGINT_MAX,))
        rows, programs = await handlers.enrolments(self._room, request.person_id, before, size + 1)
        more = len(rows) > size
        return pb.ListEnrolmentsResponse(
            enrolments=[_enrolment(each, programs) for each in rows[:size]],
            next_page_token=paging.token(listing, rows[size - 1].enrolment_id) if more else "",
        )

    async def ExplainEnrolment(self, request: pb.ExplainEnrolmentRequest, context: Context) -> pb.ExplainEnrolmentResponse:
        """See the contract."""
        row, steps, programs = await handlers.explain(self._room, request.enrolment_id)
        path = []
        for step in steps:
            program = programs[row.journey_id, step.version]
            passage = _passage(step.version, program, program.nodes[step.step], step.outcome, step.left_at)
            passage.occasion = step.effect_id if passage.theme else 0
            path.append(passage)
        return pb.ExplainEnrolmentResponse(enrolment=_enrolment(row, programs), path=path)

    async def SimulateJourney(self, request: pb.SimulateJourneyRequest, context: Context) -> pb.SimulateJourneyResponse:
        """See the contract."""
        enters = moment(request.enter_time, "enter_time") if request.HasField("enter_time") else self._room.house.now()
        events = [_assumed(each, request.person_id, enters, number) for number, each in enumerate(request.events)]
        journey_id = id_of(request.journey) if request.journey else None
        path, reason = await handlers.simulate(self._room, request.document, request.person_id, enters, events, journey_id)
        program, _ = read_program(request.document)
        return pb.SimulateJourneyResponse(
            path=[_passage(0, program, step.node, step.outcome, step.at) for step in path], end_reason=reason
        )

    async def CountEntrants(self, request: pb.CountEntrantsRequest, context: Context) -> pb.CountEntrantsResponse:
        """See the contract."""
        count, meaning = await handlers.entrants(self._room, request.document)
        return pb.CountEntrantsResponse(count=count, meaning=meaning)

    async def ListLibrary(self, request: pb.ListLibraryRequest, context: Context) -> pb.ListLibraryResponse:
        """See the contract."""
        answer = pb.ListLibraryResponse()
        for name, text in library().items():
            program, _ = read_program(text, bound=False)
            if program is not None:
                answer.journeys.add(name=name, title=program.document.title, about=program.document.about, document=text)
        return answer


class ReferralRpc(ReferralServiceServicer):
    """troika.orchestrator.v1.ReferralService."""

    def __init__(self, referrals: Referrals) -> None:
        self._referrals = referrals

    async def MakeCode(self, request: pb.MakeCodeRequest, context: Context) -> pb.MakeCodeResponse:
        """See the contract."""
        return pb.MakeCodeResponse(code=await self._referrals.make(request.person_id, request.device))

    async def RedeemCode(self, request: pb.RedeemCodeRequest, context: Context) -> pb.RedeemCodeResponse:
        """See the contract."""
        redeemed = await self._referrals.redeem(request.person_id, request.code, request.device)
        return pb.RedeemCodeResponse(referral=_referral(redeemed))

    async def ListReferrals(self, request: pb.ListReferralsRequest, context: Context) -> pb.ListReferralsResponse:
        """See the contract."""
        size = paging.size(request.page_size, PAGE, MOST)
        listing = f"referrals {request.person_id}"
        (before,) = paging.read(listing, request.page_token, (paging.BIGINT_MAX,))
        found = await self._referrals.page(request.person_id, before, size + 1)
        more = len(found) > size
        return pb.ListReferralsResponse(
            referrals=[_referral(each) for each in found[:size]],
            next_page_token=paging.token(listing, found[size - 1].referral_id) if more else "",
        )


def _journey(journey: Journey) -> pb.Journey:
    program, _ = read_program(journey.document)
    return pb.Journey(
        name=journey.name,
        title=program.document.title if program else "",
        state=pb.JourneyState.ValueType(journey.state.value),
        version=journey.version,
        running_version=journey.running_version,
        document=journey.document,
        author=journey.author,
        submitted_by=journey.submitted_by,
        approved_by=journey.approved_by,
        create_time=stamp(journey.created_at),
        update_time=stamp(journey.stated_at),
        start_time=stamp(journey.started_at),
        finish_time=stamp(journey.finished_at),
    )


def _fault(fault: Fault) -> pb.JourneyFault:
    return pb.JourneyFault(path=fault.path, line=fault.line, reason=fault.reason, message=fault.message)


def _enrolment(row: Enrolment, programs: Mapping[tuple[int, int], Program]) -> pb.Enrolment:
    return pb.Enrolment(
        enrolment_id=row.enrolment_id,
        journey=name_of(row.journey_id),
        version=row.version,
        person_id=row.person_id,
        object=row.object,
        step=programs[row.journey_id, row.version].nodes[row.step].id,
        due_time=None if row.ended_at else stamp(row.due_at),
        enter_time=stamp(row.entered_at),
        end_time=stamp(row.ended_at),
        end_reason=row.end_reason,
    )


def _passage(version: int, program: Program | None, node: Node, outcome: str, at: datetime) -> pb.Passage:
    push = node.stated.push
    theme = (program.document.themes.get(push.theme) or "") if program is not None and push is not None else ""
    return pb.Passage(
        version=version, step=node.id, kind=Kind(node.kind).name.lower(), outcome=outcome, time=stamp(at), theme=theme
    )


def _assumed(event: pb.AssumedEvent, person: int, enters: datetime, number: int) -> Happened:
    try:
        properties = orjson.loads(event.properties_json or b"{}")
    except orjson.JSONDecodeError:
        properties = None
    if not isinstance(properties, dict):
        raise InvalidArgument("no JSON object", field=f"events[{number}].properties_json")
    try:
        at = enters + timedelta(seconds=event.after_s)
    except OverflowError:
        raise InvalidArgument("no such moment", reason="INVALID_TIME", field=f"events[{number}].after_s") from None
    return Happened(event.event, 0, person, 0, 0, at, properties)


def _referral(referral: Referral) -> pb.Referral:
    return pb.Referral(
        referral_id=referral.referral_id,
        referrer_id=referral.referrer_id,
        referred_id=referral.referred_id,
        credited=referral.state == CREDITED,
        referrer_fen=referral.referrer_fen,
        referred_fen=referral.referred_fen,
        redeem_time=stamp(referral.redeemed_at),
        credit_time=stamp(referral.credited_at),
    )
