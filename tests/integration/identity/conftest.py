"""A resolver on a real database, and doors that seal as the touchpoints do."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator

import pytest

from chassis.testing import DatabaseFactory, create_database, drop_database
from tests.conftest import ROOT, Servers
from tests.integration.identity.erasing import Doors, open_doors
from tests.integration.identity.world import World


@pytest.fixture
async def world(databases: DatabaseFactory) -> AsyncIterator[World]:
    async with databases.database("identity") as database:
        yield World(database)


def key(byte: bytes) -> str:
    return base64.b64encode(byte * 32).decode()


@pytest.fixture
async def environment(servers: Servers, databases: DatabaseFactory) -> AsyncIterator[dict[str, str]]:
    """Of a service process on a database of its own."""
    async with databases.lent("identity") as dsn:
        yield of_process(dsn, servers.nats_url)


@pytest.fixture
async def unmigrated(servers: Servers) -> AsyncIterator[dict[str, str]]:
    """Of a service process on a database of its own that nobody has migrated yet."""
    name = f"identity_process_{os.getpid()}"
    yield of_process(await create_database(servers.postgres_dsn, name), servers.nats_url)
    await drop_database(servers.postgres_dsn, name)


def of_process(dsn: str, nats_url: str) -> dict[str, str]:
    own = {
        "POSTGRES_DSN": dsn,
        "NATS_URL": nats_url,
        "GRPC_PORT": "0",
        "HTTP_PORT": "0",
        "CALLER_TOKEN": "s" * 16,
        "CALLER_TOKEN_SHA256": json.dumps({"operator": hashlib.sha256(b"s" * 16).hexdigest()}),
        "SEALING_PRIVATE_KEYS": json.dumps({"k1": base64.b64encode(bytes(range(32))).decode()}),
        "TOKEN_KEYS": json.dumps({"1": key(b"t")}),
        "HASH_KEY": key(b"h"),
        "KEKS": json.dumps({"k1": key(b"v")}),
    }
    return {
        **os.environ,
        **{f"TROIKA_{variable}": value for variable, value in own.items()},
        "PYTHONPATH": f"{ROOT}:{ROOT}/gen",
    }


@pytest.fixture
async def doors(world: World) -> AsyncIterator[Doors]:
    async with open_doors(world) as found:
        yield found
