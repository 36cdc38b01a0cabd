"""Verbs of the command line: `lint` explains mistakes in files of tags, `add` adds the tags of a file to a running house."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from chassis.bus import Bus
from chassis.db import Database, UnitOfWork
from chassis.errors import InvalidArgument, Unavailable
from chassis.run import PlainVerb, Verb
from services.tags.backfill.cutting import Histories
from services.tags.catalogue import yaml_files
from services.tags.catalogue.changing import Changing, Draft, Outcome
from services.tags.catalogue.checking import examine
from services.tags.catalogue.defining import body_of
from services.tags.catalogue.following import LiveCatalogue
from services.tags.catalogue.mistakes import Mistake
from services.tags.catalogue.vocabulary import unheard_of
from services.tags.catalogue.yaml_files import Written
from services.tags.domain.catalogue import FromEvents, TagDefinition
from services.tags.handlers import TagRules

if TYPE_CHECKING:
    from services.tags.settings import Settings

# Nobody derives tags meanwhile.
_CONNECT_S: Final = 3.0


def mistakes_in(written: Sequence[Written], mistakes: Sequence[Mistake], among: Sequence[TagDefinition] = ()) -> list[Mistake]:
    """All mistakes of what was read from files, standing together with other tags, in order of place."""
    by_identity = {id(each.definition): each for each in written}
    definitions = [each.definition for each in written]
    found = [*examine([*among, *definitions]), *unheard_of(definitions)]
    ours = [by_identity[id(each.definition)].mistake(each.fault) for each in found if id(each.definition) in by_identity]
    return sorted([*mistakes, *ours], key=lambda mistake: mistake.place)


def lint(flags: argparse.Namespace) -> int:
    """The verb `lint`: 0 without errors, 1 with some; warnings count with --strict."""
    paths = yaml_files.files_in(flags.file or [yaml_files.DEFAULT])
    written, mistakes = yaml_files.read_files(paths)
    given = {path.resolve() for path in paths}
    # What the release ships is there, too; unless it is what is looked at.
    others = [path for path in yaml_files.files_in([yaml_files.DEFAULT]) if path.resolve() not in given]
    among = [] if flags.alone else [each.definition for each in yaml_files.read_files(others)[0]]
    found = mistakes_in(written, mistakes, among)
    errors = sum(not mistake.is_warning for mistake in found)
    if flags.json:
        report = {"files": len(paths), "tags": len(written), "errors": errors, "mistakes": [_plain(each) for each in found]}
        _say(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        for mistake in found:
            _say(str(mistake))
        _say(f"{len(written)} tags in {len(paths)} files: {errors} errors, {len(found) - errors} warnings")
    return 1 if errors or (flags.strict and found) else 0


async def add(settings: Settings, flags: argparse.Namespace) -> None:
    """The verb `add`: all tags of the files or none. Replicas that run follow within a second."""
    rules = TagRules(yaml_files.load(settings.catalogue))
    database = Database(settings.postgres_dsn, "tags", 2)
    try:
        live = LiveCatalogue(database, rules)
        await live.refresh()
        written, mistakes = yaml_files.read_files(flags.file)
        found = mistakes_in(written, mistakes, rules.catalogue.definitions)
        for mistake in found:
            _say(str(mistake))
        if errors := sum(not mistake.is_warning for mistake in found):
            raise InvalidArgument(f"{errors} errors, nothing was added", reason="INVALID_DEFINITION")
        drafts = [Draft(each.definition.kind, each.definition.name, body_of(each.definition)) for each in written]
        async with database.transaction() as uow:
            if not flags.dry_run:
                await live.begin(uow)
            outcomes = await Changing(uow, live.files, rules.catalogue).create(drafts, flags.caller, flags.dry_run)
            if not flags.dry_run:
                await _cut(uow, settings, [outcome.definition for outcome in outcomes])
        for outcome in outcomes:
            _say(_told(outcome, flags.dry_run, bool(settings.lake)))
    finally:
        await database.close()


async def _cut(uow: UnitOfWork, settings: Settings, definitions: Sequence[TagDefinition]) -> None:
    """Begins the past of tags that come from events."""
    if not settings.lake or not any(isinstance(definition.origin, FromEvents) for definition in definitions):
        return
    bus = Bus(settings.nats_url, "tags")
    try:
        async with asyncio.timeout(_CONNECT_S):
            await bus.connect()
        await Histories(bus, keeps=True).begin(uow, definitions)
    except TimeoutError:
        raise Unavailable("the bus does not answer, nothing was added", reason="BUS_UNAVAILABLE") from None
    finally:
        await bus.close()


def _told(outcome: Outcome, dry_run: bool, has_lake: bool) -> str:
    definition = outcome.definition
    how = "computed when asked" if outcome.is_view else "kept"
    if isinstance(definition.origin, FromEvents):
        how += ", its past comes from the event lake" if has_lake else ", counts from now on: TROIKA_LAKE names no event lake"
    return f"{'would add' if dry_run else 'added'} {definition.kind.name.lower()}.{definition.name} ({how})"


def _plain(mistake: Mistake) -> dict[str, Any]:
    place = mistake.place
    return {
        "file": place.path,
        "line": place.line,
        "column": place.column,
        "tag": mistake.tag,
        "severity": "warning" if mistake.is_warning else "error",
        "reason": mistake.reason,
        "message": mistake.message,
    }


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _lint_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="*", type=Path, help="YAML files or folders; the shipped catalogue when there is none")
    parser.add_argument("--alone", action="store_true", help="do not read them together with the shipped catalogue")
    parser.add_argument("--strict", action="store_true", help="fail on warnings, too")
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="+", type=Path, help="YAML files or folders")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be")
    parser.add_argument("--caller", default="operator", help="who adds them")


VERBS = (
    PlainVerb("lint", "explain the mistakes in files of tags", lint, _lint_arguments),
    Verb("add", "add the tags of files to the catalogue", add, _add_arguments),
)
