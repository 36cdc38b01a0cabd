"""What a listing of a day's folder means, whatever moment it was taken at."""

from __future__ import annotations

from datetime import date

from services.tags.lake.layout import Part, block_path, day_of, read_day, start_us
from services.tags.lake.storage import File

DAY = date(2026, 3, 1)


def part(generation: int, number: int, of: int, version: int = 0, changed: int = 1) -> File:
    return File(Part(generation, "0123abcd", number, of, version).path(DAY), 1, changed)


def block(number: int, generation: int = 0) -> File:
    return File(block_path(DAY, number * 64, generation), 1, 1)


def test_a_block_is_named_after_its_stretch_of_the_stream() -> None:
    assert "rows/day=2026-03-01/block-1.parquet" == block_path(DAY, 64, 0) == block_path(DAY, 127, 0)
    assert "rows/day=2026-03-01/block-2.3.parquet" == block_path(DAY, 128, 3)


def test_before_a_compaction_is_complete_the_blocks_are_the_day() -> None:
    files = [block(1), block(2), part(1, 1, 3), part(1, 3, 3)]
    day = read_day(DAY, files)
    assert (0, tuple(files[:2]), tuple(files[2:])) == (day.generation, day.live, day.unfinished)


def test_with_its_last_part_a_compaction_stands_for_all_blocks_before_it() -> None:
    parts = [part(1, n, 3, changed=n) for n in (1, 2, 3)]
    day = read_day(DAY, [block(1), block(2), block(9, 1), *parts])
    assert (1, (*parts, block(9, 1))) == (day.generation, day.live)
    assert [(block(1), 3), (block(2), 3)] == [(old.file, old.since_ns) for old in day.superseded]


def test_the_newest_version_of_a_part_counts() -> None:
    day = read_day(DAY, [part(2, 1, 1, 0, 5), part(2, 1, 1, 1, 8), part(1, 1, 1, 7, 4)])
    assert (part(2, 1, 1, 1, 8),) == day.live
    assert {(part(2, 1, 1, 0, 5), 8), (part(1, 1, 1, 7, 4), 5)} == {(old.file, old.since_ns) for old in day.superseded}


def test_files_of_other_names_are_nobodys() -> None:
    day = read_day(DAY, [File("rows/day=2026-03-01/README", 1, 1), File("rows/day=2026-03-01/block-x.parquet", 1, 1)])
    assert () == day.live == day.superseded == day.unfinished


def test_clocks_that_are_wrong_by_ages_still_have_a_day() -> None:
    assert date(1990, 1, 1) == day_of(-(10**18)) == day_of(0)
    assert date(2199, 12, 31) == day_of(2**62)
    assert DAY == day_of(start_us(DAY)) == day_of(start_us(DAY) + 86_400_000_000 - 1)
