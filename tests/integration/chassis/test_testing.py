"""A database that another test used cannot be told from a new one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from chassis.emptying import PAGES
from chassis.testing import DatabaseFactory, drop_database
from tests.conftest import ROOT, Servers
from tests.house.source import SERVICES

# What anybody can ask of a database, but for the pages that its files have.
ASPECTS = {
    "columns": "SELECT table_schema, table_name, column_name, data_type, is_nullable, column_default"
    " FROM information_schema.columns WHERE table_schema !~ '^(pg_|information_schema)'",
    "relations": "SELECT oid, relname, relnatts, relhasindex, relhastriggers, relacl, reloptions,"
    " CASE relkind WHEN 'r' THEN reltuples END FROM pg_class"
    " WHERE oid >= 16384 AND relkind <> 't'",
    "toasts": "SELECT oid, relname, relnatts FROM pg_class WHERE relkind = 't'",
    "indexes": "SELECT indexdef FROM pg_indexes WHERE schemaname <> 'pg_catalog'",
    "constraints": "SELECT conname, conrelid, pg_get_constraintdef(oid) FROM pg_constraint",
    "triggers": "SELECT tgname, tgrelid, tgenabled FROM pg_trigger",
    "functions": "SELECT oid, proname, prosrc, proacl FROM pg_proc WHERE oid >= 16384",
    "statistics": "SELECT schemaname, tablename, attname FROM pg_stats WHERE schemaname !~ '^(pg_|information_schema)'",
    "schemas": "SELECT nspname, nspacl FROM pg_namespace WHERE nspname !~ 'temp'",
    "settings": "SELECT name, setting FROM pg_settings WHERE source LIKE 'database%'",
    "sessions": "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
    "locks": "SELECT pid FROM pg_locks WHERE pid <> pg_backend_pid() AND database ="
    " (SELECT oid FROM pg_database WHERE datname = current_database())",
}
RELATIONS = (
    "SELECT oid::regclass::text AS name, relkind = 'S' AS counts FROM pg_class"
    " WHERE oid >= 16384 AND relkind IN ('r', 'S') AND relnamespace <> 'pg_toast'::regnamespace ORDER BY 1"
)
VALUES = {
    "int2": "1",
    "int4": "1",
    "int8": "1",
    "float4": "1",
    "float8": "1",
    "numeric": "1",
    "varchar": "'a'",
    "text": "'a'",
    "bytea": "'a'",
    "bool": "true",
    "timestamptz": "now()",
    "date": "now()",
    "json": "'{}'",
    "jsonb": "'{}'",
    "uuid": "gen_random_uuid()",
}


@pytest.fixture(scope="module")
async def own(servers: Servers) -> AsyncIterator[DatabaseFactory]:
    """A factory that nobody else hands anything back to."""
    factory = DatabaseFactory(servers.postgres_dsn, ROOT / "services")
    yield factory
    await factory.close()


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def seen(dsn: str) -> dict[str, Sequence[Any]]:
    """All that can be seen of a database: its rows, where its sequences stand, and its aspects."""
    async with connected(dsn) as connection:
        whole = {name: sorted(map(repr, await connection.fetch(query))) for name, query in ASPECTS.items()}
        for name, counts in await connection.fetch(RELATIONS):
            found = await connection.fetch(f"SELECT last_value, is_called FROM {name}" if counts else f"SELECT * FROM {name}")
            whole[name] = sorted(map(repr, found))
    return whole


async def fill(connection: Any, name: str) -> bool:
    """Writes a row, whatever it means; False when the table's checks refuse it."""
    columns = await connection.fetch(
        "SELECT attname, typname, typcategory = 'A' AS is_array FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid"
        " WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attidentity = '' AND attgenerated = ''",
        name,
    )
    values = ["'{}'" if is_array else VALUES[kind] for _, kind, is_array in columns]
    try:
        await connection.execute(f"INSERT INTO {name} ({', '.join(row[0] for row in columns)}) VALUES ({', '.join(values)})")
    except (asyncpg.CheckViolationError, asyncpg.UniqueViolationError):
        return False
    return True


@pytest.mark.parametrize("service", SERVICES)
async def test_whatever_rows_a_test_leaves_the_next_one_finds_a_new_database(
    own: DatabaseFactory, servers: Servers, service: str
) -> None:
    untouched, name = await own.address(service)
    new = await seen(untouched)
    await drop_database(servers.postgres_dsn, name)
    async with own.lent(service) as address:
        lock, left = "SELECT pg_advisory_lock(7)", await asyncpg.connect(address)
        await left.execute(lock)
        async with connected(address) as connection:
            relations = await connection.fetch(RELATIONS)
            tables = [name for name, counts in relations if not counts]
            assert len(tables) * 0.8 < sum([await fill(connection, name) for name in tables])
            for name, counts in relations:
                if counts:
                    await connection.execute(f"SELECT setval('{name}', 50, {name.endswith('id_seq')})")
            await connection.execute(
                f"INSERT INTO {service}.outbox (message_id, subject, payload, headers) SELECT i, repeat('x', 2000), '',"
                f" '{{}}' FROM generate_series(1, {PAGES * 8}) AS i"
            )
            await connection.execute(f"UPDATE {service}.schema_version SET version_num = version_num || '?'")
            await connection.execute(f"CREATE TEMPORARY TABLE mine AS SELECT * FROM {service}.outbox")
    async with own.lent(service) as again:
        assert again.rsplit("/", 1)[0] == address.rsplit("/", 1)[0]
        assert again != address
        assert new == await seen(again)
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await asyncpg.connect(address)
        assert left.is_closed()
        async with connected(again) as connection:
            await connection.execute(lock)


async def identity_of(dsn: str) -> int:
    """What stays when a database is renamed."""
    async with connected(dsn) as connection:
        return int(await connection.fetchval("SELECT oid FROM pg_database WHERE datname = current_database()"))


@pytest.mark.parametrize(
    ("deed", "thrown_away"),
    [
        ("INSERT INTO tags.erased_anchor VALUES (1, 1, 1)", False),
        ("DELETE FROM tags.catalogue_epoch", False),
        ("TRUNCATE tags.relation, tags.anchor", False),
        ("ANALYZE", True),
        ("VACUUM tags.anchor", True),
        ("CREATE TABLE public.mine ()", True),
        ("DROP TABLE tags.derivation", True),
        ("ALTER TABLE tags.anchor ADD mine int", True),
        ("ALTER TABLE tags.anchor SET (fillfactor = 50)", True),
        ("ALTER TABLE tags.anchor OWNER TO postgres", True),
        ("ALTER TABLE tags.data_use ADD CHECK (number < 0)", True),
        ("ALTER TABLE tags.data_use DISABLE TRIGGER ALL", True),
        ("DROP INDEX tags.ix_share_request_id", True),
        ("GRANT SELECT ON tags.anchor TO PUBLIC", True),
        ("CREATE OR REPLACE FUNCTION tags.refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'", True),
        ("ALTER SEQUENCE tags.share_share_id_seq INCREMENT BY 2", True),
        ("CREATE SCHEMA mine", True),
        ("CREATE TYPE public.mine AS ENUM ('a')", True),
        ("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET jit = off', current_database()); END $$", True),
    ],
)
async def test_what_is_more_than_rows_is_thrown_away(own: DatabaseFactory, deed: str, thrown_away: bool) -> None:
    async with own.lent("tags") as address:
        new, before = await seen(address), await identity_of(address)
        async with connected(address) as connection:
            await connection.execute(deed)
    async with own.lent("tags") as address:
        assert thrown_away == (before != await identity_of(address))
        assert new == await seen(address)
