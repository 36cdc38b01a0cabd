"""Tags and audiences as they were: the lake's events up to a moment, under the owners that their anchors have at present.

That is DESIGN's promise 2 for the past, too: after an unmerge the past of both sides is as if they had never been merged. Of
scores the newest is known, so it is there from its own moment on; imported values are not events and have no past.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import numpy as np
import orjson
import pyarrow as pa

from chassis.db import Database, UnitOfWork
from services.tags.domain.catalogue import Catalogue, FromScore, Kind
from services.tags.domain.terms import Term
from services.tags.lake import sql
from services.tags.lake.dialects import Dialect
from services.tags.lake.engines import GIVEN, OWNERS, RELATIONS, Engine, duckdb_engine
from services.tags.lake.reading import Lake
from services.tags.lake.sql import Query

_TRIES: Final = 3
# https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format": signature, flags, length of an extension.
_HEADER_BYTES: Final = 19
_OWNER = np.dtype(
    [
        ("fields", ">i2"),
        ("anchor_bytes", ">i4"),
        ("anchor_id", ">i8"),
        ("entity_bytes", ">i4"),
        ("entity_id", ">i8"),
        ("kind_bytes", ">i4"),
        ("entity_kind", ">i2"),
    ]
)
# A person and a vehicle are related when sources say so of their anchors, until all that identity tells of it has ended; others
# while identity tells so. What nobody dates has always held.
_RELATIONS: Final = (
    "WITH told AS (SELECT t.*, bool_and(valid_to_us <> 0) OVER (PARTITION BY subject_kind, subject_id, object_kind, object_id,"
    " kind) AS ended FROM told_relation t WHERE NOT void)"
    " SELECT t.subject_kind, t.subject_id, t.object_kind, t.object_id, t.kind, t.valid_from_us, t.valid_to_us FROM told t"
    " JOIN entity_relation e USING (subject_kind, subject_id, object_kind, object_id, kind)"
    " WHERE NOT e.removed OR t.ended"
    " UNION ALL SELECT e.subject_kind, e.subject_id, e.object_kind, e.object_id, e.kind, 0, 0 FROM entity_relation e"
    " WHERE NOT e.removed AND NOT EXISTS (SELECT 1 FROM told t WHERE t.subject_kind = e.subject_kind"
    " AND t.subject_id = e.subject_id AND t.object_kind = e.object_kind AND t.object_id = e.object_id AND t.kind = e.kind)"
)
_SCORES: Final = (
    "SELECT e.entity_id, s.key, CAST(s.value AS text) FROM entity e CROSS JOIN LATERAL json_each(e.scores) AS s(key, value)"
    " WHERE e.entity_kind = 1 AND e.present AND s.key = ANY($1)"
)


@dataclass(frozen=True)
class View:
    """Who owns the anchors, who is related to whom since when, and what was given, at one moment of the database."""

    owners: pa.Table
    relations: pa.Table
    given: pa.Table

    def register(self, engine: Engine) -> None:
        """Names them for a query."""
        engine.register("owners", self.owners)
        engine.register("relations", self.relations)
        engine.register("given", self.given)


class AsOf:
    """Answers about the past, one query at a time: each takes the memory that the settings allow."""

    def __init__(self, database: Database, lake: Lake, catalogue: Catalogue, memory_mb: int) -> None:
        self._database, self._lake, self._catalogue, self._memory_mb = database, lake, catalogue, memory_mb
        self._one = asyncio.Semaphore(1)

    async def tags(self, kind: Kind, at_us: int, tags: Sequence[str]) -> pa.Table:
        """entity_id and a column per tag, ascending, of every entity there was."""
        return await self._run(lambda dialect: sql.tags_query(dialect, self._catalogue, kind, at_us, tags, given=True), at_us)

    async def audience(self, kind: Kind, term: Term, at_us: int) -> list[int]:
        """Ids of those for which a predicate was true, ascending."""
        table = await self._run(
            lambda dialect: sql.audience_query(dialect, self._catalogue, kind, term, at_us, given=True), at_us
        )
        ids: list[int] = table.column("entity_id").to_pylist()
        return ids

    async def _run(self, write: Callable[[Dialect], Query], at_us: int) -> pa.Table:
        async with self._one:
            async with self._database.read() as uow:
                view = await view_of(uow, self._catalogue)
            return await asyncio.to_thread(self._answer, view, write, at_us)

    def _answer(self, view: View, write: Callable[[Dialect], Query], at_us: int) -> pa.Table:
        with duckdb_engine(self._memory_mb) as engine:
            view.register(engine)
            query = write(engine.dialect)
            for attempt in range(_TRIES):
                try:
                    engine.read(self._lake, 0, at_us + 1)
                    return engine.fetch(query.text)
                except (FileNotFoundError, duckdb.Error):
                    # What our listing named was tidied up or expired while we read; the next listing does not name it.
                    if attempt + 1 == _TRIES:
                        raise
        raise AssertionError("the last attempt returns or raises")


async def view_of(uow: UnitOfWork, catalogue: Catalogue) -> View:
    """The present view, of one snapshot."""
    pieces: list[bytes] = []

    async def keep(piece: bytes) -> None:
        pieces.append(piece)

    await uow.copy_out("SELECT anchor_id, entity_id, entity_kind FROM anchor", keep)
    whole = b"".join(pieces)
    rows = np.frombuffer(whole, _OWNER, (len(whole) - _HEADER_BYTES) // _OWNER.itemsize, _HEADER_BYTES)
    owners = pa.table([pa.array(rows[f.name].astype(f.type.to_pandas_dtype())) for f in OWNERS], schema=OWNERS)
    related = await uow.fetch(_RELATIONS)
    models = [name for name, d in catalogue.of(Kind.PERSON).items() if isinstance(d.origin, FromScore)]
    scores = await uow.fetch(_SCORES, models) if models else []
    given = [(1, person, tag, *_number(orjson.loads(text))) for person, tag, text in scores]
    return View(owners, _table(related, RELATIONS), _table(given, GIVEN))


def _number(score: Sequence[Any]) -> tuple[float, None, None, int]:
    value, scored_at_us = score[0], score[1]
    return float(value), None, None, int(scored_at_us)


def _table(rows: Sequence[Any], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
