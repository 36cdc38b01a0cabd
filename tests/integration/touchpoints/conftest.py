from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chassis.bus import Bus
from chassis.testing import DatabaseFactory
from tests.conftest import Servers
from tests.integration.touchpoints.identity import Identity, serving
from tests.integration.touchpoints.room import NEIGHBOURS, Room, running, settings_for


@pytest.fixture
async def identity() -> AsyncIterator[Identity]:
    async with serving(Identity()) as identity:
        yield identity


@pytest.fixture
async def room(servers: Servers, databases: DatabaseFactory, bus: Bus, identity: Identity) -> AsyncIterator[Room]:
    await bus.declare(*NEIGHBOURS)
    async with databases.lent("touchpoints") as dsn:
        async with running(settings_for(dsn, servers.nats_url, identity), identity, bus, servers.nats_url) as room:
            yield room
