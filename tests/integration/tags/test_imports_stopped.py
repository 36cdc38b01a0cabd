"""Imports that are killed, doubled, kept waiting, refused or broken: each line counts once or not at all."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from chassis.errors import FailedPrecondition, ResourceExhausted
from services.identity.matching import Limits
from services.identity.partners import Partners
from services.tags.imports import jobs
from services.tags.imports.files import ImportFiles
from services.tags.imports.jobs import Counts
from services.tags.imports.matching import Matcher
from services.tags.imports.running import Importer
from tests.integration.identity.matching import matching_server
from tests.integration.tags.importing import MOBILES, RULES, Partnered, connected, line, partnered
from tests.integration.tags.world import tags
from tests.unit.tags.imports.catalogue import MAPPING


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
