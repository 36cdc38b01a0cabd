from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from chassis.db import Database
from chassis.errors import FailedPrecondition
from chassis.testing import DatabaseFactory
from services.identity.linkage import records
from services.identity.linkage.profiles.customers import PROFILE
from services.identity.linkage.suggesting import NEVER, Outcome, Wanted, link_customers
from tests.conftest import ROOT
from tests.integration.identity.world import World

SURNAMES = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林郑"
GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉兰建国红梅志强海燕春生文博雅琴浩然子轩"
STREETS = ("建设路", "人民路", "中山路", "解放路", "和平街", "文化路", "长江路", "黄河路")
# The same sound in other characters, as input methods offer.
HOMOPHONES = {
    "伟": "玮",
    "静": "婧",
    "丽": "莉",
    "强": "蔷",
    "明": "铭",
    "杰": "洁",
    "华": "桦",
    "平": "萍",
    "志": "智",
    "国": "郭",
}


PERSONS = 400
COUNT_PERSONS = "SELECT count(DISTINCT entity_id) FROM identifier WHERE kind = 1"
# So few records need no more random pairs.
QUICK = replace(PROFILE, training=replace(PROFILE.training, sampled_pairs=50_000))


@dataclass(frozen=True)
class Sold:
    """A person's file at the dealer that sold, and the file that another dealer typed years later."""

    sold: dict[str, Any]
    served: dict[str, Any] | None


def draw_persons(count: int, seed: int = 7) -> list[Sold]:
    rng = random.Random(seed)
    persons = []
    for _ in range(count):
        name = rng.choice(SURNAMES) + "".join(rng.sample(GIVEN, 2))
        mobile = f"13{rng.randrange(10**8, 10**9)}"
        address = f"杭州市{rng.choice(STREETS)}{rng.randrange(1, 400)}号{rng.randrange(1, 30)}栋{rng.randrange(101, 2900)}"
        born = f"{rng.randrange(1955, 2003)}-{rng.randrange(1, 13):02}-{rng.randrange(2, 28):02}"
        sold = {"who": name, "mobile": mobile, "address": address, "birth_date": born}
        served = None
        if rng.random() < 0.5:
            again = dict(sold)
            # The phone is new or has a digit wrong, so that no identifier joins the two files.
            at = rng.randrange(3, 11)
            wrong = mobile[:at] + str((int(mobile[at]) + 1) % 10) + mobile[at + 1 :]
            again["mobile"] = wrong if rng.random() < 0.6 else f"15{rng.randrange(10**8, 10**9)}"
            if rng.random() < 0.3:
                again["who"] = name[:1] + "".join(HOMOPHONES.get(c, c) for c in name[1:])
            if rng.random() < 0.2:
                again["address"] = ""
            if rng.random() < 0.2:
                again["birth_date"] = ""
            served = again
        persons.append(Sold(sold, served))
    return persons


def same_but_phone(person: Sold) -> bool:
    return person.served is not None and person.sold == person.served | {"mobile": person.sold["mobile"]}


async def write(world: World, persons: list[Sold]) -> None:
    events: list[tuple[Any, ...]] = []
    for number, person in enumerate(persons):
        for source, file in (("dealer:D001", person.sold), ("dealer:D002", person.served)):
            if file:
                extra = {name: file[name] for name in ("who", "address", "birth_date")}
                known = [(kind, file[kind]) for kind in ("mobile", "id_card") if kind in file]
                events.append((source, ("crm_id", source, f"p{number}"), *known, extra))
    for start in range(0, len(events), 400):
        await world.see(*events[start : start + 400])


async def run_linkage(world: World, wanted: Wanted, folder: Path, **how: Any) -> Outcome:
    return await link_customers(
        world.database, world.vault, world.store, wanted, lambda step, figures: None, profile=QUICK, folder=folder, **how
    )


@pytest.fixture
async def twins(databases: DatabaseFactory) -> AsyncIterator[tuple[World, int]]:
    """A world of PERSONS; the number of those who have two files that no identifier joins."""
    async with databases.database("identity") as database:
        world = World(database)
        persons = draw_persons(PERSONS)
        await write(world, persons)
        yield world, sum(person.served is not None for person in persons)


async def true_and_false(world: World, state: str) -> tuple[int, int]:
    """Suggestions in a state that are right (both anchors of one drawn person), and that are not."""
    rows = await world.rows("SELECT id, sealed, subject_key_id FROM identifier WHERE kind = 1")
    keys = {r.id: r for r in await world.rows("SELECT id, kek_id, wrapped FROM subject_key")}
    name = {}
    for row in rows:
        key = keys[row.subject_key_id]
        place = b"identifier:%d:sealed" % row.id
        name[row.id] = world.vault.open(row.subject_key_id, key.kek_id, key.wrapped, place, row.sealed)
    found = await world.rows("SELECT anchor_a, anchor_b FROM suggestion WHERE state = :state", state=state)
    right = sum(name[row.anchor_a] == name[row.anchor_b] for row in found)
    return right, len(found) - right


async def test_two_files_that_no_identifier_joins_are_suggested_to_be_one(twins: tuple[World, int], tmp_path: Path) -> None:
    world, both = twins
    outcome = await run_linkage(world, Wanted(0.5), tmp_path)
    right, wrong = await true_and_false(world, "pending")
    assert right >= 0.95 * both
    assert wrong <= 0.02 * right
    assert (right + wrong, 0) == (outcome.suggested, outcome.linked)
    # Suggestions alone change nobody.
    assert [(PERSONS + both,)] == await world.rows(COUNT_PERSONS)
    # What one says is weights, no value; with the prior they make the odds, so what speaks for it outweighs the rest.
    for row in await world.rows("SELECT explanation FROM suggestion"):
        weights = orjson.loads(row.explanation)
        assert set() == set(weights) - {"name", "mobile", "address", "born", "vehicle"}
        assert all(isinstance(weight, float) for weight in weights.values())
        assert sum(weights.values()) > 0
    assert [] == os.listdir(tmp_path)


async def test_above_the_threshold_records_become_one_person_and_no_run_tells_it_twice(
    twins: tuple[World, int], tmp_path: Path
) -> None:
    world, both = twins
    outcome = await run_linkage(world, Wanted(0.5, threshold=0.99), tmp_path)
    right, wrong = await true_and_false(world, "linked")
    assert outcome.linked == right + wrong
    assert right >= 0.8 * both and wrong <= 0.01 * right
    assert [(PERSONS + both - outcome.linked,)] == await world.rows(COUNT_PERSONS)
    again = await run_linkage(world, Wanted(0.5, threshold=0.99), tmp_path)
    # Those who are one now are no pair any more; who waited still waits, once.
    assert (0, outcome.suggested) == (again.linked, again.suggested)
    assert [(outcome.linked + outcome.suggested,)] == await world.rows("SELECT count(*) FROM suggestion")


async def test_persons_whose_id_cards_differ_are_not_suggested_and_a_dry_run_keeps_nothing(
    world: World, tmp_path: Path
) -> None:
    persons = draw_persons(PERSONS, seed=3)
    cards = ("330106197609142212", "110105198503071230")
    # Two files that agree on all but the phone, each with the card of somebody else.
    at = next(n for n, person in enumerate(persons) if person.served and same_but_phone(person))
    served = persons[at].served
    assert served is not None
    persons[at] = Sold(persons[at].sold | {"id_card": cards[0]}, served | {"id_card": cards[1]})
    await write(world, persons)
    dry = await run_linkage(world, Wanted(0.5, threshold=0.99), tmp_path, dry_run=True)
    assert (0, 0) == (dry.suggested, dry.linked) and dry.pairs > 0
    assert [(0,)] == await world.rows("SELECT count(*) FROM suggestion")
    await run_linkage(world, Wanted(0.01), tmp_path)
    anchors = await world.rows(
        "SELECT DISTINCT anchor_id AS id FROM link JOIN identifier v ON v.id = value_id WHERE v.kind = 8"
    )
    one, other = sorted(row.id for row in anchors)
    assert [(dry.pairs,)] <= await world.rows("SELECT count(*) FROM suggestion")
    assert [] == await world.rows("SELECT id FROM suggestion WHERE anchor_a = :a AND anchor_b = :b", a=one, b=other)


async def test_too_few_records_are_said_to_be_too_few(world: World, tmp_path: Path) -> None:
    await world.see(("dealer:D001", ("crm_id", "dealer:D001", "1"), ("mobile", "13800138001"), {"who": "王伟强"}))
    with pytest.raises(FailedPrecondition) as caught:
        await run_linkage(world, Wanted(NEVER), tmp_path)
    assert "TOO_LITTLE_TO_LEARN" == caught.value.reason


def run_verb(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.identity", "link", *words]
    return subprocess.run(command, check=False, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


async def test_the_verb_tells_its_steps_and_counts_and_no_value(environment: dict[str, str], tmp_path: Path) -> None:
    persons = draw_persons(200)
    database = Database(environment["TROIKA_POSTGRES_DSN"], "identity", 2)
    try:
        await write(World(database), persons)
    finally:
        await database.close()
    environment = environment | {"TROIKA_LINKAGE_FOLDER": str(tmp_path)}
    done = await asyncio.to_thread(run_verb, environment, "--json", "--threshold", "0.99")
    assert 0 == done.returncode, done.stderr
    lines = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert ["read", "keyed", "trained", "scored", "clustered", "kept", "done"] == list(dict.fromkeys(x["step"] for x in lines))
    both = sum(person.served is not None for person in persons)
    assert (200 + both, 200 + both) == (lines[-1]["records"], lines[-1]["persons"])
    assert lines[-1]["linked"] >= 0.8 * both and lines[-1]["pairs"] == lines[-1]["linked"] + lines[-1]["suggested"]
    said = done.stdout + done.stderr
    assert not any(person.sold[what] in said for person in persons for what in ("who", "mobile", "address"))
    assert 2 == (await asyncio.to_thread(run_verb, environment, "--threshold", "7")).returncode


async def test_records_are_read_by_index(twins: tuple[World, int]) -> None:
    world, _ = twins
    async with world.database.transaction() as uow:
        # As on a base of millions, where reading a table through is never cheaper.
        await uow.execute("SET LOCAL enable_seqscan = off")
        pages = "\n".join(row[0] for row in await uow.fetch(f"EXPLAIN {records.PROFILES}", 0, 100))
        values = "\n".join(row[0] for row in await uow.fetch(f"EXPLAIN {records.VALUES}", list(range(100))))
    assert "pk_profile" in pages and "pk_identifier" in pages and "pk_subject_key" in pages
    assert "pk_link" in values and "pk_identifier" in values
    assert [] == [text for text in (pages, values) if "Seq Scan" in text]
