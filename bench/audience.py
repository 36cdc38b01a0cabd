"""Audiences: counts, ranges, relations, overlaps and ids over ten million persons and 200 tags, beside who else could do it.

CRoaring answers the same counts on the very same bitmaps: what the algebra above it costs is `count_vs_croaring`. The peers
hold the same tags. `count_vs_best_peer` is the best of DuckDB, chDB and PostgreSQL; polars, which scans columns and is not
updated in place, stands beside them. Over gRPC everything is asked while tags change.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from troika.tags.v1 import events_pb2 as pb

from bench import audience_base, audience_door, audience_ingest, audience_peers
from bench.audience_base import AUDIENCE, PERSON, TAGS, Base, name
from bench.audience_peers import Triple, counts_ms, p50
from bench.progress import say
from bench.servers import servers
from chassis.testing import DatabaseFactory
from services.tags import events
from services.tags.domain.predicates import parse_predicate
from services.tags.domain.terms import Term
from services.tags.handlers import Changes, EntityChange
from services.tags.index.algebra import audience, count
from services.tags.index.bitmaps import ids_of
from services.tags.index.overlaps import all_overlaps
from services.tags.index.projection import project

ROOT = Path(__file__).resolve().parent.parent
PERSONS, TRIPLES, TURNS = 10_000_000, 40, 11
RANGES = {"one_sided": "age > 40", "between": "age BETWEEN 30 AND 45", "moment": "seen_at >= '2024-02-01'"}
RELATIONS = {
    "one_hop": "ANY(vehicle, electric)",
    "one_hop_range": "ANY(vehicle, mileage_km > 150000)",
    "two_hops": "ANY(vehicle, ANY(dealer, big))",
    "two_hops_range": "ANY(vehicle, mileage_km > 60000 AND ANY(dealer, big))",
    "two_hops_and_tag": f"{name(120)} AND ANY(vehicle, ANY(dealer, big))",
}
NOW = 1_750_000_000.0


async def measure(quick: bool) -> dict[str, Any]:
    """All figures of the bench; quick is with a tenth of the persons."""
    persons = PERSONS // 10 if quick else PERSONS
    say(f"making {persons:,} persons")
    base = audience_base.make(persons)
    figures: dict[str, Any] = {"persons": persons, "tags": TAGS, "base_rss_mb": _rss_mb()}
    say("asking in process")
    triples = _triples()
    figures |= _counts(base, triples) | _scans(base) | _insights(base)
    with tempfile.TemporaryDirectory(prefix="troika-bench-") as made:
        folder = Path(made)
        async with servers(folder) as (dsn, nats_url):
            figures |= await audience_door.measure(base, dsn, nats_url, folder, 5 if quick else 15)
            say(f"{figures}, ingest")
            figures |= await _ingest(dsn, 20_000 if quick else audience_ingest.EVENTS)
            figures["peers"] = await _peers(base, triples, dsn, folder)
    figures["update_us"] = _update(base)
    best = min(figures["peers"][peer]["count_p50_ms"] for peer in ("duckdb", "chdb", "postgresql") if _asked(figures, peer))
    ours = figures["count_p50_ms"]
    figures["count_vs_best_peer"] = round(best / ours, 1)
    if _asked(figures, "polars"):
        figures["count_vs_polars"] = round(figures["peers"]["polars"]["count_p50_ms"] / ours, 1)
    return figures


async def _ingest(dsn: str, events: int) -> dict[str, Any]:
    """In a process and on a loop as the service has them, without the base of the other figures in memory."""
    address, _ = await DatabaseFactory(dsn, ROOT / "services").address("tags")
    argv = (sys.executable, "-m", "bench.audience_ingest", address, str(events))
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    told, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"ingest ended with {process.returncode}")
    figures: dict[str, Any] = orjson.loads(told)
    return figures


def _asked(figures: dict[str, Any], peer: str) -> bool:
    return "count_p50_ms" in figures["peers"].get(peer, {})


def _triples() -> list[Triple]:
    """Three different tags of all densities."""
    rng = random.Random(8)
    return [tuple(rng.sample(range(TAGS), 3)) for _ in range(TRIPLES)]  # type: ignore[misc]


def _term(base: Base, predicate: str) -> Term:
    return parse_predicate(predicate, PERSON, base.catalogue)


def _counts(base: Base, triples: Sequence[Triple]) -> dict[str, Any]:
    """Ours and CRoaring's in turns, so that both see the same caches and neighbours."""
    expected = _expected(base, triples)
    bitmaps = [base.yes(tag) for tag in range(TAGS)]
    terms = {triple: _term(base, " AND ".join(map(name, triple))) for triple in triples}

    def ours(triple: Triple) -> int:
        return count(base.index, PERSON, terms[triple], NOW)

    def croaring(triple: Triple) -> int:
        # The sparsest first, which is best for it, too.
        a, b, c = (bitmaps[tag] for tag in sorted(triple))
        return int((a & b).intersection_cardinality(c))

    def take(ask: Callable[[Triple], int]) -> float:
        return counts_ms(ask, triples, expected)

    both = [(take(ours), take(croaring)) for _ in range(TURNS)]
    ours_ms, croaring_ms = (sorted(column)[len(both) // 2] for column in zip(*both, strict=True))
    return {
        "count_p50_ms": ours_ms,
        "croaring_count_p50_ms": croaring_ms,
        "count_vs_croaring": round(ours_ms / croaring_ms, 2),
    }


def _expected(base: Base, triples: Sequence[Triple]) -> list[int]:
    return [len(base.yes(a) & base.yes(b) & base.yes(c)) for a, b, c in triples]


def _scans(base: Base) -> dict[str, Any]:
    """Counts that look at numbers and relations; the figures with fixed names are the slowest of their kind."""

    def ms(predicate: str) -> float:
        term = _term(base, predicate)
        return p50(lambda: count(base.index, PERSON, term, NOW), TURNS)

    ranges, relations = ({kind: ms(text) for kind, text in asked.items()} for asked in (RANGES, RELATIONS))
    return {
        "range_10m_ms": max(ranges.values()),
        "relation_10m_ms": max(relations.values()),
        "range_ms": ranges,
        "relation_ms": relations,
    }


def _insights(base: Base) -> dict[str, Any]:
    members = base.yes(AUDIENCE)
    others = [base.yes(tag) for tag in range(TAGS)]
    term = _term(base, name(AUDIENCE))
    return {
        "overlap_in_process_ms": p50(lambda: all_overlaps(base.index, PERSON, members), TURNS),
        "croaring_overlap_ms": p50(lambda: [members.intersection_cardinality(other) for other in others], TURNS),
        "ids_in_process_ms": p50(lambda: ids_of(audience(base.index, PERSON, term, NOW)), TURNS),
    }


def _update(base: Base) -> float:
    """Microseconds per change of a tag, from the message's bytes on; the base is not what it was after that."""
    rng, messages = random.Random(9), list[bytes]()
    for _ in range(20):
        changes = Changes()
        for person in rng.sample(range(1, base.persons), 2_000):
            version = int(base.index.versions[PERSON][person]) + 1
            tags = {name(rng.randrange(TAGS)): rng.random() < 0.5}
            changes.entities.append(EntityChange(PERSON, person, version, tags, None, 0))
        messages += [message.SerializeToString() for message in events.messages(changes)]
    begin = time.perf_counter()
    for data in messages:
        project(base.index, pb.TagsChanged.FromString(data))
    return round((time.perf_counter() - begin) / (20 * 2_000) * 1e6, 2)


async def _peers(base: Base, triples: Sequence[Triple], dsn: str, folder: Path) -> dict[str, Any]:
    """Who cannot be asked says why."""
    expected = _expected(base, triples)
    found: dict[str, Any] = {}
    asked: dict[str, Callable[[], dict[str, Any]]] = {
        "polars": lambda: audience_peers.in_polars(base, triples, expected),
        "duckdb": lambda: audience_peers.in_duckdb(base, triples, expected),
        "chdb": lambda: audience_peers.in_chdb(base, triples, expected, folder),
    }
    for peer, ask in asked.items():
        say(f"{found}, {peer}")
        try:
            found[peer] = ask()
        except ImportError as error:
            found[peer] = {"missing": str(error)}
        gc.collect()
    say(f"{found}, postgresql")
    found["postgresql"] = await audience_peers.in_postgres(base, triples, expected, dsn)
    return found


def _rss_mb() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
