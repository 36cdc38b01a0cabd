"""Partners' files end to end: matched, kept by anchor, derived, told."""

from __future__ import annotations

import itertools
import logging
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chassis.testing import DatabaseFactory
from services.identity.domain.kinds import Reason
from services.identity.sharing import set_aside
from services.tags import events, tables
from services.tags.domain.catalogue import Kind
from services.tags.imports import jobs, provenance
from services.tags.imports.jobs import Counts
from tests.integration.identity.erasing import VIN
from tests.integration.tags.importing import BRAVO, MOBILES, RULES, Partnered, hashed, line
from tests.integration.tags.world import published, tags
from tests.unit.tags.imports.catalogue import MAPPING

OURS = BRAVO.replace("bravo", "ours")

SHANGHAI_MARCH_US = 1_772_294_400_000_000


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
