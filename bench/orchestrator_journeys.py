"""Bench of journeys: a tick through a million enrolled people, and how soon a trigger becomes a delivery request on the bus.

The tick runs on workers in this process, and its conditions are answered by a stand-in. The trigger goes through the real
service in a process of its own: event on the bus, journey, proposal, arbiter, relay, request on the bus; tags is a stand-in
that answers from arrays (bench/orchestrator_peers.py), and a million people stand in another journey meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from troika.identity.v1 import events_pb2 as identity_pb2
from troika.orchestrator.v1 import events_pb2 as orchestrator_pb2

from bench.orchestrator_peers import Base
from bench.progress import say
from bench.servers import servers
from bench.service import ROOT, running
from chassis.bus import Bus, Message, Stream
from chassis.db import Database
from chassis.migrations import migrate
from chassis.outbox import Outgoing
from chassis.testing import create_database
from local.embedded import free_port
from local.processes import Child
from services.orchestrator.arbiter.proposing import propose
from services.orchestrator.events import DELIVERIES_REQUESTED, EVENTS_RESOLVED
from services.orchestrator.journeys.advancing import Answers, People
from services.orchestrator.journeys.asking import PersonTags
from services.orchestrator.journeys.engine import House
from services.orchestrator.journeys.programs import Node
from services.orchestrator.journeys.running import Shelf
from services.orchestrator.journeys.states import State, found
from services.orchestrator.journeys.store import JourneyStore
from services.orchestrator.journeys.working import Worker
from services.orchestrator.offers.definitions import Definition, Variant
from services.orchestrator.offers.store import OfferStore
from services.orchestrator.themes.definitions import Band, Budget, Goal, Pacing, Schedule, ThemeDefinition
from services.orchestrator.themes.states import ThemeState
from services.orchestrator.themes.store import ThemeStore

# The theme of the tick's proposals is not there: what the arbiter does with them is measured by itself.
JOURNEY: Final = """title: Bench
themes: {hello: themes/999}
trigger: {event: Begun}
steps:
- id: waits
  wait: 30 days
- id: draws
  split: {branches: {asked: {share: 50, to: asks}, pushed: {share: 50, to: greets}}}
- id: asks
  condition: {holds: reachable, then: greets, otherwise: rests}
- id: greets
  push: {theme: hello}
- id: rests
  wait_until: {event: Bought, timeout: 7 days}
"""
TRIGGERED: Final = """title: Bench
themes: {hello: themes/%d}
trigger: {event: Triggered}
steps:
- id: greets
  push: {theme: hello}
- id: rests
  wait: 7 days
"""
LANES: Final = 2
TOKENS: Final = {name: f"secret-of-{name}-in-a-bench" for name in ("orchestrator", "operator")}
# Nobody but those who are triggered is of interest to the stand-in.
KNOWN: Final = 20_000
MIGRATIONS: Final = ROOT / "services/orchestrator/migrations"


async def measure(quick: bool) -> dict[str, Any]:
    """`tick_100k_s`, `trigger_p99_ms` and what stands beside them."""
    enrolled, due, triggers = (100_000, 10_000, 200) if quick else (1_000_000, 100_000, 600)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with servers(folder) as (dsn, nats_url), _peers(folder) as target:
            address = await create_database(dsn, "bench_journeys")
            await migrate(address, "orchestrator", MIGRATIONS)
            database = Database(address, "orchestrator")
            try:
                say(f"journeys: {enrolled} enrolled")
                await _enrol(database, await _started(database, JOURNEY), enrolled, due)
                say(f"journeys: a tick with {due} due")
                figures = await _tick(House(database, Shelf(), propose, _Answering()), due)
                await _started(database, TRIGGERED % await _theme(database))
            finally:
                await database.close()
            say(f"journeys: {triggers} triggers")
            settings = {"TAGS_TARGET": target, "SCORING_TARGET": target, "QUIET_HOURS": ""}
            async with running("orchestrator", address, nats_url, folder, settings, TOKENS):
                return figures | await _trigger(nats_url, triggers)


class _Answering:
    """Three of four are reachable."""

    async def answers(self, node: Node, people: People, now: datetime) -> Answers:
        return Answers((people.present % 4 > 0).astype(np.int64))


@asynccontextmanager
async def _peers(folder: Path) -> AsyncIterator[str]:
    port = free_port()
    hashes = {caller: hashlib.sha256(token.encode()).hexdigest() for caller, token in TOKENS.items()}
    argv = [sys.executable, "-m", "bench.orchestrator_peers", str(port), str(KNOWN), orjson.dumps(hashes).decode()]
    child = Child("peers", argv, folder / "peers.log", {"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"}, ROOT)
    child.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await child.stop()


async def _started(database: Database, document: str) -> int:
    """A journey that has been running for long."""
    async with database.transaction() as uow:
        store = JourneyStore(uow)
        journey = found(await store.get(await store.add(document, "", "author")), 0)
        await store.approve(journey, "other")
        await store.run(journey)
        await store.set_state(journey.journey_id, State.RUNNING, datetime(2020, 1, 1, tzinfo=UTC))
    return journey.journey_id


async def _theme(database: Database) -> int:
    """A theme of the service kind that runs and is for everybody."""
    async with database.transaction() as uow:
        variant = Variant("app", "en", "Hello", "Come by")
        offer = Definition("Hello", "service", "service", (), datetime(2020, 1, 1, tzinfo=UTC), None, "", None, (variant,))
        stated = ThemeDefinition(
            "Hello", "", "TRUE", Goal("Bought", "", "", 30, 0), (await OfferStore(uow).add(offer, "", "bench"),), "en", (),
            "service", (Band(0, ("app",)),), "", Budget(10**6, 0, None, {}, Pacing.ASAP), Schedule(None, None), 500, 0.0, None,
            None,
        )  # fmt: skip
        theme_id = await ThemeStore(uow).add(stated, "", "bench")
        await uow.execute("UPDATE theme_version SET offer_versions = '{1}' WHERE theme_id = :id", id=theme_id)
        await uow.execute(
            "UPDATE theme SET approved_version = 1, state = :state, launched_at = now() WHERE theme_id = :id",
            id=theme_id,
            state=int(ThemeState.RUNNING),
        )
    return theme_id


async def _enrol(database: Database, journey_id: int, enrolled: int, due: int) -> None:
    """Everybody waits at the first step; `due` of them, spread over all, until a moment that is past."""
    async with database.transaction() as uow:
        await uow.execute(
            "INSERT INTO enrolment (journey_id, version, person_id, present_id, object, step, visit, phase, due_at, since_at,"
            " entered_at, arrived_at, end_reason) SELECT :id, 1, p, p, '', 0, 0, 1,"
            " now() + CASE WHEN p % :every = 0 THEN interval '-1 minute' ELSE interval '20 days' END, now(), now(), now(), ''"
            " FROM generate_series(1, CAST(:enrolled AS int)) p",
            id=journey_id,
            every=enrolled // due,
            enrolled=enrolled,
        )
    async with database.transaction() as uow:
        await uow.execute("ANALYZE enrolment")


async def _tick(house: House, due: int) -> dict[str, Any]:
    """Until nobody is due; every effect must be there, once."""
    workers = [Worker(house, PersonTags.__new__(PersonTags)) for _ in range(LANES)]
    begin = time.perf_counter()
    moved = 0
    while some := sum(await asyncio.gather(*(worker.work_once() for worker in workers))):
        moved += some
    seconds = time.perf_counter() - begin
    async with house.database.read() as uow:
        [(passages,)] = await uow.rows("SELECT count(*) FROM journey_passage")
        [(proposals,)] = await uow.rows("SELECT count(*) FROM decision")
        [(twice,)] = await uow.rows("SELECT count(*) - count(DISTINCT (enrolment_id, step)) FROM journey_passage")
    if moved < due or twice:
        raise RuntimeError(f"{moved} of {due} were moved, {twice} effects came twice")
    return {"tick_100k_s": seconds, "tick_moved": moved, "tick_passages": passages, "tick_proposals": proposals}


async def _trigger(nats_url: str, count: int) -> dict[str, Any]:
    """Events one by one, 20 a second, each by itself on the bus; persons who have the app."""
    app = Base(KNOWN).flags["has_app"]
    first, *persons = (np.flatnonzero(app[1:] == 1)[: count + 1] + 1).tolist()
    bus = Bus(nats_url, "bench")
    await bus.connect()
    await bus.declare(Stream("EVENTS_RESOLVED", (EVENTS_RESOLVED,)))
    sent: dict[int, float] = {}
    seen: dict[int, float] = {}

    async def hear(message: Message) -> None:
        now = time.perf_counter()
        for request in orchestrator_pb2.DeliveriesRequested.FromString(message.data).requests:
            seen.setdefault(request.person_id, now)

    follower = asyncio.create_task(bus.follow(Stream("DELIVERIES_REQUESTED", (DELIVERIES_REQUESTED,)), 0, hear))
    try:
        # The service's consumers subscribe to a stream that was not there at its start.
        await asyncio.sleep(3)
        for number, person in enumerate([first, *persons]):
            owner = identity_pb2.AnchorOwner(anchor_id=person, entity_id=person, version=1)
            event = identity_pb2.ResolvedEvent(
                event_id=number.to_bytes(16, "big"), name="Triggered", occurred_at_us=time.time_ns() // 1000, person=owner
            )
            payload = identity_pb2.ResolvedBatch(events=[event]).SerializeToString()
            sent[person] = time.perf_counter()
            await bus.publish_all([Outgoing.now(EVENTS_RESOLVED, payload)])
            # The first one warms everything up.
            await asyncio.sleep(0.05 if number else 3)
        try:
            async with asyncio.timeout(30):
                while len(seen) < count:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            # A theme may keep some out for good; what counts is that nearly all came.
            if len(seen) < 0.95 * count:
                raise RuntimeError(f"only {len(seen)} of {count} were handed over") from None
    finally:
        follower.cancel()
        await bus.close()
    took = np.array([seen[person] - sent[person] for person in persons if person in seen]) * 1000
    p50, p99 = np.percentile(took, [50, 99])
    return {
        "trigger_p50_ms": float(p50),
        "trigger_p99_ms": float(p99),
        "triggers": len(took),
        "trigger_ends_at": "delivery request on the bus",
    }
