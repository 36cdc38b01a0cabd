"""Alembic for one service: own schema, own version table, own role; safe to run from any number of replicas at once."""

from __future__ import annotations

from pathlib import Path

from alembic import command, context
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, MetaData, pool, text

from chassis.db import new_engine, role_of

# A migration that waits longer than this for a lock would make every request behind it wait too.
LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "10min"


# What a revision says in `STAGE` when the code of the release before would not understand the schema after it.
POST = "post"


async def migrate(dsn: str, service: str, folder: Path, *, post: bool = True) -> None:
    """Makes role and schema when they are missing and upgrades to the newest revision in `folder`.

    Without `post`: to the newest that the release before still understands, because its processes are still running.
    """
    engine = new_engine(dsn, poolclass=pool.NullPool)
    try:
        async with engine.begin() as connection:
            # Roles belong to the whole server, so one lock for all services.
            await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('troika roles'))"))
            await connection.run_sync(_make_role, service)
        async with engine.connect() as connection:
            await connection.run_sync(_upgrade, service, folder, post)
    finally:
        await engine.dispose()


def _make_role(connection: Connection, service: str) -> None:
    role = role_of(service)
    if not connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}):
        connection.execute(text(f"CREATE ROLE {role} NOLOGIN"))
        connection.execute(text(f"GRANT {role} TO CURRENT_USER"))
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {service} AUTHORIZATION {role}"))


def _upgrade(connection: Connection, service: str, folder: Path, post: bool) -> None:
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["service"] = service
    # Newest first. What comes before a `pre` revision came with an earlier release, whose code is gone.
    revisions = [each for each in ScriptDirectory.from_config(config).walk_revisions() if post or stage_of(each) != POST]
    if revisions:
        command.upgrade(config, revisions[0].revision)


def stage_of(revision: Script) -> str:
    """POST for a revision that must wait for the release before to be gone."""
    return str(getattr(revision.module, "STAGE", ""))


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
