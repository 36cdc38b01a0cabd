from collections.abc import AsyncIterator

import pytest

from chassis.db import Database
from chassis.testing import DatabaseFactory


@pytest.fixture
async def database(databases: DatabaseFactory) -> AsyncIterator[Database]:
    async with databases.database("tags") as database:
        yield database
