"""Imports in SQL: who works on which, how far it is, what was refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from chassis.db import Database, UnitOfWork
from chassis.errors import FailedPrecondition, NotFound
from chassis.leases import LostLease
from services.touchpoints.domain.observed import Source
from services.touchpoints.store import sources

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
# Of a command whose process is gone: nobody goes on unless it is given again.
INTERRUPTED: Final = "interrupted"
# Processes that may end over a file without having come any further.
MOST_ATTEMPTS: Final = 3
# Who works on an import says so three times within this time.
LEASE_S: Final = 30.0
_FIELDS: Final = (
    "id, source, place, file_name, mapping, file_sha256,"
    " CASE WHEN state IN ('queued', 'running') AND leased_until < now() AND NOT starts_with(place, 'store:')"
    " THEN 'interrupted' ELSE state END AS state,"
    " reason, message, dry_run, lines, lines_done, taken, refused, sample, caller, created_at"
)


@dataclass(frozen=True)
class Job:
    """An import as stored. `lines_done` is where it goes on; `sample` is JSON, identifiers masked."""

    id: int
    source: str
    place: str
    file_name: str
    mapping: str
    file_sha256: bytes | None
    state: str
    reason: str
    message: str
    dry_run: bool
    lines: int
    lines_done: int
    taken: int
    refused: int
    sample: str
    caller: str
    created_at: datetime


class Fault(NamedTuple):
    """What was refused: the line, which part of the record, and why; never what stood there."""

    line: int
    field: str
    reason: str


async def source_named(uow: UnitOfWork, name: str) -> Source:
    """Raises NotFound."""
    for source in (await sources(uow)).values():
        if source.name == name:
            return source
    raise NotFound("no such source", reason="SOURCE_NOT_FOUND", field="source")


async def add(
    uow: UnitOfWork, *, source: str, place: str, file_name: str, mapping: str, dry_run: bool, caller: str, own: bool
) -> Job:
    """Queues an import; `own`: for who queues it, at once."""
    rows = await uow.fetch(
        "INSERT INTO import_job (source, place, file_name, mapping, state, reason, message, dry_run, lines, lines_done, taken,"  # noqa: S608
        " refused, sample, caller, leased_until) VALUES ($1, $2, $3, $4, 'queued', '', '', $5, 0, 0, 0, 0, '[]', $6,"
        f" now() + make_interval(secs => $7)) RETURNING {_FIELDS}",
        source,
        place,
        file_name,
        mapping,
        dry_run,
        caller,
        LEASE_S if own else 0.0,
    )
    return Job(*rows[0])


async def get(uow: UnitOfWork, import_id: int) -> Job:
    """Raises NotFound."""
    rows = await uow.fetch(f"SELECT {_FIELDS} FROM import_job WHERE id = $1", import_id)  # noqa: S608
    if not rows:
        raise NotFound("no such import", reason="IMPORT_NOT_FOUND", field="import_id")
    return Job(*rows[0])


async def page(uow: UnitOfWork, before: int, size: int) -> list[Job]:
    """Imports with numbers below `before`, newest first."""
    rows = await uow.fetch(
        f"SELECT {_FIELDS} FROM import_job WHERE id < $1 ORDER BY id DESC LIMIT $2",  # noqa: S608
        before,
        size,
    )
    return [Job(*row) for row in rows]


async def unfinished(uow: UnitOfWork, source: str, place: str, mapping: str) -> Job | None:
    """The import of the same file by the same mapping that somebody began and does not work on any more; now the asker's."""
    rows = await uow.fetch(
        "UPDATE import_job SET leased_until = now() + make_interval(secs => $4) WHERE id = (SELECT id FROM import_job"  # noqa: S608
        " WHERE source = $1 AND place = $2 AND mapping = $3 AND state IN ('queued', 'running') AND NOT dry_run"
        f" AND leased_until < now() ORDER BY id DESC LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING {_FIELDS}",
        source,
        place,
        mapping,
        LEASE_S,
    )
    return Job(*rows[0]) if rows else None


async def claim(database: Database, prefix: str) -> Job | None:
    """Takes the oldest import that waits for somebody and whose file is where `prefix` says.

    One that ended so many processes without a word is not tried on the next: it fails.
    """
    async with database.transaction(traced=False) as uow:
        await uow.fetch(
            "UPDATE import_job SET state = 'failed', reason = 'IMPORT_GAVE_UP', message = $3 || lines_done"
            " WHERE leased_until < now() AND state IN ('queued', 'running') AND starts_with(place, $2) AND attempts >= $1",
            MOST_ATTEMPTS,
            prefix,
            f"{MOST_ATTEMPTS} processes ended while they read it, most likely for want of memory: look behind line ",
        )
        rows = await uow.fetch(
            "UPDATE import_job SET leased_until = now() + make_interval(secs => $1), attempts = attempts + 1"  # noqa: S608
            " WHERE id = (SELECT id FROM import_job WHERE leased_until < now() AND state IN ('queued', 'running')"
            " AND starts_with(place, $2)"
            f" ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING {_FIELDS}",
            LEASE_S,
            prefix,
        )
    return Job(*rows[0]) if rows else None


async def renew(database: Database, import_id: int) -> bool:
    """Says that somebody is at it; False when it is not to be done any more."""
    async with database.transaction(traced=False) as uow:
        rows = await uow.fetch(
            "UPDATE import_job SET leased_until = now() + make_interval(secs => $2) WHERE id = $1"
            " AND state IN ('queued', 'running') RETURNING id",
            import_id,
            LEASE_S,
        )
    return bool(rows)


async def release(database: Database, import_id: int) -> None:
    """Lets anybody go on with it; not the file was to blame. Where the database is away the lease runs out by itself."""
    with suppress(Exception):
        async with database.transaction(traced=False) as uow:
            await uow.fetch(
                "UPDATE import_job SET leased_until = now(), attempts = GREATEST(attempts - 1, 0) WHERE id = $1", import_id
            )


async def begin(database: Database, job: Job, sha256: bytes, lines: int) -> None:
    """The file was looked through: from now on its rows are taken. Raises FailedPrecondition when it is another file now."""
    if job.file_sha256 is not None and job.file_sha256 != sha256:
        raise FailedPrecondition("the file is another one than when it was begun", reason="FILE_CHANGED", field="file")
    async with database.transaction() as uow:
        rows = await uow.fetch(
            "UPDATE import_job SET state = 'running', file_sha256 = $2, lines = $3 WHERE id = $1"
            " AND state IN ('queued', 'running') RETURNING id",
            job.id,
            sha256,
            lines,
        )
    if not rows:
        raise LostLease("the import was cancelled")


async def advance(
    database: Database, import_id: int, place: tuple[int, int], taken: int, refused: int, faults: Iterable[Fault], sample: str
) -> None:
    """Notes a chunk: from which line to which, and what came of it. Raises LostLease when another one got there first."""
    async with database.transaction(traced=False) as uow:
        rows = await uow.fetch(
            "UPDATE import_job SET lines_done = $3, taken = taken + $4, refused = refused + $5, sample = $6, attempts = 0"
            " WHERE id = $1 AND lines_done = $2 AND state = 'running' RETURNING id",
            import_id,
            *place,
            taken,
            refused,
            sample,
        )
        if not rows:
            raise LostLease("another one works on this import, or it was cancelled")
        told = {(import_id, fault.line, fault.field): fault.reason for fault in faults}
        if told:
            columns = ("import_id", "line", "field", "reason")
            await uow.copy("import_error", columns, [(*key, reason) for key, reason in told.items()])


async def finish(database: Database, import_id: int, state: str, reason: str = "", message: str = "") -> None:
    """Ends an import that runs."""
    async with database.transaction() as uow:
        await uow.fetch(
            "UPDATE import_job SET state = $2, reason = $3, message = $4, leased_until = now() WHERE id = $1"
            " AND state IN ('queued', 'running')",
            import_id,
            state,
            reason,
            message[:500],
        )


async def cancel(uow: UnitOfWork, import_id: int) -> Job:
    """Stops an import behind its present chunk; what was taken stays. Raises NotFound."""
    await uow.fetch(
        "UPDATE import_job SET state = 'cancelled', leased_until = now() WHERE id = $1 AND state IN ('queued', 'running')",
        import_id,
    )
    return await get(uow, import_id)


async def faults_page(uow: UnitOfWork, import_id: int, after: int, size: int) -> Sequence[Fault]:
    """What was refused behind a line; a line has one fault."""
    rows = await uow.fetch(
        "SELECT line, field, reason FROM import_error WHERE import_id = $1 AND line > $2 ORDER BY line LIMIT $3",
        import_id,
        after,
        size,
    )
    return [Fault(*row) for row in rows]
