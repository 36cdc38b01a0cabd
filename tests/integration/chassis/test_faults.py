"""Faults of the world are retried; faults of the data are set aside. Mistaking one for the other blocks or loses."""

from __future__ import annotations

import asyncpg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from chassis.db import Database
from chassis.errors import is_operational
from local.embedded import free_port
from tests.conftest import Servers
from tests.integration.chassis.test_bus import database, toys  # noqa: F401  (fixtures)


@pytest.mark.parametrize(
    ("statement", "values", "operational"),
    [
        ("SELECT CAST(:v AS bigint)", {"v": 2**70}, False),
        ("SELECT CAST(:v AS text)", {"v": "a\0b"}, False),
        ("INSERT INTO seen VALUES (1), (1)", {}, False),
        ("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$", {}, True),
    ],
)
async def test_database_errors_are_told_apart(
    database: Database,  # noqa: F811
    statement: str,
    values: dict[str, object],
    operational: bool,
) -> None:
    with pytest.raises(DBAPIError) as caught:
        async with database.transaction() as uow:
            await uow.rows(statement, **values)
    assert operational == is_operational(caught.value)


async def test_a_database_that_is_away_is_operational(servers: Servers) -> None:
    address = make_url(servers.postgres_dsn).set(port=free_port()).render_as_string(hide_password=False)
    gone = Database(address, "toy")
    with pytest.raises((OSError, DBAPIError, asyncpg.PostgresError)) as caught:
        await gone.check()
    assert is_operational(caught.value)
    await gone.close()
