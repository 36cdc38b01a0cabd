"""For tests of services: databases that look as if nobody had ever used them, and a bus with streams of their own."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.engine import make_url

from chassis.db import Database
from chassis.emptying import Pristine
from chassis.migrations import migrate

# How long a session may take to end.
PATIENCE_S = 30


def with_database(dsn: str, name: str) -> str:
    """The same server, another database."""
    return make_url(dsn).set(database=name).render_as_string(hide_password=False)


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def create_database(dsn: str, name: str, template: str = "template1") -> str:
    """Makes a database and returns its address."""
    async with _connected(dsn) as connection:
        # PostgreSQL's other way logs every page, at three times the price.
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
    return with_database(dsn, name)


async def drop_database(dsn: str, name: str) -> None:
    """Drops a database, disconnecting whoever is left in it."""
    async with _connected(dsn) as connection:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


class DatabaseFactory:
    """Gives each test a migrated database of its own.

    A new one costs the copy of hundreds of files. What a test hands back is emptied and given, under another name, to the
    next one of its service; who still has the old address finds nobody there.
    """

    def __init__(self, dsn: str, services: Path) -> None:
        self._dsn, self._services = dsn, services
        self._templates: dict[str, str] = {}
        self._pristine: dict[str, Pristine] = {}
        self._used: defaultdict[str, deque[str]] = defaultdict(deque)
        # Kept, because a connection costs more than what is asked through it.
        self._server: Any = None
        self._alone = asyncio.Lock()

    async def address(self, service: str) -> tuple[str, str]:
        """(address, name) of a new database with the service's schema, for the caller to drop."""
        async with self._alone:
            return await self._new(service)

    @asynccontextmanager
    async def lent(self, service: str) -> AsyncIterator[str]:
        """The address of a database of a service, handed back at the end."""
        async with self._alone:
            dsn, name = await self._emptied(service) or await self._new(service)
        try:
            yield dsn
        finally:
            async with self._alone:
                await self._leave(name)
                self._used[service].append(name)

    @asynccontextmanager
    async def database(self, service: str) -> AsyncIterator[Database]:
        """An open database of a service, handed back at the end."""
        async with self.lent(service) as dsn:
            database = Database(dsn, service)
            try:
                yield database
            finally:
                await database.close()

    async def close(self) -> None:
        """Leaves the server; its databases go with it."""
        if self._server is not None:
            await self._server.close()

    async def _new(self, service: str) -> tuple[str, str]:
        if service not in self._templates:
            template = f"template_{service}_{uuid.uuid4().hex[:8]}"
            await migrate(await create_database(self._dsn, template), service, self._services / service / "migrations")
            self._templates[service] = template
        name = f"{service}_{uuid.uuid4().hex[:12]}"
        return await create_database(self._dsn, name, self._templates[service]), name

    async def _emptied(self, service: str) -> tuple[str, str] | None:
        """A used database as new; drops those that cannot be made so. None when there is none."""
        used = self._used[service]
        if used and service not in self._pristine:
            async with _connected(with_database(self._dsn, self._templates[service])) as connection:
                self._pristine[service] = await Pristine.of(connection)
        while used:
            name = f"{service}_{uuid.uuid4().hex[:12]}"
            await self._rename(used.popleft(), name)
            dsn = with_database(self._dsn, name)
            async with _connected(dsn) as connection:
                restored = await self._pristine[service].restore(connection)
            if restored:
                return dsn, name
            await drop_database(self._dsn, name)
        return None

    async def _rename(self, old: str, new: str) -> None:
        """Once nobody is left in it: a session would go on in another test's database."""
        async with asyncio.timeout(PATIENCE_S):
            while await self._leave(old):
                await asyncio.sleep(0.002)
        await self._server.execute(f'ALTER DATABASE "{old}" RENAME TO "{new}"')

    async def _leave(self, name: str) -> int:
        """Ends all sessions of a database; how many there were."""
        if self._server is None or self._server.is_closed():
            self._server = await asyncpg.connect(self._dsn)
        ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1"
        return int(await self._server.fetchval(ended, name))
