"""A resolver on a real database, and doors that seal as the touchpoints do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chassis.testing import DatabaseFactory
from tests.integration.identity.world import World


@pytest.fixture
async def world(databases: DatabaseFactory) -> AsyncIterator[World]:
    async with databases.database("identity") as database:
        yield World(database)
