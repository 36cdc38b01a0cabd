"""The quality report: each defect where it belongs, the worst source first, the same over the wire and as a table."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import orjson
import pytest

from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.identity import inference, quality
from services.identity.inference import infer
from services.identity.quality import OTHER_NAME, OTHER_OWNER, REFUSED_LINK, Quality
from services.identity.settings import Settings
from tests.integration.identity.world import NOW, World

DAY = 86_400_000_000
VIN = "LSVAA49J132047371"
ZHANG, LI, WANG = "13912345679", "15012345679", "18612345679"
CARD, OTHER_CARD = "11010519491231002X", "110105199003077657"


def record(dealer: str, number: str, *identifiers: tuple[str, str], **extra: Any) -> tuple[Any, ...]:
    source = f"dealer:{dealer}"
    return (source, ("crm_id", source, number), *identifiers, extra)


async def reported(world: World, source: str = "") -> dict[str, Quality]:
    while (await infer(world.database)).left:
        pass
    async with world.database.read() as uow:
        return {q.source: q for q in await quality.report(uow, source)}


async def test_a_good_source_has_no_defects_and_stands_last(world: World) -> None:
    await world.see(
        record("D001", "1", ("mobile", ZHANG), who="张伟"),
        record("D002", "2", ("mobile", "13800138000"), ("email", "nobody"), ("vin", "X"), who="测试"),
    )
    found = await reported(world)
    assert ["dealer:D002", "dealer:D001"] == list(found)
    good, bad = found["dealer:D001"], found["dealer:D002"]
    assert (1, 1, 2, 0.0) == (good.records, good.events, good.identifiers, good.defects)
    assert (1, 1, 1, 2.0, 2.0) == (bad.records, bad.events, bad.identifiers, bad.invalid, bad.placeholder)
    assert {"mobile": 1.0, "name": 1.0, "id_card": 1.0} == bad.missing
    assert {
        ("mobile", "PLACEHOLDER", 1),
        ("name", "PLACEHOLDER", 1),
        ("email", "NOT_AN_EMAIL", 1),
        ("vin", "NOT_A_VIN", 1),
    } == {*bad.refusals}
    assert 6.0 == bad.defects


async def test_records_of_one_person_are_duplicates_beyond_the_first(world: World) -> None:
    await world.see(*(record("D001", str(n), ("mobile", ZHANG), who="张伟") for n in range(1, 4)))
    found = await reported(world)
    assert 2 / 3 == pytest.approx(found["dealer:D001"].duplicates)


async def test_values_of_a_crowd_are_shared_on_each_record(world: World) -> None:
    names = ["张伟", "李娜", "王芳", "赵军", "陈静"]
    await world.see(*(record("D001", str(n), ("mobile", ZHANG), who=name) for n, name in enumerate(names, 1)))
    await world.see(record("D001", "9", ("mobile", LI), who="刘洋"))
    found = await reported(world)
    assert 5 / 6 == pytest.approx(found["dealer:D001"].shared)
    assert 0 == found["dealer:D001"].missing["mobile"]


async def test_contradictions_are_counted_by_what_they_contradict(world: World) -> None:
    await world.see(
        record("D001", "1", ("mobile", ZHANG), ("id_card", CARD), ("vin", VIN), who="张伟", name="Vehicle Sold"),
        ("app", ("crm_id", "app", "U1"), ("mobile", ZHANG), {"who": "张伟"}),
        # Another's phone under one's own name, and a car that was sold to somebody else.
        record("D002", "2", ("mobile", ZHANG), ("vin", VIN), who="李娜", relation="owns", at=NOW + DAY),
        record("D002", "3", ("mobile", WANG), who="王芳"),
    )
    found = await reported(world)
    assert {REFUSED_LINK: 0, OTHER_NAME: 1, OTHER_OWNER: 1} == found["dealer:D002"].conflicts
    assert 0.5 == found["dealer:D002"].conflicting
    assert {REFUSED_LINK: 0, OTHER_NAME: 0, OTHER_OWNER: 0} == found["dealer:D001"].conflicts


async def test_a_second_id_card_on_one_record_is_a_refused_link(world: World) -> None:
    await world.see(
        record("D001", "1", ("mobile", ZHANG), ("id_card", CARD), who="张伟"),
        ("call_center", ("crm_id", "call_center", "C1"), ("id_card", CARD), {"who": "张伟"}),
        ("call_center", ("crm_id", "call_center", "C2"), ("id_card", OTHER_CARD), ("mobile", LI), {"who": "李娜"}),
        record("D001", "1", ("mobile", ZHANG), ("id_card", OTHER_CARD), who="张伟", at=NOW + 2 * DAY),
    )
    found = await reported(world)
    assert 1 <= found["dealer:D001"].conflicts[REFUSED_LINK]


async def test_one_source_may_be_asked_for_alone_and_the_table_names_it(world: World) -> None:
    await world.see(record("D001", "1", ("mobile", ZHANG), who="张伟"), record("D002", "2", ("mobile", "1"), who="李娜"))
    assert ["dealer:D002"] == list(await reported(world, "dealer:D002"))
    assert {} == await reported(world, "dealer:D999")
    table = quality.table(list((await reported(world)).values()))
    lines = table.splitlines()
    assert ["source", "dealer:D002", "dealer:D001"] == [line.split()[0] for line in lines[:3]]
    assert "mobile NOT_A_PHONE_NUMBER 1" in lines[-1] or "mobile NOT_A_VALID_NUMBER 1" in lines[-1]


async def test_the_verbs_catch_up_and_report(databases: DatabaseFactory, capsys: pytest.CaptureFixture[str]) -> None:
    dsn, _ = await databases.address("identity")
    settings = Settings.model_construct(postgres_dsn=dsn)
    database = Database(dsn, "identity")
    await World(database).see(record("D001", "1", ("mobile", ZHANG), ("vin", VIN), who="张伟", relation="owns"))
    await database.close()
    for expected in (2, 0):
        await inference.catch_up(settings, Namespace(all=False, json=True))
        assert expected == orjson.loads(capsys.readouterr().out)["changes"]
    await inference.catch_up(settings, Namespace(all=True, json=False))
    assert "anchors 2  vehicles 1  persons 1" in capsys.readouterr().out
    await quality.show(settings, Namespace(source="", json=True))
    (line,) = capsys.readouterr().out.splitlines()
    assert ("dealer:D001", 1, 0.0) == tuple(orjson.loads(line)[name] for name in ("source", "records", "defects_per_record"))
    await quality.show(settings, Namespace(source="dealer:D001", json=False))
    assert "dealer:D001" in capsys.readouterr().out
