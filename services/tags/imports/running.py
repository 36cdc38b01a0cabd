"""Takes in a file: reads it through once, then chunk by chunk asks whose it is and writes, each chunk with its progress."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from prometheus_client import Counter

from chassis.db import Database, UnitOfWork
from chassis.errors import TroikaError, is_operational
from chassis.leases import LostLease, hold, patiently
from services.tags.handlers import TagRules, now_us
from services.tags.imports import jobs, mapping, reading, undoing, writing
from services.tags.imports.files import ImportFiles
from services.tags.imports.jobs import Counts, Job
from services.tags.imports.mapping import FileMapping
from services.tags.imports.matching import PATIENCE, Matcher
from services.tags.imports.reading import Checked, Chunk
from services.tags.imports.values import CellReader, Fault, Read
from services.tags.imports.writing import Line, Seen, Stamp, Written

log = logging.getLogger(__name__)

LINES = Counter("troika_import_lines_total", "Lines of partners' files.", ["outcome"])
_LOOK_S: Final = 1.0
# What a service may open: files of the command line lie on somebody's own machine.
_OWN: Final = ("store", "upload")

# A part of some 100 ms.
_WRITTEN_AT_ONCE: Final = 500

Tell = Callable[[Job], None]


def _silent(job: Job) -> None:
    """Nobody listens."""


class _TriedOnly(Exception):
    """Ends the transaction of a dry run."""


class Importer:
    """Works on imports, one after the other."""

    def __init__(
        self,
        database: Database,
        rules: TagRules,
        matcher: Matcher,
        files: ImportFiles,
        chunk_lines: int = reading.CHUNK_LINES,
        beat_s: float = jobs.LEASE_S / 3,
    ) -> None:
        self._beat_s = beat_s
        self._database, self._rules, self._matcher, self._files = database, rules, matcher, files
        self._chunk_lines = chunk_lines

    async def follow(self) -> None:
        """Takes what waits, for ever; any number of replicas may."""
        while True:
            try:
                job = await jobs.claim(self._database, _OWN)
                if job is not None:
                    await self.work(job)
                    continue
            except Exception as error:
                if is_operational(error):
                    log.warning("imports wait")
                else:
                    log.exception("importing failed")
            await asyncio.sleep(_LOOK_S)

    async def work(self, job: Job, tell: Tell = _silent) -> None:
        """Takes an import in, or back, to its end. What is wrong with it ends it.

        Raises what is only wrong at this moment: the world's faults, and what identity asks to wait for; go on later.
        """
        undone = job.state == jobs.UNDOING
        states = [jobs.UNDOING] if undone else [jobs.QUEUED, jobs.RUNNING]
        work = undoing.undo(self._database, self._rules, job) if undone else self._take_in(job, tell)
        renew = partial(jobs.renew, self._database, job.id, states)
        try:
            await hold(work, renew, self._beat_s, f"import {job.id}")
        except LostLease:
            log.info("import was taken over or is taken back", extra={"import_id": job.id})
        except TroikaError as error:
            if is_operational(error) or (error.reason in PATIENCE and not job.dry_run):
                await jobs.release(self._database, job.id, states)
                raise
            log.warning("import failed", extra={"import_id": job.id, "reason": error.reason})
            await jobs.finish(self._database, job.id, jobs.FAILED, error.reason, error.message)
        except Exception as error:
            if is_operational(error):
                await jobs.release(self._database, job.id, states)
                raise
            log.exception("import failed", extra={"import_id": job.id})
            await jobs.finish(self._database, job.id, jobs.FAILED, "INTERNAL", "internal error")
        await self._tell(job.id, tell)

    async def _take_in(self, job: Job, tell: Tell) -> None:
        plan = mapping.parse(job.mapping, self._rules.catalogue)
        checked = await asyncio.to_thread(self._checked, job, plan)
        await jobs.begin(self._database, job, checked.sha256, checked.lines)
        with self._opened(job) as file:
            chunks = reading.chunks(file, plan, job.lines_done, self._chunk_lines)
            done = job.lines_done
            seen = Seen(tag.tag for tag in plan.tags) if job.dry_run else None
            while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
                await self._chunk(job, plan, chunk, done, seen)
                done = chunk.end
                await self._tell(job.id, tell)
        await jobs.finish(self._database, job.id, jobs.DONE)
        if not job.dry_run:
            await asyncio.to_thread(self._files.forget, job.source)

    def _checked(self, job: Job, plan: FileMapping) -> Checked:
        with self._opened(job) as file:
            return reading.check(file, plan, job.file_name)

    def _opened(self, job: Job) -> io.BufferedReader:
        try:
            return self._files.open(job.source)
        except FileNotFoundError:
            raise reading.FileFault("the file is not there any more", reason="FILE_NOT_FOUND", field="file") from None

    async def _chunk(self, job: Job, plan: FileMapping, chunk: Chunk, done: int, seen: Seen | None) -> None:
        """Asks for all of a chunk at once, and writes it in parts: events of the same persons wait for each part only."""
        at_us = now_us()
        reader = CellReader(plan, at_us)
        parts = [chunk.rows[start : start + _WRITTEN_AT_ONCE] for start in range(0, len(chunk.rows), _WRITTEN_AT_ONCE)]
        read = await asyncio.to_thread(lambda: [reader.read(rows) for rows in parts])
        hashes = [hashed for part in read for _, hashed, _ in part.lines]
        owners = iter(await patiently(lambda: self._matcher.match(plan.partner, plan.hash_kind, hashes)))
        for rows, part in zip(parts, read, strict=True):
            place = done, chunk.end if rows is parts[-1] else rows[-1].line
            lines = [Line(line, owner, said) for line, _, said in part.lines if (owner := next(owners)) is not None]
            write = partial(self._write, job, plan, part, lines, Stamp(job.id, plan.partner, plan.kind, at_us), place, seen)
            counts = await patiently(write)
            done = place[1]
            LINES.labels("matched").inc(counts.matched)
            LINES.labels("unmatched").inc(counts.unmatched)
            LINES.labels("refused").inc(counts.refused_lines)

    async def _write(
        self,
        job: Job,
        plan: FileMapping,
        read: Read,
        lines: Sequence[Line],
        stamp: Stamp,
        place: tuple[int, int],
        seen: Seen | None,
    ) -> Counts:
        """One transaction: facts, tags, what was refused, and how far it is."""
        counts = Counts(
            unmatched=len(read.lines) - len(lines), refused_lines=read.refused_lines, values_refused=read.refused_values
        )
        columns = {tag.tag: tag.column for tag in plan.tags}
        written = Written(Counts(), [], set())
        try:
            async with self._database.transaction() as uow:
                if lines:
                    written = await writing.write(uow, self._rules, stamp, lines, columns, seen)
                    counts.add(written.counts)
                if seen is not None:
                    raise _TriedOnly
                await _note(uow, job, place, counts, [*read.faults, *written.faults])
        except _TriedOnly:
            async with self._database.transaction() as uow:
                await _note(uow, job, place, counts, [*read.faults, *written.faults])
        if seen is not None:
            seen.add(written.pairs)
        return counts

    async def _tell(self, import_id: int, tell: Tell) -> None:
        if tell is not _silent:
            async with self._database.read() as uow:
                tell(await jobs.get(uow, import_id))


async def _note(uow: UnitOfWork, job: Job, place: tuple[int, int], counts: Counts, faults: Sequence[Fault]) -> None:
    await jobs.advance(uow, job.id, *place, counts)
    await jobs.keep_faults(uow, job.id, faults)
