"""Suggestions as the contract has them."""

from __future__ import annotations

from collections.abc import Sequence

from troika.orchestrator.v1 import orchestrator_service_pb2 as pb

from services.orchestrator.suggesting.goals import SoughtGoal
from services.orchestrator.suggesting.handlers import Alternative, Reason, Suggestion, Wanted


def wanted(request: pb.SuggestAudienceRequest) -> Wanted:
    """What is asked."""
    goal = SoughtGoal(request.goal.event, request.goal.property, request.goal.value) if request.HasField("goal") else None
    return Wanted(
        request.responders,
        request.asked,
        request.eligible,
        tuple(request.excluded_tags),
        request.model,
        request.words,
        goal,
        dict(request.unit_cost_fen),
    )


def told(found: Suggestion) -> pb.SuggestAudienceResponse:
    """What is answered."""
    return pb.SuggestAudienceResponse(
        audience=found.proposed.audience,
        terms=_terms(found.proposed.reasons),
        size=found.proposed.size,
        expected_response=found.proposed.expected_response,
        eligible_size=found.eligible_size,
        eligible_expected_response=found.eligible_expected_response,
        alternatives=[_alternative(each) for each in found.alternatives],
        converters=found.converters,
        responders=found.responders,
        asked=found.asked,
    )


def _alternative(each: Alternative) -> pb.SuggestedAlternative:
    return pb.SuggestedAlternative(
        name=each.name,
        audience=each.audience,
        terms=_terms(each.reasons),
        size=each.size,
        expected_response=each.expected_response,
        expected_responses=each.expected_responses,
        kept_share=each.kept_share,
        reach=each.reach,
        cost_fen=each.cost_fen,
        overlaps=[pb.SuggestedOverlap(theme=o.theme, title=o.title, persons=o.persons) for o in each.overlaps],
    )


def _terms(reasons: Sequence[Reason]) -> list[pb.SuggestedTerm]:
    return [
        pb.SuggestedTerm(
            predicate=each.candidate.term.predicate,
            lift=each.candidate.term.lift,
            support=each.candidate.term.support,
            why=each.why,
            nearness=each.candidate.match.similarity if each.candidate.match else 0.0,
            named_by=each.candidate.match.words if each.candidate.match else (),
            held_share=each.held_share,
        )
        for each in reasons
    ]
