"""Identity: resolving a stream, rebuilding the whole graph, answering who is who.

Streaming is measured beside the textbook's way at its best concurrency and beside a bare upsert of the same rows, the rebuild
beside scipy's connected components on the same arrays; all on a PostgreSQL with default durability. `python -m
bench.identity_rebuild spark` solves the rebuild's graph on Spark and compares the clusters.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from bench import identity_reads, identity_rebuild, identity_stream
from bench.servers import servers
from chassis.db import Database
from chassis.testing import DatabaseFactory

ROOT = Path(__file__).resolve().parent.parent
OBSERVATIONS, NAIVE_OBSERVATIONS = 100_000, 20_000
CALLERS = (8, 16, 32)


def say(what: str) -> None:
    """Progress, beside the figures and not among them."""
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {what}\n")


async def measure(quick: bool) -> dict[str, Any]:
    """All figures of the bench."""
    part = 10 if quick else 1
    figures: dict[str, Any] = {}
    keys = identity_stream.vault()
    with tempfile.TemporaryDirectory(prefix="troika-bench-") as name:
        folder = Path(name)
        async with servers(folder) as (dsn, nats_url):
            databases = DatabaseFactory(dsn, ROOT / "services")
            say("making observations")
            seen = identity_stream.observations(OBSERVATIONS // part, 1, keys)
            few = seen[: NAIVE_OBSERVATIONS // part]
            address, _ = await databases.address("identity")
            source = Database(address, "identity")
            try:
                say("resolving")
                figures["resolve_per_s"] = round(await identity_stream.resolve(source, keys, seen))
                say("the bare store")
                async with databases.database("identity") as target:
                    limit = await identity_stream.store_limit(source, target)
                say("a transaction per observation")
                naive: dict[bool, dict[int, float]] = {False: {}, True: {}}
                for lean, callers in product((False, True), CALLERS):
                    own, _ = await databases.address("identity")
                    naive[lean][callers] = await identity_stream.naive(own, keys, few, callers, lean=lean)
                best = max(naive[False], key=naive[False].__getitem__)
                figures |= {
                    "resolve_vs_naive": round(figures["resolve_per_s"] / naive[False][best], 2),
                    "resolve_vs_lean_naive": round(figures["resolve_per_s"] / max(naive[True].values()), 2),
                    "resolve_vs_store_limit": round(figures["resolve_per_s"] / limit, 3),
                    "naive_per_s": round(naive[False][best]),
                    "lean_naive_per_s": round(max(naive[True].values())),
                    "naive_callers": best,
                    "store_limit_per_s": round(limit),
                }
                say("reading")
                figures |= await identity_reads.measure(source, address, nats_url, folder, seen)
            finally:
                await source.close()
    say("rebuilding")
    return figures | await asyncio.to_thread(identity_rebuild.measure, quick)
