"""The index boots from the database or a snapshot, follows the stream, and heals what overtook itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chassis.bus import Bus
from chassis.db import Database
from chassis.outbox import Outgoing
from services.tags import events
from services.tags.domain.catalogue import Kind
from services.tags.index.index import AudienceIndex
from services.tags.index.projection import Changed, Projection
from services.tags.index.snapshots import Snapshots
from tests.integration.tags import world
from tests.integration.tags.world import RULES, event
from tests.unit.tags.index.changes import held

PERSON, VEHICLE = Kind.PERSON, Kind.VEHICLE


@asynccontextmanager
async def running(database: Database, bus: Bus, snapshots: Snapshots | None = None) -> AsyncIterator[Projection]:
    projection = Projection(AudienceIndex(RULES.catalogue), database, bus, snapshots)
    task = asyncio.create_task(projection.run())
    try:
        await until(projection._caught_up.is_set)
        yield projection
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(reached) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(10):
        while not reached():
            await asyncio.sleep(0.01)


async def tell(bus: Bus, database: Database) -> None:
    """Publishes what the outbox has, as the relay does."""
    for message in await world.published(database):
        await publish(bus, message)


async def publish(bus: Bus, message) -> None:  # type: ignore[no-untyped-def]
    await bus.publish_all([Outgoing.now(events.TAGS_CHANGED.subjects[0], message.SerializeToString())])


@pytest.fixture
async def declared(bus: Bus) -> Bus:
    await bus.declare(*events.STREAMS)
    return bus


async def test_a_boot_reads_entities_and_relations_and_then_follows(database: Database, declared: Bus) -> None:
    await world.resolved(database, event(1, person=(1, 10, 1), vehicle=(1, 50, 1), relation="owns"))
    async with running(database, declared) as projection:
        assert await world.tags(database) == held(projection.index, PERSON)
        assert [10] == list(projection.index.relations.reached(PERSON, VEHICLE, projection.index.present[VEHICLE]))
        heard: list[Changed] = []
        projection.listen(heard.append)
        await world.resolved(database, event(2, person=(2, 20, 1)))
        await tell(declared, database)
        await until(lambda: 20 in projection.index.present[PERSON])
        assert await world.tags(database) == held(projection.index, PERSON)
        assert any(20 in changed[PERSON] for changed in heard)


async def test_who_lost_a_version_is_read_from_the_database(database: Database, declared: Bus) -> None:
    await world.resolved(database, event(1, person=(1, 10, 1)))
    async with running(database, declared) as projection:
        await world.resolved(
            database, event(2, person=(1, 10, 1)), event(3, "Offer Answered", person=(1, 10, 1), properties={"answer": "yes"})
        )
        await world.resolved(database, event(4, person=(1, 10, 1)))
        # The first of both messages never comes.
        *_, last = await world.published(database)
        await publish(declared, last)
        expected = await world.tags(database)
        await until(lambda: expected == held(projection.index, PERSON))
        assert not projection.index.torn[PERSON]


async def test_a_replica_boots_from_its_snapshot_and_the_stream(database: Database, declared: Bus, tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, 0.05)
    await world.resolved(database, event(1, person=(1, 10, 1), vehicle=(1, 50, 1), relation="owns"))
    await tell(declared, database)
    async with running(database, declared, snapshots) as projection:
        extent = await declared.extent(events.TAGS_CHANGED.name)
        await until((tmp_path / f"{extent.last:020}").exists)
        before = held(projection.index, PERSON)
    await world.resolved(database, event(2, person=(2, 20, 1)))
    told = [*await world.published(database)]
    await database_forgets(database)
    await publish(declared, told[-1])
    # All it knows comes from the snapshot and from what came after.
    async with running(database, declared, Snapshots(tmp_path, 60)) as projection:
        after = held(projection.index, PERSON)
        assert {10, 20} == after.keys()
        assert before[10] == after[10]
        assert [10] == list(projection.index.relations.reached(PERSON, VEHICLE, projection.index.present[VEHICLE]))


async def test_a_damaged_snapshot_is_passed_over_for_the_database(database: Database, declared: Bus, tmp_path: Path) -> None:
    await world.resolved(database, event(1, person=(1, 10, 1)))
    await tell(declared, database)
    extent = await declared.extent(events.TAGS_CHANGED.name)
    written = await Snapshots(tmp_path, 60).write(AudienceIndex(RULES.catalogue), extent.created, extent.last)
    async with running(database, declared, Snapshots(tmp_path, 60)) as projection:
        # It is whole, says that nobody is there, and is believed.
        assert {} == held(projection.index, PERSON)
    await asyncio.to_thread((written / "manifest.json").write_text, "{}")
    async with running(database, declared, Snapshots(tmp_path, 60)) as projection:
        assert await world.tags(database) == held(projection.index, PERSON)


async def database_forgets(database: Database) -> None:
    async with database.transaction() as uow:
        await uow.execute("DELETE FROM entity")
        await uow.execute("DELETE FROM entity_relation")
