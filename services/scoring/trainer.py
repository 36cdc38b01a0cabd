"""The background work of training: claim, read the cut, fit in a process, put in use, score everybody.

Any number of replicas run this. A claim is a lease with a heartbeat; a training whose process died is taken over where
it stopped: before the model was stored from the beginning, after it with the scoring of everybody.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

import grpc
import numpy as np
from numpy.typing import NDArray

from chassis.db import Database
from chassis.errors import Unavailable, is_operational
from chassis.rpc import reason_of
from services.scoring import artefact, store, trainings, worker
from services.scoring.domain import TrainingRefused, TrainingState, check_labels, leaking_features
from services.scoring.frame import Frame, fit_encodings, joined, matrix_of
from services.scoring.handlers import keep, predict
from services.scoring.models.specification import Specification
from services.scoring.registry import Registry
from services.scoring.tag_door import TagDoor
from services.scoring.trainings import Training

log = logging.getLogger(__name__)

POLL_S = 1.0
RETRY_S = 2.0
MAX_ATTEMPTS = 5
# Shares of the whole work, by what they took on the shipped campaign.
READ_UNTIL, FIT_UNTIL = 0.05, 0.7


class LeaseLost(Exception):
    """Somebody else works on this training now."""


class Trainer:
    """Works on trainings, one at a time."""

    def __init__(
        self,
        database: Database,
        tags: TagDoor,
        registry: Registry,
        models: Mapping[str, Specification],
        *,
        signing_key: bytes,
        lease_s: float,
        settle_s: float,
    ) -> None:
        """`settle_s`: how long tags may need to show a change that it has published."""
        self._database, self._tags, self._registry, self._models = database, tags, registry, models
        self._key, self._lease_s, self._settle_s = signing_key, lease_s, settle_s
        self._owner = uuid.uuid4().hex
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Runs until cancelled; wakes on `wake` and every POLL_S."""
        while True:
            try:
                while await self.work_once():
                    pass
            except Exception as error:
                if not is_operational(error):
                    log.exception("trainer failed")
                await asyncio.sleep(RETRY_S)
            try:
                async with asyncio.timeout(POLL_S):
                    await self.wake.wait()
            except TimeoutError:
                pass
            self.wake.clear()

    async def work_once(self) -> bool:
        """Claims one training and works on it until it ends, one way or another; False when there is none."""
        async with self._database.transaction(traced=False) as uow:
            training = await trainings.claim(uow, self._owner, self._lease_s)
        if training is None:
            return False
        about = {"training_id": training.training_id, "model": training.model}
        work = asyncio.create_task(self._work(training))
        beat = asyncio.create_task(self._beat(training.training_id))
        try:
            await asyncio.wait({work, beat}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise LeaseLost
            work.result()
            await self._finish(training, TrainingState.SUCCEEDED)
        except LeaseLost:
            log.warning("training was taken over", extra=about)
        except TrainingRefused as refusal:
            log.warning("training refused", extra=about | {"reason": refusal.reason})
            await self._finish(training, TrainingState.FAILED, refusal.reason)
        except asyncio.CancelledError:
            # Stopping: whoever comes next need not wait for the lease to run out.
            await self._give_back(training, 0, forgive=True)
            raise
        except Exception as error:
            forgive = is_operational(error)
            if not forgive:
                log.exception("training failed", extra=about)
            if not forgive and training.attempts >= MAX_ATTEMPTS:
                await self._finish(training, TrainingState.FAILED, "GAVE_UP")
            else:
                await self._give_back(training, RETRY_S, forgive)
        finally:
            for task in (work, beat):
                task.cancel()
            await asyncio.gather(work, beat, return_exceptions=True)
        return True

    async def _beat(self, training_id: int) -> None:
        """Keeps the lease; returns when it is lost."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                async with self._database.transaction(traced=False) as uow:
                    if not await trainings.advance(uow, training_id, self._owner, self._lease_s):
                        return
            except Exception as error:
                if not is_operational(error):
                    raise

    async def _finish(self, training: Training, state: TrainingState, reason: str = "") -> None:
        async with self._database.transaction() as uow:
            await trainings.finish(uow, training.training_id, self._owner, state, reason)

    async def _give_back(self, training: Training, wait_s: float, forgive: bool) -> None:
        try:
            async with self._database.transaction() as uow:
                await trainings.give_back(uow, training.training_id, self._owner, wait_s, forgive)
        except Exception as error:
            # The lease runs out by itself.
            if not is_operational(error):
                raise

    async def _work(self, training: Training) -> None:
        specification = self._models.get(training.model)
        if specification is None:
            raise TrainingRefused("UNKNOWN_MODEL")
        if training.version == 0:
            try:
                frame, labels = await self._read_cut(training, specification)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    reason, field = reason_of(error)
                    raise TrainingRefused(
                        "FEATURE_MISSING" if field.startswith("tags") else reason or "TAGS_REFUSED"
                    ) from error
                raise
            await self._train(training, specification, frame, labels)
        await self._score_everybody(training)

    async def _read_cut(self, training: Training, specification: Specification) -> tuple[Frame, NDArray[np.bool_]]:
        cut, goal = training.cut_predicate, training.goal_predicate
        if leaking_features((cut, goal), await self._tags.expressions(), specification.tags):
            raise TrainingRefused("FEATURE_LEAK")
        frame = joined([chunk async for chunk in self._tags.values(cut, specification.tags)])
        labels = np.isin(frame.persons, await self._tags.audience(f"({goal}) AND ({cut})"))
        check_labels(labels)
        # Before a process is started for it: what cannot be encoded cannot be learnt.
        fit_encodings(specification.features, frame)
        return frame, labels

    async def _train(self, training: Training, specification: Specification, frame: Frame, labels: NDArray[np.bool_]) -> None:
        async def progress(share: float) -> None:
            await self._advance(training, READ_UNTIL + (FIT_UNTIL - READ_UNTIL) * share)

        await progress(0)
        fitted = await worker.train(specification.training_module, frame, labels, progress)
        card = {
            "purpose": specification.purpose,
            "features": specification.tags,
            "training_persons": len(labels),
            "training_positives": int(labels.sum()),
            "metrics": fitted.metrics,
            "training_id": training.training_id,
            "cut_predicate": training.cut_predicate,
            "goal_predicate": training.goal_predicate,
        }
        async with self._database.transaction() as uow:
            version = await store.next_version(uow, training.model)
            seal = artefact.seal(self._key, training.model, version, fitted.artefact)
            await store.put_in_use(uow, training.model, version, card=card, artefact=fitted.artefact, seal=seal)
            if not await trainings.record_version(uow, training.training_id, self._owner, version):
                raise LeaseLost

    async def _advance(self, training: Training, progress: float) -> None:
        async with self._database.transaction() as uow:
            if not await trainings.advance(uow, training.training_id, self._owner, self._lease_s, progress=progress):
                raise LeaseLost

    async def _score_everybody(self, training: Training) -> None:
        # Changes that came before the model was in use were passed over: tags must show them before we look.
        await asyncio.sleep(self._settle_s)
        async with self._database.read() as uow:
            model = await self._registry.one(uow, training.model)
        if model is None:
            raise Unavailable("the model that this training stored is not in use")
        _, total = await self._tags.count("", "predicate")
        # The time of the question, not of the answer: whatever changes meanwhile is scored online and is newer.
        scored_at, scored = datetime.now(UTC), 0
        async for chunk in self._tags.values("", model.tags):
            probability = await predict(model, matrix_of(model.encodings, chunk))
            scored += len(chunk)
            progress = FIT_UNTIL + (1 - FIT_UNTIL) * min(1.0, scored / max(total, 1))
            async with self._database.transaction() as uow:
                if not await trainings.advance(
                    uow, training.training_id, self._owner, self._lease_s, progress=progress, persons_scored=scored
                ):
                    raise LeaseLost
                await keep(uow, model, chunk.persons, probability, scored_at)
