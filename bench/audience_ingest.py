"""The real-time execution: resolved events through 50 tag definitions into PostgreSQL, as the service's consumer does it."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import orjson
import uvloop
from troika.identity.v1 import events_pb2 as identity

from chassis import run
from chassis.bus import Consumer, Message
from chassis.db import Database
from services.tags import consumers
from services.tags.catalogue import yaml_files
from services.tags.handlers import TagRules

EVENTS, PERSONS, MESSAGE = 60_000, 20_000, 500
NAMES = ("App Opened", "Model Viewed", "Price Calculated", "Article Read", "Order Placed")
MODELS = ("X1", "X3", "X5", "i4", "i7")
DAY_US = 86_400_000_000


def catalogue() -> str:
    """50 definitions: of each of five events seven aggregates, two of them in windows, and three business tags on them."""
    lines = ["person:"]

    def add(name: str, tag_type: str, expression: str) -> None:
        lines.append(f'  {name}: {{type: {tag_type}, description: d, expression: "{expression}"}}')

    for i, event in enumerate(NAMES):
        where = f"event = '{event}'"
        recent = f"{where} AND occurred_at > NOW() - INTERVAL '{(7, 30, 90)[i % 3]} days'"
        add(f"e{i}_last", "category", f"LAST(model) FILTER (WHERE {where})")
        add(f"e{i}_first_at", "time", f"MIN(occurred_at) FILTER (WHERE {where})")
        add(f"e{i}_count", "number", f"COUNT(*) FILTER (WHERE {where})")
        add(f"e{i}_sum", "number", f"SUM(amount) FILTER (WHERE {where} AND amount > 10)")
        add(f"e{i}_models", "set", f"ARRAY_AGG(DISTINCT model) FILTER (WHERE {where})")
        add(f"e{i}_recent", "number", f"COUNT(*) FILTER (WHERE {recent})")
        add(f"e{i}_recent_sum", "number", f"SUM(amount) FILTER (WHERE {recent})")
        add(f"e{i}_often", "boolean", f"e{i}_recent >= 3")
        add(f"e{i}_asleep", "boolean", f"e{i}_first_at < NOW() - INTERVAL '60 days'")
        add(f"e{i}_band", "category", f"CASE WHEN e{i}_sum > 1000 THEN 'A' WHEN e{i}_sum > 100 THEN 'B' ELSE 'C' END")
    return "\n".join(lines)


def messages(count: int, seed: int) -> list[Message]:
    """Micro-batches as identity states them; events of the last four months, out of order."""
    rng, now = random.Random(seed), time.time_ns() // 1000
    made = []
    for start in range(0, count, MESSAGE):
        batch = identity.ResolvedBatch()
        for _ in range(MESSAGE):
            person = rng.randrange(1, PERSONS)
            batch.events.add(
                event_id=rng.randbytes(16),
                source="app",
                name=rng.choice(NAMES),
                occurred_at_us=now - rng.randrange(120 * DAY_US),
                received_at_us=now,
                person=identity.AnchorOwner(anchor_id=person, entity_id=person, version=1),
                properties_json=orjson.dumps({"model": rng.choice(MODELS), "amount": rng.randrange(200), "page": "home"}),
            )
        made.append(Message(f"m{start}", "troika.events.resolved.v1", batch.SerializeToString(), {}, start + 1))
    return made


async def measure(database: Database, count: int = EVENTS) -> dict[str, Any]:
    """Events per second, and what they cost this process; the first tenth, when all persons are new, is not counted."""
    rules = TagRules(yaml_files.parse(catalogue()))
    resolved = consumers.consumers(rules)[0]
    given = messages(count, 1)
    run.spare_what_lives()
    warm = len(given) // 10
    await _handle(database, resolved, given[:warm])
    begin, cpu = time.perf_counter(), time.process_time()
    await _handle(database, resolved, given[warm:])
    handled = (len(given) - warm) * MESSAGE
    return {
        "ingest_events_per_s": round(handled / (time.perf_counter() - begin)),
        "ingest_cpu_us": round(1e6 * (time.process_time() - cpu) / handled, 1),
        "ingest_definitions": len(rules.catalogue.definitions),
    }


async def _handle(database: Database, consumer: Consumer, given: Sequence[Message]) -> None:
    """Lets a consumer's lanes handle messages, a transaction per batch."""
    waiting = deque(given[start : start + consumer.batch] for start in range(0, len(given), consumer.batch))

    async def lane() -> None:
        while waiting:
            batch = waiting.popleft()
            async with database.transaction() as uow:
                await consumer.handle(uow, batch)

    await asyncio.gather(*(lane() for _ in range(consumer.lanes)))


async def _main(dsn: str, count: int) -> None:
    database = Database(dsn, "tags")
    try:
        sys.stdout.buffer.write(orjson.dumps(await measure(database, count)))
    finally:
        await database.close()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2])))
