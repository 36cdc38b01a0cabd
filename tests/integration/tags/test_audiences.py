"""Audiences at the door: previews, explanations, names, and what is told of them, on real PostgreSQL and JetStream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from pyroaring import BitMap
from troika.identity.v1 import events_pb2 as identity
from troika.tags.v1 import audience_service_pb2 as pb
from troika.tags.v1 import events_pb2, tags_service_pb2

from chassis import rpc
from chassis.bus import Bus
from chassis.db import Database
from services.tags import events
from services.tags.audiences.live import Change
from tests.integration.tags.audience_house import House, replica, until
from tests.integration.tags.world import changed, erasure, event, resolved

PERSON, VEHICLE = identity.ENTITY_KIND_PERSON, identity.ENTITY_KIND_VEHICLE
YOUNG = "age < 30"


@pytest.fixture
async def house(database: Database, bus: Bus) -> AsyncIterator[House]:
    await bus.declare(*events.STREAMS)
    async with replica(database, bus) as one:
        yield one


async def record(database: Database, number: int, person: int, vehicle: int = 0, **properties: Any) -> None:
    """What a record says of a person, whose anchor is its id and thousand, and of a car that the person owns."""
    stated = event(
        number,
        "Record Updated",
        source="dealer:D001",
        person=(1000 + person, person, 1),
        vehicle=(5000 + vehicle, vehicle, 1) if vehicle else (0, 0, 0),
        relation="owns" if vehicle else "",
        properties=properties,
        vehicle_properties={"mileage_km": 10_000 * vehicle} if vehicle else None,
    )
    await resolved(database, stated)


def ids(packed: bytes) -> list[int]:
    found: list[int] = np.frombuffer(packed, "<u4").tolist()
    return found


def create(name: str = "young", predicate: str = YOUNG, **more: Any) -> pb.CreateAudienceRequest:
    return pb.CreateAudienceRequest(name=name, entity_kind=PERSON, predicate=predicate, owner="marketing", **more)


def moves(told: list[events_pb2.AudienceChange]) -> list[tuple[str, list[int], list[int], int]]:
    return [(change.reason, ids(change.entered), ids(change.left), change.count) for change in told]


async def refused(call: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    return caught.value.code(), *rpc.reason_of(caught.value)


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


async def test_watching_tells_where_it_starts_then_what_changes(house: House, database: Database) -> None:
    await record(database, 1, 1, age=20)
    await house.settled()
    running = asyncio.create_task(house.live.run())
    call = house.audiences.WatchAudience(
        pb.WatchAudienceRequest(entity_kind=PERSON, predicate=YOUNG, with_members=True), timeout=30
    )
    first, there = await call.read(), await call.read()
    assert (1, [1], False) == (first.start.count, ids(there.change.entered), there.change.more)
    await record(database, 2, 2, age=25)
    await record(database, 3, 1, age=35)
    while await house.relay.relay_once():
        pass
    entered, left = set[int](), set[int]()
    while not (entered and left):
        message = await call.read()
        entered |= set(ids(message.change.entered))
        left |= set(ids(message.change.left))
    assert ({2}, {1}) == (entered, left)
    call.cancel()
    await until(lambda: not house.live.keys)
    running.cancel()


async def test_watching_a_name_follows_its_definition_to_its_end(house: House, database: Database) -> None:
    await record(database, 1, 1, age=20)
    await record(database, 2, 2, age=35)
    await house.settled()
    await house.audiences.CreateAudience(create())
    call = house.audiences.WatchAudience(pb.WatchAudienceRequest(audience="young"), timeout=30)
    assert (1, 1) == ((start := (await call.read()).start).count, start.version)
    await house.audiences.UpdateAudience(
        pb.UpdateAudienceRequest(name="young", predicate="age BETWEEN 30 AND 40", owner="m", version=1)
    )
    await house.settled()
    change = (await call.read()).change
    assert ([2], [1], 2) == (ids(change.entered), ids(change.left), change.version)
    await house.audiences.DeleteAudience(pb.DeleteAudienceRequest(name="young"))
    await house.settled()
    assert (grpc.StatusCode.NOT_FOUND, "AUDIENCE_ENDED", "audience") == await refused(call)


async def test_a_watch_may_have_an_end(house: House) -> None:
    call = house.audiences.WatchAudience(pb.WatchAudienceRequest(entity_kind=PERSON, duration_s=1), timeout=30)
    kinds = [message.WhichOneof("kind") async for message in call]
    assert "start" == kinds[0] and set(kinds[1:]) <= {"heartbeat"}


async def test_a_reader_that_stops_reading_is_cut_off(house: House) -> None:
    call = house.audiences.WatchAudience(pb.WatchAudienceRequest(entity_kind=PERSON), timeout=60)
    await call.read()
    (followed,) = house.live._followed.values()
    (watch,) = followed.watches
    many = Change(BitMap(range(1, 100_001)), BitMap(), 1, 0.0, 100_000, 0)
    told = 0
    while watch._end is None and told < 1_000:
        watch.offer(many)
        told += 1
        await asyncio.sleep(0.002)
    heard = 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while True:
            await call.read()
            heard += 1
    assert (grpc.StatusCode.RESOURCE_EXHAUSTED, "READER_TOO_SLOW") == (caught.value.code(), rpc.reason_of(caught.value)[0])
    assert heard < told
    await until(lambda: not house.live.keys)


async def test_explanations_agree_with_the_index_over_the_database(house: House, database: Database) -> None:
    draw = Random(5)
    stated = []
    for number in range(1, 61):
        person, vehicle = draw.randint(1, 12), draw.randint(1, 9)
        stated.append(
            event(
                number,
                draw.choice(("Record Updated", "Model Viewed", "App Opened")),
                source=draw.choice(("dealer:D001", "app", "wechat:wx1")),
                person=(1000 + person, person, 1),
                vehicle=(5000 + vehicle, vehicle, 1) if draw.random() < 0.5 else (0, 0, 0),
                relation=draw.choice(("owns", "drives")),
                at=int(time.time()) - draw.randint(0, 40) * 86_400,
                properties={"age": draw.randint(18, 60), "job": draw.choice(("student", "retired"))},
                vehicle_properties={"mileage_km": 10_000 * draw.randint(0, 12), "model": draw.choice(("X5", "i3"))},
            )
        )
    await resolved(database, *stated)
    await house.settled()
    for text in (
        "age < 30 OR job = 'student'",
        "NOT (age < 30) AND has_app",
        "ANY(vehicle, mileage_km > 60000)",
        "ALL(vehicle, model = 'X5')",
        "COUNT(vehicle, mileage_km > 30000) >= 2",
        "ANY(vehicle, ANY(person, age > 40) AND model = 'i3')",
        "ANY(vehicle, owner.age < 40)",
        "NOW() - last_seen_at < INTERVAL '14 days'",
        "(age > 30 AND has_wechat) IS NOT TRUE",
        "age + 2 * app_opens > 40",
        "offer_answer IS NULL AND job <> 'student'",
    ):
        stream = house.tags.StreamAudience(tags_service_pb2.StreamAudienceRequest(entity_kind=PERSON, predicate=text))
        members = {entity_id async for chunk in stream for entity_id in chunk.entity_ids}
        for person in {each.person.entity_id for each in stated}:
            request = pb.ExplainMembershipRequest(entity_kind=PERSON, entity_id=person, predicate=text)
            assert (person in members) == (await house.audiences.ExplainMembership(request)).member, (text, person)


async def test_a_preview_counts_breaks_down_reaches_and_samples(house: House, database: Database) -> None:
    await record(database, 1, 1, age=20, job="student")
    await record(database, 2, 2, age=25, job="services")
    await record(database, 3, 3, age=50, job="services")
    await resolved(database, event(4, source="app", person=(1001, 1, 1)), event(5, source="app", person=(1002, 2, 1)))
    refusal = identity.ConsentChange(
        anchor_id=1002, person_id=2, channel="app", opted_out=True, stated_at_us=5, purpose="marketing"
    )
    await changed(database, identity.EntitiesChanged(consent_changes=[refusal]))
    await house.settled()
    seen = await house.audiences.PreviewAudience(
        pb.PreviewAudienceRequest(entity_kind=PERSON, predicate="age < 30", tags=["job", "age"], sample_size=5)
    )
    assert (2, 3, {1, 2}) == (seen.count, seen.base, set(seen.sample_ids))
    job = {value.predicate: (value.count, value.base_count) for value in seen.breakdown[0].values}
    assert {"job = 'student'": (1, 1), "job = 'services'": (1, 2)} == job
    reach = {each.channel: (each.addressable, each.allowed) for each in seen.reach}
    assert {"app": (2, 1), "wechat": (0, 0), "dealer": (2, 2)} == reach
    assert 2 == seen.reachable


async def test_an_explanation_names_what_decided(house: House, database: Database) -> None:
    await record(database, 1, 1, 7, age=20)
    await house.settled()
    text = "age < 30 AND ANY(vehicle, mileage_km > 60000) AND (job = 'student' OR offer_answer IS NULL)"
    request = pb.ExplainMembershipRequest(entity_kind=PERSON, entity_id=1, predicate=text)
    answer = await house.audiences.ExplainMembership(request)
    assert answer.member
    assert ["age < 30", "ANY(vehicle, mileage_km > 60000)", "offer_answer IS NULL"] == list(answer.decisive)
    age, cars, _ = answer.explanation.parts
    assert (pb.TRUTH_TRUE, "age", 20.0) == (age.truth, age.values[0].tag, age.values[0].value.number)
    assert [(VEHICLE, 7)] == [(each.entity_kind, each.entity_id) for each in cars.related]
    out = pb.ExplainMembershipRequest(entity_kind=PERSON, entity_id=1, predicate="job = 'student' AND age < 30")
    answer = await house.audiences.ExplainMembership(out)
    assert (False, ["job = 'student'"]) == (answer.member, list(answer.decisive))
    assert pb.TRUTH_UNKNOWN == answer.explanation.truth
    assert not answer.explanation.parts[0].values[0].HasField("value")
    await house.audiences.CreateAudience(create())
    named = pb.ExplainMembershipRequest(entity_kind=PERSON, entity_id=1, audience="young")
    assert (await house.audiences.ExplainMembership(named)).member


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


async def test_wrong_questions_get_typed_answers(house: House) -> None:
    await house.audiences.CreateAudience(create())
    stub, invalid = house.audiences, grpc.StatusCode.INVALID_ARGUMENT
    update = pb.UpdateAudienceRequest(name="young", predicate=YOUNG, owner="m", version=7)
    explain = pb.ExplainMembershipRequest(entity_kind=PERSON, entity_id=9, predicate=YOUNG)
    for call, expected in (
        (stub.CreateAudience(create("bad", "agee < 1")), (invalid, "UNKNOWN_TAG", "predicate")),
        (stub.CreateAudience(create("bad", "age < 'x'", dry_run=True)), (invalid, "TYPE_MISMATCH", "predicate")),
        (stub.CreateAudience(create("bad", "age / 0 > 1")), (invalid, "DIVISION_BY_ZERO", "predicate")),
        (stub.CreateAudience(create("Bad!")), (invalid, "INVALID_ARGUMENT", "name")),
        (stub.UpdateAudience(update), (grpc.StatusCode.FAILED_PRECONDITION, "VERSION_CHANGED", "version")),
        (stub.GetAudience(pb.GetAudienceRequest(name="nosuch")), (grpc.StatusCode.NOT_FOUND, "AUDIENCE_NOT_FOUND", "name")),
        (stub.ExplainMembership(explain), (grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "entity_id")),
        (
            stub.PreviewAudience(pb.PreviewAudienceRequest(entity_kind=PERSON, tags=["age", "agee"])),
            (invalid, "UNKNOWN_TAG", "tags[1]"),
        ),
        (
            stub.PreviewAudience(pb.PreviewAudienceRequest(entity_kind=PERSON, predicate="age <")),
            (invalid, "SYNTAX", "predicate"),
        ),
        (stub.WatchAudience(pb.WatchAudienceRequest(predicate=YOUNG)), (invalid, "INVALID_ARGUMENT", "entity_kind")),
        (
            stub.WatchAudience(pb.WatchAudienceRequest(entity_kind=PERSON, predicate="SUM(age) > 1")),
            (invalid, "UNSUPPORTED", "predicate"),
        ),
        (
            stub.WatchAudience(pb.WatchAudienceRequest(audience="nosuch")),
            (grpc.StatusCode.NOT_FOUND, "AUDIENCE_NOT_FOUND", "audience"),
        ),
        (stub.CreateAudience(create("big", " OR ".join(["age < 1"] * 1_500))), (invalid, "TOO_COMPLEX", "predicate")),
        (stub.CreateAudience(create("huge", " OR ".join(["age < 1"] * 10_000))), (invalid, "INVALID_ARGUMENT", "predicate")),
        (
            stub.CreateAudience(create("deep", "(" * 500 + "age < 1" + ")" * 500)),
            (invalid, "TOO_COMPLEX", "predicate"),
        ),
    ):
        assert expected == await refused(call)
    assert ["young"] == [each.name for each in (await stub.ListAudiences(pb.ListAudiencesRequest())).audiences]


async def test_an_error_in_a_predicate_says_where(house: House) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.audiences.PreviewAudience(pb.PreviewAudienceRequest(entity_kind=PERSON, predicate="has_app AND agee < 1"))
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    assert status and any(detail.Unpack(info) for detail in status.details)
    assert ("13", "predicate") == (info.metadata["position"], info.metadata["field"])


async def test_ids_stream_packed_and_by_page(house: House, database: Database) -> None:
    for number in range(1, 8):
        await record(database, number, number, age=20)
    await house.settled()
    asked: dict[str, Any] = {"entity_kind": PERSON, "predicate": YOUNG}
    stream = house.tags.StreamAudience(tags_service_pb2.StreamAudienceRequest(**asked, packed=True))
    assert [1, 2, 3, 4, 5, 6, 7] == [each async for chunk in stream for each in ids(chunk.packed_ids)]
    pages: list[list[int]] = []
    token = ""
    while not pages or token:
        chunks = [
            chunk
            async for chunk in house.tags.StreamAudience(
                tags_service_pb2.StreamAudienceRequest(**asked, page_size=3, page_token=token)
            )
        ]
        pages.append([each for chunk in chunks for each in chunk.entity_ids])
        token = chunks[-1].next_page_token
    assert [[1, 2, 3], [4, 5, 6], [7]] == pages
