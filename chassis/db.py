"""PostgreSQL: one database object per process, one transaction per request, message or micro-batch."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Protocol
from weakref import WeakSet

import asyncpg
from asyncpg import InternalClientError
from opentelemetry.trace import SpanKind
from sqlalchemy import MetaData, event, text
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from chassis import outbox, telemetry
from chassis.outbox import Outgoing

DB = {"db.system": "postgresql"}
CONNECT_S = 10.0


class Reader(Protocol):
    """What can be asked: a database each statement by itself, a unit of work all within one transaction."""

    async def fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        """Runs a statement with $1, $2 … and returns all rows."""


class UnitOfWork:
    """One open transaction. What is published through it goes out only after, and if, it commits."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self._outgoing: list[Outgoing] = []

    def publish(self, subject: str, payload: bytes) -> None:
        """Puts a serialised protobuf message into the outbox of this transaction."""
        self._outgoing.append(Outgoing.now(subject, payload))

    def dead_letter(self, consumer: str, origin: str, payload: bytes, reason: str) -> None:
        """Sets one bad fact aside so that the facts behind it go on; see outbox.dead_letter."""
        self._outgoing.append(outbox.dead_letter(consumer, origin, payload, reason))

    async def rows(self, statement: str, **parameters: Any) -> Sequence[Any]:
        """Runs a named-parameter statement and returns all rows."""
        return (await self.connection.execute(text(statement), parameters)).all()

    async def execute(self, statement: str, **parameters: Any) -> int:
        """Runs a named-parameter statement and returns the number of rows it touched."""
        return (await self.connection.execute(text(statement), parameters)).rowcount

    async def fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        """Like `rows`, with $1, $2 … and straight from the driver: several times faster where rows come by the thousand."""
        return list(await (await self._driver()).fetch(statement, *values))

    async def copy(self, table: str, columns: Sequence[str], records: Sequence[Sequence[Any]]) -> None:
        """Streams records into a table by COPY, inside this transaction."""
        if records:
            await (await self._driver()).copy_records_to_table(table, columns=list(columns), records=records)

    async def copy_out(self, query: str, sink: Callable[[bytes], Awaitable[None]]) -> None:
        """Streams the rows of a query by COPY in PostgreSQL's binary format, for those who want millions of them."""
        await (await self._driver()).copy_from_query(query, output=sink, format="binary")

    async def raw(self) -> Any:
        """The driver's own connection, whether or not a transaction was begun on it."""
        raw = (await self.connection.get_raw_connection()).driver_connection
        if raw is None:
            raise ConnectionError("no driver connection")
        return raw

    async def _driver(self) -> Any:
        raw = await self.raw()
        if not raw.is_in_transaction():
            # SQLAlchemy begins with its first statement; what went past it before would be committed by itself.
            await self.connection.execute(text("SELECT 1"))
        return raw

    async def fresh(self, consumer: str, message_ids: Sequence[str]) -> set[str]:
        """Marks messages as handled by this consumer and returns those that were not yet."""
        rows = await self.rows(
            "INSERT INTO inbox (consumer, message_id) SELECT :consumer, unnest(CAST(:ids AS text[]))"
            " ON CONFLICT DO NOTHING RETURNING message_id",
            consumer=consumer,
            ids=list(message_ids),
        )
        return {row.message_id for row in rows}

    async def flush_outbox(self) -> bool:
        """Writes what was published; True when there was anything."""
        if self._outgoing:
            await outbox.store(self.connection, self._outgoing)
        return bool(self._outgoing)


class Database:
    """The service's own schema under its own role, reached through a pool."""

    def __init__(self, dsn: str, service: str, pool_size: int = 8) -> None:
        self.service = service
        self.committed_outgoing = asyncio.Event()
        # Least privilege whatever user the DSN names; JIT costs more than it gives on batches of hundreds.
        session = {"role": role_of(service), "search_path": service, "application_name": service, "jit": "off"}
        self._engine = new_engine(
            dsn,
            session,
            pool_size=pool_size,
            max_overflow=0,
            # Transactions are begun where they are wanted; by itself a statement needs one trip to the server instead of three.
            isolation_level="AUTOCOMMIT",
        )
        event.listen(self._engine.sync_engine, "checkout", _refuse_closed)
        self._pinned: WeakSet[Pinned] = WeakSet()

    async def fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        """One statement that reads, $1, $2 …: a snapshot by itself, in a single trip to the server."""
        with telemetry.span("db read", SpanKind.CLIENT, attributes=DB):
            async with self._engine.connect() as connection:
                return list(await (await UnitOfWork(connection).raw()).fetch(statement, *values))

    def pinned(self) -> Pinned:
        """A connection for oneself, until it is closed or the database is."""
        pinned = Pinned(self._engine)
        self._pinned.add(pinned)
        return pinned

    @asynccontextmanager
    async def transaction(self, traced: bool = True) -> AsyncIterator[UnitOfWork]:
        """A read-write transaction; commits at the end, rolls back on any error. Idle polling goes untraced."""
        with telemetry.span("db transaction", SpanKind.CLIENT, attributes=DB) if traced else nullcontext():
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="READ COMMITTED")
                async with connection.begin() as transaction:
                    uow = UnitOfWork(connection)
                    yield uow
                    publishes = await uow.flush_outbox()
                    await transaction.commit()
            if publishes:
                self.committed_outgoing.set()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[UnitOfWork]:
        """A read-only snapshot; writing in it is an error."""
        with telemetry.span("db read", SpanKind.CLIENT, attributes=DB):
            async with self._engine.connect() as connection:
                uow = UnitOfWork(connection)
                snapshot = (await uow.raw()).transaction(isolation="repeatable_read", readonly=True)
                failing = True
                try:
                    # Within: who is cancelled while it starts may have started it.
                    await snapshot.start()
                    yield uow
                    failing = False
                finally:
                    try:
                        await snapshot.rollback()
                    except BaseException as error:
                        # Nobody may get it with our snapshot still open, and why we go must not be lost.
                        await connection.invalidate()
                        if isinstance(error, asyncio.CancelledError) or not failing:
                            raise

    async def check(self) -> None:
        """Raises when the database does not answer."""
        async with self._engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Closes all connections."""
        for pinned in list(self._pinned):
            await pinned.close()
        await self._engine.dispose()


class Pinned:
    """One connection of the pool, kept by somebody who asks all the time: each statement by itself, one after the other.

    A statement takes a quarter of the work of Database.fetch. A connection that broke is replaced at the next statement.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None
        self._raw: Any = None
        self._turn = asyncio.Lock()

    async def fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        """One statement, $1, $2 …; durable when it returns, if it writes."""
        async with self._turn:
            return await self._fetch(statement, *values)

    async def _fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        try:
            if self._raw is None or self._raw.is_closed():
                await self.close()
                self._connection = await self._engine.connect()
                self._raw = await UnitOfWork(self._connection).raw()
                # The same few statements over and over: planning one anew costs several times what running it does.
                await self._raw.execute("SET plan_cache_mode = force_generic_plan")
            return list(await self._raw.fetch(statement, *values))
        except InternalClientError as error:
            # What the driver says between the server's last word and the end of the connection.
            await self.close()
            raise ConnectionError("the connection is breaking") from error

    async def close(self) -> None:
        """Gives the place in the pool back; nobody else gets the connection, whatever it was doing."""
        connection, self._connection, self._raw = self._connection, None, None
        if connection is not None:
            await connection.invalidate()
            await connection.close()


def _refuse_closed(connection: Any, _record: Any, _proxy: Any) -> None:
    """The driver hears of a server that went away; asking the server before each use would cost a trip."""
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError


def new_engine(dsn: str, session: Mapping[str, str] | None = None, **options: Any) -> AsyncEngine:
    """An engine of SQLAlchemy; `session`: settings that each connection starts with.

    The driver reads the address itself, because it knows what libpq knows: several hosts, sslmode, sslrootcert.
    """

    async def connect() -> Any:
        return await asyncpg.connect(address_of(dsn), timeout=CONNECT_S, server_settings=dict(session or {}))

    return create_async_engine("postgresql+asyncpg://", async_creator=connect, **options)


def address_of(dsn: str) -> str:
    """A DSN as the driver wants it, whichever driver of SQLAlchemy it names."""
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", dsn)


def role_of(service: str) -> str:
    """The database role that owns a service's schema."""
    return f"troika_{service}"


def new_metadata(service: str) -> MetaData:
    """Metadata of a service's schema, with the chassis' outbox and inbox in it."""
    metadata = MetaData(naming_convention={"ix": "ix_%(column_0_N_label)s", "pk": "pk_%(table_name)s"})
    outbox.add_tables(metadata)
    return metadata
