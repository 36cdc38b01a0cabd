"""Compaction: the many files of a day that is over become few, sorted by anchor over the whole day.

All new parts are written aside; while nobody else writes, it is made sure that what they were made of is still what the day
consists of, and they are renamed into place. Killed before the last rename the day is as before, killed after it the day is
compacted. Files that were in use are deleted a while later by `tidied`.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from services.tags.lake import files, layout
from services.tags.lake.layout import Day, Part
from services.tags.lake.reading import Lake
from services.tags.lake.rows import SCHEMA, conformed, last_key, repeated
from services.tags.lake.storage import STAGING, File, Staged

ROWS_PER_PART: Final = 4_000_000
# What a run left that was killed while writing; no run takes so long.
_STAGED_NS: Final = 86_400 * 1_000_000_000
# When late events make a compacted day worth the work again.
_MANY_BLOCKS: Final = 32
_SHARE: Final = 8


@dataclass(frozen=True)
class Prepared:
    """A day's new parts, written aside, and what they were made of."""

    day: date
    inputs: tuple[File, ...]
    staged: tuple[Staged, ...]
    rows: int


def is_due(day: Day) -> bool:
    """Whether there is enough to gain: a day with blocks that never was compacted, or that many or large ones came to since."""
    if not day.blocks:
        return False
    late, done = sum(file.size for file in day.blocks), sum(file.size for _, file in day.parts)
    return not day.parts or len(day.blocks) >= _MANY_BLOCKS or late * _SHARE >= done


def prepare(lake: Lake, day: Day, stack: ExitStack, memory_mb: int = 512, rows_per_part: int = ROWS_PER_PART) -> Prepared:
    """Sorts a day's rows into new parts. Only one may do so at a time; what an earlier run did not finish is deleted.

    Closing the stack forgets what was not published.
    """
    lake.storage.delete(file.path for file in day.unfinished)
    inputs = day.live
    total = sum(_row_count(lake, file) for file in inputs)
    parts = max(1, math.ceil(total / rows_per_part))
    rows = _Sorted(lake, inputs, memory_mb, stack)
    staged = []
    for number in range(1, parts + 1):
        path = Part(day.generation + 1, _digest(inputs), number, parts).path(day.day)
        each = stack.enter_context(lake.storage.stage(path))
        files.write(each.sink, rows.take(rows_per_part if number < parts else total))
        each.finish()
        staged.append(each)
    return Prepared(day.day, inputs, tuple(staged), rows.count)


def sorted_out(lake: Lake, late: tuple[File, ...], stack: ExitStack, memory_mb: int) -> Iterator[tuple[date, pa.Table]]:
    """What is late, by the day that it belongs to; a day of very many rows comes in pieces."""
    reader = _ordered(lake, late, "occurred_us", memory_mb, stack)
    held: list[pa.Table] = []
    size, of = 0, -1
    for batch in reader:
        table = conformed(pa.Table.from_batches([batch]))
        days = table.column("occurred_us").to_numpy() // layout.DAY_US
        starts = np.flatnonzero(np.r_[True, days[1:] != days[:-1]])
        for start, end in zip(starts, [*starts[1:], len(table)], strict=True):
            if held and (days[start] != of or size > files.ROWS_PER_GROUP):
                yield layout.day_of(of * layout.DAY_US), pa.concat_tables(held)
                held, size = [], 0
            of = int(days[start])
            held.append(table.slice(start, end - start))
            size += int(end - start)
    if held:
        yield layout.day_of(of * layout.DAY_US), pa.concat_tables(held)


def prepare_emptied(lake: Lake, late: Day, stack: ExitStack) -> Staged:
    """An empty part to stand for all that is late, when it is in its days."""
    lake.storage.delete(file.path for file in late.unfinished)
    staged = stack.enter_context(lake.storage.stage(Part(late.generation + 1, _digest(late.live), 1, 1).path(late.day)))
    files.write(staged.sink, [SCHEMA.empty_table()])
    staged.finish()
    return staged


def commit(lake: Lake, prepared: Prepared) -> bool:
    """Puts the parts in place while nobody else writes; False when the day has changed since they were begun."""
    if lake.day(prepared.day).live != prepared.inputs:
        return False
    for staged in prepared.staged:
        staged.publish()
    return True


def tidied(lake: Lake, day: Day, grace_s: float) -> int:
    """Deletes what others stand for since longer than `grace_s`: until then a reader may have it open. How many files."""
    edge = time.time_ns() - int(grace_s * 1e9)
    gone = [old.file.path for old in day.superseded if old.since_ns <= edge]
    lake.storage.delete(gone)
    return len(gone)


def swept(lake: Lake) -> int:
    """Deletes what killed runs left aside long ago. How many files."""
    edge = time.time_ns() - _STAGED_NS
    left = [file.path for file in lake.storage.below(STAGING) if file.changed_ns < edge]
    lake.storage.delete(left)
    return len(left)


def expired(lake: Lake, keep_days: int) -> list[date]:
    """Deletes the days that are older than so many; 0 keeps all."""
    if keep_days <= 0:
        return []
    edge = date.fromordinal(layout.today().toordinal() - keep_days)
    gone = [day for day in lake.days() if day < edge]
    for day in gone:
        lake.storage.delete(file.path for file in lake.storage.below(layout.folder_of(day)))
    return gone


def _digest(inputs: tuple[File, ...]) -> str:
    return hashlib.sha256(repr([(f.path, f.size, f.changed_ns) for f in inputs]).encode()).hexdigest()[:8]


def _ordered(lake: Lake, inputs: tuple[File, ...], order: str, memory_mb: int, stack: ExitStack) -> pa.RecordBatchReader:
    """All rows of some files in an order; DuckDB spills what memory does not hold."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="troika-lake-"))
    settings: dict[str, Any] = {
        "memory_limit": f"{memory_mb}MB",
        "temp_directory": str(Path(folder) / "spill"),
        "threads": 1,
    }
    connection = stack.enter_context(duckdb.connect(":memory:", config=settings))
    connection.register("day", lake.dataset_of(inputs))
    return connection.table("day").order(order).to_arrow_reader(files.ROWS_PER_GROUP)


def _row_count(lake: Lake, file: File) -> int:
    with lake.storage.files.open_input_file(file.path) as source:
        return int(pq.ParquetFile(source).metadata.num_rows)


class _Sorted:
    """All rows of some files in the order of a file, each event of a kind once."""

    def __init__(self, lake: Lake, inputs: tuple[File, ...], memory_mb: int, stack: ExitStack) -> None:
        order = "entity_kind, anchor_id, occurred_us, tie, event_id, received_us, sequence"
        self._batches = self._unique(_ordered(lake, inputs, order, memory_mb, stack))
        self._left: pa.Table | None = None
        self.count = 0

    def _unique(self, reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
        last: tuple[Any, ...] | None = None
        for batch in reader:
            if not len(batch):
                continue
            table = conformed(pa.Table.from_batches([batch]))
            repeats = repeated(table, last)
            last = last_key(table)
            yield table.filter(pa.array(~repeats)) if repeats.any() else table

    def take(self, most: int) -> Iterator[pa.Table]:
        """The next rows, at most so many, as row groups."""
        held: list[pa.Table] = []
        size = 0
        while size < most and (table := self._next()) is not None:
            if size + len(table) > most:
                self._left = table.slice(most - size)
                table = table.slice(0, most - size)
            size += len(table)
            held.append(table)
            if sum(map(len, held)) >= files.ROWS_PER_GROUP:
                yield pa.concat_tables(held).combine_chunks()
                held = []
        self.count += size
        yield pa.concat_tables(held).combine_chunks() if held else SCHEMA.empty_table()

    def _next(self) -> pa.Table | None:
        table, self._left = self._left, None
        return table if table is not None else next(self._batches, None)
