"""What both versions of a trial said of persons, in PostgreSQL, until it is judged."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from chassis.db import UnitOfWork
from services.scoring.domain import Floats
from services.scoring.frame import Ids

# The first word counts: a person is foretold once. Erased persons are not.
ADD = """
INSERT INTO trial_score (operation_id, person_id, champion, challenger, scored_at)
SELECT CAST(:number AS bigint), g.person_id, g.champion, g.challenger, CAST(:at AS timestamptz)
FROM unnest(CAST(:ids AS bigint[]), CAST(:champion AS float8[]), CAST(:challenger AS float8[]))
  AS g(person_id, champion, challenger)
WHERE NOT EXISTS (SELECT FROM erased_person e WHERE e.person_id = g.person_id)
ORDER BY g.person_id ON CONFLICT DO NOTHING
"""


async def add(uow: UnitOfWork, operation_id: int, persons: Ids, champion: Floats, challenger: Floats, at: datetime) -> int:
    """Keeps what was said of persons; returns of how many nothing had been said before."""
    # As in store.write_scores: an erasure comes before or after us, never beside us.
    await uow.rows("SELECT pg_advisory_xact_lock_shared(hashtext('scoring erasure'))")
    return await uow.execute(
        ADD,
        number=operation_id,
        ids=persons.tolist(),
        champion=champion.tolist(),
        challenger=challenger.tolist(),
        at=at,
    )


async def persons(uow: UnitOfWork, operation_id: int) -> Ids:
    """Of whom something was said, ascending."""
    rows = await uow.fetch("SELECT person_id FROM trial_score WHERE operation_id = $1 ORDER BY person_id", operation_id)
    return np.array([row[0] for row in rows], np.int64)


async def said(uow: UnitOfWork, operation_id: int) -> tuple[Ids, Floats, Floats]:
    """(persons, the champion's probabilities, the challenger's)."""
    rows = await uow.fetch(
        "SELECT person_id, champion, challenger FROM trial_score WHERE operation_id = $1 ORDER BY person_id", operation_id
    )
    ids, champion, challenger = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(ids, np.int64), np.array(champion, np.float64), np.array(challenger, np.float64)


async def forget(uow: UnitOfWork, operation_id: int) -> None:
    """Deletes what was said in one trial."""
    await uow.execute("DELETE FROM trial_score WHERE operation_id = :number", number=operation_id)


async def forget_ended(uow: UnitOfWork) -> None:
    """Deletes what was said in trials that ended without a verdict."""
    await uow.execute(
        "DELETE FROM trial_score t USING operation o WHERE o.operation_id = t.operation_id AND o.state <> 'RUNNING'"
    )
