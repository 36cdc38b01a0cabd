"""Sharing in the whole service: facts over the bus, a share over gRPC, the ledger over the command line, a kill between."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from troika.identity.v1 import events_pb2 as identity
from troika.tags.v1 import sharing_service_pb2 as pb
from troika.tags.v1.sharing_service_pb2_grpc import SharedTagsServiceStub, SharingServiceStub

from chassis import rpc
from chassis.bus import Bus, Stream
from chassis.testing import DatabaseFactory, drop_database
from tests.conftest import ROOT, Servers
from tests.integration.tags.service import TOKEN, Service
from tests.integration.tags.sharing_house import KEYS, asked, said, values
from tests.integration.tags.test_service import ENTITIES, PEOPLE, RESOLVED, people, publish, reaches


@pytest.fixture
async def service(servers: Servers, databases: DatabaseFactory, bus: Bus, tmp_path: Path) -> AsyncIterator[Service]:
    await bus.declare(Stream("EVENTS_RESOLVED", (RESOLVED,)), Stream("ENTITIES_CHANGED", (ENTITIES,)))
    await bus.declare(Stream("SCORES_CHANGED", ("troika.scores.changed.v1",)))
    dsn, name = await databases.address("tags")
    service = Service.prepared(dsn, servers, tmp_path / "log")
    service.environment["TROIKA_SHARING_KEYS"] = f'{{"k1": "{KEYS["k1"].get_secret_value()}"}}'
    await service.start()
    try:
        yield service
    finally:
        service.kill()
        await drop_database(servers.postgres_dsn, name)


async def read(service: Service, share_id: int) -> dict[bytes, tuple[object, ...]]:
    channel = rpc.connect(f"127.0.0.1:{service.grpc_port}", "operator", TOKEN)
    found = {}
    async for chunk in SharedTagsServiceStub(channel).ReadShare(pb.ReadShareRequest(share_id=share_id)):
        found |= dict(zip(chunk.pseudonyms, zip(*map(values, chunk.columns), strict=True), strict=True))
    await channel.close()
    return found


async def test_a_share_is_read_after_a_kill_as_before_and_every_use_is_in_the_ledger(service: Service, bus: Bus) -> None:
    stated = people(range(1, PEOPLE + 1))
    await publish(bus, RESOLVED, identity.ResolvedBatch(events=stated[:300]), identity.ResolvedBatch(events=stated[300:]))
    await publish(bus, ENTITIES, identity.EntitiesChanged(consent_changes=[said(n) for n in range(1, PEOPLE, 2)]))
    await reaches(service.stub(), PEOPLE, "job IS NOT NULL")
    channel = rpc.connect(f"127.0.0.1:{service.grpc_port}", "operator", TOKEN)
    sharing = SharingServiceStub(channel)
    request = asked("operator", min_group_size=10, predicate="ANY(vehicle, mileage_km > 20000)")
    share = (await sharing.CreateShare(request)).share
    expected = Counter((("student", "retired", "services")[n % 3],) for n in range(1, PEOPLE, 2) if n % 100 > 20)
    async with asyncio.timeout(20):
        while (found := await read(service, share.share_id)) == {}:
            await asyncio.sleep(0.1)
    assert expected == Counter(found.values())
    before = (await sharing.ListDataUses(pb.ListDataUsesRequest())).uses[0].number

    service.kill()
    await service.start()
    assert found == await read(service, share.share_id)
    points = await sharing.GetDataUse(pb.GetDataUseRequest(person_id=21))
    assert {before, before + 1} <= {use.number for use in points.uses}
    await channel.close()
    code = "from chassis.command import main; main()"
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code, "ledger", "verify"],
        env=service.environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    assert done.stdout.startswith(f"{before + 1} entries with ")
