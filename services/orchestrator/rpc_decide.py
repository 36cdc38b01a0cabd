"""The gRPC door of decisions about offers: converts and decides nothing."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import grpc
from troika.orchestrator.v1 import decide_service_pb2 as pb
from troika.orchestrator.v1.decide_service_pb2_grpc import DecisionServiceServicer

from chassis.errors import FailedPrecondition, InvalidArgument
from chassis.moments import moment, stamp
from chassis.rpc import caller_of
from services.orchestrator.domain.statistics import Interval
from services.orchestrator.offers import judging
from services.orchestrator.offers.choosing import WHYS
from services.orchestrator.offers.contexts import SlotContext
from services.orchestrator.offers.deciding import NAME, Answer, Decider, Question
from services.orchestrator.offers.definitions import OfferId, name_of
from services.orchestrator.offers.evaluation import Value
from services.orchestrator.offers.offer_log import OUTCOMES, Decided, Said

JUDGED = 5_000
Context = grpc.aio.ServicerContext[Any, Any]


class DecisionRpc(DecisionServiceServicer):
    """troika.orchestrator.v1.DecisionService."""

    def __init__(self, decider: Decider) -> None:
        self._decider = decider

    async def Decide(self, request: pb.DecideRequest, context: Context) -> pb.DecideResponse:
        """See the contract."""
        return _answer(await self._decide(request, caller_of(context)))

    async def BatchDecide(self, request: pb.BatchDecideRequest, context: Context) -> pb.BatchDecideResponse:
        """See the contract."""
        caller = caller_of(context)
        found = await asyncio.gather(*(self._decide(each, caller) for each in request.requests), return_exceptions=True)
        answers = []
        for each in found:
            if isinstance(each, BaseException) and not isinstance(each, FailedPrecondition | InvalidArgument):
                raise each
            answers.append(_answer(each) if isinstance(each, Answer) else pb.DecideResponse())
        return pb.BatchDecideResponse(answers=answers)

    async def _decide(self, request: pb.DecideRequest, caller: str) -> Answer:
        given = request.context
        at = moment(given.time, "context.time") if given.HasField("time") else datetime.now(UTC)
        where = SlotContext(request.channel, at, given.place, given.vehicle_state, given.weather)
        question = Question(request.person_id, request.slot, request.language, where, request.request_id)
        return await self._decider.decide(question, caller)

    async def RecordFeedback(self, request: pb.RecordFeedbackRequest, context: Context) -> pb.RecordFeedbackResponse:
        """See the contract."""
        now, successes = datetime.now(UTC), self._decider.settings.offer_successes
        said = [
            Said(
                _id(each.decision),
                OUTCOMES.index(each.outcome),
                each.outcome in successes,
                moment(each.time, f"feedback[{number}].time") if each.HasField("time") else now,
            )
            for number, each in enumerate(request.feedback)
        ]
        return pb.RecordFeedbackResponse(refusals=await self._decider.record(said))

    async def ExplainOffer(self, request: pb.ExplainOfferRequest, context: Context) -> pb.ExplainOfferResponse:
        """See the contract."""
        found = await self._decider.explain(_id(request.decision))
        decided = found.decided
        return pb.ExplainOfferResponse(
            person_id=decided.person_id,
            slot=decided.slot,
            offer=name_of(OfferId(decided.offer_id)) if decided.offer_id else "",
            why=WHYS[decided.why],
            propensity=decided.propensity,
            expected_rate=decided.rate,
            expected_rate_sd=decided.sd,
            decide_time=stamp(decided.decided_at),
            features=found.features,
            words=found.words,
            candidates=found.candidates,
            left_out=[pb.OfferAbsence(offer=offer, reason=reason) for offer, reason in found.left_out],
            reasons=found.reasons,
            outcomes=found.outcomes,
            policy_version=_version(decided),
        )

    async def EvaluatePolicy(self, request: pb.EvaluatePolicyRequest, context: Context) -> pb.EvaluatePolicyResponse:
        """See the contract."""
        since = moment(request.since, "since") if request.HasField("since") else datetime(1970, 1, 1, tzinfo=UTC)
        verdict = await judging.evaluate(self._decider.database, request.slot, since, request.most or JUDGED)
        return pb.EvaluatePolicyResponse(
            decisions=verdict.decisions,
            successes=verdict.successes,
            logged=_estimate(verdict.logged),
            policies=[
                pb.PolicyValue(
                    policy=each.policy,
                    ips=_estimate(each.ips),
                    snips=_estimate(each.snips),
                    doubly_robust=_estimate(each.doubly_robust),
                    above_uniform=_estimate(each.above_uniform),
                    effective_decisions=each.ips.effective_rows,
                )
                for each in verdict.policies
            ],
        )


def _answer(answer: Answer) -> pb.DecideResponse:
    decided, offer, words = answer.decided, answer.offer, answer.words
    return pb.DecideResponse(
        decision=NAME + decided.decision_id.hex(),
        offer=offer.name if offer else "",
        offer_version=decided.offer_version,
        title=words.title if words else "",
        body=words.body if words else "",
        why=WHYS[decided.why],
        propensity=decided.propensity,
        policy_version=_version(decided),
        audience_age_s=answer.audience_age_s,
        channel_failing=answer.failing,
    )


def _version(decided: Decided) -> str:
    return f"{decided.arms_id}.{decided.learnt}"


def _estimate(found: Value | Interval) -> pb.Estimate:
    mean = found.mean if isinstance(found, Value) else found.value
    return pb.Estimate(mean=mean, low=found.low, high=found.high)


def _id(name: str) -> bytes:
    return bytes.fromhex(name.removeprefix(NAME))
