"""Measures the version in use on outcomes that have become known, and sets its probabilities right when asked to.

Evaluations touch nobody's score, unless they are asked to recalibrate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import grpc
import numpy as np

from chassis.db import Database, UnitOfWork
from services.scoring import artefact, health, store
from services.scoring.cutting import Wanted, read_cut
from services.scoring.domain import MIN_OF_EACH_CLASS, TrainingRefused
from services.scoring.everybody import Everybody
from services.scoring.frame import matrix_of
from services.scoring.handlers import predict
from services.scoring.learning.cut import Cut, Trained
from services.scoring.measuring import effects, hits, log_odds, measure
from services.scoring.models.specification import Foretells
from services.scoring.readings import Readings
from services.scoring.recalibrating import recalibrate
from services.scoring.registry import Registry, Version
from services.scoring.tag_door import TagDoor
from services.scoring.training import refusal_of
from services.scoring.working import Task

READ_UNTIL, MEASURED_UNTIL = 0.2, 0.3


@dataclass(frozen=True)
class Asked:
    """What an evaluation is asked for; empty and 0: as in the training. Times in seconds since the epoch, 0 is the present."""

    cut_predicate: str = ""
    goal_predicate: str = ""
    as_of_s: float = 0.0
    horizon_s: float = 0.0
    recalibrate: bool = False

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Asked:
        """From the record of an operation."""
        return cls(**request)

    def recorded(self) -> dict[str, Any]:
        """For the record of an operation."""
        return asdict(self)

    def wanted(self, version: Version) -> Wanted:
        """The cut of it, with exactly the tags that this version reads."""
        trained = Wanted.of(version.card["wanted"])
        return Wanted(
            cut_predicate=self.cut_predicate or trained.cut_predicate,
            goal_predicate=self.goal_predicate or trained.goal_predicate,
            label_tag=trained.label_tag,
            treated_predicate=trained.treated_predicate,
            features=version.served.tags,
            as_of_s=(self.as_of_s,) if self.as_of_s else (),
            horizon_s=(self.horizon_s or trained.horizon_s) if self.as_of_s else 0.0,
            trusted_features=trained.trusted_features,
        )


def foretells(card: Mapping[str, Any]) -> Foretells:
    """What a version says of a person, from its card."""
    return Foretells(card.get("foretells", Foretells.PROBABILITY.value))


class Evaluation:
    """The work of an EVALUATE operation."""

    def __init__(self, database: Database, tags: TagDoor, registry: Registry, everybody: Everybody, signing_key: bytes) -> None:
        self._database, self._tags, self._registry, self._everybody = database, tags, registry, everybody
        self._key = signing_key

    async def __call__(self, task: Task) -> None:
        """Until it is measured, and where a version was made, until everybody is scored with it."""
        operation, asked = task.operation, Asked.of(task.operation.request)
        # In the transaction that stores a recalibrated version it is named: a takeover only scores.
        if operation.version == 0:
            async with self._database.read() as uow:
                version = await self._registry.one(uow, operation.model)
            if version is None:
                raise TrainingRefused("MODEL_NOT_TRAINED")
            try:
                cut = await read_cut(self._tags, asked.wanted(version))
            except grpc.aio.AioRpcError as error:
                raise refusal_of(error) from error
            await task.progress(READ_UNTIL)
            said = await predict(version.served, matrix_of(version.served.encodings, cut.frame))
            figures = await asyncio.to_thread(measured, foretells(version.card), said, cut)
            figures["learnt_from_at_most"] = _learnt_from(version, asked, cut)
            await task.progress(MEASURED_UNTIL)
            if not asked.recalibrate:
                async with self._database.transaction() as uow:
                    await task.tell(uow, version=version.served.version, metrics=figures)
                return
            await self._recalibrate(task, version, said, cut, figures)
        if asked.recalibrate:
            await self._everybody.score(task, operation.model, MEASURED_UNTIL)

    async def _recalibrate(self, task: Task, version: Version, said: Readings, cut: Cut, before: Mapping[str, float]) -> None:
        """Stores the version that is set right and puts it in use, unless another one has come into use meanwhile."""
        model, number = version.served.model, version.served.version
        async with self._database.read() as uow:
            stored = await store.read_model(uow, model, number)
        if stored is None:
            raise TrainingRefused("MODEL_NOT_TRAINED")
        made = await recalibrate(stored.artefact, log_odds(said.probabilities), cut.labels == 1)
        figures = made.metrics | {f"{name}_before": before[name] for name in ("ece", "log_loss", "calibration_intercept")}
        async with self._database.transaction() as uow:
            new = await store.next_version(uow, model)
            if (await store.versions_in_use(uow)).get(model) != number:
                raise TrainingRefused("VERSION_CHANGED", f"version {number} is not in use any more")
            await self._store(uow, task, version, new, made)
            await health.inherit(uow, model, new, number)
            await store.put_in_use(uow, model, new)
            await task.tell(uow, version=new, metrics=figures)

    async def _store(self, uow: UnitOfWork, task: Task, version: Version, new: int, made: Trained) -> None:
        model = version.served.model
        card = dict(version.card) | {
            "metrics": made.metrics,
            # What may be said of those of whom nothing may be said has moved with the base rate.
            "usual": made.metrics["rate"],
            "operation_id": task.operation.operation_id,
            "recalibrated_from": version.served.version,
        }
        seal = artefact.seal(self._key, model, new, made.artefact)
        await store.add_version(uow, model, new, card=card, artefact=made.artefact, seal=seal)


def measured(kind: Foretells, said: Readings, cut: Cut) -> dict[str, float]:
    """The figures of what was said and what happened; raises TrainingRefused when there is too little to tell."""
    if kind is Foretells.CLASS:
        if not len(cut.labels):
            raise TrainingRefused("EMPTY_CUT")
        return hits(np.array(said.labels), np.array(cut.classes)[cut.labels])
    if kind is Foretells.PROBABILITY:
        return measure(said.probabilities, cut.labels == 1)
    if cut.treated is None or min(cut.treated.sum(), (~cut.treated).sum()) < MIN_OF_EACH_CLASS:
        raise TrainingRefused("TOO_FEW_TREATED")
    return effects(said.probabilities, cut.labels == 1, cut.treated)


def _learnt_from(version: Version, asked: Asked, cut: Cut) -> float:
    """The largest share of these persons that the version can have learnt from: on those it looks better than it is."""
    trained = Wanted.of(version.card["wanted"])
    if asked.as_of_s:
        return 1.0 if trained.as_of_s and asked.as_of_s <= max(trained.as_of_s) else 0.0
    return 0.0 if trained.as_of_s else min(1.0, float(version.card["training_persons"]) / max(len(cut.labels), 1))
