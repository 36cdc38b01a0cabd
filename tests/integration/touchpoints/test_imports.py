"""Imports of records and leads: files in, events out once, whatever is killed, wrong or personal."""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from pydantic import SecretStr
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from troika.touchpoints.v1 import imports_service_pb2 as pb
from troika.touchpoints.v1.imports_service_pb2_grpc import ImportServiceStub

from chassis import rpc
from chassis.bus import Bus
from chassis.errors import FailedPrecondition
from chassis.testing import DatabaseFactory, drop_database
from services.touchpoints.imports import command, jobs
from services.touchpoints.imports.files import FILE, STORE, ImportFiles
from services.touchpoints.imports.jobs import Job
from services.touchpoints.imports.running import Importer
from services.touchpoints.plan.gate import Gate
from services.touchpoints.plan.held import Holder
from services.touchpoints.plan.live import LivePlan
from services.touchpoints.publishing import Publisher
from services.touchpoints.sealer import Sealer
from tests.conftest import Servers
from tests.integration.tags.test_lake_s3 import ACCESS, BUCKET, SECRET, bucket
from tests.integration.touchpoints.identity import Identity
from tests.integration.touchpoints.room import NEIGHBOURS, TOKEN, Room, basic, eventually, running, settings_for
from tests.unit.touchpoints.test_adf import FULL

__all__ = ["bucket"]

MAPPING = """
record_id: no
updated_at: {column: changed, zone: Asia/Shanghai}
identifiers: {mobile: phone, name: name}
vehicle: {plate: plate, relation: {value: owns}, attributes: {model: model}}
attributes: {age: {column: age, type: number}}
"""
HEAD = ["no", "changed", "phone", "name", "plate", "model", "age"]


def rows(count: int, bad: int = 0) -> list[list[str]]:
    """Rows of which each `bad`-th is wrong in its age."""
    return [
        [f"C{n}", "2026-03-01 08:00", f"1380000{n:04}", "张伟", f"粤B{n:05}", "X5", "old" if bad and n % bad == 0 else "41"]
        for n in range(1, count + 1)
    ]


def write(path: Path, table: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEAD, *table])
    return path


@pytest.fixture
async def store(
    servers: Servers, databases: DatabaseFactory, bus: Bus, identity: Identity, tmp_path: Path
) -> AsyncIterator[Room]:
    """The service with an import store, and a source that has records."""
    dsn, name = await databases.address("touchpoints")
    await bus.declare(*NEIGHBOURS)
    settings = settings_for(dsn, servers.nats_url, identity, import_store=str(tmp_path))
    async with running(settings, identity, bus, servers.nats_url) as room:
        await room.source("dealer:D001")
        yield room
    await drop_database(servers.postgres_dsn, name)


async def take_in(room: Room, file: str, mapping: str = MAPPING, **more: Any) -> pb.Import:
    """Asks the service for it, and waits for its end."""
    async with rpc.connect(f"127.0.0.1:{room.settings.grpc_port}", "operator", TOKEN) as channel:
        stub: Any = ImportServiceStub(channel)
        request = pb.StartImportRequest(source="dealer:D001", path=file, mapping=mapping, **more)
        started = getattr(await stub.StartImport(request), "import")

        async def now() -> pb.Import:
            return getattr(await stub.GetImport(pb.GetImportRequest(import_id=started.import_id)), "import")  # type: ignore[no-any-return]

        ended = (pb.IMPORT_STATE_DONE, pb.IMPORT_STATE_FAILED, pb.IMPORT_STATE_CANCELLED)
        return await eventually(now, lambda found: found.state in ended)


async def test_a_file_of_the_store_is_taken_in_and_what_is_refused_stands_beside_it_without_values(
    store: Room, tmp_path: Path
) -> None:
    write(tmp_path / "june.csv", rows(1200, bad=100))
    done = await take_in(store, "june.csv")
    assert (pb.IMPORT_STATE_DONE, 1188, 12, 1201, 1201) == (done.state, done.taken, done.refused, done.lines, done.lines_done)
    observed = await store.observed()
    assert 1188 == len({event.event_id for _, event in observed}) == len(observed)
    batch, first = observed[0]
    sealed = store.identity.open(batch, first)
    assert [("crm_id", "C1"), ("mobile", "13800000001"), ("plate", "粤B00001")] == [
        (i.kind, i.value) for i in sealed.identifiers
    ]
    assert ("张伟", 1, {"age": 41}, {"model": "X5"}) == (
        sealed.person_name,
        sealed.relation,
        json.loads(first.properties_json),
        json.loads(first.vehicle_properties_json),
    )
    beside = (tmp_path / "june.csv.errors.csv").read_text().splitlines()
    assert ["line,field,reason", "101,attributes.age,NOT_A_NUMBER"] == beside[:2] and 13 == len(beside)


async def test_a_dry_run_publishes_nothing_and_shows_masked_what_it_would(store: Room, tmp_path: Path) -> None:
    write(tmp_path / "june.csv", rows(20, bad=10))
    done = await take_in(store, "june.csv", dry_run=True)
    assert (18, 2, []) == (done.taken, done.refused, await store.observed())
    sample = json.loads(done.sample_json)
    assert [{"crm_id": "**", "mobile": "13*******01", "plate": "粤B***01"}] == [event["identifiers"] for event in sample[:1]]
    assert (5, "**", {"age": 41}) == (len(sample), sample[0]["name"], sample[0]["attributes"])
    assert "13800000001" not in done.sample_json


async def test_parquet_json_lines_and_leads_come_in_the_same_way(store: Room, tmp_path: Path) -> None:
    columns = list(zip(*rows(3), strict=True))
    pq.write_table(pa.table(dict(zip(HEAD, map(list, columns), strict=True))), tmp_path / "a.parquet")
    objects = [dict(zip(HEAD, row, strict=True)) for row in rows(3)]
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(each) for each in objects))
    (tmp_path / "c.jsonl").write_text('{"record_id":"9","updated_at":"2026-03-01T00:00:00Z"}\n{"record_id":9}\n')
    (tmp_path / "d.xml").write_text(FULL)
    for name, mapping, taken in (("a.parquet", MAPPING, 3), ("b.jsonl", MAPPING, 3), ("c.jsonl", "", 1), ("d.xml", "", 1)):
        done = await take_in(store, name, mapping)
        assert (pb.IMPORT_STATE_DONE, taken) == (done.state, done.taken), name
    names = sorted(event.name for _, event in await store.observed())
    # The first two files say the same of the same records: the bus has them once.
    assert ["Lead Submitted", *["Record Updated"] * 4] == names


@pytest.mark.parametrize(
    ("source", "path", "mapping", "reason"),
    [
        ("nobody", "june.csv", MAPPING, "SOURCE_NOT_FOUND"),
        ("dealer:D001", "../june.csv", MAPPING, "INVALID_PATH"),
        ("dealer:D001", "july.csv", MAPPING, "FILE_NOT_FOUND"),
        ("dealer:D001", "june.csv", "record_id: [", "INVALID_MAPPING"),
        ("dealer:D001", "june.csv", "", "MAPPING_MISSING"),
    ],
)
async def test_what_cannot_be_taken_in_is_said_at_once(
    store: Room, tmp_path: Path, source: str, path: str, mapping: str, reason: str
) -> None:
    write(tmp_path / "june.csv", rows(1))
    async with rpc.connect(f"127.0.0.1:{store.settings.grpc_port}", "operator", TOKEN) as channel:
        stub: Any = ImportServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.StartImport(pb.StartImportRequest(source=source, path=path, mapping=mapping))
    assert reason == rpc.reason_of(refused.value)[0]


async def test_leads_are_posted_and_what_is_wrong_with_one_is_told_and_set_aside(store: Room) -> None:
    nobody = FULL[FULL.index("<prospect") : FULL.index("<customer>")] + "</prospect>"
    body = FULL.replace("</adf>", f"{nobody}</adf>")
    headers = basic(store.keys["dealer:D001"])
    answer = await store.http.post("/v1/adf", content=body, headers=headers)
    told = {"field": "customer.contact", "reason": "NO_ID", "message": "a customer's id, phone or email is required"}
    assert (200, {"accepted": 1, "set_aside": [told]}) == (answer.status_code, answer.json())
    [(batch, event)] = await store.observed()
    assert ("Lead Submitted", "dealer:D001") == (event.name, event.source)
    assert "Wei Zhang" == store.identity.open(batch, event).person_name and b"13900139000" not in batch.SerializeToString()
    for content, status, reason in (
        (b"<a", 400, "not_xml"),
        (b"<adf/>", 400, "no_lead"),
        (b"x" * 3_000_000, 400, "payload_too_large"),
    ):
        refused = await store.http.post("/v1/adf", content=content, headers=headers)
        assert (status, reason) == (refused.status_code, refused.json()["code"])
    assert 401 == (await store.http.post("/v1/adf", content=body)).status_code


async def test_a_file_that_is_none_fails_with_its_reason(store: Room, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("x,y\n1,2\n")
    failed = await take_in(store, "bad.csv")
    assert (pb.IMPORT_STATE_FAILED, "UNKNOWN_COLUMN", []) == (failed.state, failed.reason, await store.observed())


@asynccontextmanager
async def importers(room: Room, chunk_rows: int) -> AsyncIterator[Callable[[], Importer]]:
    """Makes importers as processes would that come one after the other."""
    async with rpc.connect(room.identity.target, "touchpoints", TOKEN) as channel:
        identity: Any = IdentityServiceStub(channel)
        sealer = Sealer(identity)
        sealing = asyncio.create_task(sealer.run())
        live = LivePlan(room.database)
        await live.refresh()
        gate, files = Gate(live, Holder(b"k" * 32)), ImportFiles(room.settings)
        yield lambda: Importer(room.database, sealer, Publisher(room.bus, 4.0), gate, files, 3650, chunk_rows)
        sealing.cancel()


async def queued(room: Room, path: Path, where: str = FILE, dry_run: bool = False) -> Job:
    async with room.database.transaction() as uow:
        return await jobs.add(
            uow,
            source="dealer:D001",
            place=f"{where}{path}",
            file_name=path.name,
            mapping=MAPPING,
            dry_run=dry_run,
            caller="operator",
            own=True,
        )


async def test_an_import_that_is_killed_again_and_again_observes_every_row_once(
    store: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "june.csv", rows(200, bad=7))
    job = await queued(store, path)
    advance, kills = jobs.advance, 0

    async def die(*given: Any) -> None:
        """Between the publishing of a chunk and its note, or right behind the note."""
        nonlocal kills
        kills += 1
        if kills % 4 == 1:
            raise asyncio.CancelledError
        await advance(*given)
        if kills % 4 == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(jobs, "advance", die)
    async with importers(store, 20) as another:
        for _ in range(30):
            async with store.database.read() as uow:
                job = await jobs.get(uow, job.id)
            if job.state == jobs.DONE:
                break
            await asyncio.gather(another().work(job), return_exceptions=True)
    assert (jobs.DONE, 172, 28, 201) == (job.state, job.taken, job.refused, job.lines_done)
    observed = await store.observed()
    assert 172 == len({event.event_id for _, event in observed}) == len(observed)
    assert kills > 10


async def silent(room: Room) -> None:
    """Whoever worked on imports is gone without a word."""
    async with room.database.transaction() as uow:
        await uow.execute("UPDATE import_job SET leased_until = now() - interval '1 s'")


async def test_a_file_that_ends_its_process_again_and_again_ends_no_more_of_them(room: Room) -> None:
    job = await queued(room, Path("june.parquet"), STORE)
    await jobs.begin(room.database, job, b"digest", 100)
    ended = []
    for attempt in range(1, 9):
        await silent(room)
        claimed = await jobs.claim(room.database, STORE)
        ended.append(claimed is not None)
        if attempt == 2:
            # It came further: the next ones count anew.
            await jobs.advance(room.database, job.id, (0, 10), 10, 0, [], "[]")
        if attempt == 3:
            # Asked to stop, or the bus was away: not the file's fault.
            await jobs.release(room.database, job.id)
    assert [True] * 6 + [False] * 2 == ended
    async with room.database.read() as uow:
        found = await jobs.get(uow, job.id)
    assert (jobs.FAILED, "IMPORT_GAVE_UP", 10) == (found.state, found.reason, found.lines_done)
    assert found.message.endswith("look behind line 10")


async def test_a_command_that_was_killed_does_not_seem_to_run_for_ever(room: Room) -> None:
    tried = await queued(room, Path("/tmp/july.csv"), dry_run=True)
    job = await queued(room, Path("/tmp/june.csv"))
    for each in (tried, job):
        await jobs.begin(room.database, each, b"digest", 100)

    async def states() -> list[str]:
        async with room.database.read() as uow:
            return [each.state for each in await jobs.page(uow, 2**62, 10)]

    assert [jobs.RUNNING] * 2 == await states()
    await silent(room)
    assert [jobs.INTERRUPTED] * 2 == await states()
    async with room.database.transaction() as uow:
        again = await jobs.unfinished(uow, job.source, job.place, MAPPING)
        assert await jobs.unfinished(uow, tried.source, tried.place, MAPPING) is None
    assert again is not None and (job.id, jobs.RUNNING) == (again.id, again.state)
    assert [jobs.RUNNING, jobs.INTERRUPTED] == await states()


async def test_another_file_under_the_same_name_does_not_go_on_and_a_cancelled_import_stops(
    store: Room, tmp_path: Path
) -> None:
    path = write(tmp_path / "june.csv", rows(10))
    job, cancelled = await queued(store, path), await queued(store, path)
    await jobs.begin(store.database, job, b"another", 11)
    async with store.database.transaction() as uow:
        await jobs.cancel(uow, cancelled.id)
        job = await jobs.get(uow, job.id)
    async with importers(store, 2) as another:
        await another().work(job)
        await another().work(cancelled)
    async with store.database.read() as uow:
        found = [await jobs.get(uow, each.id) for each in (job, cancelled)]
    assert [(jobs.FAILED, "FILE_CHANGED"), (jobs.CANCELLED, "")] == [(each.state, each.reason) for each in found]
    assert [] == await store.observed()


async def test_the_command_line_takes_in_a_file_and_tells_what_came_of_it(
    store: Room, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, mapping = write(tmp_path / "june.csv", rows(30, bad=10)), tmp_path / "dms.yaml"
    mapping.write_text(MAPPING)
    flags = argparse.Namespace(file=str(path), source="dealer:D001", mapping=mapping, dry_run=False, json=False)
    await command.run_import(store.settings, flags)
    text = capsys.readouterr().out
    assert "lines 31 of 31; taken 27, refused 3" in text
    assert "line 11: attributes.age: NOT_A_NUMBER" in text and f"{path}.errors.csv" in text
    await command.list_imports(store.settings, argparse.Namespace(limit=5, json=True))
    listed = json.loads(capsys.readouterr().out)
    assert ("done", 27) == (listed["state"], listed["taken"])
    path.write_text("x\n")
    with pytest.raises(FailedPrecondition) as failed:
        await command.run_import(store.settings, flags)
    assert "UNKNOWN_COLUMN" == failed.value.reason


async def test_a_file_in_a_bucket_is_taken_in_and_its_errors_are_written_there(
    servers: Servers, databases: DatabaseFactory, bus: Bus, identity: Identity, tmp_path: Path, bucket: str
) -> None:
    dsn, name = await databases.address("touchpoints")
    await bus.declare(*NEIGHBOURS)
    settings = settings_for(
        dsn,
        servers.nats_url,
        identity,
        import_store=f"s3://{BUCKET}/records",
        import_s3_endpoint=bucket,
        import_s3_access_key=SecretStr(ACCESS),
        import_s3_secret_key=SecretStr(SECRET),
    )
    files: fs.FileSystem = ImportFiles(settings)._filesystem("store")
    with files.open_output_stream("june.csv") as stream:
        stream.write(write(tmp_path / "june.csv", rows(20, bad=10)).read_bytes())
    async with running(settings, identity, bus, servers.nats_url) as room:
        await room.source("dealer:D001")
        done = await take_in(room, "june.csv")
        assert (pb.IMPORT_STATE_DONE, 18, 2, 18) == (done.state, done.taken, done.refused, len(await room.observed()))
    with files.open_input_stream("june.csv.errors.csv") as written:
        assert 3 == len(written.read().splitlines())
    await drop_database(servers.postgres_dsn, name)
