"""The job behind relations: differences are told once, by any number of jobs, through merges and mistakes."""

from __future__ import annotations

import asyncio

from chassis.testing import DatabaseFactory
from services.identity import households, stewardship
from services.identity.domain.kinds import Space
from services.identity.inference import Inferred, follow, infer, queue_all
from services.identity.stewardship import MergeOrder
from tests.integration.identity.relating import DAY, HOME, LI, OTHER_VIN, VIN, ZHANG, entity, inferred, record
from tests.integration.identity.world import NOW, World


async def test_changes_are_told_once_and_taken_back_when_they_were_never_so(world: World) -> None:
    events = await world.see(record("D001", "1", ZHANG, VIN, who="张伟", relation="owns"))
    zhang, vehicle = events[0].person.entity_id, events[0].vehicle.entity_id
    assert 2 == (await inferred(world)).changes  # owns and serviced_by
    _, changed, _ = await world.published()
    told = [c for message in changed for c in message.relation_changes]
    assert {("owns", zhang, vehicle, 0), ("serviced_by", vehicle, 1, 0)} == {
        (c.kind, c.subject_id, c.object_id, c.valid_to_us) for c in told
    }
    assert Inferred() == await inferred(world)
    await queue_all(world.database)
    assert 0 == (await inferred(world)).changes
    # Another owner, earlier: what was said of Zhang holds on; a sale before takes nothing back, one after ends it.
    await world.see(record("D001", "2", LI, VIN, who="李娜", name="Vehicle Sold", at=NOW + 10 * DAY))
    await inferred(world)
    _, changed, _ = await world.published()
    owns = [c for message in changed for c in message.relation_changes if c.kind == "owns"]
    assert sorted([(zhang, NOW, NOW + 10 * DAY), (events[0].person.entity_id + 1, NOW + 10 * DAY, 0)]) == sorted(
        (c.subject_id, c.valid_from_us, c.valid_to_us) for c in owns
    )


async def test_after_a_merge_relations_are_of_the_one_and_are_told_again(world: World) -> None:
    events = await world.see(
        record("D001", "1", ZHANG, VIN, who="张伟", relation="owns"),
        record("D002", "2", LI, OTHER_VIN, who="张伟", relation="owns", at=NOW + DAY),
    )
    one, two = (event.person.entity_id for event in events)
    assert one != two
    await inferred(world)
    await world.published()
    await world.see(
        ("call_center", ("crm_id", "call_center", "C1"), ("mobile", ZHANG), {"who": "张伟"}),
        ("call_center", ("crm_id", "call_center", "C1"), ("mobile", LI), {"who": "张伟"}),
    )
    survivor = min(one, two)
    assert 2 == len([r for r in (await entity(world, Space.PERSON, survivor)).relations if r.kind == "owns"])
    await inferred(world)
    _, changed, _ = await world.published()
    told = {(c.kind, c.subject_id, c.confidence > 0) for m in changed for c in m.relation_changes}
    assert {("owns", survivor, True), ("owns", max(one, two), False)} == told


async def test_jobs_that_run_at_once_tell_each_change_once(world: World) -> None:
    await world.see(
        *(
            (
                f"dealer:D00{n % 3}",
                ("crm_id", f"dealer:D00{n % 3}", str(n + 1)),
                ("mobile", f"1391234{n + 5000}"),
                ("plate", f"粤B{n + 10000}"),
                {"who": "张伟", "relation": "owns"},
            )
            for n in range(40)
        )
    )
    done = await asyncio.gather(*(infer(world.database, 10) for _ in range(12)))
    assert 80 == sum(each.changes for each in done)
    assert [0] == [row.n for row in await world.rows("SELECT count(*) AS n FROM inference_queue")]
    _, changed, _ = await world.published()
    told = [(c.kind, c.subject_id, c.object_id) for message in changed for c in message.relation_changes]
    assert 80 == len(told) == len(set(told))


async def test_the_service_follows_evidence_by_itself(world: World) -> None:
    following = asyncio.create_task(follow(world.database, 0.05))
    try:
        for number in range(3):
            await world.see(record("D001", "1", ZHANG, VIN, who="张伟", relation="owns", at=NOW + number * DAY))
            async with asyncio.timeout(10):
                while (await world.rows("SELECT count(*) AS n FROM inference_queue"))[0].n:
                    await asyncio.sleep(0.02)
        assert 2 == len(await world.rows("SELECT kind FROM relation"))
        assert not following.done()
    finally:
        following.cancel()


async def test_a_mistake_in_one_look_leaves_the_queue_and_the_service_alive(world: World) -> None:
    await world.see(record("D001", "1", ZHANG, VIN, who="张伟", relation="owns"))
    async with world.database.transaction() as uow:
        await uow.execute("ALTER TABLE relation RENAME TO relation_away")
    following = asyncio.create_task(follow(world.database, 0.05))
    try:
        await asyncio.sleep(0.4)
        assert not following.done()
        assert (await world.rows("SELECT count(*) AS n FROM inference_queue"))[0].n
        async with world.database.transaction() as uow:
            await uow.execute("ALTER TABLE relation_away RENAME TO relation")
        async with asyncio.timeout(10):
            while (await world.rows("SELECT count(*) AS n FROM inference_queue"))[0].n:
                await asyncio.sleep(0.02)
        assert 2 == len(await world.rows("SELECT kind FROM relation"))
    finally:
        following.cancel()


async def test_after_an_unmerge_relations_and_what_was_told_are_as_if_never_merged(
    world: World, databases: DatabaseFactory
) -> None:
    """Two persons become one, more is seen of both, they come apart again; beside it the same without the merge."""
    first = [
        record("D001", "1", ZHANG, VIN, who="张伟", relation="owns", address=HOME),
        record("D001", "2", LI, VIN, who="李娜", relation="drives", address=HOME, at=NOW + DAY),
    ]
    meanwhile = [
        record("D001", "2", LI, OTHER_VIN, who="李娜", name="Vehicle Sold", at=NOW + 20 * DAY),
        record("D002", "9", ZHANG, VIN, who="张伟", name="Service Completed", at=NOW + 30 * DAY),
        ("app", ("crm_id", "app", "U1"), ("mobile", LI), ("device", "phone-of-li"), {"at": NOW + 31 * DAY}),
    ]
    async with databases.database("identity") as other:
        never = World(other)
        for one in (never, world):
            events = await one.see(*((*each[:-1], dict(each[-1])) for each in first))
            zhang, li = (event.person.entity_id for event in events)
            await inferred(one)
            async with one.database.transaction() as uow:
                outcome, _ = await households.decide(uow, 1, True, "operator")
            assert "CREATED" == outcome
            if one is world:
                order = MergeOrder("m1", zhang, [li], 100, "test", "operator")
                async with one.database.transaction() as uow:
                    merged = await stewardship.merge_persons(uow, one.store, order)
                assert ["MERGED"] == [source.outcome for source in merged.outcomes]
                await inferred(one)
            await one.see(*((*each[:-1], dict(each[-1])) for each in meanwhile))
            await inferred(one)
            if one is world:
                both = await entity(one, Space.PERSON, zhang)
                assert {"owns", "drives", "uses", "member_of"} == {r.kind for r in both.relations}
                async with one.database.transaction() as uow:
                    await stewardship.unmerge(uow, one.store, "m1", "test", "operator", False)
                await inferred(one)
        for space, id_ in ((Space.PERSON, zhang), (Space.PERSON, li), (Space.VEHICLE, 1), (Space.VEHICLE, 2)):
            assert (await entity(never, space, id_)).relations == (await entity(world, space, id_)).relations
        told = "SELECT * FROM relation ORDER BY kind, subject_kind, subject_id, object_kind, object_id, valid_from_us"
        expected = [tuple(row) for row in await never.rows(told)]
        assert expected == [tuple(row) for row in await world.rows(told)]
        assert {"owns", "drives", "member_of", "uses", "sold_by", "serviced_by"} == {row[0] for row in expected}
