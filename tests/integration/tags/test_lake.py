"""The event lake: the same files whatever way the messages come, and nothing lost or doubled whoever is killed when."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from chassis.db import Database
from services.tags.domain.catalogue import Kind
from services.tags.lake import compacting, files, keeping, layout, reading, storage
from services.tags.lake.keeping import Rules
from services.tags.lake.reading import Lake
from services.tags.lake.rows import SCHEMA
from tests.integration.tags.lake_world import (
    DAY,
    EVERYTHING,
    NOW,
    Killed,
    MortalStorage,
    batch,
    content,
    held,
    messages,
    ordered,
    raw,
    written,
)
from tests.integration.tags.world import event


async def test_the_same_files_come_of_any_batches_order_and_repetition(database: Database, tmp_path: Path) -> None:
    given = messages()
    plain, other = (storage.opened(str(tmp_path / name)) for name in ("plain", "other"))
    await written(database, plain, given)
    rnd = random.Random(7)
    mixed = [*given, *rnd.sample(given, 50)]
    rnd.shuffle(mixed)
    while mixed:
        size = rnd.randint(1, 60)
        await written(database, other, mixed[:size])
        mixed = mixed[size:]
    assert content(plain) == content(other)
    assert {f"rows/day=2026-03-0{day}/block-{block}.parquet" for day in (1, 2, 3) for block in range(4)} == content(
        plain
    ).keys()
    assert 1333 == raw(Lake(plain)) == 1000 + len([n for n in range(5, 1005) if n % 3 == 0])


@pytest.mark.parametrize("steps", range(5))
async def test_killed_between_writing_and_acknowledging_it_writes_the_same_again(
    database: Database, lake: Lake, tmp_path: Path, steps: int
) -> None:
    whole = storage.opened(str(tmp_path / "whole"))
    await written(database, whole, messages(70))
    with pytest.raises(Killed):
        await written(database, MortalStorage(lake.storage, steps), messages(70))
    await written(database, lake.storage, messages(40))
    await written(database, lake.storage, messages(70)[20:])
    assert content(whole) == content(lake.storage)


async def test_late_events_land_in_their_day_compacted_or_not(database: Database, lake: Lake) -> None:
    await written(database, lake.storage, messages())
    await keeping.compact(database, lake, NOW)
    late = event(9001, person=(1, 1, 1), at=DAY + 5)
    await written(database, lake.storage, [batch(5000, late)])
    assert "rows/day=2026-03-01/block-78.1.parquet" in content(lake.storage)
    assert 1334 == raw(lake)
    assert 1 == (await keeping.compact(database, lake, NOW, every=True)).days
    assert 1334 == raw(lake)
    assert 3 == len(content(lake.storage))


async def test_compaction_leaves_few_sorted_files_with_all_rows(database: Database, lake: Lake) -> None:
    await written(database, lake.storage, messages())
    before = held(lake)
    done = await keeping.compact(database, lake, NOW)
    assert (3, 1333, 12) == (done.days, done.rows, done.deleted_files)
    assert before == held(lake)
    assert ["part-1", "part-1", "part-1"] == [path.split("/")[-1][:6] for path in content(lake.storage)]
    for file in lake.storage.below("rows"):
        table = files.read(lake.storage, file.path)
        assert table is not None and ordered(table) == table.to_pylist()
    assert 0 == (await keeping.compact(database, lake, NOW)).days


async def test_what_was_compacted_and_comes_again_counts_once(database: Database, lake: Lake) -> None:
    await written(database, lake.storage, messages())
    before = held(lake)
    await keeping.compact(database, lake, NOW)
    await written(database, lake.storage, messages()[:100])
    assert raw(lake) > len(before) and before == held(lake)
    await keeping.compact(database, lake, NOW, every=True)
    assert (len(before), before) == (raw(lake), held(lake))


async def test_days_are_cut_into_parts_of_limited_size(database: Database, lake: Lake) -> None:
    await written(database, lake.storage, messages(days=1))
    before = held(lake)
    [day] = lake.days()
    with compacting.ExitStack() as stack:
        prepared = compacting.prepare(lake, lake.day(day), stack, rows_per_part=500)
        assert compacting.commit(lake, prepared)
    sizes = [pq.ParquetFile(pathed).metadata.num_rows for pathed in sorted(_disk(lake).glob("rows/*/part-*"))]
    assert ([500, 500, 333], before, 1333) == (sizes, held(lake), raw(lake))


def _disk(lake: Lake) -> Path:
    return Path(lake.storage.address.removeprefix("file://"))


async def test_compaction_killed_at_any_step_loses_and_doubles_nothing(database: Database, lake: Lake) -> None:
    await written(database, lake.storage, messages(days=1))
    before, count = held(lake), raw(lake)
    steps = 0
    while True:
        mortal = Lake(MortalStorage(lake.storage, steps))
        try:
            [day] = mortal.days()
            state = mortal.day(day)
            with compacting.ExitStack() as stack:
                prepared = compacting.prepare(mortal, state, stack, rows_per_part=500)
                assert compacting.commit(mortal, prepared)
            compacting.tidied(mortal, mortal.day(day), 0)
            break
        except Killed:
            assert (count, before) == (raw(lake), held(lake))
            steps += 1
    # Three parts opened and renamed, and files deleted: it was killed before each of them.
    assert steps > 9
    assert (count, before) == (raw(lake), held(lake))


async def test_a_day_that_changes_while_it_is_compacted_is_compacted_anew(database: Database, lake: Lake) -> None:
    await written(database, lake.storage, messages(days=1))
    [day] = lake.days()
    with compacting.ExitStack() as stack:
        prepared = compacting.prepare(lake, lake.day(day), stack)
        await written(database, lake.storage, [batch(199, event(9002, person=(3, 3, 1), at=DAY))])
        assert not compacting.commit(lake, prepared)
    assert 1334 == raw(lake)
    assert 1334 == (await keeping.compact(database, lake, NOW)).rows
    assert [] == lake.storage.below(storage.STAGING)


async def test_what_a_reader_has_open_stays_for_its_time(
    database: Database, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(database, lake.storage, messages())
    monkeypatch.setattr(reading, "_SETTLED_NS", 0)
    reader = lake.dataset()
    await keeping.compact(database, lake, Rules(grace_s=900))
    assert 1333 == reader.count_rows() == raw(lake)
    assert 12 + 3 == len(content(lake.storage))
    assert 12 == (await keeping.compact(database, lake, NOW)).deleted_files


async def test_a_torn_file_keeps_no_other_day_from_compaction(database: Database, lake: Lake) -> None:
    await written(database, lake.storage, messages())
    [first, *_] = lake.storage.below("rows")
    lake.storage.publish(first.path, b"torn")
    done = await keeping.compact(database, lake, NOW)
    assert (2, 1, b"torn") == (done.days, done.failed_days, lake.storage.read(first.path))


async def test_days_past_their_keeping_go(database: Database, lake: Lake) -> None:
    now = time.time_ns() // 1_000_000_000
    await written(database, lake.storage, [*messages(), batch(900, event(9003, person=(1, 1, 1), at=now))])
    assert 3 == (await keeping.compact(database, lake, Rules(keep_days=30, grace_s=0))).expired_days
    assert [9003] == [row["occurred_us"] // 10**6 - now + 9003 for row in held(lake)]


async def test_the_newest_events_of_anchors_come_first_and_old_days_stay_closed(
    database: Database, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(database, lake.storage, messages())
    await keeping.compact(database, lake, NOW)
    await written(database, lake.storage, messages()[:30])
    mine = [row for row in held(lake) if row["anchor_id"] == 5 and row["entity_kind"] == 1]
    newest = sorted((row["occurred_us"] for row in mine), reverse=True)
    found = lake.events_of([5], [Kind.PERSON], *EVERYTHING, 1000)
    assert newest == [each.occurred_us for each in found]
    assert {"amount", "model", "paid", "sold_on"} == found[0].properties.keys()
    opened = []
    day = Lake.day
    monkeypatch.setattr(Lake, "day", lambda self, which: opened.append(which) or day(self, which))
    assert newest[:3] == [each.occurred_us for each in lake.events_of([5], [Kind.PERSON], *EVERYTHING, 3)]
    assert [layout.LATE, layout.day_of(newest[0])] == opened
    since, until = newest[9], newest[4]
    assert newest[5:10] == [e.occurred_us for e in lake.events_of([5], [Kind.PERSON], since, until, 100)]


async def test_files_of_an_older_layout_are_read_beside_new_ones(database: Database, lake: Lake) -> None:
    await written(database, lake.storage, messages())
    [first, *_] = lake.storage.below("rows")
    table = files.read(lake.storage, first.path)
    assert table is not None
    pq.write_table(table.drop_columns(["moments", "other"]), _disk(lake) / first.path)
    rows = held(lake)
    assert (1333, {True, False}) == (len(rows), {row["moments"] is None for row in rows})
    await keeping.compact(database, lake, NOW)
    assert 1333 == raw(lake) and SCHEMA.names == lake.dataset().to_table().column_names


async def test_two_replicas_write_one_after_the_other(database: Database, lake: Lake, tmp_path: Path) -> None:
    whole = storage.opened(str(tmp_path / "whole"))
    given = messages(90)
    await written(database, whole, given)
    turns = [given[start::6] for start in range(6)]
    await asyncio.gather(*(written(database, lake.storage, turn) for turn in turns))
    assert content(whole) == content(lake.storage)
