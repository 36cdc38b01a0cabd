"""Imports in SQL: who works on which, how far it is, what was refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Final

from sqlalchemy.exc import IntegrityError

from chassis.db import Database, UnitOfWork
from chassis.errors import FailedPrecondition, NotFound
from chassis.leases import LostLease
from services.tags.imports.mapping import FileMapping
from services.tags.imports.values import Fault

QUEUED, RUNNING, DONE, FAILED, UNDOING, UNDONE = "queued", "running", "done", "failed", "undoing", "undone"
# Who works on an import says so three times within this time.
LEASE_S: Final = 30.0


@dataclass
class Counts:
    """What lines came to; names are the table's."""

    matched: int = 0
    unmatched: int = 0
    refused_lines: int = 0
    values_new: int = 0
    values_changed: int = 0
    values_unchanged: int = 0
    values_refused: int = 0
    values_repeated: int = 0

    def add(self, other: Counts) -> None:
        """Adds up."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


_COUNTERS: Final = tuple(each.name for each in fields(Counts))
_FIELDS: Final = (
    "id, partner, entity_kind, source, file_name, mapping, mapping_sha256, file_sha256, state, reason, message, dry_run,"
    f" lines, lines_done, {', '.join(_COUNTERS)}, caller, created_at"
)


@dataclass(frozen=True)
class Job:
    """An import as stored."""

    id: int
    partner: str
    entity_kind: int
    source: str
    file_name: str
    mapping: str
    mapping_sha256: bytes
    file_sha256: bytes | None
    state: str
    reason: str
    message: str
    dry_run: bool
    lines: int
    lines_done: int
    caller: str
    created_at: datetime
    counts: Counts = field(default_factory=Counts)

    @classmethod
    def of(cls, row: Any) -> Job:
        """From a row of `_FIELDS`."""
        found = dict(row)
        counts = Counts(**{name: found.pop(name) for name in _COUNTERS})
        return cls(counts=counts, **found)


async def add(
    uow: UnitOfWork, mapping: FileMapping, *, text: str, source: str, file_name: str, dry_run: bool, caller: str, own: bool
) -> Job:
    """Queues an import; `own`: for who queues it, at once."""
    rows = await uow.fetch(
        "INSERT INTO import_job (partner, entity_kind, source, file_name, mapping, mapping_sha256, state, reason, message,"  # noqa: S608
        " dry_run, lines, lines_done, matched, unmatched, refused_lines, values_new, values_changed, values_unchanged,"
        " values_refused, values_repeated, caller, leased_until) VALUES ($1, $2, $3, $4, $5, $6, 'queued', '', '', $7,"
        " 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, $8, now() + make_interval(secs => $9))"
        f" RETURNING {_FIELDS}",
        mapping.partner,
        int(mapping.kind),
        source,
        file_name,
        text,
        mapping.sha256,
        dry_run,
        caller,
        LEASE_S if own else 0.0,
    )
    return Job.of(rows[0])


async def get(uow: UnitOfWork, import_id: int) -> Job:
    """Raises NotFound."""
    rows = await uow.fetch(f"SELECT {_FIELDS} FROM import_job WHERE id = $1", import_id)  # noqa: S608
    if not rows:
        raise NotFound("no such import", reason="IMPORT_NOT_FOUND", field="import_id")
    return Job.of(rows[0])


async def page(uow: UnitOfWork, before: int, size: int) -> list[Job]:
    """Imports with numbers below `before`, newest first."""
    rows = await uow.fetch(
        f"SELECT {_FIELDS} FROM import_job WHERE id < $1 ORDER BY id DESC LIMIT $2",  # noqa: S608
        before,
        size,
    )
    return [Job.of(row) for row in rows]


async def unfinished(uow: UnitOfWork, mapping: FileMapping, source: str) -> Job | None:
    """The import of the same file by the same mapping that somebody began and does not work on any more."""
    rows = await uow.fetch(
        f"SELECT {_FIELDS} FROM import_job WHERE partner = $1 AND mapping_sha256 = $2 AND source = $3"  # noqa: S608
        " AND state IN ('queued', 'running') AND NOT dry_run AND leased_until < now() ORDER BY id DESC LIMIT 1",
        mapping.partner,
        mapping.sha256,
        source,
    )
    return Job.of(rows[0]) if rows else None


async def claim(database: Database, prefixes: Sequence[str]) -> Job | None:
    """Takes the oldest import that waits for somebody; those of the command line (`file:`) only with that prefix."""
    async with database.transaction(traced=False) as uow:
        rows = await uow.fetch(
            "UPDATE import_job SET leased_until = now() + make_interval(secs => $1) WHERE id = (SELECT id FROM import_job"  # noqa: S608
            " WHERE leased_until < now() AND (state = 'undoing' OR (state IN ('queued', 'running')"
            " AND split_part(source, ':', 1) = ANY($2::text[]))) ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)"
            f" RETURNING {_FIELDS}",
            LEASE_S,
            list(prefixes),
        )
    return Job.of(rows[0]) if rows else None


async def renew(database: Database, import_id: int, states: Sequence[str]) -> bool:
    """Says that somebody is at it; False when it has come into another state meanwhile."""
    async with database.transaction(traced=False) as uow:
        rows = await uow.fetch(
            "UPDATE import_job SET leased_until = now() + make_interval(secs => $2) WHERE id = $1 AND state = ANY($3::text[])"
            " RETURNING id",
            import_id,
            LEASE_S,
            list(states),
        )
    return bool(rows)


async def release(database: Database, import_id: int, states: Sequence[str]) -> None:
    """Lets anybody go on with it. Where the database is away the lease runs out by itself."""
    with suppress(Exception):
        async with database.transaction(traced=False) as uow:
            await uow.fetch(
                "UPDATE import_job SET leased_until = now() WHERE id = $1 AND state = ANY($2::text[])", import_id, list(states)
            )


async def begin(database: Database, job: Job, sha256: bytes, lines: int) -> None:
    """The file was read through: from now on it is applied.

    Raises FailedPrecondition ALREADY_IMPORTED, or FILE_CHANGED when it is another one than before the interruption.
    """
    if job.file_sha256 is not None and job.file_sha256 != sha256:
        raise FailedPrecondition("the file is another one than when it was begun", reason="FILE_CHANGED", field="file")
    try:
        async with database.transaction() as uow:
            rows = await uow.fetch(
                "UPDATE import_job SET state = 'running', file_sha256 = $2, lines = $3 WHERE id = $1"
                " AND state IN ('queued', 'running') RETURNING id",
                job.id,
                sha256,
                lines,
            )
    except Exception as error:
        if not is_duplicate(error):
            raise
        raise FailedPrecondition(
            "this file was taken in before, by the same mapping", reason="ALREADY_IMPORTED", field="file"
        ) from None
    if not rows:
        raise LostLease("the import is not to be run any more")


def is_duplicate(error: Exception) -> bool:
    """Whether a unique index refused."""
    return isinstance(error, IntegrityError) or getattr(error, "sqlstate", "") == "23505"


async def advance(uow: UnitOfWork, import_id: int, done_before: int, done: int, counts: Counts) -> None:
    """Writes how far it is. Raises LostLease when another one got there first, or it is being undone."""
    sums = ", ".join(f"{name} = {name} + ${at}" for at, name in enumerate(_COUNTERS, start=4))
    rows = await uow.fetch(
        f"UPDATE import_job SET lines_done = $3, {sums} WHERE id = $1 AND lines_done = $2 AND state = 'running' RETURNING id",  # noqa: S608
        import_id,
        done_before,
        done,
        *asdict(counts).values(),
    )
    if not rows:
        raise LostLease("another one works on this import, or takes it back")


async def finish(database: Database, import_id: int, state: str, reason: str = "", message: str = "") -> None:
    """Ends an import that runs, or its undoing."""
    before = [UNDOING] if state == UNDONE else [QUEUED, RUNNING]
    async with database.transaction() as uow:
        await uow.fetch(
            "UPDATE import_job SET state = $2, reason = $3, message = $4, leased_until = now() WHERE id = $1"
            " AND state = ANY($5::text[])",
            import_id,
            state,
            reason,
            message[:500],
            before,
        )


async def undo(uow: UnitOfWork, import_id: int) -> Job:
    """Lets an import be undone, now or, when somebody is at it, as soon as its present chunk is over."""
    await uow.fetch(
        "UPDATE import_job SET state = CASE WHEN dry_run THEN 'undone' ELSE 'undoing' END, leased_until = now()"
        " WHERE id = $1 AND state NOT IN ('undoing', 'undone')",
        import_id,
    )
    return await get(uow, import_id)


async def keep_faults(uow: UnitOfWork, import_id: int, faults: Iterable[Fault]) -> None:
    """Keeps what was refused."""
    rows = {(import_id, fault.line, fault.column): fault.reason for fault in faults}
    columns = ("import_id", "line", "column_name", "reason")
    await uow.copy("import_error", columns, [(*key, reason) for key, reason in rows.items()])


async def faults_page(uow: UnitOfWork, import_id: int, after: int, size: int) -> list[Fault]:
    """What was refused behind a line: at least `size` places while there are so many, whole lines."""
    rows = await uow.fetch(
        "SELECT line, column_name, reason FROM (SELECT line, column_name, reason FROM import_error"
        " WHERE import_id = $1 AND line > $2 ORDER BY line, column_name FETCH FIRST $3 ROWS ONLY) AS first"
        " UNION SELECT line, column_name, reason FROM import_error WHERE import_id = $1 AND line = (SELECT max(line) FROM"
        " (SELECT line FROM import_error WHERE import_id = $1 AND line > $2 ORDER BY line FETCH FIRST $3 ROWS ONLY) AS l)"
        " ORDER BY line, column_name",
        import_id,
        after,
        size,
    )
    return [Fault(*row) for row in rows]
