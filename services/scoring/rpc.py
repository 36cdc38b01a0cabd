"""The gRPC door of scores. It converts; it decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from troika.scoring.v1 import scoring_service_pb2 as pb
from troika.scoring.v1.scoring_service_pb2_grpc import ScoringServiceServicer

from chassis.db import Database
from chassis.errors import FailedPrecondition, NotFound
from services.scoring import consents, ranking, reasons, store
from services.scoring.frame import matrix_of
from services.scoring.models.specification import Specification
from services.scoring.registry import Registry, Version
from services.scoring.tag_door import TagDoor

# Scores of one message.
CHUNK = 10_000


class ScoringRpc(ScoringServiceServicer):
    """troika.scoring.v1.ScoringService."""

    def __init__(self, database: Database, registry: Registry, tags: TagDoor, models: Mapping[str, Specification]) -> None:
        self._database, self._registry, self._tags, self._models = database, registry, tags, models

    async def ScorePersons(self, request: pb.ScorePersonsRequest, context: Any) -> pb.ScorePersonsResponse:  # noqa: N802
        """From the store: one statement whatever the number of persons."""
        self._specification(request.model)
        version, scores = await store.read_scores(self._database, request.model, request.person_ids)
        if not version:
            raise _untrained()
        found = [scores.get(person, (-1.0, -1.0, "")) for person in request.person_ids]
        labels = [label for _, _, label in found]
        return pb.ScorePersonsResponse(
            scores=[score for score, _, _ in found],
            probabilities=[p for _, p, _ in found],
            labels=labels if any(labels) else [],
            model_version=version,
        )

    async def ExplainScore(self, request: pb.ExplainScoreRequest, context: Any) -> pb.ExplainScoreResponse:  # noqa: N802
        """From the present tags and the model that serves."""
        version = await self._version(request.model)
        model, now = version.served, datetime.now(UTC)
        _, known = await store.read_scores(self._database, request.model, [request.person_id])
        async with self._database.read() as uow:
            silent = await consents.silent(uow, np.array([request.person_id]), consents.regime_of(version.card), now)
        if silent.any() and known:
            return pb.ExplainScoreResponse(score=known[request.person_id][0], model_version=model.version, neutral=True)
        # Outside of the transaction: tags may take its time.
        frame = await self._tags.values_of([request.person_id], model.tags, now) if known else None
        if not frame:
            raise NotFound("this person has no score", reason="NO_SCORE", field="person_id")
        score, found = reasons.explain(model, matrix_of(model.encodings, frame)[0])
        listed = [pb.ScoreReason(tag=r.tag, value=r.value, points=r.points) for r in found]
        return pb.ExplainScoreResponse(score=score, model_version=model.version, reasons=listed)

    async def RankAudience(  # noqa: N802
        self, request: pb.RankAudienceRequest, context: Any
    ) -> AsyncIterator[pb.RankAudienceResponse]:
        """From the store."""
        self._specification(request.model)
        version, persons, scores = await ranking.best(
            self._database, self._tags, request.model, request.predicate, request.limit
        )
        if not version:
            raise _untrained()
        for start in range(0, len(persons), CHUNK):
            part = slice(start, start + CHUNK)
            yield pb.RankAudienceResponse(person_ids=persons[part], scores=scores[part], model_version=version)

    async def _version(self, model: str) -> Version:
        self._specification(model)
        async with self._database.read() as uow:
            version = await self._registry.one(uow, model)
        if version is None:
            raise _untrained()
        return version

    def _specification(self, model: str) -> Specification:
        specification = self._models.get(model)
        if specification is None:
            raise NotFound("no such model", reason="UNKNOWN_MODEL", field="model")
        return specification


def _untrained() -> FailedPrecondition:
    return FailedPrecondition("this model has not been trained yet", reason="MODEL_NOT_TRAINED", field="model")
