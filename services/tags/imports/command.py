"""Verbs of the command line: take a file in, list what was taken in, take one back."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from chassis import rpc
from chassis.db import Database
from chassis.errors import FailedPrecondition, NotFound
from chassis.run import Verb
from services.tags.catalogue import yaml_files
from services.tags.catalogue.following import LiveCatalogue
from services.tags.handlers import TagRules
from services.tags.imports import jobs, mapping
from services.tags.imports.files import ImportFiles
from services.tags.imports.jobs import Job
from services.tags.imports.matching import Matcher
from services.tags.imports.running import Importer, Tell

if TYPE_CHECKING:
    from services.tags.settings import Settings

_TOLD_EVERY_S = 1.0
_PAGE = 10_000


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Database, TagRules, Importer]]:
    """What an import needs, in this process; its facts go out through the relay of the service."""
    rules = TagRules(yaml_files.load(settings.catalogue))
    database = Database(settings.postgres_dsn, "tags", 3)
    await LiveCatalogue(database, rules).refresh()
    channel = rpc.connect(settings.identity_target, "tags", settings.caller_token)
    try:
        yield database, rules, Importer(database, rules, Matcher(channel), ImportFiles(None))
    finally:
        await channel.close()
        await database.close()


async def run_import(settings: Settings, flags: argparse.Namespace) -> None:
    """The verb `import`. Raises FailedPrecondition when it failed: the exit code then is 1."""
    text = _mapping_text(flags.mapping)
    async with _opened(settings) as (database, rules, importer):
        plan = mapping.parse(text, rules.catalogue)
        source = ImportFiles.of_path(flags.file)
        async with database.transaction() as uow:
            job = None if flags.dry_run else await jobs.unfinished(uow, plan, source)
            if job is None:
                job = await jobs.add(
                    uow,
                    plan,
                    text=text,
                    source=source,
                    file_name=flags.file.name,
                    dry_run=flags.dry_run,
                    caller="operator",
                    own=True,
                )
        await importer.work(job, _teller(flags.json))
        async with database.read() as uow:
            done = await jobs.get(uow, job.id)
        errors = flags.errors or flags.file.with_name(f"{flags.file.name}.errors.csv")
        refused = await _write_errors(database, job.id, errors)
    if flags.json:
        sys.stdout.write(orjson.dumps(told(done)).decode() + "\n")
    else:
        sys.stdout.write(summary(done) + (f"refused: {errors} ({refused:,} places)\n" if refused else ""))
    if done.state != jobs.DONE:
        raise FailedPrecondition(done.message or f"the import is {done.state}", reason=done.reason or "IMPORT_STOPPED")


def _mapping_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NotFound(f"no such file: {path}", reason="FILE_NOT_FOUND", field="mapping") from None
    except (OSError, UnicodeDecodeError):
        raise mapping.MappingError(f"{path} is not a file in UTF-8", field="mapping") from None


async def list_imports(settings: Settings, flags: argparse.Namespace) -> None:
    """The verb `imports`."""
    database = Database(settings.postgres_dsn, "tags", 1)
    try:
        async with database.read() as uow:
            found = await jobs.page(uow, 2**63 - 1, flags.limit)
    finally:
        await database.close()
    for job in found:
        sys.stdout.write(orjson.dumps(told(job)).decode() + "\n" if flags.json else summary(job))


async def undo_import(settings: Settings, flags: argparse.Namespace) -> None:
    """The verb `undo-import`. Raises NotFound."""
    async with _opened(settings) as (database, _, importer):
        async with database.transaction() as uow:
            await jobs.get(uow, flags.import_id)
            job = await jobs.undo(uow, flags.import_id)
        if job.state == jobs.UNDOING:
            await importer.work(job)
        async with database.read() as uow:
            sys.stdout.write(summary(await jobs.get(uow, flags.import_id)))


def told(job: Job) -> dict[str, Any]:
    """An import as one JSON object."""
    return {
        "import_id": job.id,
        "partner": job.partner,
        "file": job.file_name,
        "file_sha256": job.file_sha256.hex() if job.file_sha256 else "",
        "state": job.state,
        "reason": job.reason,
        "dry_run": job.dry_run,
        "lines": job.lines,
        "lines_done": job.lines_done,
        "match_rate": match_rate(job),
        **asdict(job.counts),
    }


def match_rate(job: Job) -> float:
    """Lines that are somebody's, of those that could be asked for."""
    return job.counts.matched / max(job.counts.matched + job.counts.unmatched, 1)


def summary(job: Job) -> str:
    """An import for people."""
    counts, tried = job.counts, ", dry run: nothing was changed" if job.dry_run else ""
    return (
        f"import {job.id}: {job.file_name} of {job.partner}, {job.state}{tried}"
        + (f" ({job.reason}: {job.message})" if job.reason else "")
        + f"\n  lines    {job.lines_done:,} of {job.lines:,}; matched {counts.matched:,} ({match_rate(job):.1%}),"
        f" unmatched {counts.unmatched:,}, refused {counts.refused_lines:,}\n"
        f"  values   new {counts.values_new:,}, changed {counts.values_changed:,}, unchanged {counts.values_unchanged:,},"
        f" refused {counts.values_refused:,}, repeated {counts.values_repeated:,}\n"
    )


def _teller(as_json: bool) -> Tell:
    began = last = time.monotonic()

    def tell(job: Job) -> None:
        nonlocal last
        now = time.monotonic()
        if as_json or now - last < _TOLD_EVERY_S:
            return
        last = now
        counts = job.counts
        lines = counts.matched + counts.unmatched + counts.refused_lines
        sys.stdout.write(
            f"{lines:,} of {job.lines:,} lines, {match_rate(job):.1%} matched, {lines / max(now - began, 1e-6):,.0f}/s\n"
        )
        sys.stdout.flush()

    return tell


async def _write_errors(database: Database, import_id: int, path: Path) -> int:
    """Writes what was refused, one place a line, and nothing where nothing was; returns how many."""
    async with database.read() as uow:
        faults = await jobs.faults_page(uow, import_id, -1, _PAGE)
        if not faults:
            return 0
        written = 0
        with path.open("w", encoding="utf-8", newline="") as file:
            out = csv.writer(file)
            out.writerow(("line", "column", "reason"))
            while faults:
                out.writerows(faults)
                written += len(faults)
                faults = await jobs.faults_page(uow, import_id, faults[-1].line, _PAGE)
    return written


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV or Parquet")
    parser.add_argument("--mapping", type=Path, required=True, metavar="M", help="the mapping, YAML")
    parser.add_argument("--dry-run", action="store_true", help="say what would happen and change nothing")
    parser.add_argument("--errors", type=Path, help="where to write what is refused (default: FILE.errors.csv)")
    parser.add_argument("--json", action="store_true", help="one JSON object at the end and nothing before")


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, default=20, help="how many at most, newest first (default 20)")
    parser.add_argument("--json", action="store_true", help="one JSON object per import and line")


def _undo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("import_id", type=int, metavar="ID", help="its number")


VERBS: Sequence[Verb[Any]] = (
    Verb("import", "take in a partner's file of tags", run_import, _import_arguments),
    Verb("imports", "list what was taken in", list_imports, _list_arguments),
    Verb("undo-import", "withdraw all facts of one import", undo_import, _undo_arguments),
)
