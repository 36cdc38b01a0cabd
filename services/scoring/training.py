"""Trains a version of a model: reads the cut, fits in a process of its own, stores, puts in use, has everybody scored."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from chassis.db import Database
from chassis.rpc import reason_of
from services.scoring import artefact, fitting, store, usual
from services.scoring.cutting import Wanted, read_cut
from services.scoring.domain import TrainingRefused
from services.scoring.everybody import Everybody
from services.scoring.frame import features_of, fit_encodings
from services.scoring.learning.cut import Cut, Trained
from services.scoring.models.specification import Foretells, Specification
from services.scoring.tag_door import TagDoor
from services.scoring.working import Task

# Shares of the whole work, by what they took on the shipped campaign.
READ_UNTIL, FIT_UNTIL = 0.05, 0.7


class Training:
    """The work of a TRAIN operation."""

    def __init__(
        self, database: Database, tags: TagDoor, models: Mapping[str, Specification], everybody: Everybody, signing_key: bytes
    ) -> None:
        self._database, self._tags, self._models, self._everybody = database, tags, models, everybody
        self._key = signing_key

    async def __call__(self, task: Task) -> None:
        """Until everybody is scored; once the version is stored, a takeover goes on with that."""
        operation = task.operation
        specification = self._models.get(operation.model)
        if specification is None:
            raise TrainingRefused("UNKNOWN_MODEL")
        wanted = Wanted.of(operation.request)
        in_use = operation.version > 0 and await self._in_use(operation.model, operation.version)
        if operation.version == 0:
            try:
                cut = await read_cut(self._tags, wanted)
            except grpc.aio.AioRpcError as error:
                raise refusal_of(error) from error
            # Before a process is started for it: what cannot be encoded cannot be learnt.
            fit_encodings(features_of(cut.frame), cut.frame)

            async def progress(share: float) -> None:
                await task.progress(READ_UNTIL + (FIT_UNTIL - READ_UNTIL) * share)

            await progress(0)
            trained = await fitting.train(specification.training_module, cut, wanted.trusted_features, progress)
            in_use = await self._store(task, specification, wanted, cut, trained)
        if in_use:
            await self._everybody.score(task, operation.model, FIT_UNTIL)

    async def _in_use(self, model: str, version: int) -> bool:
        async with self._database.read() as uow:
            return (await store.versions_in_use(uow)).get(model) == version

    async def _store(self, task: Task, specification: Specification, wanted: Wanted, cut: Cut, trained: Trained) -> bool:
        """Stores the version with its card, in use unless it is only to be kept; whether it is."""
        card = {
            "purpose": specification.purpose,
            "limits": specification.limits,
            "consent": specification.consent,
            "foretells": specification.foretells.value,
            "features": list(cut.frame.columns),
            "training_persons": len(cut.labels),
            "training_positives": int((cut.labels == 1).sum()) if specification.foretells is not Foretells.CLASS else 0,
            "metrics": trained.metrics,
            "operation_id": task.operation.operation_id,
            "wanted": wanted.recorded(),
            "recalibrated_from": 0,
            **usual.of_cut(cut, specification.foretells),
        }
        model = task.operation.model
        async with self._database.transaction() as uow:
            version = await store.next_version(uow, model)
            seal = artefact.seal(self._key, model, version, trained.artefact)
            await store.add_version(uow, model, version, card=card, artefact=trained.artefact, seal=seal)
            in_use = not wanted.keep_only or model not in await store.versions_in_use(uow)
            if in_use:
                await store.put_in_use(uow, model, version)
            await task.tell(uow, version=version, metrics=trained.metrics)
        return in_use


def refusal_of(error: grpc.aio.AioRpcError) -> Exception:
    """What tags refuses will be refused again; anything else may pass."""
    if error.code() not in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION):
        return error
    reason, field = reason_of(error)
    return TrainingRefused("FEATURE_MISSING" if field.startswith("tags") else reason or "TAGS_REFUSED", error.details() or "")
