"""Imports in the whole service: the index and profiles follow, and a killed service goes on where it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from troika.identity.v1 import events_pb2 as identity_pb
from troika.tags.v1 import import_service_pb2 as pb
from troika.tags.v1 import tags_service_pb2 as tags_pb
from troika.tags.v1.import_service_pb2_grpc import ImportServiceStub

from chassis import rpc
from chassis.bus import Bus
from chassis.db import Database
from chassis.testing import DatabaseFactory, drop_database
from services.tags.imports import jobs
from tests.conftest import Servers
from tests.integration.identity.matching import secret
from tests.integration.identity.world import World
from tests.integration.tags.importing import MOBILES, hashed, line, partnered
from tests.integration.tags.service import TOKEN, Service
from tests.unit.tags.imports.catalogue import HEAD, MAPPING, TEXT

PERSON = identity_pb.ENTITY_KIND_PERSON
LINES = 30_000


async def eventually(ask: Any, expected: Any) -> None:
    async with asyncio.timeout(60):
        while expected != (found := await ask()):
            await asyncio.sleep(0.05)
    assert expected == found


async def test_a_killed_service_goes_on_with_its_import_and_the_index_follows(
    databases: DatabaseFactory, servers: Servers, bus: Bus, tmp_path: Path
) -> None:
    dsn, name = await databases.address("tags")
    database = Database(dsn, "tags")
    (tmp_path / "catalogue.yaml").write_text(TEXT)
    store = tmp_path / "store"
    store.mkdir()
    async with databases.database("identity") as identity, partnered(World(identity), database, tmp_path) as both:
        persons = await both.customers(100)
        strangers = [f"{hashed(str(n))},2026-03-01,1,1,,,,," for n in range(LINES - 100)]
        lines = [line(MOBILES[n // 300], "3") if n % 300 == 0 else strangers.pop() for n in range(LINES)]
        (store / "june.csv").write_text("\n".join([HEAD, *lines]))
        service = Service.prepared(dsn, servers, tmp_path / "log")
        service.environment |= {
            "TROIKA_CATALOGUE": str(tmp_path / "catalogue.yaml"),
            "TROIKA_IMPORT_STORE": str(store),
            "TROIKA_IDENTITY_TARGET": both.target,
            "TROIKA_CALLER_TOKEN": secret("tags"),
        }
        await service.start()
        stub = ImportServiceStub(rpc.connect(f"127.0.0.1:{service.grpc_port}", "operator", TOKEN))
        answer = await stub.StartImport(pb.StartImportRequest(path="june.csv", mapping=MAPPING))
        import_id = getattr(answer, "import").import_id

        async def begun() -> bool:
            return 4000 < (await both.job(import_id)).lines_done

        await eventually(begun, True)
        service.kill()
        stopped = await both.job(import_id)
        assert jobs.RUNNING == stopped.state and stopped.lines_done <= LINES
        async with database.transaction() as uow:
            # Not to wait for the end of the lease.
            await uow.execute("UPDATE import_job SET leased_until = now()")
        await service.start()

        async def state() -> str:
            return (await both.job(import_id)).state

        await eventually(state, jobs.DONE)
        done = await both.job(import_id)
        assert (100, LINES - 100, 100) == (done.counts.matched, done.counts.unmatched, done.counts.values_new)
        tags = service.stub()

        async def wealthy() -> int:
            request = tags_pb.CountAudienceRequest(entity_kind=PERSON, predicate="wealthy")
            return (await tags.CountAudience(request)).count  # type: ignore[no-any-return]

        await eventually(wealthy, 100)
        profile = await tags.GetProfile(tags_pb.GetProfileRequest(entity_kind=PERSON, entity_id=persons[7]))
        assert {"income_band", "wealthy"} == {tag.tag for tag in profile.tags}
        await stub.UndoImport(pb.UndoImportRequest(import_id=import_id))
        await eventually(wealthy, 0)
        service.kill()
    log = (tmp_path / "log").read_text()
    assert hashed(f"+86{MOBILES[0]}")[:16] not in log and "Traceback" not in log
    await database.close()
    await drop_database(servers.postgres_dsn, name)
