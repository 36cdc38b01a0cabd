"""Verbs of the command line: take a file in, list what was taken in, stop one."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceStub

from chassis import rpc
from chassis.bus import Bus
from chassis.db import Database
from chassis.errors import FailedPrecondition, NotFound
from chassis.run import Verb
from services.touchpoints.imports import jobs, observing
from services.touchpoints.imports.files import ERRORS, ImportFiles
from services.touchpoints.imports.jobs import Job
from services.touchpoints.imports.mapping import MappingError
from services.touchpoints.imports.running import Importer, Tell
from services.touchpoints.plan.gate import Gate
from services.touchpoints.plan.held import Holder
from services.touchpoints.plan.live import LivePlan
from services.touchpoints.publishing import Publisher
from services.touchpoints.sealer import Sealer

if TYPE_CHECKING:
    from services.touchpoints.settings import Settings

_TOLD_EVERY_S = 1.0
_FIRST = 10


@asynccontextmanager
async def _importer(settings: Settings, files: ImportFiles) -> AsyncIterator[tuple[Database, Importer]]:
    """What an import needs, in this process."""
    database = Database(settings.postgres_dsn, "touchpoints", 3)
    bus = Bus(settings.nats_url, "touchpoints", settings.nats_replicas)
    channel = rpc.connect(settings.identity_target, "touchpoints", settings.caller_token)
    identity: Any = IdentityServiceStub(channel)
    sealer = Sealer(identity)
    sealing = asyncio.create_task(sealer.run())
    try:
        await bus.connect()
        publisher, live = Publisher(bus, settings.publish_timeout_s), LivePlan(database)
        await live.refresh()
        gate = Gate(live, Holder(bytes.fromhex(settings.secrets_key.get_secret_value())))
        yield database, Importer(database, sealer, publisher, gate, files, settings.oldest_event_days)
    finally:
        sealing.cancel()
        await channel.close()
        await bus.close()
        await database.close()


async def run_import(settings: Settings, flags: argparse.Namespace) -> None:
    """The verb `import`. Raises FailedPrecondition when it did not end well: the exit code then is 1."""
    text = _mapping_text(flags.mapping)
    name = flags.file.rpartition("/")[2]
    observing.plan(text, name)
    files = ImportFiles(settings)
    place = await asyncio.to_thread(files.of_caller, flags.file)
    async with _importer(settings, files) as (database, importer):
        async with database.transaction() as uow:
            await jobs.source_named(uow, flags.source)
            job = None if flags.dry_run else await jobs.unfinished(uow, flags.source, place, text)
            job = job or await jobs.add(
                uow,
                source=flags.source,
                place=place,
                file_name=name,
                mapping=text,
                dry_run=flags.dry_run,
                caller="operator",
                own=True,
            )
        await importer.work(job, _teller(flags.json))
        async with database.read() as uow:
            done = await jobs.get(uow, job.id)
            first = await jobs.faults_page(uow, job.id, -1, _FIRST)
    if flags.json:
        sys.stdout.write(orjson.dumps(told(done) | {"first_errors": [fault._asdict() for fault in first]}).decode() + "\n")
    else:
        sys.stdout.write(summary(done))
        for fault in first:
            sys.stdout.write(f"  line {fault.line}: {fault.field or 'the row'}: {fault.reason}\n")
        if first:
            sys.stdout.write(f"all of it: {flags.file}{ERRORS}\n")
        for event in orjson.loads(done.sample):
            sys.stdout.write(f"  would observe {orjson.dumps(event).decode()}\n")
    if done.state != jobs.DONE:
        raise FailedPrecondition(done.message or f"the import is {done.state}", reason=done.reason or "IMPORT_STOPPED")


def _mapping_text(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NotFound(f"no such file: {path}", reason="FILE_NOT_FOUND", field="mapping") from None
    except (OSError, UnicodeDecodeError):
        raise MappingError(f"{path} is not a file in UTF-8", field="mapping") from None


async def list_imports(settings: Settings, flags: argparse.Namespace) -> None:
    """The verb `imports`."""
    database = Database(settings.postgres_dsn, "touchpoints", 1)
    try:
        async with database.read() as uow:
            found = await jobs.page(uow, 2**63 - 1, flags.limit)
    finally:
        await database.close()
    for job in found:
        sys.stdout.write(orjson.dumps(told(job)).decode() + "\n" if flags.json else summary(job))


async def cancel_import(settings: Settings, flags: argparse.Namespace) -> None:
    """The verb `cancel-import`. Raises NotFound."""
    database = Database(settings.postgres_dsn, "touchpoints", 1)
    try:
        async with database.transaction() as uow:
            job = await jobs.cancel(uow, flags.import_id)
    finally:
        await database.close()
    sys.stdout.write(summary(job))


def told(job: Job) -> dict[str, Any]:
    """An import as one JSON object."""
    left_out = ("id", "place", "mapping", "file_sha256", "sample")
    rest = {name: value for name, value in asdict(job).items() if name not in left_out}
    digest = job.file_sha256.hex() if job.file_sha256 else ""
    return {"import_id": job.id, **rest, "file_sha256": digest, "sample": orjson.loads(job.sample)}


def summary(job: Job) -> str:
    """An import for people."""
    tried = ", dry run: nothing was published" if job.dry_run else ""
    why = f" ({': '.join(part for part in (job.reason, job.message) if part)})" if job.reason or job.message else ""
    return (
        f"import {job.id}: {job.file_name} of {job.source}, {job.state}{tried}{why}\n"
        f"  lines {job.lines_done:,} of {job.lines:,}; {'would take' if job.dry_run else 'taken'} {job.taken:,},"
        f" refused {job.refused:,}\n"
    )


def _teller(as_json: bool) -> Tell:
    began = last = time.monotonic()

    def tell(job: Job) -> None:
        nonlocal last
        now = time.monotonic()
        if as_json or now - last < _TOLD_EVERY_S:
            return
        last = now
        done = job.lines_done / max(job.lines, 1)
        rate = (job.taken + job.refused) / max(now - began, 1e-6)
        sys.stdout.write(f"{job.lines_done:,} of {job.lines:,} lines ({done:.0%}), refused {job.refused:,}, {rate:,.0f}/s\n")
        sys.stdout.flush()

    return tell


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="CSV, Parquet, JSON lines or ADF; a path or s3://bucket/key")
    parser.add_argument("--source", required=True, metavar="S", help="the source whose records these are")
    parser.add_argument("--mapping", type=Path, metavar="M", help="the mapping, YAML; not for ADF")
    parser.add_argument("--dry-run", action="store_true", help="say what would happen and publish nothing")
    parser.add_argument("--json", action="store_true", help="one JSON object at the end and nothing before")


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, default=20, help="how many at most, newest first (default 20)")
    parser.add_argument("--json", action="store_true", help="one JSON object per import and line")


def _cancel_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("import_id", type=int, metavar="ID", help="its number")


VERBS: Sequence[Verb[Any]] = (
    Verb("import", "take in a file of records or leads", run_import, _import_arguments),
    Verb("imports", "list what was taken in", list_imports, _list_arguments),
    Verb("cancel-import", "stop an import", cancel_import, _cancel_arguments),
)
