"""Tags and audiences as they were: the lake's events up to a moment, under the owners that their anchors have at present.

That is DESIGN's promise 2 for the past, too: after an unmerge the past of both sides is as if they had never been merged. Of
scores the newest is kept, so it is there from its own moment on; of imported values those that partners dated so early.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import numpy as np
import orjson
import pyarrow as pa

from chassis.db import Database, UnitOfWork
from services.tags.domain.catalogue import Catalogue, FromImport, FromScore, Kind, Value
from services.tags.domain.imported import Imported
from services.tags.domain.terms import Term
from services.tags.lake import sql
from services.tags.lake.dialects import DUCKDB
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
_IMPORTS: Final = (
    "SELECT a.entity_id, f.key, CAST(f.value AS text) FROM anchor a CROSS JOIN LATERAL json_each(a.facts) AS f(key, value)"
    " WHERE a.entity_kind = $1 AND f.key = ANY($2)"
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

    async def tags(self, kind: Kind, at_us: int, tags: Sequence[str], among: Term | None = None) -> pa.Table:
        """entity_id and a column per tag, ascending, of every entity there was (`among`: that made this predicate true)."""
        return await self._run(sql.tags_query(DUCKDB, self._catalogue, kind, at_us, tags, given=True, among=among), at_us)

    async def audience(self, kind: Kind, term: Term, at_us: int) -> list[int]:
        """Ids of those for which a predicate was true, ascending."""
        table = await self._run(sql.audience_query(DUCKDB, self._catalogue, kind, term, at_us, given=True), at_us)
        ids: list[int] = table.column("entity_id").to_pylist()
        return ids

    async def _run(self, query: Query, at_us: int) -> pa.Table:
        async with self._one:
            async with self._database.read() as uow:
                view = await view_of(uow, self._catalogue, query.given, at_us)
            return await asyncio.to_thread(self._answer, view, query, at_us)

    def _answer(self, view: View, query: Query, at_us: int) -> pa.Table:
        with duckdb_engine(self._memory_mb) as engine:
            view.register(engine)
            for attempt in range(_TRIES):
                try:
                    engine.read(self._lake, 0, at_us + 1)
                    return engine.fetch(query.text)
                except (FileNotFoundError, duckdb.Error):
                    # What our listing named was tidied up or expired while we read; the next listing does not name it.
                    if attempt + 1 == _TRIES:
                        raise
        raise AssertionError("the last attempt returns or raises")


async def view_of(uow: UnitOfWork, catalogue: Catalogue, tags: Collection[tuple[Kind, str]], at_us: int) -> View:
    """The present view, of one snapshot, with what was given of some tags at a moment."""
    pieces: list[bytes] = []

    async def keep(piece: bytes) -> None:
        pieces.append(piece)

    await uow.copy_out("SELECT anchor_id, entity_id, entity_kind FROM anchor", keep)
    whole = b"".join(pieces)
    rows = np.frombuffer(whole, _OWNER, (len(whole) - _HEADER_BYTES) // _OWNER.itemsize, _HEADER_BYTES)
    owners = pa.table([pa.array(rows[f.name].astype(f.type.to_pandas_dtype())) for f in OWNERS], schema=OWNERS)
    related = await uow.fetch(_RELATIONS)
    given = [*await _scores(uow, catalogue, tags), *await _imports(uow, catalogue, tags, at_us)]
    return View(owners, _table(related, RELATIONS), _table(given, GIVEN))


Given = tuple[int, int, str, float | None, str | None, bool | None, list[str] | None, int]


async def _scores(uow: UnitOfWork, catalogue: Catalogue, tags: Collection[tuple[Kind, str]]) -> list[Given]:
    known = catalogue.of(Kind.PERSON)
    names = [name for kind, name in tags if kind is Kind.PERSON and isinstance(known[name].origin, FromScore)]
    rows = await uow.fetch(_SCORES, names) if names else []
    scores = [(person, tag, orjson.loads(text)) for person, tag, text in rows]
    return [_given(Kind.PERSON, person, tag, score[0], int(score[1])) for person, tag, score in scores if score[0] is not None]


async def _imports(uow: UnitOfWork, catalogue: Catalogue, tags: Collection[tuple[Kind, str]], at_us: int) -> list[Given]:
    """What partners had said by then, with what counted among it."""
    found: list[Given] = []
    for kind in {kind for kind, _ in tags}:
        known = catalogue.of(kind)
        rules = {n: Imported.of(d.origin) for n, d in known.items() if isinstance(d.origin, FromImport) and (kind, n) in tags}
        facts: dict[tuple[int, str], list[list[Any]]] = defaultdict(list)
        for entity, tag, text in await uow.fetch(_IMPORTS, int(kind), list(rules)) if rules else []:
            said, *rest = orjson.loads(text)
            then = {key: one for key, one in said.items() if one[1] <= at_us}
            if then:
                facts[entity, tag].append([then, *rest])
        for (entity, tag), having in facts.items():
            if (value := rules[tag].value(having, at_us)) is not None:
                found.append(_given(kind, entity, tag, value, at_us))
    return found


def _given(kind: Kind, entity: int, tag: str, value: Value, at_us: int) -> Given:
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    word, words = value if isinstance(value, str) else None, value if isinstance(value, list) else None
    return int(kind), entity, tag, number, word, value if isinstance(value, bool) else None, words, at_us


def _table(rows: Sequence[Any], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
