"""Bench of journeys: a tick through a million enrolled people, and how soon a trigger becomes a proposal.

The answers to conditions come from a stand-in: what tags takes for them is measured by bench audience. The trigger's way ends
where the proposal is committed to the arbiter's table; what the arbiter takes from there is measured by bench orchestrator.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from troika.identity.v1 import events_pb2 as identity_pb2

from bench.progress import say
from bench.servers import servers
from chassis.bus import Bus, Consumer, Message, Stream
from chassis.db import Database, UnitOfWork
from chassis.migrations import migrate
from chassis.outbox import Outgoing
from chassis.testing import create_database
from services.orchestrator.arbiter.proposing import propose
from services.orchestrator.events import EVENTS_RESOLVED
from services.orchestrator.journeys.advancing import Answers, People
from services.orchestrator.journeys.asking import PersonTags
from services.orchestrator.journeys.engine import House
from services.orchestrator.journeys.hearing import Ear, Happened
from services.orchestrator.journeys.programs import Node
from services.orchestrator.journeys.running import Shelf
from services.orchestrator.journeys.states import State, found
from services.orchestrator.journeys.store import JourneyStore
from services.orchestrator.journeys.working import Worker

JOURNEY: Final = """title: Bench
themes: {hello: themes/1}
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
AT_ONCE: Final = JOURNEY.replace("- id: waits\n  wait: 30 days\n", "").replace("Begun", "Triggered")
LANES: Final = 2
MIGRATIONS: Final = Path(__file__).resolve().parent.parent / "services/orchestrator/migrations"


class _Answering:
    """Three of four are reachable."""

    async def answers(self, node: Node, people: People, now: datetime) -> Answers:
        return Answers((people.present % 4 > 0).astype(np.int64))


async def measure(quick: bool) -> dict[str, Any]:
    """`tick_100k_s`, `trigger_p99_ms` and what stands beside them."""
    enrolled, due, triggers = (100_000, 10_000, 200) if quick else (1_000_000, 100_000, 1_000)
    with tempfile.TemporaryDirectory() as folder:
        async with servers(Path(folder)) as (dsn, nats_url):
            address = await create_database(dsn, "bench_journeys")
            await migrate(address, "orchestrator", MIGRATIONS)
            database, bus = Database(address, "orchestrator"), Bus(nats_url, "bench")
            await bus.connect()
            try:
                house = House(database, Shelf(), propose, _Answering())
                say(f"journeys: {enrolled} enrolled")
                slow = await _started(database, JOURNEY)
                await _started(database, AT_ONCE)
                await _enrol(database, slow, enrolled, due)
                say(f"journeys: a tick with {due} due")
                figures = await _tick(house, due)
                say(f"journeys: {triggers} triggers")
                return figures | await _trigger(house, bus, triggers)
            finally:
                await bus.close()
                await database.close()


async def _started(database: Database, document: str) -> int:
    async with database.transaction() as uow:
        store = JourneyStore(uow)
        journey = found(await store.get(await store.add(document, "", "author")), 0)
        await store.approve(journey, "other")
        await store.run(journey)
        await store.set_state(journey.journey_id, State.RUNNING, datetime.fromisoformat("2020-01-01T00:00:00+00:00"))
    return journey.journey_id


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


async def _trigger(house: House, bus: Bus, count: int) -> dict[str, Any]:
    """Events one by one, 50 a second, each by itself on the bus; half of those who enter are asked about first."""
    await bus.declare(Stream("EVENTS_RESOLVED", (EVENTS_RESOLVED,)))

    async def hear(uow: UnitOfWork, messages: Sequence[Message], /) -> None:
        ear = await Ear.of(uow, house)
        batches = [identity_pb2.ResolvedBatch.FromString(message.data) for message in messages]
        await ear.events(uow, [_happened(event) for batch in batches for event in batch.events])

    worker = Worker(house, PersonTags.__new__(PersonTags))
    tasks = [
        asyncio.create_task(bus.consume(Consumer("bench-journeys", EVENTS_RESOLVED, hear, batch=64), house.database)),
        asyncio.create_task(worker.run()),
    ]
    sent: dict[int, float] = {}
    seen: dict[int, float] = {}
    watcher = asyncio.create_task(_watch(house.database, seen))
    try:
        await asyncio.sleep(2)
        for number in range(count):
            # Those of the other half are never proposed.
            person = 10_000_000 + number * 4 + 1
            owner = identity_pb2.AnchorOwner(anchor_id=person, entity_id=person, version=1)
            event = identity_pb2.ResolvedEvent(
                event_id=number.to_bytes(16, "big"), name="Triggered", occurred_at_us=time.time_ns() // 1000, person=owner
            )
            payload = identity_pb2.ResolvedBatch(events=[event]).SerializeToString()
            sent[person] = time.perf_counter()
            await bus.publish_all([Outgoing.now(EVENTS_RESOLVED, payload)])
            await asyncio.sleep(0.02)
        async with asyncio.timeout(30):
            while len(seen) < count:
                await asyncio.sleep(0.05)
    finally:
        for task in (watcher, *tasks):
            task.cancel()
    took = np.array([seen[person] - sent[person] for person in sent]) * 1000
    p50, p99 = np.percentile(took, [50, 99])
    return {"trigger_p50_ms": float(p50), "trigger_p99_ms": float(p99), "trigger_ends_at": "proposal"}


def _happened(event: identity_pb2.ResolvedEvent) -> Happened:
    owner = event.person
    at = datetime.fromtimestamp(event.occurred_at_us / 1e6).astimezone()
    return Happened(event.name, owner.anchor_id, owner.entity_id, owner.version, 0, at, {})


async def _watch(database: Database, seen: dict[int, float]) -> None:
    """When each proposal could first be seen by others, to within some milliseconds."""
    while True:
        rows = await database.fetch(
            "SELECT person_id FROM decision WHERE theme_id = 1 AND person_id > 10000000 AND NOT person_id = ANY($1::bigint[])",
            list(seen)[-50:],
        )
        now = time.perf_counter()
        for (person,) in rows:
            seen.setdefault(person, now)
        await asyncio.sleep(0.005)
