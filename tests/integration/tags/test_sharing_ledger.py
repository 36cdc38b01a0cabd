"""The data-use ledger: nothing leaves unrecorded, nothing recorded changes, and every change is noticed and named."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError
from troika.tags.v1 import sharing_service_pb2 as pb

from chassis.db import Database
from chassis.testing import DatabaseFactory, drop_database
from services.tags.domain.ledger import leaf, root_from
from services.tags.sharing import verifying
from services.tags.sharing.ledger_store import Head
from tests.conftest import ROOT, Servers
from tests.integration.tags import world
from tests.integration.tags.sharing_house import House, consenting, open_house, refused
from tests.integration.tags.world import erasure


async def used(house: House, times: int = 3) -> list[pb.UseReceipt]:
    """Receipts of some uses of two shares."""
    one, two = await house.share(), await house.share("insurer", form=pb.SHARE_FORM_COUNTS)
    return [(await (house.read(one) if n % 2 else house.read(two, "insurer"))).receipt for n in range(times)]


def head(receipt: pb.UseReceipt) -> Head:
    return Head(receipt.number, receipt.hash)


async def rows(database: Database, statement: str) -> list[Any]:
    async with database.read() as uow:
        return list(await uow.rows(statement))


async def test_every_use_has_its_entry_and_everybody_in_it(database: Database) -> None:
    await consenting(database, range(1, 11))
    async with open_house(database) as house:
        receipts = await used(house)
        listed = (await house.operator.ListDataUses(pb.ListDataUsesRequest())).uses
        assert [(r.number, r.hash, r.persons) for r in reversed(receipts)] == [(u.number, u.hash, u.persons) for u in listed]
        assert [listed[1].hash, listed[2].hash, bytes(32)] == [use.previous_hash for use in listed]
        assert [("insurer", 10, 3), ("agency", 10, 3)] == [(use.recipient, use.persons, use.points) for use in listed[:2]]
        verdict = await house.verify(*map(head, receipts))
        assert (3, 30, head(receipts[-1]), []) == (*verdict,)
        assert ([3, 2, 1], 9, 0) == await house.account(7)


async def test_uses_at_the_same_time_make_one_chain(database: Database) -> None:
    await consenting(database, range(1, 11))
    # Two processes: each has its own turn.
    async with open_house(database) as house, open_house(database) as other:
        share = await house.share()
        read = await asyncio.gather(*(at.read(share) for at in (house, other) * 5))
        assert list(range(1, 11)) == sorted(each.receipt.number for each in read)
        verdict = await house.verify(*(head(each.receipt) for each in read))
        assert (10, []) == (verdict.entries, verdict.flaws)


async def test_what_cannot_be_recorded_does_not_leave(database: Database) -> None:
    await consenting(database, range(1, 11))
    async with open_house(database) as house:
        share = await house.share()
        async with superuser(database) as connection:
            await connection.execute("ALTER TABLE tags.data_use ADD CONSTRAINT broken CHECK (number < 0)")
        got = 0
        with pytest.raises(Exception, match="internal error"):
            async for chunk in house.recipients["agency"].ReadShare(pb.ReadShareRequest(share_id=share)):
                got += len(chunk.pseudonyms)
        assert 0 == got
        assert [] == await rows(database, "SELECT 1 FROM data_use_inclusion")


FORBIDDEN = (
    "UPDATE data_use SET persons = 0",
    "DELETE FROM data_use",
    "TRUNCATE data_use",
    "DELETE FROM data_use_inclusion",
    "TRUNCATE data_use_inclusion",
    "UPDATE data_use_inclusion SET position = position + 1",
    "UPDATE data_use_inclusion SET anchor_id = anchor_id + 1",
    "UPDATE data_use_inclusion SET anchor_id = 0, line = 0, nonce = NULL, leaf = decode('00', 'hex')",
    "UPDATE data_use_inclusion SET anchor_id = 0",
)


async def test_nobody_changes_what_is_written(database: Database) -> None:
    await consenting(database, range(1, 11))
    async with open_house(database) as house:
        await used(house, 2)
        before = await rows(database, "SELECT * FROM data_use_inclusion ORDER BY number, position")
        for statement in FORBIDDEN:
            with pytest.raises(DBAPIError, match=r"permission denied|append-only|may be forgotten"):
                async with database.transaction() as uow:
                    await uow.execute(statement)
            async with superuser(database) as connection:
                await connection.execute("SET search_path TO tags")
                with pytest.raises(asyncpg.PostgresError, match=r"append-only|may be forgotten"):
                    await connection.execute(statement)
        assert before == await rows(database, "SELECT * FROM data_use_inclusion ORDER BY number, position")
        assert [] == (await house.verify()).flaws


@asynccontextmanager
async def superuser(database: Database, *, triggers: bool = True) -> AsyncIterator[asyncpg.Connection]:
    """Somebody who may do everything; `triggers` False: and does."""
    async with database._engine.connect() as held:
        connection = (await held.get_raw_connection()).driver_connection
        assert isinstance(connection, asyncpg.Connection)
        try:
            await connection.execute("SET ROLE NONE")
            if not triggers:
                await connection.execute("SET session_replication_role = replica")
            yield connection
        finally:
            # What was set is nobody else's.
            await held.invalidate()


# What somebody may do who gets round that, and which entries are broken then.
TAMPERING = {
    "UPDATE tags.data_use SET persons = persons - 1 WHERE number = 2": {2},
    "UPDATE tags.data_use SET purpose = 'Something nice' WHERE number = 1": {1},
    "UPDATE tags.data_use SET tags = '{}' WHERE number = 3": {3},
    "UPDATE tags.data_use SET used_at_us = used_at_us + 1 WHERE number = 2": {2},
    "UPDATE tags.data_use SET hash = sha256(hash) WHERE number = 2": {2, 3},
    "DELETE FROM tags.data_use WHERE number = 2": {2},
    "DELETE FROM tags.data_use WHERE number = 3": {3},
    "DELETE FROM tags.data_use_inclusion WHERE number = 2 AND anchor_id = 5": {2},
    "DELETE FROM tags.data_use_inclusion WHERE number = 2": {2},
    "UPDATE tags.data_use_inclusion SET anchor_id = 99 WHERE number = 1 AND anchor_id = 5": {1},
    "UPDATE tags.data_use_inclusion SET line = line + 1 WHERE number = 3 AND anchor_id = 5": {3},
    "INSERT INTO tags.data_use_inclusion (number, position, anchor_id, line, nonce)"
    " VALUES (2, 10, 99, 11, decode('00', 'hex'))": {2},
}
LEDGER = ("data_use", "data_use_inclusion")


async def test_whoever_gets_round_that_is_noticed_and_the_entry_named(database: Database) -> None:
    await consenting(database, range(1, 11))
    async with open_house(database) as house, superuser(database, triggers=False) as connection:
        await used(house)
        for table in LEDGER:
            await connection.execute(f"CREATE TABLE public.{table} AS SELECT * FROM tags.{table}")
        found = {}
        for statement in TAMPERING:
            await connection.execute(statement)
            found[statement] = {flaw.number for flaw in (await house.verify()).flaws}
            for table in LEDGER:
                await connection.execute(f"TRUNCATE tags.{table}")
                await connection.execute(f"INSERT INTO tags.{table} SELECT * FROM public.{table}")
        assert TAMPERING == found
        assert [] == (await house.verify()).flaws


async def test_a_ledger_that_was_cut_or_written_anew_does_not_match_a_receipt(database: Database) -> None:
    await consenting(database, range(1, 11))
    async with open_house(database) as house:
        receipts = await used(house)
        async with superuser(database, triggers=False) as connection:
            await connection.execute("DELETE FROM tags.data_use_inclusion WHERE number = 3")
            await connection.execute("DELETE FROM tags.data_use WHERE number = 3")
        assert [] == (await house.verify()).flaws
        assert [(3, "is missing, there is a receipt of it")] == (await house.verify(*map(head, receipts))).flaws
        # Somebody writes on where the ledger was cut.
        await house.read(await house.share())
        assert {3} == {flaw.number for flaw in (await house.verify(*map(head, receipts))).flaws}


async def test_it_can_be_proven_that_somebody_was_in_a_use(database: Database) -> None:
    await consenting(database, range(1, 12))
    async with open_house(database) as house:
        receipt = (await house.read(await house.share())).receipt
        proof = await house.operator.ProveDataUse(pb.ProveDataUseRequest(person_id=7, number=1))
        assert receipt.hash == proof.hash == sha256(b"troika data use v1\n" + proof.content).digest()
        content = json.loads(proof.content)
        [mine] = proof.inclusions
        assert 7 == mine.anchor_id
        reached = root_from(leaf(mine.nonce, 7, mine.row), mine.position, content["inclusions"], list(mine.path))
        assert content["root"] == (reached or b"").hex()
        async with refused("NOT_FOUND", "NOT_IN_USE"):
            await house.operator.ProveDataUse(pb.ProveDataUseRequest(person_id=12, number=1))


async def test_of_an_erased_person_the_ledger_keeps_only_hashes_and_stays_whole(database: Database) -> None:
    await consenting(database, range(1, 11))
    async with open_house(database) as house:
        receipts = await used(house)
        await house.operator.SpendPoints(pb.SpendPointsRequest(person_id=7, points=2, reason="coffee", op_id="a"))
        leaves = await rows(database, "SELECT * FROM data_use_inclusion WHERE anchor_id = 7 ORDER BY number")
        for _ in range(2):
            await world.changed(database, erasure(7, 7))
            assert [] == await rows(
                database,
                "SELECT anchor_id FROM data_use_inclusion WHERE anchor_id = 7"
                " UNION ALL SELECT anchor_id FROM points_spent WHERE anchor_id = 7"
                " UNION ALL SELECT anchor_id FROM spending WHERE anchor_id = 7 OR person_id = 7 OR reason <> ''"
                " UNION ALL SELECT anchor_id FROM consent WHERE anchor_id = 7",
            )
        forgotten = await rows(
            database, "SELECT number, line, leaf FROM data_use_inclusion WHERE anchor_id = 0 ORDER BY number"
        )
        assert [(row.number, 0, leaf(row.nonce, 7, row.line)) for row in leaves] == [tuple(row) for row in forgotten]
        assert (3, 30, head(receipts[-1]), []) == (*await house.verify(*map(head, receipts)),)
        async with refused("NOT_FOUND", "PERSON_NOT_FOUND"):
            await house.account(7)
        assert 9 == (await house.account(8))[1]
        # Those who were in a use with her can still prove it, and nobody gets her back.
        proof = await house.operator.ProveDataUse(pb.ProveDataUseRequest(person_id=8, number=1))
        assert 1 == len(proof.inclusions)
        assert 9 == len((await house.read(await house.share())).rows)


async def test_what_an_erased_person_says_late_is_not_kept(database: Database) -> None:
    await world.changed(database, erasure(7, 7))
    await consenting(database, range(1, 11))
    assert [] == await rows(database, "SELECT 1 FROM consent WHERE anchor_id = 7")
    assert 9 == len(await rows(database, "SELECT 1 FROM consent"))


async def test_an_erasure_waits_for_a_use_and_finds_it(database: Database) -> None:
    await consenting(database, range(1, 11))
    async with open_house(database) as house:
        share = await house.share()
        reading = asyncio.create_task(house.read(share))
        await asyncio.gather(*(world.changed(database, erasure(n, n)) for n in (3, 7)))
        await reading
        assert [] == await rows(database, "SELECT 1 FROM data_use_inclusion WHERE anchor_id IN (3, 7)")
        assert [] == (await house.verify()).flaws


@pytest.fixture
async def addressed(databases: DatabaseFactory, servers: Servers) -> AsyncIterator[tuple[str, Database]]:
    dsn, name = await databases.address("tags")
    database = Database(dsn, "tags")
    yield dsn, database
    await database.close()
    await drop_database(servers.postgres_dsn, name)


async def test_the_command_says_what_is_broken(addressed: tuple[str, Database]) -> None:
    dsn, database = addressed
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT}/gen",
        "TROIKA_POSTGRES_DSN": dsn,
        "TROIKA_NATS_URL": "nats://127.0.0.1:1",
        "TROIKA_GRPC_PORT": "0",
        "TROIKA_HTTP_PORT": "0",
        "TROIKA_CALLER_TOKEN": "t" * 16,
        "TROIKA_CALLER_TOKEN_SHA256": "{}",
    }

    async def troika(*words: str) -> tuple[int, str, str]:
        code = "from chassis.command import main; main()"
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", code, "ledger", "verify", *words],
            env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    await consenting(database, range(1, 11))
    async with open_house(database) as house:
        receipts = await used(house)
    newest = f"3:{receipts[-1].hash.hex()}"
    status, out, _ = await troika("--receipt", newest, "--json")
    assert (0, {"entries": 3, "inclusions": 30, "head": newest, "flaws": []}) == (status, json.loads(out))
    async with superuser(database, triggers=False) as connection:
        await connection.execute("UPDATE tags.data_use SET persons = 0 WHERE number = 2")
    status, out, err = await troika()
    assert 1 == status
    assert f"entry 2 has another content than was recorded\n3 entries with 30 inclusions, head {newest}\n" == out
    assert "LEDGER_BROKEN: entry 2 has another content than was recorded" in err


def test_receipts_are_read_as_they_are_printed() -> None:
    assert Head(3, bytes(32)) == verifying._receipt("3:" + "00" * 32)
    for wrong in ("3:abc", "3", "x:" + "00" * 32, "3:" + "zz" * 32):
        with pytest.raises(argparse.ArgumentTypeError):
            verifying._receipt(wrong)
