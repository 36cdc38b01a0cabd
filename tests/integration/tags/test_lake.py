"""The event lake: the same files whatever way the messages come, and nothing lost or doubled whoever is killed when."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from troika.identity.v1 import events_pb2 as identity

from chassis.bus import Message
from chassis.db import Database
from services.tags.domain.catalogue import Kind
from services.tags.lake import compacting, erasing, files, keeping, layout, reading, storage, writing
from services.tags.lake.keeping import Rules
from services.tags.lake.reading import Lake
from services.tags.lake.rows import SCHEMA
from tests.integration.tags import world
from tests.integration.tags.lake_world import DAY, Killed, MortalStorage, content, held, messages, ordered, raw, written
from tests.integration.tags.world import event

NOW = Rules(grace_s=0)
EVERYTHING = (0, 2**62)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(storage.opened(str(tmp_path / "lake")))


def batch(sequence: int, *events: identity.ResolvedEvent) -> Message:
    return Message(f"m{sequence}", "s", identity.ResolvedBatch(events=events).SerializeToString(), {}, sequence)


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


async def _ask(database: Database, *anchors: int) -> None:
    async with database.transaction() as uow:
        await erasing.queue(uow, anchors)


async def _queued(database: Database) -> list[int]:
    async with database.read() as uow:
        return [each.anchor_id for each in await erasing.queued(uow)]


def _anywhere(lake: Lake, anchor: int) -> int:
    """Rows of a person's anchor in any file, in use or not."""
    tables = [files.read(lake.storage, file.path) for file in lake.storage.below("")]
    return sum(row["anchor_id"] == anchor and row["entity_kind"] == 1 for t in tables if t for row in t.to_pylist())


async def test_an_erased_anchor_leaves_no_row_in_any_file(database: Database, lake: Lake) -> None:
    await written(database, lake.storage, messages()[:150])
    await keeping.compact(database, lake, Rules(grace_s=900))
    await written(database, lake.storage, messages()[100:])
    others = [row for row in held(lake) if not (row["anchor_id"] in (5, 6) and row["entity_kind"] == 1)]
    await _ask(database, 5, 6, 4711)
    # Readers may still have the old files: nothing is read any more, but the work is not done.
    assert 0 == (await keeping.erase(database, lake, Rules(grace_s=900))).erased_anchors
    assert others == held(lake)
    assert [5, 6, 4711] == await _queued(database)
    assert 3 == (await keeping.erase(database, lake, NOW)).erased_anchors
    assert (0, 0, []) == (_anywhere(lake, 5), _anywhere(lake, 6), await _queued(database))
    assert others == held(lake)
    assert any(row["anchor_id"] == 5 and row["entity_kind"] == 2 for row in others)


async def test_an_erasure_killed_at_any_step_is_finished_by_the_next(database: Database, lake: Lake) -> None:
    await written(database, lake.storage, messages(60))
    await keeping.compact(database, lake, NOW)
    await written(database, lake.storage, messages(90)[40:])
    others = [row for row in held(lake) if not (row["anchor_id"] == 5 and row["entity_kind"] == 1)]
    await _ask(database, 5)
    steps = 0
    while True:
        try:
            await keeping.erase(database, Lake(MortalStorage(lake.storage, steps)), NOW)
            break
        except Killed:
            left = [row for row in held(lake) if not (row["anchor_id"] == 5 and row["entity_kind"] == 1)]
            assert (others, [5]) == (left, await _queued(database))
            steps += 1
    assert steps > 5
    # What a dead process had aside is waited for.
    lake.storage.delete(file.path for file in lake.storage.below(storage.STAGING))
    await keeping.erase(database, lake, NOW)
    assert (0, [], others) == (_anywhere(lake, 5), await _queued(database), held(lake))


async def test_an_erased_person_is_asked_to_leave_the_lake_and_does_not_come_back(database: Database, lake: Lake) -> None:
    mine = [event(n, person=(5, 50, 1), at=DAY + n) for n in range(1, 4)]
    await world.resolved(database, *mine)
    await written(database, lake.storage, [batch(1, mine[0])])
    await world.changed(database, world.erasure(50, 5))
    assert [5] == await _queued(database)
    await keeping.erase(database, lake, NOW)
    assert [] == held(lake)
    await written(database, lake.storage, [batch(2, mine[1])])
    assert [] == held(lake)
    somebody_else = event(9, person=(5, 51, 2), at=DAY + 9)
    await written(database, lake.storage, [batch(3, somebody_else)])
    assert 1 == len(held(lake))


async def test_two_replicas_write_one_after_the_other(database: Database, lake: Lake, tmp_path: Path) -> None:
    whole = storage.opened(str(tmp_path / "whole"))
    given = messages(90)
    await written(database, whole, given)
    turns = [given[start::6] for start in range(6)]
    await asyncio.gather(*(written(database, lake.storage, turn) for turn in turns))
    assert content(whole) == content(lake.storage)


async def test_a_reader_misses_nothing_while_others_write_compact_and_erase(database: Database, lake: Lake) -> None:
    await written(database, lake.storage, messages(100))
    first = {(row["event_id"], row["entity_kind"]) for row in held(lake) if row["anchor_id"] != 5}
    busy = asyncio.Event()

    async def work() -> None:
        for start in range(100, 200, 10):
            await written(database, lake.storage, messages()[start : start + 10])
            await keeping.compact(database, lake, Rules(grace_s=1.0), every=True)
            if start == 140:
                await _ask(database, 5)
            await keeping.erase(database, lake, Rules(grace_s=1.0))
        busy.set()

    def look() -> set[tuple[bytes, int]]:
        for _ in range(20):
            try:
                return {(row["event_id"], row["entity_kind"]) for row in held(lake)}
            except FileNotFoundError:
                continue
        raise AssertionError("every listing was overtaken")

    working = asyncio.create_task(work())
    looks = 0
    while not busy.is_set() and not working.done():
        seen = await asyncio.to_thread(look)
        assert set() == first - seen
        looks += 1
    await working
    assert looks > 3
    # What of the erased anchor was written before it was asked to leave.
    assert {1: 1000 - 18, 2: 333} == Counter(row["entity_kind"] for row in held(lake))


def imported(count: int = 300, days: int = 100) -> list[Message]:
    """Messages of an import: what happened over many days long ago, received now."""
    made = []
    for n in range(count):
        each = event(100_000 + n, person=(n % 10 + 1, 1, 1), at=DAY + n % days * 86_400 + n, properties={"amount": n})
        each.received_at_us = (DAY + 400 * 86_400) * 1_000_000
        made.append(each)
    return [batch(1 + start // 3, *made[start : start + 3]) for start in range(0, count, 3)]


async def test_an_import_over_many_days_makes_few_files_until_it_is_compacted(database: Database, lake: Lake) -> None:
    await written(database, lake.storage, [*messages(), *imported()])
    assert ["rows/late/block-0.parquet", "rows/late/block-1.parquet"] == [p for p in content(lake.storage) if "late" in p]
    before, count = held(lake), raw(lake)
    newest = lake.events_of([5], [Kind.PERSON], *EVERYTHING, 40)
    assert sorted((e.occurred_us for e in newest), reverse=True) == [e.occurred_us for e in newest]
    done = await keeping.compact(database, lake, NOW)
    assert (300, 100, 1) == (done.late_rows, done.days, len([p for p in content(lake.storage) if "late" in p]))
    assert (before, count) == (held(lake), raw(lake))
    assert newest == lake.events_of([5], [Kind.PERSON], *EVERYTHING, 40)
    assert {"rows/day=2026-03-01", "rows/day=2026-06-08"} <= {path.rpartition("/")[0] for path in content(lake.storage)}
    # What comes again, or for the first time, goes the same way.
    await written(database, lake.storage, imported()[50:])
    assert before == held(lake)
    await keeping.compact(database, lake, NOW, every=True)
    assert (before, count) == (held(lake), raw(lake))


async def test_taking_late_events_to_their_days_loses_and_doubles_nothing_when_killed(database: Database, lake: Lake) -> None:
    await written(database, lake.storage, [*messages(20), *imported(60, 7)])
    before, count = held(lake), raw(lake)
    steps = 0
    while True:
        try:
            await keeping.compact(database, Lake(MortalStorage(lake.storage, steps)), NOW, every=True)
            break
        except Killed:
            assert before == held(lake)
            steps += 3
    assert steps > 20
    assert (before, count) == (held(lake), raw(lake))


async def test_an_erased_anchor_leaves_what_is_late(database: Database, lake: Lake) -> None:
    await written(database, lake.storage, imported())
    others = [row for row in held(lake) if row["anchor_id"] != 5]
    await _ask(database, 5)
    assert 1 == (await keeping.erase(database, lake, NOW)).erased_anchors
    assert (0, others) == (_anywhere(lake, 5), held(lake))


async def test_late_events_that_come_while_others_are_taken_to_their_days_are_taken_too(
    database: Database, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(database, lake.storage, imported(60, 7))
    sorted_out = compacting.sorted_out
    late = imported(90, 7)[20:]

    def meanwhile(*arguments: Any) -> Any:
        # The first of them is under way: its writer comes before the second, which holds the lock.
        if late:
            thread = threading.Thread(target=_write_elsewhere, args=(lake, late[:]))
            late.clear()
            thread.start()
            thread.join()
        return sorted_out(*arguments)

    monkeypatch.setattr(compacting, "sorted_out", meanwhile)
    done = await keeping.compact(database, lake, NOW)
    assert done.late_rows > 60
    assert (90, 90) == (raw(lake), len(held(lake)))
    assert [] == list(lake.day(layout.LATE).blocks)


def _write_elsewhere(lake: Lake, given: list[Message]) -> None:
    """As another process would, whose turn it is."""
    batches = writing.parsed(given)
    writing.LakeWriter(lake.storage)._write(batches, {})
