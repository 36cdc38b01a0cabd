"""Events that come long after they happened wait in few files, and go to their days once."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from chassis.bus import Message
from chassis.db import Database
from services.tags.domain.catalogue import Kind
from services.tags.lake import compacting, keeping, layout, writing
from services.tags.lake.reading import Lake
from tests.integration.tags.lake_world import (
    EVERYTHING,
    NOW,
    Killed,
    MortalStorage,
    content,
    held,
    imported,
    messages,
    raw,
    written,
)


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
