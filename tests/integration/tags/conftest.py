"""A tags database, and what stands on it: a lake in a folder, a replica with audiences, identity beside it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chassis.bus import Bus
from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.tags import events
from services.tags.lake import storage
from services.tags.lake.reading import Lake
from tests.integration.identity.world import World
from tests.integration.tags.audience_house import House, replica
from tests.integration.tags.importing import Partnered, partnered


@pytest.fixture
async def database(databases: DatabaseFactory) -> AsyncIterator[Database]:
    async with databases.database("tags") as database:
        yield database


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(storage.opened(str(tmp_path / "lake")))


@pytest.fixture
async def house(database: Database, bus: Bus, lake: Lake) -> AsyncIterator[House]:
    """One replica, whose doors are open."""
    await bus.declare(*events.STREAMS)
    async with replica(database, bus, lake) as one:
        yield one


@pytest.fixture
async def both(databases: DatabaseFactory, database: Database, tmp_path: Path) -> AsyncIterator[Partnered]:
    async with databases.database("identity") as identity, partnered(World(identity), database, tmp_path) as found:
        yield found
