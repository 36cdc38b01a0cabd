"""Launches of themes over 200,000 and 1,000,000 persons: every check of the arbiter, decisions stored, pushes handed over.

The orchestrator is the real service in a process of its own, with PostgreSQL of default durability and NATS; tags and scoring
are stand-ins that answer from arrays (bench/orchestrator_peers.py). A third of the persons have said something about consent,
one in twenty has merged, one in ten was pushed in the last days. The rate counts from the moment a launch is queued until it is
done, the ranking included. The figures of journeys and of Decide come from modules of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from bench import orchestrator_decide, orchestrator_journeys
from bench.orchestrator_peers import DEALERS
from bench.progress import say
from bench.servers import servers
from bench.service import ROOT, cpu, family, running
from chassis.db import Database
from chassis.testing import DatabaseFactory
from local.embedded import free_port
from local.processes import Child
from services.orchestrator.domain.themes import ThemeId
from services.orchestrator.offers.definitions import Definition, OfferId, Variant
from services.orchestrator.offers.store import OfferStore
from services.orchestrator.store.launches import LaunchStore
from services.orchestrator.themes.definitions import Band, Budget, Exclusion, Goal, Pacing, Schedule, ThemeDefinition
from services.orchestrator.themes.states import ThemeState
from services.orchestrator.themes.store import ThemeStore

PERSONS, FEW = 1_000_000, 200_000
TOKENS = {name: f"secret-of-{name}-in-a-bench" for name in ("orchestrator", "operator")}
SETTINGS = {"QUIET_HOURS": "", "DEALER_CALLS_PER_DAY": "200", "PUSH_CAPS": '{"any": [3, 7], "dealer": [1, 14]}'}

# What the house knows of persons before the launch.
KNOWN = (
    "INSERT INTO consent SELECT p, 'service', 'all', false, p, CASE p % 12 WHEN 0 THEN 2 ELSE -1 END, 1, 9223372036854775807"
    " FROM generate_series(1, :n, 3) p",
    "INSERT INTO anchor_owner SELECT p, p + 1, 1 FROM generate_series(1, :n, 20) p",
    "INSERT INTO person_alias SELECT p, p + 1, p, now() FROM generate_series(1, :n, 20) p",
    "INSERT INTO decision (theme_id, person_id, occasion, outcome, reason, expires_at, channel, delivery_id, decided_at)"
    " SELECT 999, p, k, 'push', '', now(), CASE WHEN k = 1 THEN 'app' ELSE 'dealer' END, 'old-' || p || '-' || k,"
    " now() - k * interval '1 day' FROM generate_series(1, :n, 10) p, generate_series(1, 3) k WHERE k <= 1 + p % 3",
)


async def measure(quick: bool) -> dict[str, Any]:
    """The figures of `orchestrator`."""
    say("launching")
    few = await launch(FEW // (10 if quick else 1))
    many = await launch(PERSONS // (10 if quick else 1))
    figures = {
        "decisions_per_s": many["decisions_per_s"],
        "rss_mb": many["rss_mb"],
        "rss_mb_few": few["rss_mb"],
        "decisions": many,
        "decisions_few": few,
        "peers": "stand-ins for tags and scoring",
    }
    say("journeys")
    figures |= await orchestrator_journeys.measure(quick)
    say("deciding on offers")
    return figures | await orchestrator_decide.decide_p99_ms(quick)


@asynccontextmanager
async def peers(folder: Path, persons: int) -> AsyncIterator[str]:
    """The address of the stand-ins."""
    port = free_port()
    hashes = {name: hashlib.sha256(token.encode()).hexdigest() for name, token in TOKENS.items()}
    argv = [sys.executable, "-m", "bench.orchestrator_peers", str(port), str(persons), orjson.dumps(hashes).decode()]
    child = Child("peers", argv, folder / "peers.log", {"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"}, ROOT)
    child.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await child.stop()


async def launch(persons: int) -> dict[str, Any]:
    """One launch over so many persons, by its own record."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with servers(folder) as (dsn, nats_url), peers(folder, persons) as target:
            address, _ = await DatabaseFactory(dsn, ROOT / "services").address("orchestrator")
            settings = SETTINGS | {"TAGS_TARGET": target, "SCORING_TARGET": target}
            async with running("orchestrator", address, nats_url, folder, settings, TOKENS) as service:
                database = Database(address, "orchestrator")
                try:
                    theme_id = await prepare(database, persons)
                    return await follow(database, theme_id, service.pid)
                finally:
                    await database.close()


async def prepare(database: Database, persons: int) -> ThemeId:
    """What is known of persons, and a theme that runs."""
    async with database.transaction() as uow:
        for statement in KNOWN:
            await uow.execute(statement, n=persons)
        offer = Definition(
            "Check", "service", "service", (), datetime(2020, 1, 1, tzinfo=UTC), None, "", None,
            tuple(Variant(channel, "en", "Free check", "Come by") for channel in ("app", "wechat", "dealer")),
        )  # fmt: skip
        offers: list[OfferId] = [await OfferStore(uow).add(offer, "", "bench") for _ in range(2)]
        stated = ThemeDefinition(
            "Check", "", "TRUE", Goal("Offer Answered", "answer", "yes", 30, 20_000), tuple(offers), "en", (), "service",
            (Band(0, ("app", "wechat", "dealer")), Band(700, ("dealer", "app", "wechat"))), "purchase_intent",
            Budget(persons, persons // 10, None, {"app": 1, "wechat": 2, "dealer": 500}, Pacing.ASAP), Schedule(None, None),
            500, 0.1, Exclusion("checks", 3), None,
        )  # fmt: skip
        theme_id = await ThemeStore(uow).add(stated, "", "bench")
        await uow.execute("UPDATE theme_version SET offer_versions = '{1,1}' WHERE theme_id = :id", id=theme_id)
        await uow.execute(
            "UPDATE theme SET approved_version = 1, state = :state, launched_at = now() WHERE theme_id = :id",
            id=theme_id,
            state=int(ThemeState.RUNNING),
        )
    async with database.transaction() as uow:
        for table in ("consent", "anchor_owner", "person_alias", "decision"):
            await uow.execute(f"ANALYZE {table}")
    return theme_id


async def follow(database: Database, theme_id: ThemeId, pid: int) -> dict[str, Any]:
    """Queues the launch and looks until it is done."""
    # The service has read what it needs to read once; what it grows by is the launch.
    before, spent, spent_by_all = rss(pid), cpu(pid), cpu(os.getpid())
    async with database.transaction() as uow:
        await LaunchStore(uow).queue(theme_id, "")
    begin, most = time.perf_counter(), before
    while True:
        await asyncio.sleep(0.1)
        most = max(most, rss(pid))
        rows = await database.fetch("SELECT finished_at FROM launch WHERE theme_id = $1", theme_id)
        if rows[0]["finished_at"] is not None:
            break
    seconds = time.perf_counter() - begin
    rows = await database.fetch("SELECT outcome, count(*) AS n FROM decision WHERE theme_id = $1 GROUP BY 1", theme_id)
    outcomes = {row["outcome"]: row["n"] for row in rows}
    total = sum(outcomes.values())
    return {
        "decisions_per_s": round(total / seconds),
        "seconds": round(seconds, 1),
        "persons": total,
        "rss_mb": round(most),
        "rss_before_mb": round(before),
        "orchestrator_us": round(1e6 * (cpu(pid) - spent) / total, 1),
        # Of everybody: database, bus, stand-ins and this process. Two idle cores cannot do more than 2,000,000 / this a second.
        "all_us": round(1e6 * (cpu(os.getpid()) - spent_by_all) / total, 1),
        "dealers": DEALERS,
        "outcomes": outcomes,
    }


def rss(pid: int) -> float:
    """Megabytes of a process and its children."""
    return sum(each.memory_info().rss for each in family(pid)) / 1e6
