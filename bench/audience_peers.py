"""Peers for audiences, each with the same 200 tags of the same persons, asked the same questions on the same two cores.

DuckDB and polars hold a column of booleans per tag, chDB a bitmap state per tag, PostgreSQL an array per person under a GIN
index.
Each is asked warm, in its own process (PostgreSQL) or in this one.
"""

from __future__ import annotations

import importlib
import os
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import duckdb
import numpy as np
import pyarrow as pa

from bench.audience_base import AUDIENCE, TAGS, Base, name
from bench.progress import say

Triple = tuple[int, int, int]
_ROWS = 1_000_000


def p50(ask: Callable[[], Any], turns: int) -> float:
    """Median milliseconds of a question, asked once before."""
    ask()
    took = []
    for _ in range(turns):
        begin = time.perf_counter()
        ask()
        took.append(time.perf_counter() - begin)
    return round(statistics.median(took) * 1000, 3)


def counts_ms(count: Callable[[Triple], int], triples: Sequence[Triple], expected: Sequence[int]) -> float:
    """Median milliseconds of a three-term count; raises when a peer counts otherwise than we do."""
    took = []
    count(triples[0])
    for triple, right in zip(triples, expected, strict=True):
        begin = time.perf_counter()
        found = count(triple)
        took.append(time.perf_counter() - begin)
        if found != right:
            raise AssertionError(f"{count.__qualname__}: {found} instead of {right} of {triple}")
    return round(statistics.median(took) * 1000, 3)


def _table(base: Base, start: int, count: int) -> pa.Table:
    """Rows from an id on (a multiple of eight): packed bits are what Arrow has, too."""
    columns = [
        pa.Array.from_buffers(pa.bool_(), count, [None, pa.py_buffer(np.ascontiguousarray(bits[start // 8 :]))])
        for bits in base.bits
    ]
    return pa.table(columns, names=[name(tag) for tag in range(TAGS)])


def in_duckdb(base: Base, triples: Sequence[Triple], expected: Sequence[int]) -> dict[str, Any]:
    """Columns of booleans, on all cores."""
    connection = duckdb.connect(config={"threads": len(os.sched_getaffinity(0))})
    for start in range(0, base.persons + 1, _ROWS):
        rows = _table(base, start, min(_ROWS, base.persons + 1 - start))  # noqa: F841  # DuckDB finds it by name
        connection.execute("INSERT INTO person SELECT * FROM rows" if start else "CREATE TABLE person AS SELECT * FROM rows")

    def count(triple: Triple) -> int:
        where = " AND ".join(map(name, triple))
        return int(connection.execute(f"SELECT count(*) FROM person WHERE {where}").fetchall()[0][0])  # noqa: S608

    sums = ", ".join(f"sum({name(tag)}::UTINYINT)" for tag in range(TAGS))
    return {
        "version": duckdb.__version__,
        "count_p50_ms": counts_ms(count, triples, expected),
        "overlap_p50_ms": p50(lambda: connection.execute(f"SELECT {sums} FROM person WHERE {name(AUDIENCE)}").fetchall(), 3),  # noqa: S608
    }


def in_polars(base: Base, triples: Sequence[Triple], expected: Sequence[int]) -> dict[str, Any]:
    """Columns of booleans, on all cores."""
    polars = importlib.import_module("polars")
    frame = polars.from_arrow(_table(base, 0, base.persons + 1))

    def count(triple: Triple) -> int:
        a, b, c = (polars.col(name(tag)) for tag in triple)
        return int(frame.select((a & b & c).sum()).item())

    def overlap() -> Any:
        return frame.select(
            [(polars.col(name(tag)) & polars.col(name(AUDIENCE))).sum().alias(f"o{tag}") for tag in range(TAGS)]
        )

    return {
        "version": polars.__version__,
        "count_p50_ms": counts_ms(count, triples, expected),
        "overlap_p50_ms": p50(overlap, 3),
    }


def in_chdb(base: Base, triples: Sequence[Triple], expected: Sequence[int], folder: Path) -> dict[str, Any]:
    """A bitmap state per tag in memory."""
    chdb = importlib.import_module("chdb")
    session = importlib.import_module("chdb.session").Session(str(folder / "chdb"))
    session.query("CREATE DATABASE IF NOT EXISTS b ENGINE = Atomic")
    session.query("CREATE TABLE b.m (tag UInt16, ids AggregateFunction(groupBitmap, UInt32)) ENGINE = Memory")
    for tag in range(TAGS):
        ids = folder / "ids.bin"
        np.asarray(base.yes(tag).to_array(), np.uint32).tofile(ids)
        session.query(
            f"INSERT INTO b.m SELECT {tag}, groupBitmapState(id) FROM file('{ids}', 'RowBinary', 'id UInt32')"  # noqa: S608
        )

    def one(tag: int) -> str:
        return f"(SELECT ids FROM b.m WHERE tag = {tag})"  # noqa: S608

    def ask(query: str) -> list[int]:
        return [int(line) for line in str(session.query(query, "TSV")).split()]

    def count(triple: Triple) -> int:
        a, b, c = map(one, triple)
        return ask(f"SELECT bitmapAndCardinality(bitmapAnd({a}, {b}), {c})")[0]

    try:
        return {
            "version": chdb.__version__,
            "count_p50_ms": counts_ms(count, triples, expected),
            "overlap_p50_ms": p50(lambda: ask(f"SELECT bitmapAndCardinality(ids, {one(AUDIENCE)}) FROM b.m"), 3),  # noqa: S608
        }
    finally:
        session.close()


async def _lines(base: Base, start: int, count: int) -> AsyncIterator[bytes]:
    """Rows as COPY's text."""
    columns = [np.unpackbits(bits[start // 8 : (start + count + 7) // 8], count=count, bitorder="little") for bits in base.bits]
    rows, tags = np.nonzero(np.stack(columns, axis=1))
    words = [str(tag) for tag in range(TAGS)]
    written, ends = [words[tag] for tag in tags.tolist()], np.searchsorted(rows, np.arange(1, count + 1)).tolist()
    begin, lines = 0, []
    for row, end in enumerate(ends, start):
        lines.append(f"{row}\t{{{','.join(written[begin:end])}}}\n")
        begin = end
    for low in range(0, len(lines), 10_000):
        yield "".join(lines[low : low + 10_000]).encode()


async def in_postgres(base: Base, triples: Sequence[Triple], expected: Sequence[int], dsn: str) -> dict[str, Any]:
    """An array of tags per person under a GIN index."""
    connection = await asyncpg.connect(dsn.replace("+asyncpg", ""), timeout=60)
    try:
        await connection.execute("CREATE TABLE person (id int, tags int[]); SET maintenance_work_mem = '1GB'")
        for start in range(0, base.persons + 1, _ROWS):
            count = min(_ROWS, base.persons + 1 - start)
            await connection.copy_to_table("person", source=_lines(base, start, count), format="text")
        say("GIN index")
        await connection.execute("CREATE INDEX ON person USING gin (tags)")
        await connection.execute("VACUUM ANALYZE person")
        took, right = [], []
        for triple in triples:
            begin = time.perf_counter()
            found = await connection.fetchval("SELECT count(*) FROM person WHERE tags @> $1::int[]", list(triple))
            took.append(time.perf_counter() - begin)
            right.append(found)
        if right != list(expected):
            raise AssertionError("PostgreSQL counts otherwise")
        return {
            "version": (await connection.fetchval("SHOW server_version")).split()[0],
            "count_p50_ms": round(statistics.median(took) * 1000, 3),
        }
    finally:
        await connection.close()
