"""Models, scores and persons to look at again, in PostgreSQL. Every statement is set-based and has a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from chassis.db import UnitOfWork
from services.scoring.artefact import Seal
from services.scoring.domain import PersonScore

# A millionth of a point: less is noise of the arithmetic, not a change.
SCORE_STEP = 1e-6

# Newest wins, and what is returned are the persons whose score is another one than before. The rows are locked first,
# in the order of ids, so that replicas neither deadlock nor compare with a score that is just being replaced. Erased persons
# get none.
WRITE_SCORES = """
WITH given AS (
  SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:scores AS float8[]), CAST(:probabilities AS float8[]))
    AS g(person_id, score, probability) WHERE NOT EXISTS (SELECT FROM erased_person e WHERE e.person_id = g.person_id)
), before AS MATERIALIZED (
  SELECT person_id, score FROM score WHERE model = :model AND person_id = ANY(CAST(:ids AS bigint[]))
  ORDER BY person_id FOR UPDATE
), written AS (
  INSERT INTO score AS s (model, person_id, score, probability, version, scored_at)
  SELECT :model, g.person_id, g.score, g.probability, CAST(:version AS integer), CAST(:scored_at AS timestamptz)
  FROM given g LEFT JOIN before b USING (person_id) ORDER BY g.person_id
  ON CONFLICT (model, person_id) DO UPDATE SET score = excluded.score, probability = excluded.probability,
    version = excluded.version, scored_at = excluded.scored_at
  WHERE (s.version, s.scored_at) < (excluded.version, excluded.scored_at)
  RETURNING person_id, score
)
SELECT w.person_id FROM written w LEFT JOIN before b USING (person_id)
WHERE b.score IS NULL OR abs(b.score - w.score) > :step
"""

# The scores of persons, by the primary key.
READ_SCORES = "SELECT person_id, score, probability FROM score WHERE model = :model AND person_id = ANY(CAST(:ids AS bigint[]))"

# Persons whose turn has come, taken from the queue; another replica takes others.
TAKE_DUE = """
DELETE FROM rescore WHERE (model, person_id) IN (
  SELECT model, person_id FROM rescore WHERE due_at <= now() ORDER BY due_at LIMIT :n FOR UPDATE SKIP LOCKED
) RETURNING model, person_id
"""


@dataclass(frozen=True)
class StoredModel:
    """A model version as it is kept."""

    model: str
    version: int
    card: dict[str, Any]
    artefact: bytes
    seal: Seal
    created_at: datetime


async def versions_in_use(uow: UnitOfWork) -> dict[str, int]:
    """The version in use of each model."""
    return {row.model: row.version for row in await uow.rows("SELECT model, version FROM model WHERE in_use")}


async def read_model(uow: UnitOfWork, model: str) -> StoredModel | None:
    """The version in use with its artefact, None when there is none yet."""
    rows = await uow.rows(
        "SELECT model, version, card, format, artefact, sha256, signature, created_at FROM model"
        " WHERE model = :model AND in_use",
        model=model,
    )
    for r in rows:
        return StoredModel(
            r.model, r.version, r.card, bytes(r.artefact), Seal(r.format, r.sha256, bytes(r.signature)), r.created_at
        )
    return None


async def next_version(uow: UnitOfWork, model: str) -> int:
    """The version after the newest; the model is locked against others who ask until this transaction ends."""
    await uow.rows("SELECT pg_advisory_xact_lock(hashtext('model ' || :model))", model=model)
    rows = await uow.rows("SELECT coalesce(max(version), 0) + 1 AS version FROM model WHERE model = :model", model=model)
    return int(rows[0].version)


async def put_in_use(uow: UnitOfWork, model: str, version: int, *, card: dict[str, Any], artefact: bytes, seal: Seal) -> None:
    """Stores a version and makes it the one in use."""
    await uow.execute("UPDATE model SET in_use = false WHERE model = :model AND in_use", model=model)
    await uow.execute(
        "INSERT INTO model (model, version, in_use, card, format, artefact, sha256, signature)"
        " VALUES (:model, :version, true, CAST(:card AS jsonb), :format, :artefact, :sha256, :signature)",
        model=model,
        version=version,
        card=orjson.dumps(card).decode(),
        format=seal.format,
        artefact=artefact,
        sha256=seal.sha256,
        signature=seal.signature,
    )


async def write_scores(
    uow: UnitOfWork, model: str, version: int, scores: Sequence[PersonScore], scored_at: datetime
) -> list[PersonScore]:
    """Writes scores of distinct persons, newest (version, time) wins; returns those that changed."""
    # Shared by all who score, alone for an erasure: whoever comes second sees what the first one did.
    await uow.rows("SELECT pg_advisory_xact_lock_shared(hashtext('scoring erasure'))")
    rows = await uow.rows(
        WRITE_SCORES,
        model=model,
        version=version,
        scored_at=scored_at,
        step=SCORE_STEP,
        ids=[s.person_id for s in scores],
        scores=[s.score for s in scores],
        probabilities=[s.probability for s in scores],
    )
    changed = {row.person_id for row in rows}
    return [s for s in scores if s.person_id in changed]


async def read_scores(uow: UnitOfWork, model: str, person_ids: Sequence[int]) -> dict[int, tuple[float, float]]:
    """(score, probability) by person; persons without one are absent."""
    rows = await uow.rows(READ_SCORES, model=model, ids=list(person_ids))
    return {row.person_id: (row.score, row.probability) for row in rows}


async def look_again(uow: UnitOfWork, model: str, person_ids: Sequence[int], delay_s: float) -> None:
    """Puts persons into the queue of those to be scored once more, `delay_s` from now; not the erased ones."""
    await uow.execute(
        "INSERT INTO rescore (model, person_id, due_at)"
        " SELECT :model, p, now() + make_interval(secs => :delay) FROM unnest(CAST(:ids AS bigint[])) AS p"
        " WHERE NOT EXISTS (SELECT FROM erased_person e WHERE e.person_id = p) ORDER BY p"
        " ON CONFLICT (model, person_id) DO UPDATE SET due_at = excluded.due_at",
        model=model,
        ids=list(person_ids),
        delay=delay_s,
    )


async def take_due(uow: UnitOfWork, limit: int) -> dict[str, list[int]]:
    """Takes due persons from the queue, by model; they are back when the transaction fails."""
    taken: dict[str, list[int]] = {}
    for row in await uow.rows(TAKE_DUE, n=limit):
        taken.setdefault(row.model, []).append(row.person_id)
    return taken


async def erase(uow: UnitOfWork, person_ids: Sequence[int]) -> None:
    """Deletes what is kept of persons and keeps them from being scored again."""
    await uow.rows("SELECT pg_advisory_xact_lock(hashtext('scoring erasure'))")
    ids = sorted(set(person_ids))
    await uow.execute(
        "INSERT INTO erased_person (person_id) SELECT unnest(CAST(:ids AS bigint[])) ON CONFLICT DO NOTHING", ids=ids
    )
    for table in ("score", "rescore"):
        await uow.execute(f"DELETE FROM {table} WHERE person_id = ANY(CAST(:ids AS bigint[]))", ids=ids)  # noqa: S608
