"""Fills in the past of tags that were added while the house runs.

The cut is exact: a tag is added while nobody derives tags, and then the stream's last sequence is asked. What came up to it
was handled without the tag, or will be while the tag is withheld (`TagRules.cuts`): all of that is the lake's. What comes after
it is folded as it comes. Each page of anchors is one transaction that keeps its place, so that who is killed counts nothing
twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Final

import duckdb
import pyarrow as pa

from chassis.bus import Bus
from chassis.db import Database
from chassis.errors import is_operational
from services.tags import consumers, events
from services.tags.backfill import jobs, merging, reading
from services.tags.backfill.jobs import Job
from services.tags.backfill.reading import Past
from services.tags.catalogue import stored
from services.tags.domain.catalogue import FromEvents, Kind
from services.tags.handlers import TagRules
from services.tags.lake import erasing, writing
from services.tags.lake.engines import DuckDb, duckdb_engine
from services.tags.lake.reading import Lake

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
_RETRY_S: Final = 5.0


class Again(Exception):
    """What was read of the lake is not to be used any more: begin anew after the last page."""


@dataclass(frozen=True)
class Filler:
    """Fills one tag after the other."""

    database: Database
    rules: TagRules
    lake: Lake
    memory_mb: int = 512
    # Anchors in one transaction.
    page: int = 500

    async def run(self, bus: Bus) -> None:
        """For as long as the service lives. One replica at a time reads the lake."""
        while True:
            try:
                await self._look(bus)
                await asyncio.sleep(_LOOK_S)
            except Again:
                continue
            except Exception as error:
                if not (is_operational(error) or isinstance(error, (OSError, pa.ArrowException, duckdb.Error))):
                    raise
                log.warning("backfill retried", extra={"error": type(error).__name__})
                await asyncio.sleep(_RETRY_S)

    async def _look(self, bus: Bus) -> None:
        async with self.database.transaction(traced=False) as uow:
            # Held until all is filled: the pages have transactions of their own.
            found = await jobs.waiting(uow)
            if not found or not await jobs.one_filler(uow):
                return
            for job in found:
                if await is_passed(bus, job.cut):
                    await self.fill(job)

    async def fill(self, job: Job) -> None:
        """Goes on with a backfill from where it is to its end. Everything up to its cut was handled and is in the lake."""
        async with self.database.transaction(traced=False) as uow:
            # This replica may not have heard of the tags yet.
            await self.rules.hold(uow)
            known = self.rules.catalogue.of(job.kind)
            definitions = [known[tag] for tag in job.tags if tag in known and isinstance(known[tag].origin, FromEvents)]
            opened_at = await erasing.moment(uow)
            if await erasing.is_rewriting(uow):
                return
        if definitions:
            with duckdb_engine(self.memory_mb) as engine:
                read = reading.pasts(engine, self.lake, job.kind, definitions, job.cut, job.after_anchor)
                while page := await next_page(engine, read, self.page):
                    job = await self._filled(job, page, opened_at)
        async with self.database.transaction() as uow:
            # Counts as a change of the catalogue: all replicas forget the cut.
            await stored.begin(uow)
            if not await jobs.held(uow, job):
                raise Again
            await jobs.finish(uow, job)
        log.info("past filled in", extra={"tags": ", ".join(job.tags), "anchors": job.anchors})

    async def _filled(self, job: Job, page: Sequence[Past], opened_at: datetime) -> Job:
        async with self.database.transaction() as uow:
            await self.rules.hold(uow)
            if not await jobs.held(uow, job):
                raise Again
            anchors = [past.anchor_id for past in page]
            if job.kind is Kind.PERSON and await erasing.were_asked(uow, anchors, opened_at):
                # Who was erased and came back must not get what was read before.
                raise Again
            events.publish(uow, await merging.merge(uow, self.rules, job.kind, page))
            job = replace(job, after_anchor=anchors[-1], anchors=job.anchors + len(page))
            await jobs.advance(uow, job)
        return job


async def is_passed(bus: Bus, cut: int) -> bool:
    """Whether all messages up to the cut have been handled and are in the lake."""
    if cut == 0:
        return True
    for name in (consumers.RESOLVED, writing.NAME):
        if not await bus.has_handled(consumers.EVENTS_RESOLVED, name, cut):
            return False
    return True


async def next_page(engine: DuckDb, read: Iterator[Past], size: int) -> list[Past]:
    """The next pasts; who stops the service does not wait for the lake to be sorted."""
    thread = asyncio.create_task(asyncio.to_thread(lambda: list(islice(read, size))))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        engine.interrupt()
        await asyncio.gather(thread, return_exceptions=True)
        raise
