"""Models, scores and persons to look at again, in PostgreSQL. Every statement is set-based and has a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import orjson

from chassis.db import Database, Reader, UnitOfWork
from services.scoring import operations
from services.scoring.artefact import FORMAT, Seal
from services.scoring.domain import Floats, PersonScore
from services.scoring.frame import Ids
from services.scoring.operations import Kind, Operation

# A millionth of a point: less is noise of the arithmetic, not a change.
SCORE_STEP = 1e-6

# Newest wins, and what is returned are the persons whose score is another one than before. A version that is in use replaces
# what another one said, whenever that was. The rows are locked first,
# in the order of ids, so that replicas neither deadlock nor compare with a score that is just being replaced. Erased persons
# get none.
WRITE_SCORES = """
WITH given AS (
  SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:scores AS float8[]), CAST(:probabilities AS float8[]),
    CAST(:labels AS text[])) AS g(person_id, score, probability, label)
  WHERE NOT EXISTS (SELECT FROM erased_person e WHERE e.person_id = g.person_id)
), before AS MATERIALIZED (
  SELECT person_id, score, label FROM score WHERE model = :model AND person_id = ANY(CAST(:ids AS bigint[]))
  ORDER BY person_id FOR UPDATE
), written AS (
  INSERT INTO score AS s (model, person_id, score, probability, label, version, scored_at)
  SELECT :model, g.person_id, g.score, g.probability, g.label, CAST(:version AS integer), CAST(:scored_at AS timestamptz)
  FROM given g LEFT JOIN before b USING (person_id) ORDER BY g.person_id
  ON CONFLICT (model, person_id) DO UPDATE SET score = excluded.score, probability = excluded.probability,
    label = excluded.label, version = excluded.version, scored_at = excluded.scored_at
  WHERE s.version <> excluded.version OR s.scored_at < excluded.scored_at
  RETURNING person_id, score, label
)
SELECT w.person_id FROM written w LEFT JOIN before b USING (person_id)
WHERE b.score IS NULL OR abs(b.score - w.score) > :step OR b.label <> w.label
"""

# The version in use, and the scores of persons by the primary key.
READ_SCORES = """
SELECT m.version, s.person_id, s.score, s.probability, s.label
FROM (SELECT max(version) AS version FROM model WHERE model = $1 AND in_use) AS m
LEFT JOIN score s ON s.model = $1 AND s.person_id = ANY($2::bigint[])
"""

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
    in_use: bool
    card: dict[str, Any]
    artefact: bytes
    seal: Seal
    created_at: datetime


async def versions_in_use(uow: UnitOfWork, format_: str = FORMAT) -> dict[str, int]:
    """The version in use of each model whose artefacts are of this format; persons are scored by those of the usual one."""
    rows = await uow.rows("SELECT model, version FROM model WHERE in_use AND format = :format", format=format_)
    return {row.model: row.version for row in rows}


_MODEL = "model, version, in_use, card, format, artefact, sha256, signature, created_at"


async def read_model(uow: UnitOfWork, model: str, version: int = 0) -> StoredModel | None:
    """A version with its artefact (0: the one in use), None when there is none."""
    rows = await uow.rows(
        f"SELECT {_MODEL} FROM model WHERE model = :model AND CASE WHEN :version = 0 THEN in_use ELSE version = :version END",  # noqa: S608
        model=model,
        version=version,
    )
    return _stored(rows[0]) if rows else None


async def versions(uow: UnitOfWork, model: str, limit: int) -> list[StoredModel]:
    """The newest versions of a model, without their artefacts."""
    rows = await uow.rows(
        f"SELECT {_MODEL.replace('artefact', 'CAST(NULL AS bytea) AS artefact')} FROM model"  # noqa: S608
        " WHERE model = :model ORDER BY version DESC LIMIT :limit",
        model=model,
        limit=limit,
    )
    return [_stored(row) for row in rows]


def _stored(row: Any) -> StoredModel:
    seal = Seal(row.format, row.sha256, bytes(row.signature))
    return StoredModel(row.model, row.version, row.in_use, row.card, bytes(row.artefact or b""), seal, row.created_at)


async def lock_versions(uow: UnitOfWork, model: str) -> None:
    """Until this transaction ends nobody else stores a version of the model or puts one in use by promotion."""
    await uow.rows("SELECT pg_advisory_xact_lock(hashtext('model ' || :model))", model=model)


async def next_version(uow: UnitOfWork, model: str) -> int:
    """The version after the newest; the model is locked against others who ask until this transaction ends."""
    await lock_versions(uow, model)
    rows = await uow.rows("SELECT coalesce(max(version), 0) + 1 AS version FROM model WHERE model = :model", model=model)
    return int(rows[0].version)


async def add_version(
    uow: UnitOfWork, model: str, version: int, *, card: Mapping[str, Any], artefact: bytes, seal: Seal
) -> None:
    """Stores a version; it is not in use yet."""
    await uow.execute(
        "INSERT INTO model (model, version, in_use, card, format, artefact, sha256, signature)"
        " VALUES (:model, :version, false, CAST(:card AS jsonb), :format, :artefact, :sha256, :signature)",
        model=model,
        version=version,
        card=orjson.dumps(card).decode(),
        format=seal.format,
        artefact=artefact,
        sha256=seal.sha256,
        signature=seal.signature,
    )


async def put_in_use(uow: UnitOfWork, model: str, version: int) -> bool:
    """Makes a stored version the one in use; False when it is not stored."""
    await uow.execute(
        "UPDATE model SET in_use = false WHERE model = :model AND in_use AND version <> :version", model=model, version=version
    )
    return (
        await uow.execute(
            "UPDATE model SET in_use = true WHERE model = :model AND version = :version", model=model, version=version
        )
        == 1
    )


async def promote(uow: UnitOfWork, model: str, version: int) -> Operation | None:
    """Puts a version in use and starts scoring everybody with it; None when it is not stored."""
    # Nobody stores a version meanwhile.
    await lock_versions(uow, model)
    if not await put_in_use(uow, model, version):
        return None
    for at_work in await operations.running(uow, Kind.SCORE):
        if at_work.model == model:
            await operations.cancel(uow, at_work.operation_id)
    return await operations.start(uow, Kind.SCORE, model, {})


async def write_scores(
    uow: UnitOfWork, model: str, version: int, scores: Sequence[PersonScore], scored_at: datetime
) -> list[PersonScore]:
    """Writes scores of distinct persons, the newest wins; returns those that changed. A version out of use writes nothing."""
    # Shared by all who score, alone for an erasure: whoever comes second sees what the first one did.
    await uow.rows("SELECT pg_advisory_xact_lock_shared(hashtext('scoring erasure'))")
    # A promotion waits for us, or we see what it did.
    if not await uow.rows(
        "SELECT 1 FROM model WHERE model = :model AND version = :version AND in_use FOR SHARE", model=model, version=version
    ):
        return []
    rows = await uow.rows(
        WRITE_SCORES,
        model=model,
        version=version,
        scored_at=scored_at,
        step=SCORE_STEP,
        ids=[s.person_id for s in scores],
        scores=[s.score for s in scores],
        probabilities=[s.probability for s in scores],
        labels=[s.label for s in scores],
    )
    changed = {row.person_id for row in rows}
    return [s for s in scores if s.person_id in changed]


async def read_scores(reader: Reader, model: str, person_ids: Sequence[int]) -> tuple[int, dict[int, tuple[float, float, str]]]:
    """(version in use, (score, probability, label) by person); version 0: none is in use. Persons without one are absent."""
    rows = await reader.fetch(READ_SCORES, model, list(person_ids))
    return rows[0][0] or 0 if rows else 0, {
        person: (score, p, label) for _, person, score, p, label in rows if person is not None
    }


# A row of two 8-byte columns in PostgreSQL's binary COPY: the number of fields, then each with its length.
_PAIR = np.dtype([("fields", ">i2"), ("_1", ">i4"), ("person", ">i8"), ("_2", ">i4"), ("score", ">f8")])
_HEAD_BYTES, _TAIL_BYTES = 19, 2


async def all_scores(database: Database, model: str) -> tuple[int, Ids, Floats]:
    """(version in use, persons, scores) of a model, everybody; version 0: none is in use."""
    parts: list[bytes] = []

    async def sink(part: bytes) -> None:
        parts.append(part)

    async with database.read() as uow:
        version = (await versions_in_use(uow)).get(model, 0)
        # COPY takes no parameters; names of models are plain words (and checked by the door).
        if not model.isidentifier():
            raise ValueError(model)
        await uow.copy_out(f"SELECT person_id, score FROM score WHERE model = '{model}'", sink)  # noqa: S608
    rows = np.frombuffer(b"".join(parts)[_HEAD_BYTES:-_TAIL_BYTES], _PAIR)
    return version, rows["person"].astype(np.int64), rows["score"].astype(np.float64)


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
    for table in ("score", "rescore", "trial_score"):
        await uow.execute(f"DELETE FROM {table} WHERE person_id = ANY(CAST(:ids AS bigint[]))", ids=ids)  # noqa: S608


async def erased(uow: UnitOfWork, person_ids: Sequence[int]) -> set[int]:
    """Those of some persons that were erased."""
    if not person_ids:
        return set()
    rows = await uow.rows(
        "SELECT person_id FROM erased_person WHERE person_id = ANY(CAST(:ids AS bigint[]))", ids=list(person_ids)
    )
    return {row.person_id for row in rows}
