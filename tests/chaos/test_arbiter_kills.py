"""kill -9 of orchestrators that decide side by side: a launch and journeys' proposals end as if nobody had died."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from troika.orchestrator.v1 import events_pb2

from bench.orchestrator import SETTINGS, TOKENS, peers, prepare
from bench.servers import servers
from bench.service import ROOT, running
from chassis.bus import Bus, Message
from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.orchestrator.arbiter.proposing import Proposal, propose
from services.orchestrator.domain.themes import PersonId
from services.orchestrator.events import STREAMS
from services.orchestrator.store.launches import LaunchStore

PERSONS, PROPOSED, KILLS = 20_000, 2_000, 3
WAITING = (
    "SELECT (SELECT count(*) FROM launch WHERE finished_at IS NULL) + (SELECT count(*) FROM outbox) + (SELECT count(*)"
    " FROM decision WHERE outcome = 'deferred' AND due_at <= now()) AS n"
)


async def test_orchestrators_that_are_killed_while_they_decide_push_everybody_once(tmp_path: Path) -> None:
    draw = random.Random(4)
    async with servers(tmp_path) as (dsn, nats_url), peers(tmp_path, PERSONS) as target:
        address, _ = await DatabaseFactory(dsn, ROOT / "services").address("orchestrator")
        settings = SETTINGS | {"TAGS_TARGET": target, "SCORING_TARGET": target, "LEASE_S": "1", "DEALER_CALLS_PER_DAY": "3"}
        folders = [tmp_path / name for name in ("one", "two")]
        for folder in folders:
            folder.mkdir()
        database, bus = Database(address, "orchestrator"), Bus(nats_url, "test")
        stop = asyncio.Event()

        async def replica(folder: Path) -> None:
            """Lives a second or two, several times over, and then until the end."""
            for life in range(KILLS + 1):
                async with running("orchestrator", address, nats_url, folder, settings, TOKENS) as service:
                    if life == KILLS:
                        await stop.wait()
                        return
                    await asyncio.sleep(draw.uniform(0.3, 2.0))
                    psutil.Process(service.pid).kill()

        replicas = [asyncio.create_task(replica(folder)) for folder in folders]
        try:
            theme_id = await prepare(database, PERSONS)
            later = datetime.now(UTC)
            async with database.transaction() as uow:
                await LaunchStore(uow).queue(theme_id, "")
                await propose(
                    uow,
                    [
                        Proposal(theme_id, PersonId(person), 7, None, later, later + timedelta(hours=2))
                        for person in draw.sample(range(1, PERSONS), PROPOSED)
                    ],
                )
            async with asyncio.timeout(180):
                while (await database.fetch(WAITING))[0]["n"]:
                    await asyncio.sleep(0.2)
        finally:
            stop.set()
            for each in replicas:
                each.cancel()
            await asyncio.gather(*replicas, return_exceptions=True)
        sent: Counter[str] = Counter()

        async def hear(message: Message) -> None:
            batch = events_pb2.DeliveriesRequested.FromString(message.data)
            sent.update(request.delivery_id for request in batch.requests)

        await bus.connect()
        caught_up = asyncio.Event()
        following = asyncio.create_task(bus.follow(STREAMS[0], 0, hear, caught_up))
        await caught_up.wait()
        while not following.done():
            following.cancel()
            await asyncio.wait({following}, timeout=1)
        await bus.close()
        rows = await database.fetch("SELECT * FROM decision WHERE theme_id = $1", theme_id)
        spent = (await database.fetch("SELECT sum(contacts) AS contacts, sum(calls) AS calls FROM spending"))[0]
        await database.close()
    launched = [row for row in rows if row["occasion"] == 0]
    assert PERSONS == len(launched)
    assert PROPOSED == len(rows) - len(launched)
    pushed = [row for row in rows if row["outcome"] == "push"]
    assert {row["delivery_id"] for row in pushed} == set(sent)
    assert {1} == set(sent.values())
    chosen = [row["position"] for row in rows if row["outcome"] in ("push", "holdout")]
    assert list(range(1, len(chosen) + 1)) == sorted(chosen)
    calls = Counter(row["dealer_code"] for row in pushed if row["channel"] == "dealer")
    assert (len(chosen), calls.total()) == (spent["contacts"], spent["calls"])
    assert 3 == max(calls.values())
