"""The gRPC door of scoring. It converts; it decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from troika.scoring.v1 import scoring_service_pb2 as pb
from troika.scoring.v1.scoring_service_pb2_grpc import ScoringServiceServicer

from chassis.db import Database
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from services.scoring import reasons, store, trainings
from services.scoring.domain import TrainingState, leaking_features
from services.scoring.frame import matrix_of
from services.scoring.models.specification import Specification
from services.scoring.registry import Registry
from services.scoring.tag_door import TagDoor
from services.scoring.trainer import Trainer
from services.scoring.trainings import Training

_STATES = {
    TrainingState.RUNNING: pb.TRAINING_STATE_RUNNING,
    TrainingState.SUCCEEDED: pb.TRAINING_STATE_SUCCEEDED,
    TrainingState.FAILED: pb.TRAINING_STATE_FAILED,
}


class ScoringRpc(ScoringServiceServicer):
    """troika.scoring.v1.ScoringService."""

    def __init__(
        self, database: Database, registry: Registry, tags: TagDoor, trainer: Trainer, models: Mapping[str, Specification]
    ) -> None:
        self._database, self._registry, self._tags, self._trainer, self._models = database, registry, tags, trainer, models

    async def TrainModel(self, request: pb.TrainModelRequest, context: Any) -> pb.TrainModelResponse:  # noqa: N802
        """Refuses what can be known to be wrong now; the rest is for the training to find out."""
        specification = self._specification(request.model)
        predicates = {"cut_predicate": request.cut_predicate, "goal_predicate": request.goal_predicate}
        for field, predicate in predicates.items():
            if leaks := leaking_features([predicate], {}, specification.tags):
                raise InvalidArgument(
                    f"the model reads {', '.join(leaks)}: a tag cannot be both feature and outcome",
                    reason="FEATURE_LEAK",
                    field=field,
                )
        for field, predicate in predicates.items():
            await self._tags.count(predicate, field)
        async with self._database.transaction() as uow:
            training = await trainings.start(uow, request.model, request.cut_predicate, request.goal_predicate)
        asked = (request.cut_predicate, request.goal_predicate)
        if (training.cut_predicate, training.goal_predicate) != asked:
            raise FailedPrecondition(f"training {training.training_id} of this model is at work", reason="TRAINING_RUNNING")
        self._trainer.wake.set()
        return pb.TrainModelResponse(training=_training(training))

    async def GetTraining(self, request: pb.GetTrainingRequest, context: Any) -> pb.GetTrainingResponse:  # noqa: N802
        """From the record, whichever process is at work."""
        async with self._database.read() as uow:
            training = await trainings.read(uow, request.training_id)
        if training is None:
            raise NotFound("no such training", reason="UNKNOWN_TRAINING", field="training_id")
        return pb.GetTrainingResponse(training=_training(training))

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:  # noqa: N802
        """The stored card."""
        self._specification(request.model)
        async with self._database.read() as uow:
            stored = await store.read_model(uow, request.model)
        if stored is None:
            raise _untrained()
        card = stored.card
        model = pb.Model(
            model=stored.model,
            version=stored.version,
            purpose=card["purpose"],
            features=card["features"],
            training_persons=card["training_persons"],
            training_positives=card["training_positives"],
            metrics=card["metrics"],
            artefact_sha256=stored.seal.sha256,
        )
        model.create_time.FromDatetime(stored.created_at)
        return pb.GetModelResponse(model=model)

    async def ScorePersons(self, request: pb.ScorePersonsRequest, context: Any) -> pb.ScorePersonsResponse:  # noqa: N802
        """From the store: one statement whatever the number of persons."""
        self._specification(request.model)
        async with self._database.read() as uow:
            version = (await store.versions_in_use(uow)).get(request.model)
            if version is None:
                raise _untrained()
            scores = await store.read_scores(uow, request.model, request.person_ids)
        found = [scores.get(person, (-1.0, -1.0)) for person in request.person_ids]
        return pb.ScorePersonsResponse(
            scores=[score for score, _ in found], probabilities=[p for _, p in found], model_version=version
        )

    async def ExplainScore(self, request: pb.ExplainScoreRequest, context: Any) -> pb.ExplainScoreResponse:  # noqa: N802
        """From the present tags and the model that serves."""
        self._specification(request.model)
        async with self._database.read() as uow:
            model = await self._registry.one(uow, request.model)
            if model is None:
                raise _untrained()
            known = request.person_id in await store.read_scores(uow, request.model, [request.person_id])
        # Outside of the transaction: tags may take its time.
        frame = await self._tags.values_of([request.person_id], model.tags) if known else None
        if not frame:
            raise NotFound("this person has no score", reason="NO_SCORE", field="person_id")
        score, found = reasons.explain(model, matrix_of(model.encodings, frame)[0])
        listed = [pb.ScoreReason(tag=r.tag, value=r.value, points=r.points) for r in found]
        return pb.ExplainScoreResponse(score=score, model_version=model.version, reasons=listed)

    def _specification(self, model: str) -> Specification:
        specification = self._models.get(model)
        if specification is None:
            raise NotFound("no such model", reason="UNKNOWN_MODEL", field="model")
        return specification


def _untrained() -> FailedPrecondition:
    return FailedPrecondition("this model has not been trained yet", reason="MODEL_NOT_TRAINED", field="model")


def _training(training: Training) -> pb.Training:
    return pb.Training(
        training_id=training.training_id,
        model=training.model,
        state=_STATES[training.state],
        progress=training.progress,
        reason=training.reason,
        model_version=training.version if training.state is TrainingState.SUCCEEDED else 0,
        persons_scored=training.persons_scored,
    )
