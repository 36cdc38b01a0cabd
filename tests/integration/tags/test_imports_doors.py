"""Imports over gRPC and by the command line."""

from __future__ import annotations

import argparse
import asyncio
import csv
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from pyarrow import fs
from troika.identity.v1 import events_pb2 as identity_pb
from troika.tags.v1 import import_service_pb2 as pb
from troika.tags.v1.import_service_pb2_grpc import ImportServiceStub, add_ImportServiceServicer_to_server

from chassis import rpc
from chassis.db import Database
from chassis.errors import FailedPrecondition, NotFound
from chassis.testing import DatabaseFactory, drop_database
from services.tags.catalogue import command as cataloguing
from services.tags.imports import command
from services.tags.imports.files import ImportFiles
from services.tags.imports.jobs import Counts
from services.tags.imports.running import Importer
from services.tags.rpc_imports import ImportsRpc
from services.tags.settings import Settings
from tests.conftest import ROOT, Servers
from tests.integration.identity.matching import secret
from tests.integration.identity.world import World
from tests.integration.tags.importing import MOBILES, RULES, Partnered, hashed, line, partnered
from tests.integration.tags.world import tags
from tests.unit.tags.imports.catalogue import HEAD, MAPPING, TEXT


@dataclass
class House:
    """Tags with an import store, identity behind it, an operator before it."""

    both: Partnered
    stub: ImportServiceStub
    stranger: ImportServiceStub
    store: Path

    async def ended(self, import_id: int) -> pb.Import:
        """The import when nobody works on it any more."""
        async with asyncio.timeout(20):
            while True:
                found = getattr(await self.stub.GetImport(pb.GetImportRequest(import_id=import_id)), "import")
                if found.state not in (pb.IMPORT_STATE_QUEUED, pb.IMPORT_STATE_RUNNING, pb.IMPORT_STATE_UNDOING):
                    return found
                await asyncio.sleep(0.02)

    async def start(self, **given: Any) -> pb.Import:
        answer = await self.stub.StartImport(pb.StartImportRequest(**{"mapping": MAPPING, **given}))
        return getattr(answer, "import")  # type: ignore[no-any-return]


@pytest.fixture
async def house(databases: DatabaseFactory, database: Database, tmp_path: Path) -> AsyncIterator[House]:
    store = tmp_path / "store"
    store.mkdir()
    async with databases.database("identity") as identity, partnered(World(identity), database, store) as both:
        files = ImportFiles(fs.SubTreeFileSystem(str(store), fs.LocalFileSystem()))
        following = asyncio.create_task(Importer(database, RULES, both.matcher, files, 10).follow())
        hashes = {caller: hashlib.sha256(secret(caller).encode()).hexdigest() for caller in ("operator", "scoring")}
        allowed = {"troika.tags.v1.ImportService": Settings.model_construct().import_callers}
        server = rpc.Server(hashes, allowed, with_reflection=False)
        add_ImportServiceServicer_to_server(ImportsRpc(database, RULES, files), server.aio)
        port = await server.start("127.0.0.1:0")
        channels = [rpc.connect(f"127.0.0.1:{port}", caller, secret(caller)) for caller in hashes]
        yield House(both, *(ImportServiceStub(channel) for channel in channels), store)  # type: ignore[misc]
        for channel in channels:
            await channel.close()
        await server.stop(0)
        following.cancel()


def content(number: int) -> bytes:
    return "\n".join([HEAD, *(line(MOBILES[n], "3", heads="x" if n == 1 else "2") for n in range(number))]).encode()


async def test_a_file_of_the_store_is_taken_in_and_taken_back(house: House) -> None:
    persons = await house.both.customers(25)
    (house.store / "acme").mkdir()
    (house.store / "acme/june.csv").write_bytes(content(25))
    queued = await house.start(path="acme/june.csv")
    assert (pb.IMPORT_STATE_QUEUED, "acme", "operator") == (queued.state, queued.partner, queued.caller)
    done = await house.ended(queued.import_id)
    assert (pb.IMPORT_STATE_DONE, 25, 26, 25, 0) == (done.state, done.lines, done.lines_done, done.matched, done.unmatched)
    assert (49, 1, hashlib.sha256(content(25)).hexdigest()) == (done.values_new, done.values_refused, done.file_sha256)
    errors = await house.stub.ListImportErrors(pb.ListImportErrorsRequest(import_id=done.import_id))
    assert [(3, "heads", "NOT_A_NUMBER")] == [(e.line, e.column, e.reason) for e in errors.errors]
    facts = await house.stub.ListImportedFacts(
        pb.ListImportedFactsRequest(entity_kind=identity_pb.ENTITY_KIND_PERSON, entity_id=persons[4])
    )
    assert [("household_size", 6, "acme", True), ("income_band", 6, "acme", True)] == [
        (f.tag, f.line, f.partner, f.counts) for f in facts.facts
    ]
    assert "high" == facts.facts[1].value.category and done.file_sha256 == facts.facts[1].file_sha256
    undoing = await house.stub.UndoImport(pb.UndoImportRequest(import_id=done.import_id))
    assert pb.IMPORT_STATE_UNDOING == getattr(undoing, "import").state
    assert pb.IMPORT_STATE_UNDONE == (await house.ended(done.import_id)).state
    assert {person: {} for person in persons} == await tags(house.both.database)


async def test_an_upload_comes_in_parts_and_is_gone_afterwards(house: House) -> None:
    await house.both.customers(25)
    whole = content(25)
    for start in range(0, len(whole), 700):
        answer = await house.stub.UploadPart(
            pb.UploadPartRequest(upload_id="upload-1", offset=start, content=whole[start : start + 700])
        )
    assert len(whole) == answer.size
    tried = await house.ended((await house.start(upload_id="upload-1", file_name="june.csv", dry_run=True)).import_id)
    assert (True, pb.IMPORT_STATE_DONE, 25) == (tried.dry_run, tried.state, tried.matched)
    done = await house.ended((await house.start(upload_id="upload-1", file_name="june.csv")).import_id)
    assert (pb.IMPORT_STATE_DONE, tried.values_new) == (done.state, done.values_new)
    assert not (house.store / "uploads/upload-1").exists()
    page = await house.stub.ListImports(pb.ListImportsRequest(page_size=1))
    rest = await house.stub.ListImports(pb.ListImportsRequest(page_token=page.next_page_token))
    assert [done.import_id, tried.import_id] == [i.import_id for i in (*page.imports, *rest.imports)]


async def test_pages_of_errors_hold_whole_lines(house: House) -> None:
    await house.both.customers(1)
    lines = [line(MOBILES[0], "9", heads="x", loan="y?"), "a,b", line(MOBILES[0], "8", heads="x")]
    (house.store / "f.csv").write_text("\n".join([HEAD, *lines]))
    import_id = (await house.start(path="f.csv")).import_id
    await house.ended(import_id)
    found, token = [], ""
    while True:
        request = pb.ListImportErrorsRequest(import_id=import_id, page_size=1, page_token=token)
        page = await house.stub.ListImportErrors(request)
        found.append([(e.line, e.column) for e in page.errors])
        if not (token := page.next_page_token):
            break
    assert [[(2, "heads"), (2, "income"), (2, "loan")], [(3, "")], [(4, "heads"), (4, "income")], []] == found


async def test_wrong_questions_get_typed_answers(house: House) -> None:
    (house.store / "f.csv").write_bytes(content(1))
    await house.stub.UploadPart(pb.UploadPartRequest(upload_id="upload-2", offset=5, content=b"x"))

    def start(**given: Any) -> Awaitable[Any]:
        return house.stub.StartImport(pb.StartImportRequest(**{"mapping": MAPPING, **given}))  # type: ignore[no-any-return]

    wrong: list[tuple[Awaitable[Any], str, str]] = [
        (start(path="f.csv", mapping=MAPPING.replace("remark: remark", "remrk: remark")), "UNKNOWN_TAG", "mapping"),
        (start(path="../f.csv"), "INVALID_PATH", "path"),
        (start(path="g.csv"), "FILE_NOT_FOUND", "path"),
        (start(upload_id="upload-2", file_name="f.csv"), "UPLOAD_INCOMPLETE", "upload_id"),
        (start(upload_id="upload-2"), "FILE_NAME_MISSING", "file_name"),
        (start(upload_id="../../etc"), "INVALID_ARGUMENT", "upload_id"),
        (start(), "INVALID_ARGUMENT", "source"),
        (house.stub.GetImport(pb.GetImportRequest(import_id=404)), "IMPORT_NOT_FOUND", "import_id"),
        (house.stub.UndoImport(pb.UndoImportRequest(import_id=404)), "IMPORT_NOT_FOUND", "import_id"),
        (house.stub.ListImports(pb.ListImportsRequest(page_token="x")), "INVALID_PAGE_TOKEN", "page_token"),
        (house.stranger.ListImports(pb.ListImportsRequest()), "PERMISSION_DENIED", "authorization"),
    ]
    for call, reason, field in wrong:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert (reason, field) == rpc.reason_of(error.value)


async def test_a_service_without_a_store_says_so(database: Database) -> None:
    with pytest.raises(Exception, match="set TROIKA_IMPORT_STORE first"):
        ImportFiles.of(Settings.model_construct()).of_store("f.csv")


@dataclass
class Terminal:
    """The command line of tags, in this process and in one of its own."""

    both: Partnered
    own: dict[str, str]
    capsys: pytest.CaptureFixture[str]

    async def run(self, word: str, *words: str) -> str:
        """What a verb says; raises what ends it."""
        verb = next(each for each in (*command.VERBS, *cataloguing.VERBS) if each.name == word)
        parser = argparse.ArgumentParser()
        verb.arguments(parser)
        self.capsys.readouterr()
        await verb.run(Settings(**{**self.own, "caller_token_sha256": {}}), parser.parse_args(words))  # type: ignore[arg-type]
        return self.capsys.readouterr().out

    async def process(self, *words: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "services.tags", *words],
            env={**os.environ, **{f"TROIKA_{k.upper()}": v for k, v in self.own.items()}, "PYTHONPATH": f"{ROOT}:{ROOT}/gen"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@pytest.fixture
async def terminal(
    databases: DatabaseFactory, servers: Servers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Terminal]:
    dsn, name = await databases.address("tags")
    database = Database(dsn, "tags")
    catalogue = tmp_path / "catalogue.yaml"
    catalogue.write_text(TEXT)
    async with databases.database("identity") as identity, partnered(World(identity), database, tmp_path) as both:
        own = {
            "postgres_dsn": dsn,
            "nats_url": servers.nats_url,
            "grpc_port": "0",
            "http_port": "0",
            "caller_token": secret("tags"),
            "caller_token_sha256": "{}",
            "catalogue": str(catalogue),
            "identity_target": both.target,
        }
        yield Terminal(both, own, capsys)
    await database.close()
    await drop_database(servers.postgres_dsn, name)


async def test_the_command_line_tries_takes_in_lists_and_takes_back(terminal: Terminal, tmp_path: Path) -> None:
    both = terminal.both
    persons = await both.customers(3)
    path = both.file("june.csv", [*(line(MOBILES[n], "3", heads="x" if n == 1 else "2") for n in range(3)), "short"])
    plan = tmp_path / "mapping.yaml"
    plan.write_text(MAPPING)
    tried = await terminal.run("import", str(path), "--mapping", str(plan), "--dry-run")
    assert "matched 3 (100.0%)" in tried and "dry run: nothing was changed" in tried
    assert {person: {} for person in persons} == await tags(both.database)
    done = await terminal.process("import", str(path), "--mapping", str(plan), "--json")
    assert 0 == done.returncode, done.stderr
    told = json.loads(done.stdout)
    assert ("done", 3, 5, 1, 1) == (
        *(told["state"], told["matched"], told["values_new"], told["values_refused"], told["refused_lines"]),
    )
    with path.with_name("june.csv.errors.csv").open() as file:
        assert [
            ["line", "column", "reason"],
            ["3", "heads", "NOT_A_NUMBER"],
            ["5", "", "WRONG_NUMBER_OF_CELLS"],
        ] == list(csv.reader(file))
    with pytest.raises(FailedPrecondition) as error:
        await terminal.run("import", str(path), "--mapping", str(plan))
    assert "ALREADY_IMPORTED" == error.value.reason
    listed = await terminal.run("imports")
    assert ["import 3:", "import 2:", "import 1:"] == [row[:9] for row in listed.splitlines() if row.startswith("import")]
    back = await terminal.run("undo-import", str(told["import_id"]))
    assert ", undone" in back and {person: {} for person in persons} == await tags(both.database)
    said = "".join((tried, done.stdout, done.stderr, listed, back))
    assert not any(hashed(f"+86{mobile}")[:12] in said for mobile in MOBILES[:3])


async def test_the_command_line_goes_on_with_a_file_that_was_interrupted(terminal: Terminal, tmp_path: Path) -> None:
    both = terminal.both
    await both.customers(20)
    path = both.file("june.csv", [line(MOBILES[n], "3") for n in range(20)])
    plan = tmp_path / "mapping.yaml"
    plan.write_text(MAPPING)
    job = await both.queue(path, MAPPING)
    task = asyncio.create_task(both.importer(3).work(job, lambda told: told.lines_done > 9 and task.cancel()))
    with pytest.raises(asyncio.CancelledError):
        await task
    async with both.database.transaction() as uow:
        await uow.execute("UPDATE import_job SET leased_until = now() - interval '1 second'")
    assert f"import {job.id}: june.csv of acme, done" in await terminal.run("import", str(path), "--mapping", str(plan))
    assert Counts(matched=20, values_new=20) == (await both.job(job.id)).counts


async def test_a_tag_that_was_added_to_a_running_house_is_imported_like_any_other(terminal: Terminal, tmp_path: Path) -> None:
    both = terminal.both
    (person,) = await both.customers(1)
    (tmp_path / "more.yaml").write_text(
        'person:\n  leases: {type: boolean, description: "Leases a car.", title: 租赁用户, folder: value, owner: crm,'
        " import: [acme], conflict: newest}\n"
    )
    await terminal.run("add", str(tmp_path / "more.yaml"))
    plan = tmp_path / "mapping.yaml"
    plan.write_text(MAPPING.replace("  car_loan: loan", "  leases: loan"))
    path = both.file("june.csv", [line(MOBILES[0], loan="yes")])
    assert "new 1" in await terminal.run("import", str(path), "--mapping", str(plan))
    assert {person: {"leases": True}} == await tags(both.database)


async def test_the_command_line_says_what_is_wrong_in_a_line(terminal: Terminal, tmp_path: Path) -> None:
    plan = tmp_path / "mapping.yaml"
    plan.write_text(MAPPING.replace("remark: remark", "remrk: remark"))
    path = terminal.both.file("june.csv", [])
    wrong = await terminal.process("import", str(path), "--mapping", str(plan))
    assert (1, "") == (wrong.returncode, wrong.stdout)
    assert "UNKNOWN_TAG: line 12, column 3: person has no tag remrk; did you mean remark?" in wrong.stderr
    plan.write_text(MAPPING)
    for words in ((str(path), "--mapping", str(tmp_path / "none.yaml")), (str(tmp_path / "none.csv"), "--mapping", str(plan))):
        with pytest.raises(NotFound) as error:
            await terminal.run("import", *words)
        assert "FILE_NOT_FOUND" == error.value.reason
