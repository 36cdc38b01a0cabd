"""The servers that a bench makes for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGINT

from local.embedded import Nats, Postgres
from local.processes import Child


@asynccontextmanager
async def servers(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """Addresses of a PostgreSQL with default durability and of a NATS."""
    postgres, nats = Postgres(folder / "postgres"), Nats(folder / "nats")
    children = [
        Child(name, command.argv, folder / f"{name}.log", {}, Path("/"), SIGINT, command.uid)
        for name, command in (("postgres", postgres.command()), ("nats", nats.command()))
    ]
    for child in children:
        child.start()
    try:
        await postgres.ready()
        await nats.ready()
        yield postgres.dsn, nats.url
    finally:
        for child in children:
            await child.stop()
