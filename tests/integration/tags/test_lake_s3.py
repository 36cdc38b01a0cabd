"""The lake in a bucket of a real S3-compatible server (SeaweedFS from a wheel): everything as in a folder."""

from __future__ import annotations

import asyncio
import json
import signal
import sysconfig
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pyarrow import fs

from chassis.db import Database
from local.embedded import free_port
from local.processes import Child
from services.tags.domain.catalogue import Kind
from services.tags.lake import erasing, keeping, reading, storage
from services.tags.lake.engines import duckdb_engine, tags_as_of
from services.tags.lake.keeping import Rules
from services.tags.lake.reading import Lake
from tests.integration.tags.lake_world import DAY, Killed, MortalStorage, held, messages, written
from tests.unit.tags.lake.lake_worlds import CATALOGUE, LakeWorld

ACCESS, SECRET, BUCKET = "troika", "s" * 24, "troika-lake"
START_S = 60.0


@pytest.fixture(scope="module")
async def bucket(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The endpoint of a server with one empty bucket."""
    folder = tmp_path_factory.mktemp("weed")
    key = {"accessKey": ACCESS, "secretKey": SECRET}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    (folder / "s3.json").write_text(json.dumps({"identities": [{"name": "troika", "credentials": [key], "actions": actions}]}))
    (folder / "data").mkdir()
    doors = ("master", "volume", "filer", "s3")
    ports = [f"-{door}.port{part}={free_port()}" for door in doors for part in ("", ".grpc")]
    argv = [
        str(Path(sysconfig.get_path("scripts")) / "weed"),
        *("server", f"-dir={folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"),
        *(f"-s3.config={folder}/s3.json", "-master.telemetry=false", "-volume.max=20", "-master.volumeSizeLimitMB=64", *ports),
    ]
    child = Child("weed", argv, folder / "weed.log", {}, folder, signal.SIGKILL)
    child.start()
    endpoint = f"http://127.0.0.1:{ports[6].partition('=')[2]}"
    try:
        end = time.monotonic() + START_S
        while True:
            try:
                client = fs.S3FileSystem(
                    access_key=ACCESS,
                    secret_key=SECRET,
                    scheme="http",
                    endpoint_override=endpoint.removeprefix("http://"),
                    region="us-east-1",
                    allow_bucket_creation=True,
                    connect_timeout=1,
                    request_timeout=5,
                )
                client.create_dir(BUCKET)
                break
            except OSError:
                assert child.alive and time.monotonic() < end, child.last_words()
                await asyncio.sleep(0.2)
        yield endpoint
    finally:
        await child.stop()


@pytest.fixture
def lake(bucket: str, request: pytest.FixtureRequest) -> Lake:
    """A lake of its own below a prefix."""
    prefix = request.node.name.replace("[", "-").replace("]", "")[:60]
    return Lake(storage.opened(f"s3://{BUCKET}/{prefix}", bucket, "us-east-1", ACCESS, SECRET))


async def test_a_lake_in_a_bucket_is_the_same_as_one_in_a_folder(database: Database, lake: Lake, tmp_path: Path) -> None:
    local = storage.opened(str(tmp_path / "lake"))
    given = messages(100)
    await written(database, local, given)
    await written(database, lake.storage, given[:60])
    await written(database, lake.storage, given[30:])
    assert [(f.path, f.size) for f in local.below("rows")] == [(f.path, f.size) for f in lake.storage.below("rows")]
    assert held(Lake(local)) == held(lake)
    done = await keeping.compact(database, lake, Rules(grace_s=0))
    assert (3, 3) == (done.days, len(lake.storage.below("rows")))
    assert held(Lake(local)) == held(lake)
    found = lake.events_of([5], [Kind.PERSON], 0, 2**62, 4)
    assert found == Lake(local).events_of([5], [Kind.PERSON], 0, 2**62, 4)


async def test_erasure_reaches_a_bucket(database: Database, lake: Lake) -> None:
    await written(database, lake.storage, messages(80))
    await keeping.compact(database, lake, Rules(grace_s=0))
    await written(database, lake.storage, messages(100)[80:])
    async with database.transaction() as uow:
        await erasing.queue(uow, [5])
    others = [row for row in held(lake) if not (row["anchor_id"] == 5 and row["entity_kind"] == 1)]
    assert 1 == (await keeping.erase(database, lake, Rules(grace_s=0))).erased_anchors
    async with database.read() as uow:
        assert [] == await erasing.queued(uow)
    assert others == held(lake)
    assert [] == [file for file in lake.storage.below("rows") if ".0.parquet" in file.path and "part" in file.path]


async def test_a_file_that_broke_off_was_never_there(lake: Lake) -> None:
    mortal = MortalStorage(lake.storage, 1)
    with pytest.raises(Killed), mortal.stage("rows/day=2026-03-01/part-1-00000000-1-of-1.0.parquet") as staged:
        staged.sink.write(b"x" * 6_000_000)
        staged.finish()
        staged.publish()
    assert [] == lake.storage.below("rows")


async def test_duckdb_reads_a_bucket_without_an_extension(
    database: Database, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(database, lake.storage, messages(40))
    await keeping.compact(database, lake, Rules(grace_s=0))
    await written(database, lake.storage, messages(60)[40:])
    owners = {(Kind.PERSON, n): n for n in range(1, 41)}
    tables = LakeWorld([], owners, []).tables()
    monkeypatch.setattr(reading, "_SETTLED_NS", 0)
    with duckdb_engine() as engine:
        for name in ("owners", "relations"):
            engine.register(name, tables[name])
        engine.read(lake)
        answer = tags_as_of(engine, CATALOGUE, Kind.PERSON, (DAY + 10 * 86_400) * 1_000_000, ["orders"])
    counts = {row["entity_id"]: row["orders"] for row in answer.to_pylist()}
    assert (40, 300.0) == (len(counts), sum(counts.values()))
