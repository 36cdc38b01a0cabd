"""`doctor` sees what is wrong with what a service stands on, and says what to do; it sees nothing where all is well."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from chassis import doctor, rpc
from chassis.bus import Bus
from chassis.doctor import Finding, State
from chassis.testing import DatabaseFactory
from local import authority
from local.authority import Authority
from local.embedded import free_port
from services.tags.settings import Settings
from tests.conftest import ROOT, Servers

SERVICE = "tags"
MIGRATIONS = ROOT / "services" / SERVICE / "migrations"
TOKEN = "a token that is long enough"


@dataclass
class House:
    """A database at head, a bus, one neighbour, and settings that are right until a test changes one."""

    values: dict[str, Any]

    async def examine(self, *own: doctor.Check, **changes: Any) -> dict[str, Finding]:
        settings = Settings(**(self.values | changes))
        return {each.what: each for each in await doctor.examine(SERVICE, settings, MIGRATIONS, own)}


@pytest.fixture
async def house(servers: Servers, databases: DatabaseFactory, bus: Bus) -> AsyncIterator[House]:
    server = rpc.Server({}, {}, with_reflection=False)
    port = await server.start("127.0.0.1:0")
    async with databases.lent(SERVICE) as dsn:
        yield House(
            {
                "postgres_dsn": dsn,
                "nats_url": servers.nats_url,
                "grpc_port": 0,
                "http_port": 0,
                "caller_token": TOKEN,
                "caller_token_sha256": {SERVICE: sha256(TOKEN.encode()).hexdigest()},
                "identity_target": f"127.0.0.1:{port}",
            }
        )
    await server.stop(0)


async def test_where_all_is_well_nothing_is_bad(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    async def lake(_: Any) -> str:
        return "reached"

    found = await house.examine(("lake", lake, "mend it"))
    assert {"token", "postgres", "clock of postgres", "database role", "schema", "nats", "clock of nats"} < set(found)
    assert {"lake", "door of identity", "stream DEADLETTERS"} < set(found)
    # Tests are superusers, and that is said.
    assert {"database role"} == {name for name, each in found.items() if each.state is not State.GOOD}
    assert 0 == doctor.show(list(found.values()), as_json=True)
    assert [each.what for each in found.values()] == [each["what"] for each in json.loads(capsys.readouterr().out)]


async def test_each_fault_is_named_with_what_to_do(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def no_lake(_: Any) -> str:
        raise ConnectionError

    nowhere = f"127.0.0.1:{free_port()}"
    monkeypatch.setattr(doctor, "PATIENCE_S", 1.0)
    monkeypatch.setattr(authority, "LIFETIME", timedelta(minutes=-1))
    found = await house.examine(
        ("lake", no_lake, "mend it"),
        postgres_dsn=f"postgresql://nobody@{nowhere}/none",
        nats_url=f"nats://{nowhere}",
        identity_target=nowhere,
        caller_token_sha256={SERVICE: sha256(b"another").hexdigest()},
    )
    assert {"token", "postgres", "nats", "door of identity", "lake"} == set(found)
    assert all(each.state is State.BAD and each.advice for each in found.values())
    assert 1 == doctor.show(list(found.values()), as_json=False)
    assert "mend it" in capsys.readouterr().out
    expired = await house.examine(tls_folder=str(Authority().issue(tmp_path / "tls", SERVICE)))
    assert State.BAD is expired["certificate"].state
    assert "renewed" in expired["certificate"].advice
    assert State.BAD is (await house.examine(tls_folder=str(tmp_path / "none")))["certificate"].state


@pytest.mark.parametrize(
    ("present", "said"), [("0000", "later release"), (None, "migrate")], ids=["of a later release", "never migrated"]
)
async def test_a_schema_that_is_not_ours_is_told(house: House, present: str | None, said: str) -> None:
    connection = await asyncpg.connect(house.values["postgres_dsn"])
    try:
        if present is None:
            await connection.execute("DROP TABLE tags.schema_version")
        else:
            await connection.execute("UPDATE tags.schema_version SET version_num = $1", present)
        schema = (await house.examine())["schema"]
    finally:
        await connection.close()
    assert State.BAD is schema.state
    assert said in schema.advice
