"""Reads the lake: as a dataset for engines, and the events of some anchors, newest first."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.dataset as ds

from services.tags.domain.catalogue import Kind
from services.tags.lake import files, layout
from services.tags.lake.layout import Day
from services.tags.lake.rows import SCHEMA
from services.tags.lake.storage import File, Storage

# Blocks that changed lately may do so again while they are read; they are taken into memory, whole, at one moment.
_SETTLED_NS: Final = 600 * 1_000_000_000
_FOREVER_US: Final = 2**62
_TRIES: Final = 5


@dataclass(frozen=True)
class LakeEvent:
    """One event about one anchor; times in microseconds since the epoch."""

    event_id: bytes
    kind: Kind
    anchor_id: int
    source: str
    event: str
    occurred_us: int
    received_us: int
    properties: dict[str, Any]


class Lake:
    """All rows below a storage. Any number may read while one writes."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def days(self, since_us: int = 0, until_us: int = _FOREVER_US) -> list[date]:
        """Days with folders that may hold events of [since, until), oldest first."""
        first, last = layout.day_of(since_us), layout.day_of(until_us - 1)
        found = [layout.day_in(name) for name in self.storage.folders(layout.ROWS)]
        return sorted(day for day in found if day is not None and first <= day <= last)

    def everywhere(self) -> list[date]:
        """What is late, and all days: every place that a row may be in."""
        return [layout.LATE, *self.days()]

    def _live(self, since_us: int, until_us: int) -> list[File]:
        # What is late first: what leaves it while we look is in its day by then.
        late = self.day(layout.LATE).live
        return [*late, *(file for day in self.days(since_us, until_us) for file in self.day(day).live)]

    def day(self, day: date) -> Day:
        """What makes up a day at this moment."""
        return layout.read_day(day, self.storage.below(layout.folder_of(day)))

    def dataset(self, since_us: int = 0, until_us: int = _FOREVER_US) -> ds.Dataset:
        """All rows of the days of [since, until), as they are now: what is compacted afterwards stays readable for a while.

        An event that was delivered twice may be there twice: who counts takes each (event_id, entity_kind) once. Raises
        FileNotFoundError when files are tidied up between listing and reading; try again then.
        """
        return self.dataset_of(self._live(since_us, until_us))

    def dataset_of(self, chosen: Iterable[File]) -> ds.Dataset:
        """The rows of some files."""
        settled, moving = self._parted(chosen)
        tables = [self._whole(file) for file in moving]
        memory = ds.InMemoryDataset(pa.concat_tables(tables) if tables else SCHEMA.empty_table())
        if not settled:
            return memory
        paths = [file.path for file in settled]
        on_disk = ds.FileSystemDataset.from_paths(
            paths, schema=SCHEMA, format=ds.ParquetFileFormat(), filesystem=self.storage.files
        )
        return ds.UnionDataset(SCHEMA, [on_disk, memory]) if tables else on_disk

    def _parted(self, chosen: Iterable[File]) -> tuple[list[File], list[File]]:
        edge = time.time_ns() - _SETTLED_NS
        settled: list[File] = []
        moving: list[File] = []
        for file in chosen:
            (moving if "/block-" in file.path and file.changed_ns > edge else settled).append(file)
        return settled, moving

    def _whole(self, file: File) -> pa.Table:
        table = files.read(self.storage, file.path)
        if table is None:
            raise FileNotFoundError(file.path)
        return table

    def paths_and_rest(self, since_us: int = 0, until_us: int = _FOREVER_US) -> tuple[list[str], pa.Table]:
        """For engines that read files themselves: full paths of files that stay as they are, and the other rows."""
        settled, moving = self._parted(self._live(since_us, until_us))
        tables = [self._whole(file) for file in moving]
        paths = [f"{self.storage.address}/{file.path}" for file in settled]
        return paths, pa.concat_tables(tables) if tables else SCHEMA.empty_table()

    def events_of(
        self, anchors: Collection[int], kinds: Collection[Kind], since_us: int, until_us: int, limit: int
    ) -> list[LakeEvent]:
        """The newest events of some anchors in [since, until), newest first, at most `limit`; older days stay closed."""
        late: dict[date, list[dict[str, Any]]] = defaultdict(list)
        for row in self._of_day(layout.LATE, anchors, kinds, since_us, until_us):
            late[layout.day_of(row["occurred_us"])].append(row)
        days = self.days(since_us, until_us)
        found: list[LakeEvent] = []
        for day in sorted({*days, *late}, reverse=True):
            if len(found) >= limit:
                break
            rows = self._of_day(day, anchors, kinds, since_us, until_us) + late[day]
            found += [_event(row) for row in _newest_first(rows)[: limit - len(found)]]
        return found

    def _of_day(
        self, day: date, anchors: Collection[int], kinds: Collection[Kind], since_us: int, until_us: int
    ) -> list[dict[str, Any]]:
        wanted = (
            ds.field("anchor_id").isin(sorted(anchors))
            & ds.field("entity_kind").isin(sorted(int(kind) for kind in kinds))
            & (ds.field("occurred_us") >= since_us)
            & (ds.field("occurred_us") < until_us)
        )
        for attempt in range(_TRIES):
            try:
                rows: list[dict[str, Any]] = self.dataset_of(self.day(day).live).to_table(filter=wanted).to_pylist()
                return rows
            except FileNotFoundError:
                # Compacted and tidied up between listing and reading.
                if attempt + 1 == _TRIES:
                    raise
        raise AssertionError("the last attempt returns or raises")


def _newest_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each event of a kind once."""
    unique = {(row["event_id"], row["entity_kind"]): row for row in rows}
    return sorted(unique.values(), key=lambda row: (row["occurred_us"], row["tie"], row["event_id"]), reverse=True)


def _event(row: dict[str, Any]) -> LakeEvent:
    properties = {name: orjson.loads(text) if text else None for name, text in row["other"] or ()}
    for column in ("numbers", "words", "flags"):
        properties.update(row[column] or ())
    return LakeEvent(
        row["event_id"],
        Kind(row["entity_kind"]),
        row["anchor_id"],
        row["source"],
        row["event"],
        row["occurred_us"],
        row["received_us"],
        properties,
    )
