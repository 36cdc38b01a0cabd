"""The job that follows evidence: works out the relations of what changed, tells the differences, suggests households.

Incremental: it takes what was queued since the last run. Any number may run; they take turns chunk by chunk.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass

import orjson

from chassis.db import Database, UnitOfWork
from chassis.errors import is_operational
from services.identity import entities, households, relations
from services.identity.announcements import LOCK, announce
from services.identity.domain.kinds import Kind, Space
from services.identity.domain.relations import Counted, Evidence, Relation
from services.identity.settings import Settings

log = logging.getLogger(__name__)

# For the verb. A chunk holds up erasures for a second at most.
CHUNK = 4000
# In the service: small, and with rests, for events and questions come first on the same core.
SMALL_CHUNK = 100
REST = 9.0
# After so many cars whoever else waits has a turn.
CARS_AT_ONCE = 8
# Nobody waits for a longer queue to be counted.
MOST_COUNTED = 10_000


@dataclass
class Inferred:
    """What one run did; `left`: how much is queued still, at most MOST_COUNTED."""

    anchors: int = 0
    vehicles: int = 0
    persons: int = 0
    devices: int = 0
    changes: int = 0
    suggestions: int = 0
    left: int = 0

    def add(self, other: Inferred) -> None:
        """Adds a chunk."""
        for name in ("anchors", "vehicles", "persons", "devices", "changes", "suggestions"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.left = other.left


async def infer(database: Database, size: int = CHUNK) -> Inferred:
    """One chunk in one transaction: all that the next `size` of the queue are about. Nothing to do: `anchors` is 0."""
    async with database.transaction(traced=False) as uow:
        taken = await _take(uow, size)
        if not taken:
            return Inferred()
        owners = await _owners(uow, {anchor for anchor, _ in taken})
        persons = {id_ for space, id_ in owners.values() if space is Space.PERSON}
        cars = {id_ for space, id_ in owners.values() if space is Space.VEHICLE}
        left = [(owners[anchor][0], entity) for anchor, entity in taken if entity and anchor in owners]
        # Who left a person may have taken cars along; who left a car has left relations behind.
        cars |= set(await relations.vehicles_of(uow, {a for a, _ in taken if a in owners and owners[a][0] is Space.PERSON}))
        cars |= {entity for space, entity in left if space is Space.VEHICLE}
        persons |= {entity for space, entity in left if space is Space.PERSON}
        done = Inferred(anchors=len(taken), vehicles=len(cars), persons=len(persons))
        done.devices = await entities.number_devices(uow, persons)
        rows = await relations.on_vehicles(uow, cars)
        found = await _worked_out(rows) + await entities.of_persons(uow, persons)
        done.changes = await announce(uow, found, cars, persons)
        # New evidence on a car may bring two people together who were known before.
        near = persons | {row.subject for row in rows if row.kind <= Evidence.SEEN_WITH}
        done.suggestions = await households.suggest(uow, near)
        waiting = await uow.fetch("SELECT count(*) FROM (SELECT 1 FROM inference_queue LIMIT $1) AS waiting", MOST_COUNTED)
        done.left = int(waiting[0][0])
        return done


async def _worked_out(rows: Iterable[Counted]) -> list[Relation]:
    """Relations of vehicles, car by car."""
    found: list[Relation] = []
    for place, (car, mine) in enumerate(entities.by_vehicle(rows).items()):
        found += entities.of_vehicle(car, mine)
        if place % CARS_AT_ONCE == 0:
            await asyncio.sleep(0)
    return found


async def follow(database: Database, pause_s: float) -> None:
    """Infers whenever something is queued, resting nine times as long as it works; runs until cancelled."""
    while True:
        begun, rest = time.monotonic(), pause_s
        try:
            if (await infer(database, SMALL_CHUNK)).left:
                rest = min(pause_s, REST * (time.monotonic() - begun))
        except Exception as error:
            # PostgreSQL may be away for a while; what is queued waits. Nor may a mistake here stop events from being resolved.
            if is_operational(error):
                log.warning("inference waits for the database")
            else:
                log.exception("inference failed and will be tried again")
            rest = pause_s
        await asyncio.sleep(rest)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("--all", action="store_true", help="look at everything again, as after a change of the rules")
    parser.add_argument("--json", action="store_true", help="one JSON object at the end and nothing before")


async def catch_up(settings: Settings, flags: argparse.Namespace) -> None:
    """The verb `infer`: until nothing is queued."""
    database, total = Database(settings.postgres_dsn, "identity", 1), Inferred()
    try:
        if flags.all:
            await queue_all(database)
        while True:
            total.add(done := await infer(database))
            if not flags.json:
                sys.stdout.write("  ".join(f"{name} {value:,}" for name, value in asdict(total).items()) + "\n")
                sys.stdout.flush()
            if not done.left:
                break
    finally:
        await database.close()
    if flags.json:
        sys.stdout.write(orjson.dumps(asdict(total)).decode() + "\n")


async def queue_all(database: Database) -> None:
    """Has the relations of every anchor looked at again."""
    async with database.transaction() as uow:
        await uow.fetch(
            "INSERT INTO inference_queue (anchor_id, left_id) SELECT id, 0 FROM identifier WHERE anchor AND entity_id <> 0"
            " ORDER BY entity_id"
        )


async def _take(uow: UnitOfWork, size: int) -> list[tuple[int, int]]:
    await uow.execute(LOCK)
    # What was queued several times is looked at once.
    rows = await uow.fetch(
        "DELETE FROM inference_queue WHERE anchor_id = ANY(ARRAY(SELECT DISTINCT anchor_id FROM"
        " (SELECT anchor_id FROM inference_queue ORDER BY id LIMIT $1) AS first)) RETURNING anchor_id, left_id",
        size,
    )
    return sorted({(row[0], row[1]) for row in rows})


async def _owners(uow: UnitOfWork, anchors: Collection[int]) -> dict[int, tuple[Space, int]]:
    rows = await uow.fetch(
        "SELECT id, kind, entity_id FROM identifier WHERE id = ANY($1::bigint[]) AND entity_id <> 0", list(anchors)
    )
    return {row[0]: (Kind(row[1]).space, row[2]) for row in rows}
