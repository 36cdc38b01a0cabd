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
from chassis.moments import moment
from services.scoring import consents, expanding, offers, ranking, reasons, store, texts
from services.scoring.artefact import CLASS, ServedModel
from services.scoring.frame import Matrix, matrix_of
from services.scoring.models.specification import Specification
from services.scoring.readings import probability_behind, usual_score
from services.scoring.registry import Registry, Version
from services.scoring.tag_door import TagDoor
from services.scoring.text.reading import Reading
from services.scoring.texts import TextReader

# Scores of one message.
CHUNK = 10_000
FEW = 100


class ScoringRpc(ScoringServiceServicer):
    """troika.scoring.v1.ScoringService."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        tags: TagDoor,
        reader: TextReader,
        models: Mapping[str, Specification],
    ) -> None:
        self._database, self._registry, self._tags, self._models = database, registry, tags, models
        self._reader = reader
        # Of few persons scores are asked for all the time; those of thousands must not make them wait.
        self._few = database.pinned()

    async def ScorePersons(self, request: pb.ScorePersonsRequest, context: Any) -> pb.ScorePersonsResponse:  # noqa: N802
        """From the store: one statement whatever the number of persons."""
        self._specification(request.model)
        reader = self._few if len(request.person_ids) <= FEW else self._database
        version, scores = await store.read_scores(reader, request.model, request.person_ids)
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
        version, now = await self._version(request.model), datetime.now(UTC)
        model = version.served
        _, known = await store.read_scores(self._database, request.model, [request.person_id])
        if known and await self._silent(version, request.person_id, now):
            return pb.ExplainScoreResponse(score=usual_score(version), model_version=model.version, neutral=True)
        row = await self._row(model, request.person_id, now) if known else None
        if row is None:
            raise NotFound("this person has no score", reason="NO_SCORE", field="person_id")
        catalogue = await self._tags.catalogue()
        score, found = reasons.explain(model, row, catalogue)
        better = reasons.chances(model, row, version.card.get("values", {}), catalogue)
        return pb.ExplainScoreResponse(
            score=score,
            model_version=model.version,
            reasons=[pb.ScoreReason(tag=r.tag, value=r.value, points=r.points, sentence=r.sentence) for r in found],
            chances=[pb.ScoreChance(tag=c.tag, value=c.value, better=c.better, points=c.points) for c in better],
        )

    async def RankOffers(self, request: pb.RankOffersRequest, context: Any) -> pb.RankOffersResponse:  # noqa: N802
        """From the present tags; in the order of their usual success for who has switched personalisation off."""
        version, now = await self._version(request.model), datetime.now(UTC)
        model = version.served
        if model.kind != CLASS:
            raise FailedPrecondition("this model foretells no classes", reason="NOT_A_MODEL_OF_CLASSES", field="model")
        # Asked of everybody alike: nobody finds out by this who has switched it off and who is unknown.
        row = await self._row(model, request.person_id, now)
        if row is None:
            raise NotFound("this person has no tags", reason="UNKNOWN_PERSON", field="person_id")
        silent = await self._silent(version, request.person_id, now)
        shares = version.card.get("class_shares", {})
        listed = offers.usual(model, shares) if silent else offers.ranked(model, row)
        return pb.RankOffersResponse(
            offers=[pb.OfferChance(offer=offer, probability=share) for offer, share in listed],
            model_version=model.version,
            neutral=silent,
        )

    async def ExpandAudience(  # noqa: N802
        self, request: pb.ExpandAudienceRequest, context: Any
    ) -> AsyncIterator[pb.ExpandAudienceResponse]:
        """Learns to tell the seeds from others and ranks everybody else by it."""
        asked = expanding.Asked(
            tuple(request.seed_ids), request.seed_predicate, request.among, request.limit, tuple(request.tags)
        )
        found = await expanding.expand(self._database, self._tags, asked)
        yield pb.ExpandAudienceResponse(
            likenesses=[pb.Likeness(tag=each.tag, value=each.value, weight=each.weight) for each in found.likenesses]
        )
        for start in range(0, len(found.persons), CHUNK):
            part = slice(start, start + CHUNK)
            yield pb.ExpandAudienceResponse(
                person_ids=found.persons[part],
                similarities=found.similarities[part],
                because=(await found.because(part)).ravel(),
            )

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
        kind = (await self._version(request.model)).served.kind
        for start in range(0, len(persons), CHUNK):
            part = slice(start, start + CHUNK)
            yield pb.RankAudienceResponse(
                person_ids=persons[part],
                scores=scores[part],
                model_version=version,
                probabilities=probability_behind(kind, scores[part]),
            )

    async def ClassifyText(self, request: pb.ClassifyTextRequest, context: Any) -> pb.ClassifyTextResponse:  # noqa: N802
        """By the text model in use; nothing is kept."""
        async with self._database.read() as uow:
            found = await self._reader.in_use(uow)
        version, readings = await self._reader.classify(found, request.texts)
        return pb.ClassifyTextResponse(readings=[_reading(reading) for reading in readings], model_version=version)

    async def ListOpinions(self, request: pb.ListOpinionsRequest, context: Any) -> pb.ListOpinionsResponse:  # noqa: N802
        """From the counts."""
        since = moment(request.since, "since").date() if request.HasField("since") else None
        async with self._database.read() as uow:
            rows = await texts.opinions(uow, request.vehicle_model, since)
        return pb.ListOpinionsResponse(opinions=[pb.OpinionCount(**row._mapping) for row in rows])

    async def _row(self, model: ServedModel, person: int, now: datetime) -> Matrix | None:
        """What a model reads of a person; None when tags does not know her."""
        frame = await self._tags.values_of([person], model.tags, now)
        return matrix_of(model.encodings, frame)[0] if len(frame) else None

    async def _silent(self, version: Version, person: int, now: datetime) -> bool:
        """Whether nothing personal may be said of her."""
        async with self._database.read() as uow:
            return bool((await consents.silent(uow, np.array([person]), consents.regime_of(version.card), now))[0])

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


def _reading(reading: Reading) -> pb.TextReading:
    return pb.TextReading(
        kind=reading.kind,
        kind_spans=[place for span in reading.kind_spans for place in span],
        opinions=[
            pb.Opinion(
                topic=opinion.topic,
                sentiment=opinion.sentiment,
                confidence=opinion.confidence,
                spans=[place for span in opinion.spans for place in span],
            )
            for opinion in reading.opinions
        ],
    )


def _untrained() -> FailedPrecondition:
    return FailedPrecondition("this model has not been trained yet", reason="MODEL_NOT_TRAINED", field="model")
