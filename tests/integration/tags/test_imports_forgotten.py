"""What partners said goes when it is undone, expires or its person is erased, and follows persons that merge and part."""

from __future__ import annotations

from pathlib import Path

from chassis.testing import DatabaseFactory
from services.identity import stewardship
from services.identity.stewardship import MergeOrder
from services.tags import expiry
from services.tags.imports import jobs
from tests.integration.identity.erasing import erase, open_doors
from tests.integration.identity.world import World
from tests.integration.tags.importing import BRAVO, MOBILES, RULES, Partnered, line, partnered
from tests.integration.tags.world import tags
from tests.unit.tags.imports.catalogue import MAPPING

DAY_US = 86_400_000_000


async def test_merge_import_unmerge_equals_never_merged(databases: DatabaseFactory, both: Partnered, tmp_path: Path) -> None:
    one, other = await both.customers(2)
    world = both.identity
    async with world.database.transaction() as uow:
        await stewardship.merge_persons(uow, world.store, MergeOrder("m1", one, (other,), 100, "called", "operator", False))
    await both.tell()
    files = [
        (both.file("june.csv", [line(MOBILES[0], "1"), line(MOBILES[1], "3", heads="5", at="2026-04-01")]), MAPPING),
        (both.file("july.csv", [line(MOBILES[0], "bravos", partner="bravo", heads="7", sure="0.2")]), BRAVO),
    ]
    for path, text in files:
        await both.take_in(path, text)
    assert ["high"] == [found["income_band"] for found in (await tags(both.database)).values() if found]
    async with world.database.transaction() as uow:
        await stewardship.unmerge(uow, world.store, "m1", "mistake", "operator", False)
    await both.tell()
    found = await tags(both.database)
    async with databases.database("identity") as i, databases.database("tags") as t, partnered(World(i), t, tmp_path) as never:
        assert [one, other] == await never.customers(2)
        for path, text in files:
            await never.take_in(path, text)
        assert found == await tags(never.database)
    assert {"high", "low", "bravos"} > {facts["income_band"] for facts in found.values()}


async def test_an_undone_import_leaves_what_others_say_and_nothing_of_its_own(both: Partnered) -> None:
    one, other = await both.customers(2)
    may = await both.take_in(both.file("may.csv", [line(MOBILES[0], "1")]), MAPPING)
    before, documents = await tags(both.database), await both.documents()
    june = await both.take_in(
        both.file("june.csv", [line(MOBILES[n], "3", at="2026-04-01", heads="9") for n in range(2)]), MAPPING
    )
    assert {"high"} == {facts["income_band"] for facts in (await tags(both.database)).values()}
    undone = await both.undo(june.id)
    assert (jobs.UNDONE, []) == (undone.state, await both.faults(june.id))
    assert before == await tags(both.database) and documents == await both.documents()
    assert jobs.DONE == (await both.job(may.id)).state
    await both.undo(may.id)
    assert {one: {}, other: {}} == await tags(both.database)
    assert jobs.UNDONE == (await both.undo(may.id)).state


async def test_what_expires_is_gone_when_it_is_due_and_what_lasts_counts_again(both: Partnered) -> None:
    (person,) = await both.customers(1)
    await both.take_in(both.file("may.csv", [line(MOBILES[0], "1", at="2026-11-01")]), MAPPING)
    brief = MAPPING.replace("middle, ", "middle, ") + "retention_days: 30"
    await both.take_in(both.file("june.csv", [line(MOBILES[0], "3", at="2026-11-15", heads="2", moved="2020-01-01")]), brief)
    assert {"income_band": "high", "household_size": 2.0, "moved_on": 1_577_808_000.0, "wealthy": True} == (
        await tags(both.database)
    )[person]
    # 15 November in Shanghai, and thirty days.
    end = 1_794_672_000_000_000 + 30 * DAY_US
    assert 0 == await expiry.expire(both.database, RULES, end - 1)
    assert 1 == await expiry.expire(both.database, RULES, end)
    assert {"income_band": "low", "wealthy": False} == (await tags(both.database))[person]
    assert 0 == await expiry.expire(both.database, RULES, end + 10**15)


async def test_the_erased_keep_nothing_of_partners_and_come_back_with_no_file(both: Partnered) -> None:
    one, other = await both.customers(2)
    path = both.file("june.csv", [line(MOBILES[n], "3") for n in range(2)])
    done = await both.take_in(path, MAPPING)
    async with open_doors(both.identity) as doors:
        await erase(doors, one)
    await both.tell()
    async with both.database.read() as uow:
        left = await uow.rows("SELECT anchor_id FROM import_line")
    assert {other: {"income_band": "high", "wealthy": True}} == await tags(both.database) and 1 == len(left)
    await both.undo(done.id)
    again = await both.take_in(path, MAPPING)
    assert (1, 1) == (again.counts.matched, again.counts.unmatched)
    assert {other} == set(await tags(both.database))


async def test_who_was_erased_in_tags_while_identity_still_answered_matches_nobody(both: Partnered) -> None:
    one, _ = await both.customers(2)
    path = both.file("june.csv", [line(MOBILES[n], "3") for n in range(2)])
    async with both.database.transaction() as uow:
        await uow.execute(
            "INSERT INTO erased_anchor SELECT anchor_id, entity_id, version FROM anchor WHERE entity_id = :one", one=one
        )
        await uow.execute("DELETE FROM anchor WHERE entity_id = :one", one=one)
        await uow.execute("UPDATE entity SET present = false, tags = '{}' WHERE entity_id = :one", one=one)
    assert (1, 1) == ((done := await both.take_in(path, MAPPING)).counts.matched, done.counts.unmatched)
    assert one not in await tags(both.database)
