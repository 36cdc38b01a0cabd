"""Partners' files end to end: matched, kept by anchor, derived, told, resumed, undone, expired, erased."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chassis.db import Database
from chassis.errors import FailedPrecondition, ResourceExhausted
from chassis.testing import DatabaseFactory
from services.identity import stewardship
from services.identity.domain.kinds import Reason
from services.identity.matching import Limits
from services.identity.partners import Partners
from services.identity.sharing import set_aside
from services.identity.stewardship import MergeOrder
from services.tags import events, expiry, tables
from services.tags.domain.catalogue import Kind
from services.tags.imports import jobs, provenance
from services.tags.imports.files import ImportFiles
from services.tags.imports.jobs import Counts
from services.tags.imports.matching import Matcher
from services.tags.imports.running import Importer
from tests.integration.identity.erasing import VIN, erase, open_doors
from tests.integration.identity.matching import matching_server
from tests.integration.identity.world import World
from tests.integration.tags.importing import MOBILES, RULES, Partnered, connected, hashed, line, partnered
from tests.integration.tags.world import published, tags
from tests.unit.tags.imports.catalogue import MAPPING

BRAVO = """
partner: bravo
match: {column: phone, kind: mobile}
time: {column: as_of}
confidence: {column: sure}
tags: {income_band: income, household_size: heads, car_loan: loan, hobbies: hobby}
"""
OURS = BRAVO.replace("bravo", "ours")
DAY_US = 86_400_000_000
SHANGHAI_MARCH_US = 1_772_294_400_000_000


@pytest.fixture
async def both(databases: DatabaseFactory, database: Database, tmp_path: Path) -> AsyncIterator[Partnered]:
    async with databases.database("identity") as identity, partnered(World(identity), database, tmp_path) as found:
        yield found


async def test_what_a_partner_says_becomes_tags_and_business_tags_and_is_told(both: Partnered) -> None:
    one, other, third = await both.customers(3)
    path = both.file(
        "june.csv",
        [
            line(MOBILES[0], "3", heads="4", hobby="tea;golf"),
            line("13700000000", "1"),
            line(MOBILES[2], "1", loan="perhaps"),
            line(MOBILES[1], ""),
            "0123,2026-03-01,1,1,,,,,",
        ],
    )
    done = await both.take_in(path, MAPPING)
    assert (jobs.DONE, 5, 6) == (done.state, done.lines, done.lines_done)
    assert Counts(matched=3, unmatched=1, refused_lines=1, values_new=4, values_refused=1) == done.counts
    found = await tags(both.database)
    assert {"income_band": "high", "household_size": 4.0, "hobbies": ["golf", "tea"], "wealthy": True} == found[one]
    assert ({}, {"income_band": "low", "wealthy": False}) == (found[other], found[third])
    assert [(4, "loan", "NOT_YES_OR_NO"), (6, "phone", "INVALID_HASH")] == await both.faults(done.id)
    told = {(e.entity_id, tag) for message in await published(both.database) for e in events.told(message) for tag in e.tags}
    assert {(one, "wealthy"), (one, "hobbies"), (third, "income_band")} <= told


async def test_cars_are_matched_by_the_hash_of_their_vin(both: Partnered) -> None:
    (seen,) = await both.see(("app", ("crm_id", "app", "U1"), ("vin", VIN), {"who": "张伟", "relation": "owns"}))
    path = both.file("cars.csv", [f"{hashed(VIN)},2027-01-31"], head="car,until")
    text = "partner: acme\nmatch: {column: car, kind: vin}\ntime: 2026-03-01\ntags: {insured_until: until}"
    assert jobs.DONE == (await both.take_in(path, text)).state
    assert {seen.vehicle.entity_id: {"insured_until": 1_801_353_600.0}} == await tags(both.database, Kind.VEHICLE)


async def test_parquet_is_taken_in_with_its_own_types(both: Partnered) -> None:
    one, other = await both.customers(2)
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    table = pa.table(
        {
            "phone": pa.array([bytes.fromhex(hashed(f"+86{MOBILES[n]}")) for n in range(2)], pa.binary(32)),
            "as_of": pa.array([midnight, midnight], pa.timestamp("ns", "UTC")),
            "sure": pa.array([0.5, 1.5], pa.float32()),
            "income": pa.array([3, 1], pa.int8()),
            "heads": pa.array([None, 2], pa.int64()),
            "loan": pa.array([True, None]),
            "hobby": pa.array([["tea", "golf"], []], pa.list_(pa.string())),
            "moved": pa.array([date(2026, 2, 28), None]),
            "remark": pa.array(["fine", None]),
        }
    )
    path = both.folder / "june.parquet"
    pq.write_table(table, path)
    done = await both.take_in(path, MAPPING)
    assert (jobs.DONE, 2, 2, 1, 1) == (done.state, done.lines, done.lines_done, done.counts.matched, done.counts.refused_lines)
    assert [(2, "sure", "INVALID_CONFIDENCE")] == await both.faults(done.id)
    found = await tags(both.database)
    assert {} == found[other]
    assert {"income_band": "high", "car_loan": True, "hobbies": ["golf", "tea"], "remark": "fine", "wealthy": True} == found[
        one
    ]
    # What was said of a move in March was to be kept for thirty days.
    assert (4, 1) == (done.counts.values_new, done.counts.values_unchanged)


async def test_each_fact_knows_its_partner_file_and_line(both: Partnered) -> None:
    (person,) = await both.customers(1)
    june = await both.take_in(both.file("june.csv", [line("13700000000"), line(MOBILES[0], "3")]), MAPPING)
    july = await both.take_in(
        both.file("july.csv", [line(MOBILES[0], "low", at="2026-04-01", sure="0.5", partner="bravo")]), BRAVO
    )
    async with both.database.read() as uow:
        facts = await provenance.facts_of(uow, RULES, Kind.PERSON, person)
    assert [
        ("income_band", "low", "bravo", july.id, july.file_sha256, 2, 0.5, True),
        ("income_band", "high", "acme", june.id, june.file_sha256, 3, 1.0, False),
    ] == [(f.tag, f.value, f.partner, f.import_id, f.sha256, f.line, f.confidence, f.counts) for f in facts]
    assert SHANGHAI_MARCH_US == facts[1].occurred_us


async def test_the_order_of_files_does_not_matter(databases: DatabaseFactory, both: Partnered) -> None:
    await both.customers(2)
    deliveries = [
        ([line(MOBILES[0], "1", heads="1", loan="no", hobby="a", sure="0.3"), line(MOBILES[1], "2", heads="5")], MAPPING),
        ([line(MOBILES[0], "low", "2026-05-01", "0.9", "bravo", heads="2", loan="yes", hobby="b")], BRAVO),
        ([line(MOBILES[0], "ours", "2025-01-01", "0.5", "ours", heads="3", loan="no", hobby="c")], OURS),
    ]
    made = [(both.file(f"{n}.csv", lines), text) for n, (lines, text) in enumerate(deliveries)]
    first = None
    for order in itertools.permutations(made):
        done = [await both.take_in(path, text) for path, text in order]
        found = await tags(both.database)
        first = first or found
        assert first == found
        for job in done:
            assert jobs.UNDONE == (await both.undo(job.id)).state
        assert {} == {k: v for facts in (await tags(both.database)).values() for k, v in facts.items()}
    assert {"income_band": "low", "household_size": 2.0, "car_loan": False, "hobbies": ["c"], "wealthy": False} in (
        first or {}
    ).values()


async def test_a_file_is_taken_in_once(both: Partnered) -> None:
    await both.customers(2)
    path = both.file("june.csv", [line(MOBILES[n], "3") for n in range(2)])
    done = await both.take_in(path, MAPPING)
    before = await both.tables()
    path.rename(path.with_name("copy.csv"))
    again = await both.take_in(path.with_name("copy.csv"), "# the same\n" + MAPPING)
    assert (jobs.FAILED, "ALREADY_IMPORTED") == (again.state, again.reason)
    assert before == await both.tables()
    await both.undo(done.id)
    assert Counts(matched=2, values_new=2) == (await both.take_in(path.with_name("copy.csv"), MAPPING)).counts


async def test_an_import_that_was_killed_goes_on_where_it_was(both: Partnered) -> None:
    await both.customers(20)
    path = both.file(
        "june.csv", [*(line(MOBILES[n % 20], str(1 + n % 3), heads="x" if n % 7 == 0 else "2") for n in range(30))]
    )
    job = await both.queue(path, MAPPING)

    def kill(told: Any) -> None:
        if told.lines_done > 10:
            task.cancel()

    task = asyncio.create_task(both.importer(3).work(job, kill))
    with pytest.raises(asyncio.CancelledError):
        await task
    stopped = await both.job(job.id)
    assert jobs.RUNNING == stopped.state and 10 < stopped.lines_done < 30
    assert await jobs.claim(both.database, ["file"]) is None
    async with both.database.transaction() as uow:
        await uow.execute("UPDATE import_job SET leased_until = now() - interval '1 second'")
    taken = await jobs.claim(both.database, ["file"])
    assert taken is not None
    await both.importer(4).work(taken)
    done, found, faults = await both.job(job.id), await tags(both.database), await both.faults(job.id)
    await both.undo(job.id)
    whole = await both.take_in(path, MAPPING)
    assert (jobs.DONE, whole.counts, whole.lines_done) == (done.state, done.counts, done.lines_done)
    assert found == await tags(both.database) and faults == await both.faults(whole.id)


async def test_a_file_that_changed_meanwhile_does_not_go_on(both: Partnered) -> None:
    await both.customers(1)
    path = both.file("june.csv", [line(MOBILES[0], "3")])
    job = await both.queue(path, MAPPING)
    await jobs.begin(both.database, job, b"another", 1)
    await both.importer().work(await both.job(job.id))
    assert (jobs.FAILED, "FILE_CHANGED") == ((await both.job(job.id)).state, (await both.job(job.id)).reason)


async def test_two_that_work_on_one_import_count_every_line_once(both: Partnered) -> None:
    await both.customers(20)
    path = both.file("june.csv", [line(MOBILES[n], "3") for n in range(20)])
    job = await both.queue(path, MAPPING)
    await asyncio.gather(*(both.importer(2).work(job) for _ in range(3)))
    done = await both.job(job.id)
    assert (jobs.DONE, Counts(matched=20, values_new=20)) == (done.state, done.counts)


async def test_a_dry_run_says_what_would_happen_and_changes_nothing(both: Partnered) -> None:
    await both.customers(3)
    await both.take_in(both.file("may.csv", [line(MOBILES[0], "1"), line(MOBILES[1], "2")]), MAPPING)
    path = both.file("june.csv", [*(line(MOBILES[n], "2", at="2026-04-01") for n in range(3)), line("13700000000", "4")])
    before = await both.tables()
    tried = await both.take_in(path, MAPPING, dry_run=True)
    assert before == await both.tables()
    done = await both.take_in(path, MAPPING)
    assert jobs.DONE == tried.state == done.state
    assert Counts(matched=3, unmatched=1, values_new=1, values_changed=1, values_unchanged=1, values_refused=1) == done.counts
    assert done.counts == tried.counts and await both.faults(done.id) == await both.faults(tried.id)


@pytest.mark.parametrize("chunk_lines", [1, 2000])
async def test_two_lines_on_one_person_and_tag_are_told_and_the_rule_of_the_tag_chooses(
    both: Partnered, chunk_lines: int
) -> None:
    await both.see(("app", ("crm_id", "app", "U1"), ("mobile", MOBILES[0]), ("mobile", MOBILES[1])))
    lines = [
        line(MOBILES[0], "1", at="2026-02-01"),
        line(MOBILES[1], "3", at="2026-03-01", heads="2"),
        line(MOBILES[0], "2", at="2026-01-01"),
    ]
    done = await both.take_in(both.file("june.csv", lines), MAPPING, chunk_lines=chunk_lines)
    assert [(3, "income", "SAME_ENTITY_AND_TAG"), (4, "income", "SAME_ENTITY_AND_TAG")] == await both.faults(done.id)
    assert 2 == done.counts.values_repeated
    assert [{"income_band": "high", "household_size": 2.0, "wealthy": True}] == list((await tags(both.database)).values())


async def test_a_dry_run_tells_of_lines_on_one_person_however_far_apart(both: Partnered) -> None:
    await both.customers(2)
    path = both.file("june.csv", [line(MOBILES[0], "1"), line(MOBILES[1], "2"), line(MOBILES[0], "3", at="2026-04-01")])
    tried, done = [await both.take_in(path, MAPPING, dry_run=dry, chunk_lines=1) for dry in (True, False)]
    assert Counts(matched=3, values_new=2, values_repeated=1) == tried.counts == done.counts
    assert [(4, "income", "SAME_ENTITY_AND_TAG")] == await both.faults(tried.id) == await both.faults(done.id)


async def test_an_import_that_waits_for_identity_can_be_taken_back(both: Partnered) -> None:
    await both.identity.see(("app", ("crm_id", "app", "U1"), ("mobile", MOBILES[0])))
    job = await both.queue(both.file("june.csv", [line(MOBILES[0], "3")]), MAPPING)
    async with connected(both.target) as channel:
        waiting = Importer(both.database, RULES, Matcher(channel, patient=True), ImportFiles(None), beat_s=0.02)
        working = asyncio.create_task(waiting.work(job))
        await asyncio.sleep(0.3)
        assert (False, jobs.RUNNING) == (working.done(), (await both.job(job.id)).state)
        undoing = await both.undo(job.id)
        async with asyncio.timeout(5):
            await working
    assert jobs.UNDONE == undoing.state == (await both.job(job.id)).state


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


async def test_an_import_that_is_undone_while_it_runs_stops(both: Partnered) -> None:
    await both.customers(20)
    path = both.file("june.csv", [line(MOBILES[n], "3") for n in range(20)])
    job = await both.queue(path, MAPPING)
    undoing: list[asyncio.Task[Any]] = []

    def meanwhile(told: Any) -> None:
        if told.lines_done > 5 and not undoing:
            undoing.append(asyncio.create_task(both.undo(job.id)))

    await both.importer(1).work(job, meanwhile)
    await undoing[0]
    assert jobs.UNDONE == (await both.job(job.id)).state
    assert {} == {tag: v for facts in (await tags(both.database)).values() for tag, v in facts.items()}


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


async def test_an_anchor_that_the_bus_has_not_told_of_yet_is_known_from_then_on(both: Partnered) -> None:
    world = both.identity
    (seen,) = await world.see(("app", ("crm_id", "app", "U1"), ("mobile", MOBILES[0])))
    await both.tell()
    done = await both.take_in(both.file("june.csv", [line(MOBILES[0], "3")]), MAPPING)
    assert Counts(matched=1, values_new=1) == done.counts
    assert {seen.person.entity_id: {"income_band": "high", "wealthy": True}} == await tags(both.database)


async def test_a_front_desks_phone_matches_nobody(both: Partnered) -> None:
    await both.customers(1)
    known: Any = both.identity.vault.known("mobile", "", MOBILES[0])
    async with both.identity.database.transaction() as uow:
        await set_aside(uow, both.identity.store, both.identity.vault, [known], Reason.REGISTERED, "desk")
    await both.tell()
    assert (0, 1) == (
        (done := await both.take_in(both.file("june.csv", [line(MOBILES[0], "3")]), MAPPING)).counts.matched,
        done.counts.unmatched,
    )


@pytest.mark.parametrize(
    ("content", "text", "reason"),
    [
        (b"phone,as_of\nx,y\n", MAPPING, "UNKNOWN_COLUMN"),
        ("phone,as_of,sure,income,heads,loan,hobby,moved,remark\nx,y,低\n".encode("gbk"), MAPPING, "INVALID_ENCODING"),
        (b"PAR1garbage", MAPPING, "BROKEN_PARQUET"),
        (b"", MAPPING, "EMPTY_FILE"),
    ],
)
async def test_a_broken_file_fails_with_its_reason_and_applies_nothing(
    both: Partnered, content: bytes, text: str, reason: str
) -> None:
    await both.customers(1)
    path = both.folder / "broken"
    path.write_bytes(content)
    before = await both.tables()
    failed = await both.take_in(path, text)
    assert (jobs.FAILED, reason, 0) == (failed.state, failed.reason, failed.lines_done)
    assert before == await both.tables()


async def test_a_file_that_breaks_in_its_last_line_applies_nothing(both: Partnered) -> None:
    await both.customers(3)
    path = both.file("june.csv", [*(line(MOBILES[n], "3") for n in range(3)), '"never closed'])
    failed = await both.take_in(path, MAPPING, chunk_lines=1)
    assert (jobs.FAILED, "INVALID_CSV", Counts()) == (failed.state, failed.reason, failed.counts)
    assert {} == {tag: v for facts in (await tags(both.database)).values() for tag, v in facts.items()}


async def test_what_identity_asks_to_wait_for_ends_no_import(both: Partnered, tmp_path: Path) -> None:
    await both.identity.see(("app", ("crm_id", "app", "U1"), ("mobile", MOBILES[0])))
    job = await both.queue(both.file("june.csv", [line(MOBILES[0], "3")]), MAPPING)
    with pytest.raises(FailedPrecondition) as not_ready:
        await both.importer().work(job)
    assert ("HASHES_NOT_READY", jobs.RUNNING) == (not_ready.value.reason, (await both.job(job.id)).state)
    async with partnered(both.identity, both.database, tmp_path, Limits(0, 0)) as tight:
        await tight.tell()
        with pytest.raises(ResourceExhausted) as limit:
            await tight.importer().work(await both.job(job.id))
        assert "MATCHING_LIMIT" == limit.value.reason
    taken = await jobs.claim(both.database, ["file"])
    assert taken is not None and taken.id == job.id
    await both.importer().work(taken)
    done = await both.job(job.id)
    assert (jobs.DONE, Counts(matched=1, values_new=1)) == (done.state, done.counts)


async def test_a_partner_without_a_key_fails(both: Partnered) -> None:
    await both.customers(1)
    async with matching_server(both.identity, Limits(9, 9), Partners({}, b"h" * 32)) as target, connected(target) as channel:
        job = await both.queue(both.file("june.csv", [line(MOBILES[0], "3")]), MAPPING)
        await Importer(both.database, RULES, Matcher(channel), ImportFiles(None)).work(job)
    assert (jobs.FAILED, "UNKNOWN_PARTNER") == ((await both.job(job.id)).state, (await both.job(job.id)).reason)


async def test_neither_hashes_nor_values_reach_a_log_or_a_message(both: Partnered, caplog: pytest.LogCaptureFixture) -> None:
    await both.customers(1)
    caplog.set_level(logging.DEBUG)
    secret = "very-private-remark"
    done = await both.take_in(both.file("june.csv", [line(MOBILES[0], secret, remark=secret), line(MOBILES[0])[1:]]), MAPPING)
    failed = await both.take_in(both.file("broken.csv", [line(MOBILES[0], secret), f'"{secret}']), MAPPING)
    assert (jobs.DONE, jobs.FAILED) == (done.state, failed.state)
    said = caplog.text + str(caplog.records) + failed.message + str(await both.faults(done.id))
    for each in (secret, hashed(f"+86{MOBILES[0]}")[:16], MOBILES[0]):
        assert each not in said
    async with both.database.read() as uow:
        for table in tables.metadata.tables:
            for row in await uow.rows(f"SELECT CAST(t AS text) AS content FROM {table} t"):
                assert hashed(f"+86{MOBILES[0]}")[:16] not in row.content and MOBILES[0] not in row.content, table
