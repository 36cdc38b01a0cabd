"""The service as a process: migrate, serve, everything is told once, no value in the log, a clean end."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from troika.identity.v1 import events_pb2

from chassis.bus import Bus, Message, Stream
from chassis.outbox import Outgoing
from chassis.testing import create_database, drop_database
from services.identity.consumers import SUBJECT
from services.identity.events import RESOLVED
from tests.conftest import ROOT, Servers
from tests.integration.identity.world import World

EVENTS = 200


def key(byte: bytes) -> str:
    return base64.b64encode(byte * 32).decode()


@pytest.fixture
async def environment(servers: Servers) -> AsyncIterator[dict[str, str]]:
    name = "identity_process"
    dsn = await create_database(servers.postgres_dsn, name)
    own = {
        "POSTGRES_DSN": dsn,
        "NATS_URL": servers.nats_url,
        "GRPC_PORT": "0",
        "HTTP_PORT": "0",
        "CALLER_TOKEN": "s" * 16,
        "CALLER_TOKEN_SHA256": json.dumps({"operator": hashlib.sha256(b"s" * 16).hexdigest()}),
        "SEALING_PRIVATE_KEYS": json.dumps({"k1": base64.b64encode(bytes(range(32))).decode()}),
        "TOKEN_KEYS": json.dumps({"1": key(b"t")}),
        "HASH_KEY": key(b"h"),
        "KEKS": json.dumps({"k1": key(b"v")}),
    }
    yield {**os.environ, **{f"TROIKA_{variable}": value for variable, value in own.items()}, "PYTHONPATH": f"{ROOT}:{ROOT}/gen"}
    await drop_database(servers.postgres_dsn, name)


def start(verb: str, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, "-m", "services.identity", verb], env=environment, cwd=ROOT, stderr=out)


async def test_the_process_tells_every_event_once_and_stops_when_asked(
    bus: Bus, world: World, environment: dict[str, str], tmp_path: Path
) -> None:
    assert 0 == start("migrate", environment, tmp_path / "log").wait(60)
    await bus.declare(Stream("EVENTS_OBSERVED", (SUBJECT,)))
    expected = []
    for number in range(EVENTS):
        data_key = world.key()
        event = world.event(data_key, "app", ("crm_id", "app", f"U{number % 50}"), ("device", f"device-{number % 50}"))
        expected.append(event.event_id)
        await bus.publish_all([Outgoing(str(number), SUBJECT, world.batch(data_key, [event]), {})])
    told: list[bytes] = []

    async def listen(message: Message) -> None:
        told.extend(event.event_id for event in events_pb2.ResolvedBatch.FromString(message.data).events)

    service = start("serve", environment, tmp_path / "log")
    following = asyncio.create_task(bus.follow(RESOLVED, 0, listen))
    try:
        async with asyncio.timeout(60):
            while len(told) < EVENTS:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        assert sorted(expected) == sorted(told)
        service.send_signal(signal.SIGTERM)
        assert 0 == service.wait(20)
    finally:
        following.cancel()
        service.kill()
        service.wait()
    assert "U1" not in (tmp_path / "log").read_text()
