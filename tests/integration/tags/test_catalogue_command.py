"""The command line of the catalogue: lint needs nothing but files, add needs the database alone."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chassis.db import Database
from chassis.testing import DatabaseFactory, drop_database
from services.tags.catalogue import stored, yaml_files
from tests.conftest import ROOT, Servers
from tests.integration.tags.service import Service

GOOD = """\
owner: digital
person:
  opens_often: {type: boolean, title: 常开应用, description: Opens the app often., expression: app_opens >= 3}
  opens_rarely: {type: boolean, title: 少开应用, description: Opens the app rarely., expression: NOT opens_often}
"""


@pytest.fixture
async def service(servers: Servers, databases: DatabaseFactory, tmp_path: Path) -> AsyncIterator[Service]:
    """Not started: only how a process is told where things are."""
    dsn, name = await databases.address("tags")
    yield Service.prepared(dsn, servers, tmp_path / "log")
    await drop_database(servers.postgres_dsn, name)


async def run(environment: dict[str, str], *words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.tags",
        *words,
        env=environment,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    return process.returncode or 0, out.decode() + error.decode()


async def test_a_file_is_added_whole_or_not_at_all(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "more.yaml"
    file.write_text(GOOD.replace("NOT opens_often", "NOT opens_oftn"), encoding="utf-8")
    code, said = await run(service.environment, "add", str(file))
    assert 1 == code
    assert f"{file}:4:98: error: person.opens_rarely: no person tag is named opens_oftn; did you mean opens_often" in said
    assert "INVALID_DEFINITION: 1 errors, nothing was added" in said
    file.write_text(GOOD, encoding="utf-8")
    assert (0, "would add person.opens_often (kept)\nwould add person.opens_rarely (kept)\n") == await run(
        service.environment, "add", "--dry-run", str(file)
    )
    assert (0, "added person.opens_often (kept)\nadded person.opens_rarely (kept)\n") == await run(
        service.environment, "add", str(file)
    )
    code, said = await run(service.environment, "add", str(file))
    assert 1 == code
    assert "is defined twice" in said
    database = Database(service.environment["TROIKA_POSTGRES_DSN"], "tags", 2)
    async with database.read() as uow:
        added = await stored.current(uow)
        assert 1 == await stored.epoch(uow)
    await database.close()
    assert [("opens_often", "digital", "operator"), ("opens_rarely", "digital", "operator")] == [
        (version.name, version.body["owner"], version.created_by) for version in added
    ]


async def test_lint_runs_without_any_settings() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TROIKA_")}
    code, said = await run(environment | {"PYTHONPATH": f"{ROOT}:{ROOT}/gen"}, "lint", "--strict")
    tags, files = len(yaml_files.load().definitions), len(yaml_files.files_in([yaml_files.DEFAULT]))
    assert tags >= 120
    assert (0, f"{tags} tags in {files} files: 0 errors, 0 warnings\n") == (code, said)
