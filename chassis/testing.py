"""For tests of services: databases cloned from a migrated template, and a bus with streams of their own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from sqlalchemy.engine import make_url

from chassis.db import Database
from chassis.migrations import migrate


def with_database(dsn: str, name: str) -> str:
    """The same server, another database."""
    return make_url(dsn).set(database=name).render_as_string(hide_password=False)


async def create_database(dsn: str, name: str, template: str = "template1") -> str:
    """Makes a database and returns its address."""
    connection = await asyncpg.connect(dsn)
    try:
        # PostgreSQL's other way logs every page, at three times the price.
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
    finally:
        await connection.close()
    return with_database(dsn, name)


async def drop_database(dsn: str, name: str) -> None:
    """Drops a database, disconnecting whoever is left in it."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await connection.close()


class DatabaseFactory:
    """Gives each test a migrated database of its own, in the time of a file copy."""

    def __init__(self, dsn: str, services: Path) -> None:
        self._dsn, self._services = dsn, services
        self._templates: dict[str, str] = {}

    async def address(self, service: str) -> tuple[str, str]:
        """(address, name) of a new database with the service's schema."""
        if service not in self._templates:
            template = f"template_{service}_{uuid.uuid4().hex[:8]}"
            await migrate(await create_database(self._dsn, template), service, self._services / service / "migrations")
            self._templates[service] = template
        name = f"{service}_{uuid.uuid4().hex[:12]}"
        return await create_database(self._dsn, name, self._templates[service]), name

    @asynccontextmanager
    async def database(self, service: str) -> AsyncIterator[Database]:
        """An open database of a service, dropped at the end."""
        dsn, name = await self.address(service)
        database = Database(dsn, service)
        try:
            yield database
        finally:
            await database.close()
            await drop_database(self._dsn, name)
