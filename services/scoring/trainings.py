"""The records of trainings: who works on which, and how far it is. A lease that runs out lets another process take over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from chassis.db import UnitOfWork
from services.scoring.domain import TrainingState

_COLUMNS = "training_id, model, cut_predicate, goal_predicate, state, progress, reason, version, persons_scored, attempts"

# The oldest training whose process is silent; SKIP LOCKED lets replicas ask at the same time.
CLAIM = f"""
UPDATE training SET owner = :owner, lease_until = now() + :lease, attempts = attempts + 1
WHERE training_id = (
  SELECT training_id FROM training WHERE state = 'RUNNING' AND lease_until <= now()
  ORDER BY training_id LIMIT 1 FOR UPDATE SKIP LOCKED
) RETURNING {_COLUMNS}
"""  # noqa: S608  # only column names are put in


@dataclass(frozen=True)
class Training:
    """One training of one model."""

    training_id: int
    model: str
    cut_predicate: str
    goal_predicate: str
    state: TrainingState
    progress: float
    reason: str
    version: int
    persons_scored: int
    attempts: int


def _training(row: Any) -> Training:
    return Training(**{**row._mapping, "state": TrainingState(row.state)})


async def start(uow: UnitOfWork, model: str, cut_predicate: str, goal_predicate: str) -> Training:
    """Records a new training, or returns the one of this model that is still at work."""
    rows = await uow.rows(
        f"INSERT INTO training (model, cut_predicate, goal_predicate, state) VALUES (:model, :cut, :goal, 'RUNNING')"  # noqa: S608
        # Touching the row makes it come back whichever way it went.
        f" ON CONFLICT (model) WHERE state = 'RUNNING' DO UPDATE SET model = excluded.model RETURNING {_COLUMNS}",
        model=model,
        cut=cut_predicate,
        goal=goal_predicate,
    )
    return _training(rows[0])


async def read(uow: UnitOfWork, training_id: int) -> Training | None:
    """A training by number."""
    rows = await uow.rows(f"SELECT {_COLUMNS} FROM training WHERE training_id = :id", id=training_id)  # noqa: S608
    return _training(rows[0]) if rows else None


async def claim(uow: UnitOfWork, owner: str, lease_s: float) -> Training | None:
    """Takes a training that nobody works on; None when there is none."""
    rows = await uow.rows(CLAIM, owner=owner, lease=timedelta(seconds=lease_s))
    return _training(rows[0]) if rows else None


async def advance(
    uow: UnitOfWork,
    training_id: int,
    owner: str,
    lease_s: float,
    *,
    progress: float | None = None,
    persons_scored: int | None = None,
) -> bool:
    """Extends the lease and states progress; False when somebody else has taken over."""
    touched = await uow.execute(
        "UPDATE training SET lease_until = now() + :lease, progress = coalesce(CAST(:progress AS float8), progress),"
        " persons_scored = coalesce(CAST(:scored AS bigint), persons_scored)"
        " WHERE training_id = :id AND owner = :owner AND state = 'RUNNING'",
        id=training_id,
        owner=owner,
        lease=timedelta(seconds=lease_s),
        progress=progress,
        scored=persons_scored,
    )
    return touched == 1


async def record_version(uow: UnitOfWork, training_id: int, owner: str, version: int) -> bool:
    """States which version the training made; False when somebody else has taken over."""
    touched = await uow.execute(
        "UPDATE training SET version = :version WHERE training_id = :id AND owner = :owner AND state = 'RUNNING'",
        id=training_id,
        owner=owner,
        version=version,
    )
    return touched == 1


async def finish(uow: UnitOfWork, training_id: int, owner: str, state: TrainingState, reason: str = "") -> None:
    """Ends a training that this owner still has."""
    await uow.execute(
        "UPDATE training SET state = :state, reason = :reason,"
        " progress = CASE WHEN CAST(:state AS text) = 'SUCCEEDED' THEN 1 ELSE progress END"
        " WHERE training_id = :id AND owner = :owner AND state = 'RUNNING'",
        id=training_id,
        owner=owner,
        state=state.value,
        reason=reason,
    )


async def give_back(uow: UnitOfWork, training_id: int, owner: str, wait_s: float, forgive: bool) -> None:
    """Lets anybody take the training after a while; `forgive` does not count the attempt: the world failed, not it."""
    await uow.execute(
        "UPDATE training SET lease_until = now() + :wait, owner = '', attempts = attempts - CAST(:forgiven AS integer)"
        " WHERE training_id = :id AND owner = :owner AND state = 'RUNNING'",
        id=training_id,
        owner=owner,
        wait=timedelta(seconds=wait_s),
        forgiven=int(forgive),
    )
