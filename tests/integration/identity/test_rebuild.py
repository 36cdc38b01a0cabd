"""The view that a history left equals, byte for byte, what its links alone say; what does not is found and mended."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from typing import Any

import orjson
import pytest

from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.identity import erasure, sharing, stewardship, suggestions
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import Reason
from services.identity.rebuild.run import Outcome, rebuild
from services.identity.rebuild.view import in_memory
from services.identity.stewardship import MergeOrder
from services.identity.suggestions import Pair
from tests.conftest import ROOT
from tests.integration.identity.world import NOW, World

NAMES = ("", "", "张伟", "章伟", "王芳", "李娜", "刘洋", "陈静")
SOURCES = ("app", "call_center", "dealer:D001", "dealer:D002")
CARDS = ("11010519491231002X", "110105198001010016")
VALUES: tuple[tuple[str, ...], ...] = (
    *(("mobile", f"1397701{i:04d}") for i in range(6)),
    *(("device", f"device-77-{i}") for i in range(4)),
    *(("unionid", f"oUnion77UnionUnion{i}") for i in range(4)),
    *(("vin", f"WBA77ABCDEFGHJK{i}{i}") for i in range(3)),
    *(("id_card", card) for card in CARDS),
    *(("plate", f"粤B7777{i}") for i in range(2)),
)


class History:
    """Random doings of doors and stewards over few values, so that they collide."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.random = world, random.Random(seed)
        self.operations = 0

    def known(self, kind: str, value: str) -> Known:
        known = self.world.vault.known(kind, "", value)
        assert isinstance(known, Known)
        return known

    async def persons(self) -> list[int]:
        rows = await self.world.rows("SELECT DISTINCT entity_id FROM identifier WHERE anchor AND kind <= 8 AND entity_id > 0")
        return sorted(row.entity_id for row in rows)

    async def see(self) -> None:
        """Records, and accounts and devices that are anchors themselves."""
        events: list[tuple[Any, ...]] = []
        for _ in range(self.random.randrange(1, 9)):
            source = self.random.choice(SOURCES)
            values = self.random.sample(VALUES, self.random.choice((1, 1, 2, 3)))
            if self.random.random() < 0.75:
                values.insert(0, ("crm_id", source, f"R{self.random.randrange(40)}"))  # type: ignore[arg-type]
            events.append((source, *values, {"who": self.random.choice(NAMES), "at": NOW + self.random.randrange(10**9)}))
        await self.world.see(*events)

    async def set_aside(self) -> None:
        values = [self.known(*value) for value in self.random.sample(VALUES, 2)]
        reason = self.random.choice((Reason.REGISTERED, Reason.QUARANTINED))
        async with self.world.database.transaction() as uow:
            await sharing.set_aside(uow, self.world.store, self.world.vault, values, reason, "a note")

    async def release(self) -> None:
        values = [self.known(*value) for value in self.random.sample(VALUES, 4)]
        async with self.world.database.transaction() as uow:
            await sharing.release(uow, self.world.store, self.world.vault, values)

    async def merge(self) -> None:
        persons = await self.persons()
        if len(persons) > 2:
            target, *sources = self.random.sample(persons, 3)
            self.operations += 1
            async with self.world.database.transaction() as uow:
                order = MergeOrder(f"op{self.operations}", target, sources, 100, "the same", "operator")
                await stewardship.merge_persons(uow, self.world.store, order)

    async def unmerge(self) -> None:
        done = await self.world.rows("SELECT request_id FROM operation WHERE kind = 'merge'")
        entries = await self.world.rows("SELECT op_id FROM ledger WHERE operation = 'merge' AND space = 1")
        names = [row.request_id for row in done] + [f"{stewardship.LEDGER}{row.op_id}" for row in entries]
        if names:
            async with self.world.database.transaction() as uow:
                await stewardship.unmerge(uow, self.world.store, self.random.choice(names), "not the same", "operator", False)

    async def suggest(self) -> None:
        rows = await self.world.rows("SELECT id FROM identifier WHERE anchor AND kind <= 8 AND entity_id > 0 ORDER BY id")
        if len(rows) > 1:
            a, b = sorted(row.id for row in self.random.sample(rows, 2))
            async with self.world.database.transaction() as uow:
                await suggestions.suggest(uow, self.world.store, [Pair(a, b, 0.97, {"name": 5.0})], 0.9)

    async def erase(self) -> None:
        persons = await self.persons()
        if persons:
            self.operations += 1
            async with self.world.database.transaction() as uow:
                await erasure.erase(
                    *(uow, self.world.store, self.world.vault),
                    person_id=self.random.choice(persons),
                    request_id=f"er{self.operations}",
                    caller="operator",
                    reason="asked for",
                    dry_run=False,
                )

    async def go_on(self, steps: int) -> None:
        for _ in range(steps):
            await self.random.choices(
                (self.see, self.set_aside, self.release, self.merge, self.unmerge, self.suggest, self.erase),
                (12, 1, 2, 2, 2, 2, 1),
            )[0]()


async def compared(world: World, write: bool = False) -> tuple[Outcome, Outcome]:
    return await rebuild(world.database, world.store, in_memory, write)


@pytest.mark.parametrize("seed", range(3))
async def test_after_any_history_the_view_is_what_its_links_say(databases: DatabaseFactory, seed: int) -> None:
    async with databases.database("identity") as database:
        world = World(database)
        history = History(world, seed)
        for _ in range(5):
            await history.go_on(8)
            found, _ = await compared(world)
            assert {"clusters": 0, "guards": 0, "neighbourhoods": 0} == found.differences
            assert found.stored_sha256 == found.rebuilt_sha256
        # A history in which nothing was ever shared or joined would show nothing.
        assert found.guarded > 0
        assert await world.rows("SELECT 1 FROM ledger WHERE operation = 'merge'")


async def people(world: World) -> list[int]:
    """Thirty persons of two records each, and one phone of too many; returns the persons."""
    for i in range(30):
        mobile = ("mobile", f"138770{i:05d}")
        await world.see(
            ("app", ("crm_id", "app", f"U{i}"), mobile), ("dealer:D001", ("crm_id", "dealer:D001", f"D{i}"), mobile)
        )
    await world.see(*(("app", ("crm_id", "app", f"U{i}"), ("mobile", "13866600000")) for i in range(10)))
    rows = await world.rows("SELECT DISTINCT entity_id FROM identifier WHERE entity_id > 0 ORDER BY 1")
    return [row.entity_id for row in rows]


DAMAGES = {
    "a record given to a stranger": "UPDATE identifier SET entity_id = :b WHERE id = (SELECT max(id) FROM identifier"
    " WHERE entity_id = :a AND anchor)",
    "a person who lost a record": "UPDATE identifier SET entity_id = 0 WHERE id = (SELECT min(id) FROM identifier"
    " WHERE entity_id = :a AND anchor)",
    "two persons who became one": "UPDATE identifier SET entity_id = :b WHERE entity_id = :a",
    "a shared phone in use": "UPDATE identifier SET person_guard = 0 WHERE person_guard > 0 AND entity_id NOT IN (:a, :b)",
    "a phone out of use": "UPDATE identifier SET person_guard = 2, component_id = 0, entity_id = 0 WHERE kind = 6"
    " AND entity_id = :a",
    "a neighbourhood torn in two": "UPDATE identifier SET component_id = component_id + 1000000 WHERE id ="
    " (SELECT max(id) FROM identifier WHERE entity_id = :a)",
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_by_hand_is_found_and_mended(world: World, damage: str) -> None:
    persons = await people(world)
    sound, _ = await compared(world)
    assert sound.equal and 1 == sound.guarded
    await world.published()
    async with world.database.transaction() as uow:
        assert await uow.execute(DAMAGES[damage], a=persons[3], b=persons[7])
    found, _ = await compared(world)
    assert not found.equal
    again, mended = await compared(world, write=True)
    assert found.differences == again.differences
    assert mended.equal
    assert sound.stored_sha256 == mended.stored_sha256 == mended.rebuilt_sha256
    # Nobody else moved: damage is mended where it is.
    _, changed, _ = await world.published()
    assert 6 >= sum(len(each.anchor_moves) for each in changed)
    assert 30 == len({row.entity_id for row in await world.rows("SELECT entity_id FROM identifier WHERE anchor")})


async def test_what_people_decided_is_not_mended_away(world: World) -> None:
    await people(world)
    known = world.vault.known("mobile", "", "13877000003")
    shared = world.vault.known("mobile", "", "13866600000")
    assert isinstance(known, Known) and isinstance(shared, Known)
    async with world.database.transaction() as uow:
        await sharing.set_aside(uow, world.store, world.vault, [known], Reason.QUARANTINED, "a note")
    async with world.database.transaction() as uow:
        await sharing.release(uow, world.store, world.vault, [shared])
    found, mended = await compared(world, write=True)
    assert found.equal and mended is found and 1 == found.guarded


async def test_links_to_nowhere_are_counted_and_change_nothing(world: World) -> None:
    await people(world)
    sound, _ = await compared(world)
    async with world.database.transaction() as uow:
        await uow.execute("INSERT INTO link VALUES (1, 999999999, 0, 1, 0, 0, 0, 1), (999999999, 1, 0, 1, 0, 0, 0, 1)")
    found, _ = await compared(world)
    assert (2, sound.rebuilt_sha256) == (found.dangling_links, found.rebuilt_sha256)


async def test_an_empty_graph_is_what_it_is(world: World) -> None:
    found, _ = await compared(world)
    assert found.equal and 0 == found.identifiers == found.links


async def test_the_verb_tells_and_mends(environment: dict[str, str]) -> None:
    def verb(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "services.identity", *words]
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=False)

    database = Database(environment["TROIKA_POSTGRES_DSN"], "identity", 2)
    try:
        world = World(database)
        persons = await people(world)
        async with database.transaction() as uow:
            await uow.execute(DAMAGES["two persons who became one"], a=persons[3], b=persons[7])
    finally:
        await database.close()
    told = await asyncio.to_thread(verb, "rebuild", "--json")
    found = orjson.loads(told.stdout)
    assert (1, False) == (told.returncode, found["equal"])
    assert found["stored_sha256"] != found["rebuilt_sha256"] and 0 < found["differences"]["clusters"]
    assert b"solved" in told.stderr
    mended = await asyncio.to_thread(verb, "rebuild", "--write", "--json")
    assert 0 == mended.returncode and orjson.loads(mended.stdout)["equal"]
    assert 0 == (await asyncio.to_thread(verb, "rebuild")).returncode
