"""The service with the whole base in its index: booted from a snapshot, asked over gRPC while tags change.

Changes come as the service itself tells them (2,000 a second on the stream), and as events that its own consumer folds: how
long those take from being accepted until they are visible is `visible_p99_ms`.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import orjson
from troika.identity.v1 import events_pb2 as identity

from bench.audience_base import PERSON, TAGS, Base, catalogue_text, name
from bench.audience_load import TOKEN
from bench.metrics import Histogram, scrape
from bench.progress import say
from bench.service import ROOT, cpu, family, running
from chassis.bus import Bus, Stream
from chassis.outbox import Outgoing
from chassis.testing import DatabaseFactory
from services.tags import events
from services.tags.handlers import Changes, EntityChange
from services.tags.index.snapshots import Snapshots

CHANGES_PER_S, MESSAGES_PER_S, EVENTS_PER_S = 2_000, 50, 200
_RESOLVED = Stream("EVENTS_RESOLVED", ("troika.events.resolved.v1",))
_VISIBLE = "troika_visible_seconds"


async def measure(base: Base, dsn: str, nats_url: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Boot, memory, latencies."""
    bus = Bus(nats_url, "bench")
    await bus.connect()
    try:
        await bus.declare(*events.STREAMS, _RESOLVED)
        extent = await bus.extent(events.TAGS_CHANGED.name)
        begin = time.perf_counter()
        written = await Snapshots(folder / "index", 1).write(base.index, extent.created, extent.last)
        figures: dict[str, Any] = {
            "snapshot_write_s": round(time.perf_counter() - begin, 2),
            "snapshot_mb": round(sum(path.stat().st_size for path in written.iterdir()) / 2**20),
        }
        catalogue = folder / "catalogue.yaml"
        catalogue.write_text(catalogue_text())
        address, _ = await DatabaseFactory(dsn, ROOT / "services").address("tags")
        say("booting")
        settings = {"CATALOGUE": str(catalogue), "INDEX_FOLDER": str(folder / "index"), "INDEX_SNAPSHOT_S": "86400"}
        tokens = {"tags": f"of tags {TOKEN}", "operator": TOKEN}
        async with running("tags", address, nats_url, folder, settings, tokens) as service:
            rss = sum(process.memory_info().rss for process in family(service.pid)) / 2**20
            figures |= {
                "boot_s": round(service.boot_s, 2),
                "rss_mb": round(rss),
                "rss_mb_per_million": round(rss / base.persons * 1e6),
            }
            say("asking")
            spent, begin = cpu(service.pid), time.perf_counter()
            figures |= await _under_change(bus, base.persons, service.target, service.http, seconds)
            figures["service_cores"] = round((cpu(service.pid) - spent) / (time.perf_counter() - begin), 2)
        return figures
    finally:
        await bus.close()


async def _under_change(bus: Bus, persons: int, target: str, http: str, seconds: float) -> dict[str, Any]:
    changing = asyncio.create_task(_change(bus, persons))
    try:
        await asyncio.sleep(2)
        argv = (sys.executable, "-m", "bench.audience_load", target, "--seconds", str(seconds))
        load = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
        told, _ = await load.communicate()
        if load.returncode:
            raise RuntimeError(f"the load ended with {load.returncode}")
        figures: dict[str, Any] = orjson.loads(told)
        return figures | await _visible(bus, persons, http, seconds)
    finally:
        changing.cancel()
        await asyncio.gather(changing, return_exceptions=True)


async def _visible(bus: Bus, persons: int, http: str, seconds: float) -> dict[str, Any]:
    """How long events take until a count has them; those of the first seconds, whose persons are all new, are not looked at."""
    happening = asyncio.create_task(_happen(bus, persons))
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            await asyncio.sleep(3)
            before = (await scrape(client, http)).get(_VISIBLE)
            await asyncio.sleep(seconds)
            after = (await scrape(client, http)).get(_VISIBLE)
    finally:
        happening.cancel()
        await asyncio.gather(happening, return_exceptions=True)
    if not isinstance(after, Histogram):
        return {}
    between = after - before if isinstance(before, Histogram) else after
    return {"visible_p99_ms": round(between.quantile(0.99) * 1000), "visible_events": int(between.total)}


async def _change(bus: Bus, persons: int) -> None:
    """Tags of the base change, as if another replica's consumers had folded events."""
    rng, versions, each = random.Random(6), dict[int, int](), CHANGES_PER_S // MESSAGES_PER_S
    begin, number = time.perf_counter(), 0
    while True:
        changes = Changes()
        for person in rng.sample(range(1, persons + 1), each):
            version = versions[person] = versions.get(person, 1) + 1
            tags = {name(rng.randrange(TAGS)): rng.random() < 0.5}
            changes.entities.append(EntityChange(PERSON, person, version, tags, None, 0))
        told = [message.SerializeToString() for message in events.messages(changes)]
        await bus.publish_all([Outgoing.now(events.TAGS_CHANGED.subjects[0], data) for data in told])
        number += 1
        await asyncio.sleep(max(0.0, begin + number / MESSAGES_PER_S - time.perf_counter()))


async def _happen(bus: Bus, persons: int) -> None:
    """Events of persons that the database gets to know now."""
    rng, begin, number = random.Random(7), time.perf_counter(), 0
    while True:
        batch = identity.ResolvedBatch()
        for _ in range(EVENTS_PER_S // 20):
            now, person = time.time_ns() // 1000, persons + rng.randrange(1, 2_000)
            batch.events.add(
                event_id=rng.randbytes(16),
                source="app",
                name=f"E{rng.randrange(TAGS)}",
                occurred_at_us=now,
                received_at_us=now,
                person=identity.AnchorOwner(anchor_id=person, entity_id=person, version=1),
                properties_json=orjson.dumps({"v": rng.random() < 0.5}),
            )
        await bus.publish_all([Outgoing.now(_RESOLVED.subjects[0], batch.SerializeToString())])
        number += 1
        await asyncio.sleep(max(0.0, begin + number / 20 - time.perf_counter()))
