"""Takes in a file: looks it through, then publishes chunk by chunk and notes each with what was refused.

A chunk is durable before it is noted. Who is killed between the two publishes it again: the same rows judged at the same
moment make the same events in the same message, which the bus and every reader take once.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final

import orjson
from prometheus_client import Counter

from chassis.db import Database
from chassis.errors import TroikaError, is_operational
from chassis.leases import LostLease, hold, patiently
from chassis.moments import to_us
from services.touchpoints import events
from services.touchpoints.domain.observed import Invalid, Observed
from services.touchpoints.imports import jobs, observing
from services.touchpoints.imports.files import STORE, ImportFiles
from services.touchpoints.imports.jobs import Fault, Job
from services.touchpoints.imports.observing import Plan
from services.touchpoints.imports.reading import FileFault, Looked, Row
from services.touchpoints.ingest import DAY_US
from services.touchpoints.plan.gate import Gate
from services.touchpoints.publishing import Publisher
from services.touchpoints.sealer import Sealer

log = logging.getLogger(__name__)

ROWS = Counter("touchpoints_import_rows_total", "Rows of imported files.", ["outcome"])
# One message of the bus: what is published again is the same message.
CHUNK_ROWS: Final = events.MOST_FACTS
SAMPLE: Final = 5
_LOOK_S: Final = 1.0
_PAGE: Final = 10_000
HEAD: Final = b"line,field,reason\n"

Tell = Callable[[Job], None]


def _silent(job: Job) -> None:
    """Nobody listens."""


class Importer:
    """Works on imports, one after the other."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        publisher: Publisher,
        gate: Gate,
        files: ImportFiles,
        oldest_event_days: int,
        chunk_rows: int = CHUNK_ROWS,
        beat_s: float = jobs.LEASE_S / 3,
    ) -> None:
        self._database, self._sealer, self._publisher, self._gate, self._files = database, sealer, publisher, gate, files
        self._oldest_us = oldest_event_days * DAY_US
        self._chunk_rows, self._beat_s = chunk_rows, beat_s

    async def follow(self) -> None:
        """Takes what waits in the import store, for ever; any number of replicas may."""
        while True:
            try:
                if job := await jobs.claim(self._database, STORE):
                    await self.work(job)
                    continue
            except Exception as error:
                if is_operational(error):
                    log.warning("imports wait")
                else:
                    log.exception("importing failed")
            await asyncio.sleep(_LOOK_S)

    async def work(self, job: Job, tell: Tell = _silent) -> None:
        """Takes an import in to its end. What is wrong with it ends it; raises what is only wrong at this moment."""
        try:
            await hold(self._take_in(job, tell), partial(jobs.renew, self._database, job.id), self._beat_s, f"import {job.id}")
        except LostLease:
            log.info("import was taken over or cancelled", extra={"import_id": job.id})
        except asyncio.CancelledError:
            await jobs.release(self._database, job.id)
            raise
        except Exception as error:
            if is_operational(error):
                await jobs.release(self._database, job.id)
                raise
            known = error if isinstance(error, TroikaError) else TroikaError("internal error")
            if known is not error:
                log.exception("import failed", extra={"import_id": job.id})
            await jobs.finish(self._database, job.id, jobs.FAILED, known.reason, known.message)
        await self._tell(job.id, tell)

    async def _take_in(self, job: Job, tell: Tell) -> None:
        how = observing.plan(job.mapping, job.file_name)
        async with self._database.read() as uow:
            source = await jobs.source_named(uow, job.source)
        looked = await asyncio.to_thread(self._looked, job, how)
        await jobs.begin(self._database, job, looked.sha256, looked.lines)
        # Judged as of the moment when it was asked for, however often it is begun.
        at_us = to_us(job.created_at)
        observe = observing.observer(how, source, at_us, at_us - self._oldest_us)
        done, sample = job.lines_done, orjson.loads(job.sample)
        with self._open(job) as file:
            rows = observing.rows(file, how, done)
            while chunk := await asyncio.to_thread(self._next, rows):
                read, faults = await asyncio.to_thread(_read, chunk, observe)
                observed = self._fitting(read, faults)
                if not job.dry_run:
                    await patiently(partial(self._publish, observed))
                elif len(sample) < SAMPLE:
                    sample += [observing.shown(event) for event in observed[: SAMPLE - len(sample)]]
                place = done, chunk[-1].end
                note = orjson.dumps(sample).decode()
                await patiently(partial(jobs.advance, self._database, job.id, place, len(observed), len(faults), faults, note))
                done = place[1]
                ROWS.labels("taken").inc(len(observed))
                ROWS.labels("refused").inc(len(faults))
                await self._tell(job.id, tell)
        message = await self._write_errors(job)
        await jobs.finish(self._database, job.id, jobs.DONE, message=message)

    def _fitting(self, read: Iterable[tuple[int, Observed]], faults: list[Fault]) -> list[Observed]:
        """Those that fit the tracking plan; the others are faults like any. Raises Unavailable while there is no plan."""
        observed = []
        for line, event in read:
            if fault := self._gate.fault(event):
                faults.append(Fault(line, fault.field, fault.reason))
            else:
                observed.append(event)
        return observed

    def _next(self, rows: Iterator[Row]) -> list[Row]:
        return list(islice(rows, self._chunk_rows))

    async def _publish(self, observed: list[Observed]) -> None:
        if observed:
            await self._publisher.publish(observed, [], self._sealer.key(), time.time_ns() // 1000, alone=True)

    def _looked(self, job: Job, how: Plan) -> Looked:
        with self._open(job) as file:
            return observing.look(file, how)

    def _open(self, job: Job) -> io.BufferedReader:
        try:
            return self._files.open(job.place)
        except FileNotFoundError:
            raise FileFault("the file is not there any more", reason="FILE_NOT_FOUND", field="file") from None

    async def _write_errors(self, job: Job) -> str:
        """Writes what was refused beside the file, where anything was; returns what to say when that cannot be done."""
        try:
            if faults := await self._faults(job.id, -1):
                stream = await asyncio.to_thread(self._files.beside, job.place)
                try:
                    await asyncio.to_thread(stream.write, HEAD)
                    while faults:
                        told = "".join(f"{fault.line},{fault.field},{fault.reason}\n" for fault in faults)
                        await asyncio.to_thread(stream.write, told.encode())
                        faults = await self._faults(job.id, faults[-1].line)
                finally:
                    await asyncio.to_thread(stream.close)
        except OSError:
            # A store that may only be read is no reason to fail: ListImportErrors has it all.
            log.warning("errors of an import not written beside its file", extra={"import_id": job.id})
            return "what was refused could not be written beside the file"
        return ""

    async def _faults(self, import_id: int, after: int) -> Sequence[Fault]:
        async with self._database.read() as uow:
            return await jobs.faults_page(uow, import_id, after, _PAGE)

    async def _tell(self, import_id: int, tell: Tell) -> None:
        if tell is not _silent:
            async with self._database.read() as uow:
                tell(await jobs.get(uow, import_id))


def _read(chunk: Iterable[Row], observe: Callable[[Row], Observed]) -> tuple[list[tuple[int, Observed]], list[Fault]]:
    """Events with their lines, and what cannot be read."""
    read, faults = [], []
    for row in chunk:
        try:
            read.append((row.line, observe(row)))
        except Invalid as error:
            faults.append(Fault(row.line, error.field, error.reason))
    return read, faults
