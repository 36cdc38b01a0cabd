"""What the lake needs done beside writing: compaction of days that are over, retention, erasure, tidying up.

One at a time over all replicas, each step in a transaction whose locks go with it: who is killed leaves nothing locked and
nothing half done.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final

import duckdb
import orjson
import pyarrow as pa
from prometheus_client import Gauge

from chassis.db import Database
from chassis.errors import FailedPrecondition, is_operational
from services.tags.lake import compacting, erasing, files, layout, storage
from services.tags.lake.layout import Day
from services.tags.lake.locks import one_keeper, one_writer, tried_keeper
from services.tags.lake.reading import Lake
from services.tags.lake.storage import STAGING, Staged

if TYPE_CHECKING:
    from services.tags.settings import Settings

log = logging.getLogger(__name__)

WAITING = Gauge("troika_lake_erasures_waiting", "Anchors of erased persons that files of the lake may still have.")

# A phone that was offline at midnight delivers in the morning; what comes later is compacted later.
CLOSED_AFTER: Final = timedelta(hours=6)
_LOOK_S: Final = 20.0
_COMPACT_S: Final = 1800.0
_RETRY_S: Final = 5.0
_TRIES: Final = 3

Say = Callable[[str], None]


@dataclass(frozen=True)
class Rules:
    """How long things are kept: days of rows (0: for ever), and seconds of files that readers may have open."""

    keep_days: int = 0
    grace_s: float = 900.0
    memory_mb: int = 512


@dataclass
class Done:
    """What a round of keeping did."""

    days: int = 0
    failed_days: int = 0
    late_rows: int = 0
    rows: int = 0
    deleted_files: int = 0
    expired_days: int = 0
    erased_anchors: int = 0


async def run(database: Database, lake: Lake, rules: Rules) -> None:
    """Keeps the lake for as long as the service lives."""
    compacted = time.monotonic()
    while True:
        try:
            await erase(database, lake, rules)
            if time.monotonic() - compacted > _COMPACT_S:
                compacted = time.monotonic()
                await compact(database, lake, rules)
        except Exception as error:
            if not is_operational(error):
                log.exception("keeping the lake failed")
            await asyncio.sleep(_RETRY_S)
        await asyncio.sleep(_LOOK_S)


async def compact(database: Database, lake: Lake, rules: Rules, every: bool = False, say: Say = lambda _: None) -> Done:
    """Compacts all closed days for which it is worth it (`every`: whenever there is a block), then tidies up."""
    done = Done()
    closed = layout.day_of(time.time_ns() // 1000 - int(CLOSED_AFTER.total_seconds() * 1e6))
    done.late_rows = await _taken_to_their_days(database, lake, rules)
    days = [day for day in await asyncio.to_thread(lake.days) if day < closed]
    for number, day in enumerate(days, start=1):
        try:
            rows = await _compacted(database, lake, rules, day, every)
        except (pa.ArrowException, duckdb.Error):
            # One torn file must not keep all other days from it.
            log.exception("a day cannot be compacted", extra={"day": day.isoformat()})
            done.failed_days += 1
            continue
        if rows is not None:
            done.days, done.rows = done.days + 1, done.rows + rows
            say(f"{day} {number}/{len(days)} {rows} rows")
    async with database.transaction() as uow:
        await one_keeper(uow)
        done.expired_days = len(await asyncio.to_thread(compacting.expired, lake, rules.keep_days))
        done.deleted_files = await asyncio.to_thread(_tidied, lake, rules)
    log.info("lake compacted", extra={"days": done.days, "deleted_files": done.deleted_files})
    return done


async def _compacted(database: Database, lake: Lake, rules: Rules, day: date, every: bool) -> int | None:
    """Rows of the compacted day; None when there was nothing to do or others keep changing it."""
    for _ in range(_TRIES):
        async with database.transaction() as uow:
            if not await tried_keeper(uow):
                return None
            state = await asyncio.to_thread(lake.day, day)
            if not (state.blocks if every else compacting.is_due(state)):
                return None
            with ExitStack() as stack:
                prepared = await asyncio.to_thread(compacting.prepare, lake, state, stack, rules.memory_mb)
                # If the connection was lost and with it the right to do this, we hear of it here.
                await one_writer(uow)
                if await asyncio.to_thread(compacting.commit, lake, prepared):
                    return prepared.rows
    return None


async def _taken_to_their_days(database: Database, lake: Lake, rules: Rules) -> int:
    """Adds what is late to its days, then puts nothing in its place. Killed in between it is in both, and taken again."""
    async with database.transaction() as uow:
        if not await tried_keeper(uow):
            return 0
        late = await asyncio.to_thread(lake.day, layout.LATE)
        if not late.blocks:
            return 0
        with ExitStack() as stack:
            emptied = await asyncio.to_thread(compacting.prepare_emptied, lake, late, stack)
            pieces = await asyncio.to_thread(compacting.sorted_out, lake, late.live, stack, rules.memory_mb)
            count = 0
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                # The writer waits for one day at a time, not for all.
                async with database.transaction(traced=False) as writing:
                    await one_writer(writing)
                    count += await asyncio.to_thread(_add, lake, late, *piece)
            await one_writer(uow)
            return count + await asyncio.to_thread(_finish, lake, late, emptied, stack, rules)


def _add(lake: Lake, late: Day, day: date, table: pa.Table) -> int:
    """Puts late rows of a day into a block of it, named after the first they come from: the same however often."""
    first = min(layout.number_of(file) for file in late.blocks)
    path = layout.block_path(day, first * layout.MESSAGES_PER_BLOCK, lake.day(day).generation)
    files.add(lake.storage, path, table)
    return len(table)


def _finish(lake: Lake, late: Day, emptied: Staged, stack: ExitStack, rules: Rules) -> int:
    """Adds what came meanwhile, while nobody else writes, and lets the empty part stand for it all."""
    known = set(late.live)
    more = tuple(file for file in lake.day(layout.LATE).live if file not in known)
    count = 0
    if more:
        count = sum(_add(lake, late, *piece) for piece in compacting.sorted_out(lake, more, stack, rules.memory_mb))
    emptied.publish()
    return count


def _tidied(lake: Lake, rules: Rules) -> int:
    return compacting.swept(lake) + sum(compacting.tidied(lake, lake.day(day), rules.grace_s) for day in lake.everywhere())


async def erase(database: Database, lake: Lake, rules: Rules) -> Done:
    """Takes queued anchors a step further: out of all files, or, when those are gone that had them, out of the queue."""
    done = Done()
    async with database.transaction(traced=False) as uow:
        asked = await erasing.queued(uow)
    WAITING.set(len(asked))
    if not asked:
        return done
    wanted = {each.anchor_id for each in asked if each.rewritten_ns is None}
    if not wanted and min(each.rewritten_ns or 0 for each in asked) > time.time_ns() - int(rules.grace_s * 1e9):
        # Nothing to do but to wait until no reader can have the old files open.
        return done
    if wanted:
        for day in await asyncio.to_thread(lake.everywhere):
            await _erased(database, lake, day, wanted)
    async with database.transaction() as uow:
        await one_keeper(uow)
        await erasing.mark_rewritten(uow, wanted)
    async with database.transaction() as uow:
        await one_keeper(uow)
        asked = await erasing.queued(uow)
        done.deleted_files = await asyncio.to_thread(_tidied, lake, rules)
        days = await asyncio.to_thread(lambda: [lake.day(day) for day in lake.everywhere()])
        aside = await asyncio.to_thread(lake.storage.below, STAGING)
        gone = [each.anchor_id for each in asked if erasing.is_gone(each, days, aside)]
        await erasing.forget(uow, gone)
        done.erased_anchors = len(gone)
    WAITING.set(len(asked) - len(gone))
    return done


async def _erased(database: Database, lake: Lake, day: date, anchors: set[int]) -> None:
    async with database.transaction(traced=False) as uow:
        await one_keeper(uow)
        state = await asyncio.to_thread(lake.day, day)
        # What a killed compaction left may have them, too.
        lake.storage.delete(file.path for file in state.unfinished)
        for file in await asyncio.to_thread(erasing.holding, lake, state, anchors):
            await one_writer(uow)
            await asyncio.to_thread(erasing.rewrite, lake, state, file, anchors)


def opened(settings: Settings) -> Lake | None:
    """The lake of these settings; None when there is none."""
    if not settings.lake:
        return None
    secret = settings.lake_s3_secret_key.get_secret_value()
    access = settings.lake_s3_access_key.get_secret_value()
    return Lake(storage.opened(settings.lake, settings.lake_s3_endpoint, settings.lake_s3_region, access, secret))


async def look(settings: Settings) -> str:
    """For doctor: says what is there; raises what the store raises."""
    lake = opened(settings)
    if lake is None:
        return "none is kept"
    return f"{len(await asyncio.to_thread(lake.storage.folders, ''))} folders"


def rules_of(settings: Settings) -> Rules:
    """What the settings say of keeping."""
    return Rules(settings.lake_keep_days, settings.lake_grace_s, settings.lake_memory_mb)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb `compact`."""
    parser.add_argument("--every", action="store_true", help="also days that few late events came to")
    parser.add_argument("--json", action="store_true", help="the result as one JSON line")


async def compact_verb(settings: Settings, flags: argparse.Namespace) -> None:
    """The verb: compacts closed days, deletes expired ones, goes on with erasures."""
    lake = opened(settings)
    if lake is None:
        raise FailedPrecondition("TROIKA_LAKE names no lake", reason="NO_LAKE")
    database = Database(settings.postgres_dsn, "tags", 2)

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    try:
        done = await compact(database, lake, rules_of(settings), flags.every, say)
        done.erased_anchors = (await erase(database, lake, rules_of(settings))).erased_anchors
    finally:
        await database.close()
    result = vars(done)
    line = orjson.dumps(result).decode() if flags.json else "\n".join(f"{name:16} {figure}" for name, figure in result.items())
    sys.stdout.write(line + "\n")
