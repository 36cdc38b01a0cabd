"""The service as a process: migrate, serve, everything is told once, no value in the log, a clean end."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

from prometheus_client import REGISTRY
from troika.identity.v1 import events_pb2

from chassis.bus import Bus, Message, Stream
from chassis.db import Database
from chassis.outbox import Outgoing
from services.identity import census
from services.identity.consumers import SUBJECT
from services.identity.events import RESOLVED
from tests.conftest import ROOT
from tests.integration.identity.world import World

EVENTS = 200


def start(verb: str, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, "-m", "services.identity", verb], env=environment, cwd=ROOT, stderr=out)


async def test_the_process_tells_every_event_once_and_stops_when_asked(
    bus: Bus, world: World, unmigrated: dict[str, str], tmp_path: Path
) -> None:
    assert 0 == start("migrate", unmigrated, tmp_path / "log").wait(60)
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

    service = start("serve", unmigrated, tmp_path / "log")
    following = asyncio.create_task(bus.follow(RESOLVED, 0, listen))
    try:
        async with asyncio.timeout(60):
            while len(told) < EVENTS:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        assert sorted(expected) == sorted(told)
        database = Database(unmigrated["TROIKA_POSTGRES_DSN"], "identity", 1)
        await census.count(database)
        await database.close()
        sizes = {name: REGISTRY.get_sample_value(f"troika_identity_{name}") for name in ("entities", "largest_cluster")}
        assert {"entities": 50.0, "largest_cluster": 2.0} == sizes
        service.send_signal(signal.SIGTERM)
        assert 0 == service.wait(20)
    finally:
        following.cancel()
        service.kill()
        service.wait()
    assert "U1" not in (tmp_path / "log").read_text()
