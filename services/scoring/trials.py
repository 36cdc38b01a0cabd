"""Trials: a challenger and the champion foretell the same persons at the same moments; outcomes decide.

The test, stated before any outcome is seen: of every person, log loss of the champion minus log loss of the challenger;
one-sided z test of the mean of these differences against zero at 5 %, once, at the end of the horizon, if at least 100 persons
did it and 100 did not. Otherwise the verdict is that there are too few outcomes. See docs/adr/0021.

Who has done it already when she comes into the cut is not foretold, hence left out; so is who forbids personalisation.
Newcomers are taken in during the first half of the horizon: later ones would hardly have had the time to do it. A trial
never touches a score: only when it was asked to promote and the challenger is better, the challenger comes into use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from math import erfc, sqrt
from typing import Any, Final

import grpc
import numpy as np

from chassis.db import Database, UnitOfWork
from services.scoring import consents, store, trial_store
from services.scoring.domain import Floats
from services.scoring.frame import Frame, Ids, matrix_of
from services.scoring.handlers import predict
from services.scoring.measuring import Z95, Flags, auc, log_losses
from services.scoring.registry import Registry, Version
from services.scoring.tag_door import TagDoor
from services.scoring.training import refusal_of
from services.scoring.working import NotYet, Task

ALPHA: Final = 0.05
LEAST_OF_EACH: Final = 100
CHALLENGER_BETTER, NOT_BETTER, TOO_FEW_OUTCOMES = "CHALLENGER_BETTER", "NOT_BETTER", "TOO_FEW_OUTCOMES"
# Newcomers are looked for so many times, but never more often than this.
LOOKS, LOOK_AT_MOST_EVERY_S = 50, 30.0
# Persons of one question to tags and one transaction.
CHUNK = 10_000
# All who were there at the start are foretold.
FORETOLD = 0.5


@dataclass(frozen=True)
class Asked:
    """What a trial is asked for; versions are fixed at its start."""

    champion: int
    challenger: int
    cut_predicate: str
    goal_predicate: str
    horizon_s: float
    promote: bool

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Asked:
        """From the record of an operation."""
        return cls(**request)

    def recorded(self) -> dict[str, Any]:
        """For the record of an operation."""
        return asdict(self)


def judge(champion: Floats, challenger: Floats, did: Flags) -> tuple[str, dict[str, float]]:
    """The verdict on what two versions said of the same persons, and the figures behind it."""
    yes, no = int(did.sum()), int((~did).sum())
    figures = {"persons": float(len(did)), "positives": float(yes)}
    if min(yes, no) < LEAST_OF_EACH:
        return TOO_FEW_OUTCOMES, figures
    losses = log_losses(champion, did), log_losses(challenger, did)
    gain = losses[0] - losses[1]
    error = float(gain.std(ddof=1) / sqrt(len(gain)))
    # Versions that say the same differ by nothing, and nothing is proven.
    p = 0.5 * erfc(float(gain.mean()) / error / sqrt(2)) if error > 0 else 1.0
    figures |= {
        "auc_champion": auc(champion, did)[0],
        "auc_challenger": auc(challenger, did)[0],
        "log_loss_champion": float(losses[0].mean()),
        "log_loss_challenger": float(losses[1].mean()),
        "log_loss_gain": float(gain.mean()),
        "log_loss_gain_low": float(gain.mean()) - Z95 * error,
        "log_loss_gain_high": float(gain.mean()) + Z95 * error,
        "p": p,
    }
    return CHALLENGER_BETTER if p < ALPHA else NOT_BETTER, figures


class Trial:
    """The work of a TRIAL operation."""

    def __init__(
        self, database: Database, tags: TagDoor, registry: Registry, look_at_most_every_s: float = LOOK_AT_MOST_EVERY_S
    ) -> None:
        self._database, self._tags, self._registry = database, tags, registry
        self._look_at_most_every_s = look_at_most_every_s

    async def __call__(self, task: Task) -> None:
        """Foretells who is there, waits while it takes newcomers in, judges. Raises NotYet until the horizon is over."""
        operation, asked = task.operation, Asked.of(task.operation.request)
        # The verdict and all that follows from it are of one transaction.
        if operation.verdict:
            return
        try:
            now, horizon = datetime.now(UTC), timedelta(seconds=asked.horizon_s)
            closed_at, judged_at = operation.created_at + horizon / 2, operation.created_at + horizon
            if operation.progress < FORETOLD or now < closed_at:
                await self._foretell(task, asked)
                await task.progress(FORETOLD)
            if datetime.now(UTC) < judged_at:
                look_at = now + timedelta(seconds=max(asked.horizon_s / LOOKS, self._look_at_most_every_s))
                raise NotYet(look_at if look_at < closed_at else judged_at)
            await self._judge(task, asked)
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error) from error

    async def _foretell(self, task: Task, asked: Asked) -> None:
        """Both versions say what they think of everybody in the cut who is not foretold yet and has not done it yet."""
        number, model = task.operation.operation_id, task.operation.model
        async with self._database.read() as uow:
            champion = await self._registry.version(uow, model, asked.champion)
            challenger = await self._registry.version(uow, model, asked.challenger)
            foretold = await trial_store.persons(uow, number)
        there, done = await self._tags.audience(asked.cut_predicate), await self._tags.audience(asked.goal_predicate)
        new = np.setdiff1d(np.setdiff1d(there, done), foretold)
        async with self._database.read() as uow:
            new = new[~await _silent(uow, new, champion.card)]
        tags, total = sorted({*champion.served.tags, *challenger.served.tags}), len(foretold)
        for start in range(0, len(new), CHUNK):
            at = datetime.now(UTC)
            frame = await self._tags.values_of(new[start : start + CHUNK].tolist(), tags, at)
            if not len(frame):
                continue
            said = [await _say(version, frame) for version in (champion, challenger)]
            async with self._database.transaction() as uow:
                total += await trial_store.add(uow, number, frame.persons, said[0], said[1], at)
                done_by_now = FORETOLD * min(1.0, (start + CHUNK) / len(new)) if task.operation.progress < FORETOLD else None
                await task.tell(uow, progress=done_by_now, version=asked.challenger, persons_scored=total)

    async def _judge(self, task: Task, asked: Asked) -> None:
        operation = task.operation
        did_it, there = await self._tags.audience(asked.goal_predicate), await self._tags.audience("")
        async with self._database.transaction() as uow:
            persons, champion, challenger = await trial_store.said(uow, operation.operation_id)
            version = await self._registry.version(uow, operation.model, asked.champion)
            # Persons who are gone by now (merged or erased) have no outcome; those who now forbid it are left out, too.
            kept = np.isin(persons, there) & ~await _silent(uow, persons, version.card)
            did = np.isin(persons, did_it)
            verdict, figures = await asyncio.to_thread(judge, champion[kept], challenger[kept], did[kept])
            await trial_store.forget(uow, operation.operation_id)
            if asked.promote and verdict == CHALLENGER_BETTER:
                # Whoever promoted something else meanwhile knew why.
                await store.lock_versions(uow, operation.model)
                if (await store.versions_in_use(uow)).get(operation.model) == asked.champion:
                    await store.promote(uow, operation.model, asked.challenger)
                    figures["promoted"] = 1.0
                else:
                    figures["promoted"] = 0.0
            await task.tell(uow, version=asked.challenger, metrics=figures, verdict=verdict)


async def _say(version: Version, frame: Frame) -> Floats:
    return (await predict(version.served, matrix_of(version.served.encodings, frame))).probabilities


async def _silent(uow: UnitOfWork, persons: Ids, card: Mapping[str, object]) -> Flags:
    """Who forbids it, asked in parts."""
    regime, at = consents.regime_of(card), datetime.now(UTC)
    parts = [await consents.silent(uow, persons[start : start + CHUNK], regime, at) for start in range(0, len(persons), CHUNK)]
    return np.concatenate(parts) if parts else np.empty(0, bool)
