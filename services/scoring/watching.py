"""Looks after models in use without being asked: scores everybody and evaluates now and then, says when to train again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import Gauge

from chassis.db import Database, UnitOfWork
from chassis.errors import is_operational
from services.scoring import health, operations, store, trial_store
from services.scoring.cutting import Wanted
from services.scoring.evaluating import Asked
from services.scoring.operations import Kind
from services.scoring.working import Worker

log = logging.getLogger(__name__)

LOOK_AT_MOST_EVERY_S = 60.0

RETRAIN = Gauge("troika_scoring_retrain_proposed", "1 while the model in use should be trained again, else 0.", ["model"])
SCORED = Gauge("troika_scoring_scored_timestamp_seconds", "When everybody was last scored with the model in use.", ["model"])
DRIFT = Gauge("troika_scoring_score_psi", "Population stability index of the scores of the model in use.", ["model"])


class Watch:
    """Keeps the health of models in use up to date. Any number of replicas may run it."""

    def __init__(self, database: Database, worker: Worker, every_s: float) -> None:
        """`every_s`: how old the last look at everybody may become; 0: nobody watches."""
        self._database, self._worker, self._every_s = database, worker, every_s
        self._proposed: set[tuple[str, int]] = set()

    async def run(self) -> None:
        """Runs until cancelled."""
        while self._every_s > 0:
            try:
                await self.look()
            except Exception as error:
                if not is_operational(error):
                    log.exception("watching models failed")
            await asyncio.sleep(min(self._every_s, LOOK_AT_MOST_EVERY_S))

    async def look(self) -> None:
        """Starts what is due, tells what is known."""
        async with self._database.transaction(traced=False) as uow:
            await trial_store.forget_ended(uow)
            in_use = await store.versions_in_use(uow)
            for model in in_use:
                await self._start_due(uow, model)
            found = {model: await health.read(uow, model, version) for model, version in in_use.items()}
        for model, each in found.items():
            self._tell(model, each)

    async def _start_due(self, uow: UnitOfWork, model: str) -> None:
        # Of two replicas the second one sees what the first one started.
        await store.lock_versions(uow, model)
        since = datetime.now(UTC) - timedelta(seconds=self._every_s)
        if not await _happened(uow, model, since, "(kind = 'SCORE' OR persons_scored > 0 AND kind <> 'TRIAL')"):
            await operations.start(uow, Kind.SCORE, model, {})
            self._worker.wake.set()
        [row] = await uow.rows("SELECT card FROM model WHERE model = :model AND in_use", model=model)
        asked = due_evaluation(row.card, datetime.now(UTC))
        if asked and not await _happened(uow, model, since, "kind = 'EVALUATE'"):
            await operations.start(uow, Kind.EVALUATE, model, asked.recorded())
            self._worker.wake.set()

    def _tell(self, model: str, found: health.Health) -> None:
        reasons = found.reasons
        RETRAIN.labels(model).set(bool(reasons))
        if found.looked_at:
            SCORED.labels(model).set(found.looked_at.timestamp())
        DRIFT.labels(model).set(next((drift.psi for drift in found.drifts if drift.of == health.SCORE_NAME), 0.0))
        if reasons and (model, found.version) not in self._proposed:
            log.warning("model should be trained again", extra={"model": model, "version": found.version, "why": reasons})
        (self._proposed.add if reasons else self._proposed.discard)((model, found.version))


def due_evaluation(card: Mapping[str, Any], now: datetime) -> Asked | None:
    """The newest moment whose outcomes are known and of which the version has learnt nothing; None: there is none.

    Of versions that were trained on the present nobody knows which outcomes are new.
    """
    trained = Wanted.of(card["wanted"])
    at_s = now.timestamp() - trained.horizon_s
    return Asked(as_of_s=at_s) if trained.as_of_s and at_s > max(trained.as_of_s) else None


async def _happened(uow: UnitOfWork, model: str, since: datetime, what: str) -> bool:
    """Whether such an operation began since then, however it ended, or is at work."""
    rows = await uow.rows(
        f"SELECT 1 FROM operation WHERE model = :model AND {what} AND (created_at > :since OR ended_at > :since"  # noqa: S608
        " OR state = 'RUNNING') LIMIT 1",
        model=model,
        since=since,
    )
    return bool(rows)
