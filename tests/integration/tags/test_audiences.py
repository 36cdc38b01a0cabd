"""Named audiences on real PostgreSQL and JetStream: what is told of them, once, and their names."""

from __future__ import annotations

import asyncio

import grpc
from troika.tags.v1 import audience_service_pb2 as pb
from troika.tags.v1 import events_pb2

from chassis.bus import Bus
from chassis.db import Database
from tests.integration.tags.audience_house import House, create, ids, record, refused, replica
from tests.integration.tags.world import changed, erasure, event, resolved


def moves(told: list[events_pb2.AudienceChange]) -> list[tuple[str, list[int], list[int], int]]:
    return [(change.reason, ids(change.entered), ids(change.left), change.count) for change in told]


async def test_an_audience_is_told_whole_then_by_difference_then_ended(house: House, database: Database) -> None:
    await record(database, 1, 1, age=20)
    await record(database, 2, 2, age=40)
    await house.settled()
    made = await house.audiences.CreateAudience(create())
    assert (1, 1, 1, 0) == (made.audience.version, made.size.after, made.size.entering, made.size.before)
    assert [("definition", [1], [], 1)] == moves(await house.told())
    assert [] == await house.told()
    await record(database, 3, 2, age=29)
    await record(database, 4, 1, age=31)
    assert [("data", [2], [1], 1)] == moves(await house.told())
    update = pb.UpdateAudienceRequest(name="young", predicate="age < 40", owner="marketing", version=1, dry_run=True)
    would = await house.audiences.UpdateAudience(update)
    assert (1, 2, 1, 0) == (would.size.before, would.size.after, would.size.entering, would.size.leaving)
    assert [] == await house.told()
    update.dry_run = False
    assert 2 == (await house.audiences.UpdateAudience(update)).audience.version
    told = await house.told()
    assert ([("definition", [1], [], 2)], [2], [3]) == (moves(told), [t.version for t in told], [t.number for t in told])
    await house.audiences.DeleteAudience(pb.DeleteAudienceRequest(name="young"))
    assert [("deleted", [], [], 0)] == moves(await house.told())
    assert [] == await house.told()
    got = await house.audiences.GetAudience(pb.GetAudienceRequest(name="young"))
    assert ([2, 1], "operator") == ([each.version for each in got.versions], got.versions[0].caller)


async def test_after_a_restart_only_the_difference_is_told(house: House, database: Database, bus: Bus) -> None:
    await record(database, 1, 1, age=20)
    await house.audiences.CreateAudience(create())
    assert [("definition", [1], [], 1)] == moves(await house.told())
    await record(database, 2, 70_000, age=21)
    await house.settled()
    async with replica(database, bus) as other:
        assert [("data", [70_000], [], 2)] == moves(await other.told())
        # The one before does not know that, and looks.
        assert [] == await house.told()
        await record(database, 3, 1, age=50)
        await house.settled()
        await other.settled()
        both = [*await house.told(), *await other.told()]
        assert [("data", [], [1], 1)] == moves(both)
        assert [3] == [change.number for change in both]


async def test_one_replica_tells_at_a_time_and_another_takes_over(house: House, database: Database, bus: Bus) -> None:
    await record(database, 1, 1, age=20)
    await house.audiences.CreateAudience(create())
    await house.settled()

    async def numbers() -> int:
        rows = await database.fetch("SELECT coalesce(max(number), 0) FROM audience_told")
        return int(rows[0][0])

    async def reach(number: int) -> None:
        async with asyncio.timeout(20):
            while await numbers() < number:
                await asyncio.sleep(0.05)

    async with replica(database, bus) as other:
        tasks = [asyncio.create_task(task) for one in (house, other) for task in (one.teller.run(), one.live.run())]
        await reach(1)
        followed = [bool(one.teller._followed) for one in (house, other)]
        assert [False, True] == sorted(followed)
        leader = followed.index(True)
        tasks[2 * leader].cancel()
        await record(database, 2, 2, age=25)
        while await house.relay.relay_once():
            pass
        await reach(2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_relations_move_members_of_the_other_kind(house: House, database: Database) -> None:
    await record(database, 1, 1, 7, age=20)
    await record(database, 2, 2, 1, age=20)
    await house.audiences.CreateAudience(create("far", "ANY(vehicle, mileage_km > 60000)"))
    assert [("definition", [1], [], 1)] == moves(await house.told())
    await resolved(
        database,
        event(3, "Record Updated", source="dealer:D001", vehicle=(5001, 1, 1), vehicle_properties={"mileage_km": 61_000}),
    )
    assert [("data", [2], [], 2)] == moves(await house.told())


async def test_who_is_erased_leaves(house: House, database: Database) -> None:
    await record(database, 1, 1, age=20)
    await house.audiences.CreateAudience(create())
    await house.told()
    await changed(database, erasure(1, 1001))
    assert [("data", [], [1], 0)] == moves(await house.told())
    assert [] == list(await database.fetch("SELECT * FROM audience_member"))


async def test_sizes_are_kept_over_time(house: House, database: Database) -> None:
    await record(database, 1, 1, age=20)
    await house.audiences.CreateAudience(create())
    await house.told()
    await house.teller.sample()
    sizes = (await house.audiences.ListAudienceSizes(pb.ListAudienceSizesRequest(name="young"))).sizes
    assert [(1, 1, 1)] == [(each.count, each.base, each.version) for each in sizes]


async def test_names_are_kept(house: House) -> None:
    first = await house.audiences.CreateAudience(create())
    again = await house.audiences.CreateAudience(create())
    assert first.audience == again.audience
    assert 0 == (await house.audiences.CreateAudience(create("other", dry_run=True))).audience.audience_id
    listed = await house.audiences.ListAudiences(pb.ListAudiencesRequest(page_size=1))
    assert (["young"], "") == ([each.name for each in listed.audiences], listed.next_page_token)
    await house.audiences.DeleteAudience(pb.DeleteAudienceRequest(name="young"))
    failed = grpc.StatusCode.FAILED_PRECONDITION
    assert (failed, "NAME_TAKEN", "name") == await refused(house.audiences.CreateAudience(create(predicate="age < 31")))
