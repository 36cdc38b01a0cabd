"""Saved under load, all lost, put back: what was accepted before is there, no push goes out as another one, life goes on."""

from __future__ import annotations

import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import asyncpg
import duckdb
import nats
from nats.aio.client import Client

from chassis.bus import Bus
from deploy.drills import backup
from local.demo.operator import Operator, until
from local.embedded import Nats, Postgres
from local.processes import Child
from local.supervisor import Suite
from tests.cluster.load import Load


@asynccontextmanager
async def living(folder: Path, load: Load) -> AsyncIterator[Suite]:
    """The suite on what is in the folder, ready for the load."""
    async with Suite(folder) as suite, Operator(suite) as operator:
        bus = Bus(suite.nats_url, "load")
        await bus.connect()
        load.at(operator, bus, suite.url("touchpoints"))
        try:
            yield suite
        finally:
            await bus.close()


@asynccontextmanager
async def empty_servers(folder: Path) -> AsyncIterator[tuple[Postgres, Client]]:
    """New servers where the suite will look for its own."""
    shutil.rmtree(Postgres(folder / "postgres").folder)
    shutil.rmtree(folder / "nats")
    shutil.rmtree(folder / "lake")
    postgres, streams = Postgres(folder / "postgres"), Nats(folder / "nats")
    commands = (("postgres", postgres.command(), signal.SIGINT), ("nats", streams.command(), signal.SIGTERM))
    children = [Child(name, c.argv, folder / "logs" / f"{name}.log", {}, Path("/"), stop, c.uid) for name, c, stop in commands]
    for child in children:
        child.start()
    try:
        await postgres.ready()
        await streams.ready()
        async with await nats.connect(streams.url) as client:
            yield postgres, client
    finally:
        for child in children:
            await child.stop()


async def test_what_was_saved_under_load_lives_on_after_everything_was_lost(tmp_path: Path) -> None:
    folder, saved, load = tmp_path / "suite", tmp_path / "saved", Load()
    saved.mkdir()
    programs, lake = str(Postgres(folder / "postgres").programs), str(folder / "lake")

    async def more(first: int = 0) -> None:
        await load.arrived(load.accepted + 50, range(first, load.pushed + 5))

    async with load.receiving() as receiver:
        async with living(folder, load) as suite:
            await load.begin(receiver)
            async with load.going_on(), await nats.connect(suite.nats_url) as client:
                await more()
                backup.save_lake(lake, saved)
                await more()
                ended, asked = await done(suite.postgres_dsn), load.pushed
                await backup.save_postgres(suite.postgres_dsn, client, saved, programs)
                await more()
                accepted = load.accepted
                await backup.save_streams(client, saved)
                await more()
            before, most = load.received.copy(), load.accepted
        async with empty_servers(folder) as (postgres, client):
            await backup.restore_postgres(postgres.dsn, saved, programs)
            backup.restore_lake(lake, saved)
            await backup.restore_streams(client, saved)
        async with living(folder, load) as again:
            known = await load.arrived(accepted, range(asked))
            assert accepted <= known <= most
            assert ended and {1} == {before[name] for name in ended} == {load.received[name] for name in ended}
            # What went out after the moment of the backup may go out again, as the same push.
            assert {1, 2} >= set(load.received.values())
            load.accepted, first = known, load.pushed
            async with load.going_on():
                await more(first)
            assert [] == load.failures
            assert load.accepted == await load.arrived(load.accepted, range(first, load.pushed))
            kept = await until(partial(in_lake, lake), lambda seen: len(seen) >= load.accepted, 30)
            assert await observed(again.postgres_dsn) == kept


async def done(dsn: str) -> set[str]:
    """Pushes whose outcome is written down."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT delivery_id FROM touchpoints.delivery WHERE state >= 3")
        return {f"msg_{row['delivery_id']}" for row in rows}
    finally:
        await connection.close()


async def observed(dsn: str) -> list[tuple[bytes, int]]:
    """Every event and whose it is, as identity has it."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT event_id, person_anchor FROM identity.observation ORDER BY event_id")
        return [(row["event_id"], row["person_anchor"]) for row in rows]
    finally:
        await connection.close()


async def in_lake(lake: str) -> list[tuple[bytes, int]]:
    """The same as the lake has it; nothing before its first file."""
    query = f"SELECT event_id, anchor_id FROM read_parquet('{lake}/**/*.parquet') ORDER BY event_id"
    try:
        return list(duckdb.connect().execute(query).fetchall())
    except duckdb.IOException:
        return []
