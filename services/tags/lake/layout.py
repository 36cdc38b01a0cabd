"""Names of the lake's files, and which of a day's files make up the day.

    rows/day=2026-03-01/block-42.parquet               messages 42*64 … of the stream, in place until the day is compacted
    rows/day=2026-03-01/block-57.2.parquet             the same after the day's second compaction
    rows/day=2026-03-01/part-2-1f3a9c2e-1-of-3.0.parquet   second compaction, first of three, as first written
    rows/late/block-42.parquet                         what happened days before it came, until compaction takes it to its days

A compaction is there when all its parts are; it stands for all blocks of smaller numbers. So a listing alone tells the state,
the last rename commits, and nothing that a reader may still have open is deleted before its time.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Final

from services.tags.lake.storage import File

ROWS: Final = "rows"
MESSAGES_PER_BLOCK: Final = 64
DAY_US: Final = 86_400_000_000
# An import speaks of a thousand days at once, which would be a thousand small files per flush: what is so late waits together.
LATE: Final = date(1970, 1, 1)
LATE_US: Final = 2 * DAY_US
# What happened before or after is in the first or last day: clocks of devices say anything.
_FIRST, _LAST = date(1990, 1, 1), date(2199, 12, 31)
_EPOCH = date(1970, 1, 1)
_BLOCK = re.compile(r"block-(\d+)(?:\.(\d+))?\.parquet\Z")
_PART = re.compile(r"part-(\d+)-([0-9a-f]{8})-(\d+)-of-(\d+)\.(\d+)\.parquet\Z")


def day_of(occurred_us: int) -> date:
    """The UTC day in whose folder an event is."""
    return min(max(_EPOCH + timedelta(days=_clamped(occurred_us // DAY_US)), _FIRST), _LAST)


def _clamped(days: int) -> int:
    return min(max(days, 0), 100_000)


def start_us(day: date) -> int:
    """The first microsecond of a day."""
    return (day - _EPOCH).days * DAY_US


def folder_of(day: date) -> str:
    """The folder of a day, or of what is late."""
    return f"{ROWS}/late" if day == LATE else f"{ROWS}/day={day.isoformat()}"


def day_in(folder: str) -> date | None:
    """The day that a folder's name tells; None for any other folder."""
    try:
        return date.fromisoformat(folder.removeprefix("day=")) if folder.startswith("day=") else None
    except ValueError:
        return None


def today() -> date:
    """The present UTC day."""
    return datetime.now(UTC).date()


def block_path(day: date, sequence: int, generation: int) -> str:
    """Where the rows of a message of the stream are, after so many compactions of the day."""
    suffix = f".{generation}" if generation else ""
    return f"{folder_of(day)}/block-{sequence // MESSAGES_PER_BLOCK}{suffix}.parquet"


def number_of(block: File) -> int:
    """Which stretch of the stream a block is of."""
    found = _BLOCK.match(block.name)
    if found is None:
        raise ValueError(block.name)
    return int(found[1])


@dataclass(frozen=True)
class Part:
    """One file of a compaction; `version` counts how often it was rewritten."""

    generation: int
    digest: str
    number: int
    of: int
    version: int = 0

    def path(self, day: date) -> str:
        """Where it is."""
        return f"{folder_of(day)}/part-{self.generation}-{self.digest}-{self.number}-of-{self.of}.{self.version}.parquet"


@dataclass(frozen=True)
class Superseded:
    """A file that other files stand for since a moment."""

    file: File
    since_ns: int


@dataclass(frozen=True)
class Day:
    """A day's files: those with its rows, those that others stand for, and those of a compaction that never ended."""

    day: date
    generation: int
    parts: tuple[tuple[Part, File], ...]
    blocks: tuple[File, ...]
    superseded: tuple[Superseded, ...]
    unfinished: tuple[File, ...]

    @property
    def live(self) -> tuple[File, ...]:
        """All files with rows."""
        return (*(file for _, file in self.parts), *self.blocks)


def read_day(day: date, files: Iterable[File]) -> Day:
    """What a listing of a day's folder means; files of other names are nobody's."""
    blocks: list[tuple[int, File]] = []
    # By compaction and number: versions of that part.
    sets: dict[tuple[int, str, int], dict[int, list[tuple[Part, File]]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        if found := _BLOCK.match(file.name):
            blocks.append((int(found[2] or 0), file))
        elif found := _PART.match(file.name):
            part = Part(int(found[1]), found[2], int(found[3]), int(found[4]), int(found[5]))
            sets[part.generation, part.digest, part.of][part.number].append((part, file))
    complete = [key for key, numbers in sets.items() if len(numbers) == key[2]]
    newest = max(complete, default=None)
    generation = newest[0] if newest else 0
    parts: list[tuple[Part, File]] = []
    superseded: list[Superseded] = []
    since = 0
    if newest:
        for _, versions in sorted(sets[newest].items()):
            ordered = sorted(versions, key=lambda each: each[0].version)
            since = max(since, ordered[0][1].changed_ns)
            parts.append(ordered[-1])
            superseded += [Superseded(old, new.changed_ns) for (_, old), (_, new) in pairwise(ordered)]
    unfinished = []
    for key, numbers in sets.items():
        others = [file for versions in numbers.values() for _, file in versions]
        if key == newest:
            continue
        if key in complete or key[0] < generation:
            superseded += [Superseded(file, since) for file in others]
        else:
            unfinished += others
    superseded += [Superseded(file, since) for number, file in blocks if number < generation]
    return Day(
        day,
        generation,
        tuple(parts),
        tuple(file for number, file in blocks if number == generation),
        tuple(superseded),
        tuple(unfinished),
    )
