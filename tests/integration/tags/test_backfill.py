"""A tag added while the house runs becomes what it would be had it always been there, whatever comes meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from troika.identity.v1 import events_pb2 as identity

from chassis.bus import Message
from chassis.db import Database, UnitOfWork
from chassis.testing import DatabaseFactory
from services.tags import consumers
from services.tags.backfill import jobs
from services.tags.backfill.cutting import History, Reach, history
from services.tags.backfill.jobs import Job
from services.tags.backfill.running import Again, Filler, next_page
from services.tags.catalogue import yaml_files
from services.tags.catalogue.changing import Changing, Draft
from services.tags.catalogue.defining import body_of
from services.tags.catalogue.following import LiveCatalogue
from services.tags.domain.catalogue import Catalogue, FromEvents, Kind
from services.tags.handlers import TagRules
from services.tags.lake import keeping, storage
from services.tags.lake.engines import duckdb_engine
from services.tags.lake.reading import Lake
from tests.integration.tags import world
from tests.integration.tags.lake_world import written
from tests.integration.tags.world import erasure, event, move, moves

WHOLE = yaml_files.parse("""
person:
  opens: {type: number, description: d, expression: COUNT(*) FILTER (WHERE event = 'App Opened')}
  spent: {type: number, description: d, expression: SUM(amount) FILTER (WHERE event = 'Order Placed')}
  orders:
    type: number
    description: d
    expression: COUNT(*) FILTER (WHERE event = 'Order Placed' AND occurred_at > NOW() - INTERVAL '30000 days')
  models: {type: set, description: d, expression: ARRAY_AGG(DISTINCT model) FILTER (WHERE amount > 3 AND nested IS NULL)}
  first_model: {type: category, description: d, expression: FIRST(model)}
  dealer: {type: category, description: d, expression: "LAST(source_name) FILTER (WHERE source LIKE 'dealer:%')"}
  rich: {type: boolean, description: d, expression: spent > 20 AND opens > 0}
vehicle:
  mileage: {type: number, description: d, expression: LAST(km)}
  trips: {type: number, description: d, expression: COUNT(*)}
""")
KNOWN = [each for each in WHOLE.definitions if each.name in ("opens", "mileage")]
ADDED = [each for each in WHOLE.definitions if each not in KNOWN]
LARGE = "x" * 10_000


class House:
    """A catalogue and a database, as one replica has them."""

    def __init__(self, database: Database, catalogue: Catalogue) -> None:
        self.database, self.rules = database, TagRules(catalogue)
        self.live = LiveCatalogue(database, self.rules)
        self.resolved, self.entities, *_ = consumers.consumers(self.rules)

    async def hears(self, given: Sequence[Message]) -> None:
        for each in given:
            consumer = self.entities if each.subject == "entities" else self.resolved
            async with self.database.transaction() as uow:
                await consumer.handle(uow, [each])

    async def adds(self, cut: int) -> None:
        """Adds the tags when the stream's last message was that of the cut."""
        drafts = [Draft(each.kind, each.name, body_of(each)) for each in ADDED]
        async with self.database.transaction() as uow:
            await self.live.begin(uow)
            await Changing(uow, self.live.files, self.rules.catalogue).create(drafts, "operator")
            for kind in (Kind.PERSON, Kind.VEHICLE):
                tags = [each.name for each in ADDED if each.kind is kind and isinstance(each.origin, FromEvents)]
                await jobs.add(uow, kind, tags, cut)

    async def waiting(self) -> list[Job]:
        async with self.database.read() as uow:
            return await jobs.waiting(uow)

    async def history(self, name: str) -> History | None:
        [definition] = [each for each in WHOLE.definitions if each.name == name]
        async with self.database.read() as uow:
            return await history(uow, definition)

    async def fills(self, lake: Lake, holds: int = 1000) -> None:
        """Fills until killed; `holds` counts how often the catalogue may be held before."""
        hold, left = self.rules.hold, holds

        async def mortal(uow: UnitOfWork) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise ConnectionError
            await hold(uow)

        # Once to begin with, and thrice for each page.
        self.rules.hold = mortal
        try:
            for job in await self.waiting():
                await Filler(self.database, self.rules, lake, page=2).fill(job)
        finally:
            self.rules.hold = hold

    async def tags(self) -> list[object]:
        return [await world.tags(self.database, kind) for kind in (Kind.PERSON, Kind.VEHICLE)]


def happened(rnd: random.Random, count: int) -> list[Message]:
    """Messages of the stream, with late and early events."""
    number = 0
    made = []
    for sequence in range(1, count + 1):
        events = []
        for _ in range(rnd.randint(1, 4)):
            number += 1
            person, vehicle = rnd.randint(1, 9), rnd.randint(1, 4)
            properties = {"amount": rnd.randint(-2, 9) / 2, "model": rnd.choice(("X1", "X5")), "nested": None}
            if rnd.random() < 0.3:
                properties["nested"] = rnd.choice(({"a": 1}, [LARGE]))
            events.append(
                event(
                    number,
                    rnd.choice(("App Opened", "Order Placed", "Model Viewed")),
                    source=rnd.choice(("app", "dealer:D1", "dealer:D2")),
                    person=(person, person, 1),
                    vehicle=(vehicle, vehicle, 1) if rnd.random() < 0.5 else (0, 0, 0),
                    at=1_700_000_000 + rnd.randint(0, 400_000),
                    properties=properties,
                    vehicle_properties={"km": number},
                )
            )
        made.append(Message(f"m{sequence}", "events", identity.ResolvedBatch(events=events).SerializeToString(), {}, sequence))
    return made


def shuffled(rnd: random.Random, given: Sequence[Message]) -> list[Message]:
    return rnd.sample(given, len(given))


def told() -> list[Message]:
    """A merge, and a person who is erased."""
    merge, forgotten = moves(move(Kind.PERSON, (2, 1, 5))), erasure(9, 9)
    return [Message(f"e{n}", "entities", each.SerializeToString(), {}, n) for n, each in enumerate((merge, forgotten), 1)]


@pytest.mark.parametrize("seed", range(3))
async def test_an_added_tag_is_what_it_would_be_had_it_always_been_there(
    databases: DatabaseFactory, database: Database, tmp_path: Path, seed: int
) -> None:
    rnd = random.Random(seed)
    stream = happened(rnd, 14)
    cut = rnd.randint(3, 10)
    past, rest = stream[:cut], shuffled(rnd, stream[cut:])
    merge, forgotten = told()
    lake = Lake(storage.opened(str(tmp_path / "lake")))
    house = House(database, Catalogue(KNOWN))

    # Some of what is in the stream was handled by then, some is under way in another replica.
    before = [each for each in shuffled(rnd, past) if rnd.random() < 0.7]
    await house.hears([*before, merge])
    await house.adds(cut)
    left = [each for each in past if each not in before]
    await house.hears(shuffled(rnd, [*left, *rest[:2], forgotten]))
    # The lake gets it all in its own order, some of it twice.
    twice = shuffled(rnd, [*stream, *stream[::3]])
    for start in range(0, len(twice), 5):
        await written(database, lake.storage, twice[start : start + 5])
    await keeping.erase(database, lake, keeping.Rules())

    # Killed between pages, while more comes.
    with suppress(ConnectionError):
        await house.fills(lake, holds=4)
    await house.hears(rest[2:4])
    # What came late of the erased one is to be erased again, and the fill waits for that.
    await keeping.erase(database, lake, keeping.Rules())
    await house.fills(lake)
    await house.hears(rest[4:])

    async with databases.database("tags") as other:
        always = House(other, WHOLE)
        await always.hears([*stream, *told()])
        assert await always.tags() == await house.tags()
    assert [] == await house.waiting()


async def test_how_far_it_has_come_is_told(database: Database, tmp_path: Path) -> None:
    lake = Lake(storage.opened(str(tmp_path / "lake")))
    house = House(database, Catalogue(KNOWN))
    stream = [
        Message(f"m{n}", "events", world.batch(event(n, "Order Placed", person=(n, n, 1))).SerializeToString(), {}, n)
        for n in range(1, 9)
    ]
    await house.hears(stream)
    await written(database, lake.storage, stream)
    assert History(Reach.FROM_CREATION) == await house.history("orders")
    await house.adds(8)
    assert History(Reach.FILLING, 0.0, 0) == await house.history("orders")
    with pytest.raises(ConnectionError):
        await house.fills(lake, holds=10)
    assert History(Reach.FILLING, 0.75, 6) == await house.history("orders")
    await house.fills(lake)
    assert History(Reach.WHOLE, 1.0, 8) == await house.history("orders")
    # The others need not withhold it any more.
    await house.live.refresh()
    assert {} == house.rules.cuts


async def test_who_was_slower_leaves_off(database: Database, tmp_path: Path) -> None:
    lake = Lake(storage.opened(str(tmp_path / "lake")))
    house = House(database, Catalogue(KNOWN))
    stream = happened(random.Random(1), 6)
    await house.hears(stream)
    await written(database, lake.storage, stream)
    await house.adds(6)
    stale = await house.waiting()
    await house.fills(lake)
    filled = await house.tags()
    with pytest.raises(Again):
        await Filler(database, house.rules, lake).fill(stale[0])
    assert filled == await house.tags()


async def test_who_stops_the_service_does_not_wait_for_the_lake_to_be_sorted() -> None:
    with duckdb_engine() as engine:
        endless = iter(lambda: engine.fetch("SELECT sum(a.range * b.range) FROM range(10000000) a, range(1000000) b"), None)
        task = asyncio.create_task(next_page(engine, endless, 1))  # type: ignore[arg-type]
        await asyncio.sleep(0.3)
        task.cancel()
        async with asyncio.timeout(20):
            with pytest.raises(asyncio.CancelledError):
                await task
