"""What leads and targets ask of scoring: the best of an audience, why a person has a score, which offer is the most welcome."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
import numpy as np
from numpy.typing import NDArray
from troika.scoring.v1 import scoring_service_pb2 as pb
from troika.scoring.v1.scoring_service_pb2_grpc import ScoringServiceStub

from services.orchestrator.peers import STREAM_TIMEOUT_S, Scoring, blaming

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
# Explanations cost scoring a look at every tag of a person; more at once would keep others waiting.
AT_ONCE = 8
EXPLAIN_TIMEOUT_S = 10.0
# 500 points are odds of one to twelve, in every version of every model (ADR 4).
BASE_ODDS = 1 / 12


@dataclass(frozen=True)
class Why:
    """Reasons of a score as one reads them aloud, the weightiest first; `neutral`: personalisation is off, there are none."""

    sentences: tuple[str, ...] = ()
    neutral: bool = False


class RankingDoor:
    """Questions to scoring about a dealer's customers. No transaction may be open."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub, self._scoring = ScoringServiceStub(channel), Scoring(channel)

    async def require(self, model: str, field: str) -> None:
        """Raises FailedPrecondition when no version of the model is in use."""
        await self._scoring.require(model, field)

    async def scores(self, model: str, persons: Ints, field: str) -> tuple[Floats, Floats]:
        """(scores, probabilities) aligned with the persons, -1 where there is none."""
        return await self._scoring.scores(model, persons, field)

    async def ranked(self, model: str, predicate: str, limit: int, field: str) -> tuple[Ints, Floats]:
        """(persons, scores) of whom a predicate holds for, the best first; `limit` 0 for all who have a score."""
        persons, scores = [np.empty(0, np.int64)], [np.empty(0)]
        with blaming(field):
            request = pb.RankAudienceRequest(model=model, predicate=predicate, limit=limit)
            async for chunk in self._stub.RankAudience(request, timeout=STREAM_TIMEOUT_S):
                persons.append(np.array(chunk.person_ids, np.int64))
                scores.append(np.array(chunk.scores, np.float64))
        return np.concatenate(persons), np.concatenate(scores)

    async def reasons(self, model: str, persons: Sequence[int], most: int) -> Mapping[int, Why]:
        """Why each of some persons has the score; nothing for those whom scoring cannot explain."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(person: int) -> Why:
            async with gate:
                try:
                    asked = pb.ExplainScoreRequest(model=model, person_id=person)
                    answer = await self._stub.ExplainScore(asked, timeout=EXPLAIN_TIMEOUT_S)
                except grpc.aio.AioRpcError as error:
                    if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
                        return Why()
                    raise
            return Why(tuple(r.sentence for r in answer.reasons if r.points > 0)[:most], answer.neutral)

        return dict(zip(persons, await asyncio.gather(*(one(person) for person in persons)), strict=True))

    async def welcome_offers(self, model: str, persons: Sequence[int]) -> Mapping[int, str]:
        """The likeliest offer of each person by a model of offers; empty when no version of it is in use."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(person: int) -> str:
            async with gate:
                asked = pb.RankOffersRequest(model=model, person_id=person)
                answer = await self._stub.RankOffers(asked, timeout=EXPLAIN_TIMEOUT_S)
            return answer.offers[0].offer if answer.offers and not answer.neutral else ""

        try:
            return dict(zip(persons, await asyncio.gather(*(one(person) for person in persons)), strict=True))
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
                return {}
            raise


def probability(scores: Floats) -> Floats:
    """What scores stand for; -1 for none."""
    points = np.clip(scores, 0, 999.999)
    odds = BASE_ODDS * points / (1000 - points)
    return np.where(scores < 0, -1.0, odds / (1 + odds))
