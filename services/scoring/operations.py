"""The records of long work: who works on which, and how far it is. A lease that runs out lets another process take over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import orjson

from chassis.db import UnitOfWork


class Kind(StrEnum):
    """What is done."""

    TRAIN = "TRAIN"
    SCORE = "SCORE"
    EVALUATE = "EVALUATE"
    TRIAL = "TRIAL"


class State(StrEnum):
    """Where an operation stands."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


_COLUMNS = (
    "operation_id, kind, model, request, state, progress, reason, detail, version, persons_scored, cursor, metrics, verdict,"
    " attempts, created_at, ended_at"
)

# The oldest operation whose time has come and whose process is silent; SKIP LOCKED lets replicas ask at the same time.
CLAIM = f"""
UPDATE operation SET owner = :owner, lease_until = now() + :lease, attempts = attempts + 1
WHERE operation_id = (
  SELECT operation_id FROM operation WHERE state = 'RUNNING' AND lease_until <= now()
  ORDER BY operation_id LIMIT 1 FOR UPDATE SKIP LOCKED
) RETURNING {_COLUMNS}
"""  # noqa: S608  # only column names are put in


@dataclass(frozen=True)
class Operation:
    """One piece of long work; `request` is what was asked for, as plain JSON."""

    operation_id: int
    kind: Kind
    model: str
    request: Mapping[str, Any]
    state: State
    progress: float
    reason: str
    detail: str
    version: int
    persons_scored: int
    cursor: int
    metrics: Mapping[str, float]
    verdict: str
    attempts: int
    created_at: datetime
    ended_at: datetime | None


def _operation(row: Any) -> Operation:
    return Operation(**{**row._mapping, "kind": Kind(row.kind), "state": State(row.state)})


async def start(uow: UnitOfWork, kind: Kind, model: str, request: Mapping[str, Any]) -> Operation:
    """Records new work, or returns the one of this kind and model that is still to be done, whatever it was asked."""
    rows = await uow.rows(
        "INSERT INTO operation (kind, model, request, state) VALUES (:kind, :model, CAST(:request AS jsonb), 'RUNNING')"  # noqa: S608
        # Touching the row makes it come back whichever way it went.
        f" ON CONFLICT (model, kind) WHERE state = 'RUNNING' DO UPDATE SET model = excluded.model RETURNING {_COLUMNS}",
        kind=kind.value,
        model=model,
        request=orjson.dumps(request).decode(),
    )
    return _operation(rows[0])


async def read(uow: UnitOfWork, operation_id: int) -> Operation | None:
    """An operation by number."""
    rows = await uow.rows(f"SELECT {_COLUMNS} FROM operation WHERE operation_id = :id", id=operation_id)  # noqa: S608
    return _operation(rows[0]) if rows else None


async def newest(uow: UnitOfWork, model: str, before: int, limit: int) -> list[Operation]:
    """Operations with numbers below `before`, the newest first; of one model, or of all when it is empty."""
    rows = await uow.rows(
        f"SELECT {_COLUMNS} FROM operation WHERE operation_id < :before AND (:model = '' OR model = :model)"  # noqa: S608
        " ORDER BY operation_id DESC LIMIT :limit",
        before=before,
        model=model,
        limit=limit,
    )
    return [_operation(row) for row in rows]


async def running(uow: UnitOfWork, kind: Kind) -> list[Operation]:
    """Operations of a kind that are at work or wait for their time."""
    rows = await uow.rows(
        f"SELECT {_COLUMNS} FROM operation WHERE state = 'RUNNING' AND kind = :kind ORDER BY operation_id",  # noqa: S608
        kind=kind.value,
    )
    return [_operation(row) for row in rows]


async def claim(uow: UnitOfWork, owner: str, lease_s: float) -> Operation | None:
    """Takes an operation that nobody works on; None when there is none."""
    rows = await uow.rows(CLAIM, owner=owner, lease=timedelta(seconds=lease_s))
    return _operation(rows[0]) if rows else None


async def advance(  # one statement, whatever is to be told
    uow: UnitOfWork,
    operation_id: int,
    owner: str,
    lease_s: float,
    *,
    progress: float | None = None,
    version: int | None = None,
    persons_scored: int | None = None,
    cursor: int | None = None,
    metrics: Mapping[str, float] | None = None,
    verdict: str | None = None,
) -> bool:
    """Extends the lease and tells what is known by now; False when somebody else has taken over or it was cancelled."""
    touched = await uow.execute(
        "UPDATE operation SET lease_until = now() + :lease, progress = coalesce(CAST(:progress AS float8), progress),"
        " version = coalesce(CAST(:version AS integer), version),"
        " persons_scored = coalesce(CAST(:scored AS bigint), persons_scored),"
        " cursor = coalesce(CAST(:cursor AS bigint), cursor), metrics = coalesce(CAST(:metrics AS jsonb), metrics),"
        " verdict = coalesce(CAST(:verdict AS text), verdict)"
        " WHERE operation_id = :id AND owner = :owner AND state = 'RUNNING'",
        id=operation_id,
        owner=owner,
        lease=timedelta(seconds=lease_s),
        progress=progress,
        version=version,
        scored=persons_scored,
        cursor=cursor,
        metrics=None if metrics is None else orjson.dumps(metrics).decode(),
        verdict=verdict,
    )
    return touched == 1


async def finish(uow: UnitOfWork, operation_id: int, owner: str, state: State, reason: str = "", detail: str = "") -> None:
    """Ends an operation that this owner still has."""
    await uow.execute(
        "UPDATE operation SET state = :state, reason = :reason, detail = :detail, ended_at = now(),"
        " progress = CASE WHEN CAST(:state AS text) = 'SUCCEEDED' THEN 1 ELSE progress END"
        " WHERE operation_id = :id AND owner = :owner AND state = 'RUNNING'",
        id=operation_id,
        owner=owner,
        state=state.value,
        reason=reason,
        detail=detail,
    )


async def cancel(uow: UnitOfWork, operation_id: int) -> None:
    """Ends an operation whoever has it; its worker notices at its next step. One that has ended stays as it is."""
    await uow.execute(
        "UPDATE operation SET state = 'CANCELLED', ended_at = now() WHERE operation_id = :id AND state = 'RUNNING'",
        id=operation_id,
    )


async def give_back(uow: UnitOfWork, operation_id: int, owner: str, wait_s: float, forgive: bool) -> None:
    """Lets anybody take it after a while; `forgive` does not count the attempt: the world failed, or its time has not come."""
    await uow.execute(
        "UPDATE operation SET lease_until = now() + :wait, owner = '', attempts = attempts - CAST(:forgiven AS integer)"
        " WHERE operation_id = :id AND owner = :owner AND state = 'RUNNING'",
        id=operation_id,
        owner=owner,
        wait=timedelta(seconds=wait_s),
        forgiven=int(forgive),
    )
