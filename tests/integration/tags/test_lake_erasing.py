"""Who is erased leaves no row in the lake, whoever is killed, reads or writes meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter

from chassis.db import Database
from services.tags.lake import erasing, files, keeping, storage
from services.tags.lake.keeping import Rules
from services.tags.lake.reading import Lake
from tests.integration.tags import world
from tests.integration.tags.lake_world import (
    DAY,
    NOW,
    Killed,
    MortalStorage,
    batch,
    held,
    imported,
    messages,
    written,
)
from tests.integration.tags.world import event


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


async def test_an_erased_anchor_leaves_what_is_late(database: Database, lake: Lake) -> None:
    await written(database, lake.storage, imported())
    others = [row for row in held(lake) if row["anchor_id"] != 5]
    await _ask(database, 5)
    assert 1 == (await keeping.erase(database, lake, NOW)).erased_anchors
    assert (0, others) == (_anywhere(lake, 5), held(lake))
