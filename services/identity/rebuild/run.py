"""The verb `rebuild`: solves the whole graph from its links and tells, or mends, where the view differs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import orjson

from chassis.db import Database
from services.identity.domain.graphs import Ints
from services.identity.rebuild import repair, stored, view
from services.identity.rebuild.view import Engine, View
from services.identity.settings import Settings
from services.identity.store import Store

# Writers go on while we read: what they changed between two looks is looked at again, but not for ever.
ROUNDS = 3
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Outcome:
    """What a comparison found. `differences`: identifiers by what differs; digests are those of the clusters."""

    identifiers: int
    links: int
    dangling_links: int
    guarded: int
    stored_sha256: str
    rebuilt_sha256: str
    differences: dict[str, int]
    seconds: float

    @property
    def equal(self) -> bool:
        """Whether the tables hold what their links say."""
        return not any(self.differences.values())


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("--engine", choices=("memory", "spark"), default="memory", help="where the graph is solved")
    parser.add_argument("--write", action="store_true", help="mend what differs; what moves is published as ever")
    parser.add_argument("--json", action="store_true", help="the result as one JSON line")


async def run(settings: Settings, flags: argparse.Namespace) -> None:
    """The verb; ends with status 1 when differences are left."""
    database = Database(settings.postgres_dsn, "identity", 2)

    def progress(step: str, seconds: float) -> None:
        sys.stderr.write(f"{step:10} {seconds:8.2f} s\n")
        sys.stderr.flush()

    with ExitStack() as stack:
        engine: Engine = view.in_memory
        if flags.engine == "spark":
            # Imported here, so that nobody else carries it.
            from services.identity.rebuild.spark import opened

            engine = stack.enter_context(opened(settings.linkage_spark_master, settings.linkage_folder))
        try:
            first, last = await rebuild(database, Store(), engine, flags.write, progress)
        finally:
            await database.close()
    result = {**vars(last), "equal": last.equal, "mended": {} if first is last else first.differences}
    if flags.json:
        line = orjson.dumps(result).decode()
    else:
        line = "\n".join(f"{name:16} {_plain(value)}" for name, value in result.items())
    sys.stdout.write(line + "\n")
    if not last.equal:
        raise SystemExit(1)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count:,}" for name, count in value.items()) or "nothing"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


async def rebuild(
    database: Database, store: Store, engine: Engine, write: bool, progress: Progress = lambda step, seconds: None
) -> tuple[Outcome, Outcome]:
    """Compares tables and links, mends if asked to; what was found first and what was found last."""
    first, ids, held, right = await _compare(database, store, engine, progress)
    last = first
    for _ in range(ROUNDS if write else 0):
        if last.equal:
            break
        begin = perf_counter()
        for batch in repair.wrong(ids, held, right):
            await repair.repair(database, store, batch)
        progress("mended", perf_counter() - begin)
        last, ids, held, right = await _compare(database, store, engine, progress)
    return first, last


async def _compare(database: Database, store: Store, engine: Engine, progress: Progress) -> tuple[Outcome, Ints, View, View]:
    begin = clock = perf_counter()

    def done(step: str) -> None:
        nonlocal clock
        now = perf_counter()
        progress(step, now - clock)
        clock = now

    async with database.read() as uow:
        found = await stored.read(uow, store)
    done("read")
    right = view.of_links(found, engine)
    done("solved")
    held = view.of_tables(found)
    outcome = Outcome(
        identifiers=len(found.ids),
        links=len(found.graph.anchor),
        dangling_links=found.dangling,
        guarded=int(right.guarded().sum()),
        stored_sha256=held.digest,
        rebuilt_sha256=right.digest,
        differences={what: int(flags.sum()) for what, flags in held.differs(right).items()},
        seconds=round(perf_counter() - begin, 3),
    )
    done("compared")
    return outcome, found.ids, held, right
