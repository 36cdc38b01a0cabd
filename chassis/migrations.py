"""Alembic for one service: own schema, own version table, own role; safe to run from any number of replicas at once."""

from __future__ import annotations

from pathlib import Path

from alembic import command, context
from alembic.config import Config
from sqlalchemy import Connection, MetaData, pool, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from chassis.db import role_of

# A migration that waits longer than this for a lock would make every request behind it wait too.
LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "10min"


async def migrate(dsn: str, service: str, folder: Path) -> None:
    """Makes role and schema when they are missing and upgrades to the newest revision in `folder`."""
    engine = create_async_engine(make_url(dsn).set(drivername="postgresql+asyncpg"), poolclass=pool.NullPool)
    try:
        async with engine.begin() as connection:
            # Roles belong to the whole server, so one lock for all services.
            await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('troika roles'))"))
            await connection.run_sync(_make_role, service)
        async with engine.connect() as connection:
            await connection.run_sync(_upgrade, service, folder)
    finally:
        await engine.dispose()


def _make_role(connection: Connection, service: str) -> None:
    role = role_of(service)
    if not connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}):
        connection.execute(text(f"CREATE ROLE {role} NOLOGIN"))
        connection.execute(text(f"GRANT {role} TO CURRENT_USER"))
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {service} AUTHORIZATION {role}"))


def _upgrade(connection: Connection, service: str, folder: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["service"] = service
    command.upgrade(config, "head")


def run_env(metadata: MetaData) -> None:
    """The whole of a service's migrations/env.py."""
    connection: Connection = context.config.attributes["connection"]
    service: str = context.config.attributes["service"]
    connection.execute(text(f"SET ROLE {role_of(service)}"))
    connection.execute(text(f"SET search_path TO {service}"))
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
    connection.execute(text("SELECT pg_advisory_lock(hashtext('troika migrate ' || current_schema()))"))
    connection.commit()
    context.configure(
        connection=connection, target_metadata=metadata, version_table="schema_version", version_table_schema=service
    )
    try:
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock_all()"))
        connection.commit()
