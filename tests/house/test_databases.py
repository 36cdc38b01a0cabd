"""Each room's migrations and table definitions say the same, and the schema stays inside its own role."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from chassis.testing import DatabaseFactory, drop_database
from tests.conftest import Servers
from tests.house.source import SERVICES


def differences(connection: Connection, service: str) -> list[Any]:
    connection.exec_driver_sql(f"SET search_path TO {service}")
    options = {"version_table": "schema_version", "compare_type": True}
    context = MigrationContext.configure(connection, opts=options)
    metadata = importlib.import_module(f"services.{service}.tables").metadata
    return list(compare_metadata(context, metadata))


@pytest.mark.parametrize("service", SERVICES)
async def test_the_newest_migration_equals_the_metadata(service: str, databases: DatabaseFactory, servers: Servers) -> None:
    dsn, name = await databases.address(service)
    engine = create_async_engine(make_url(dsn).set(drivername="postgresql+asyncpg"))
    async with engine.connect() as connection:
        found = await connection.run_sync(differences, service)
    await engine.dispose()
    await drop_database(servers.postgres_dsn, name)
    assert [] == found
