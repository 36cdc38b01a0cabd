"""Real servers for every test that asks: one PostgreSQL and one NATS per session, a database per test."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from chassis.bus import DEAD_LETTERS, Bus
from chassis.testing import DatabaseFactory
from local.embedded import Nats, Postgres
from local.processes import Child
from tests import order

# How long a test may take is said in pyproject.toml: a busy machine is no reason to fail.
settings.register_profile("troika", deadline=None)
settings.load_profile("troika")

ROOT = Path(__file__).resolve().parent.parent


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> order.ByFile:
    return order.ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order.sort(items, ROOT)


@dataclass(frozen=True)
class Servers:
    """Addresses of the session's servers."""

    postgres_dsn: str
    nats_url: str


@pytest.fixture(scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    postgres, nats = Postgres(folder / "postgres", fast_and_loose=True), Nats(folder / "nats")
    # Children die with us, even when the run is killed.
    children = [
        Child(name, command.argv, folder / f"{name}.log", {}, Path("/"), signal.SIGINT, command.uid)
        for name, command in (("postgres", postgres.command()), ("nats", nats.command()))
    ]
    for child in children:
        child.start()
    try:
        await postgres.ready()
        await nats.ready()
        yield Servers(postgres.dsn, nats.url)
    finally:
        for child in children:
            await child.stop()


@pytest.fixture(scope="session")
async def databases(servers: Servers) -> AsyncIterator[DatabaseFactory]:
    factory = DatabaseFactory(servers.postgres_dsn, ROOT / "services")
    yield factory
    await factory.close()


@pytest.fixture
async def bus(servers: Servers) -> AsyncIterator[Bus]:
    """A connected bus whose streams are all deleted at the end of the test."""
    bus = Bus(servers.nats_url, "test")
    await bus.connect()
    await bus.declare(DEAD_LETTERS)
    yield bus
    await bus.delete_streams()
    await bus.close()
