"""Persons merge, part and are erased; versions change; workers are killed: what becomes of people on their way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from troika.identity.v1 import events_pb2 as identity_pb2

from chassis.bus import Message
from chassis.testing import DatabaseFactory
from services.orchestrator.consumers import follow_entities
from services.orchestrator.journeys import engine, handlers
from services.orchestrator.journeys.enrolments import EnrolmentStore
from services.orchestrator.journeys.handlers import Room
from services.orchestrator.journeys.programs import read
from services.orchestrator.journeys.states import JourneyId
from services.orchestrator.journeys.store import JourneyStore
from tests.integration.orchestrator.journey_world import World, happened, open_world
from tests.integration.orchestrator.test_journeys import PLAIN, journey
from tests.unit.orchestrator.journey_drawing import documents
from tests.unit.orchestrator.journey_reference import walk

SALT = b"0123456789abcdef"
# Person, event, minutes after entering.
HAPPENS = st.tuples(st.integers(1, 3), st.sampled_from("ABG"), st.integers(1, 100 * 60))


@pytest.fixture
async def world(databases: DatabaseFactory) -> AsyncIterator[World]:
    async with open_world(databases) as opened:
        yield opened


async def changed(world: World, **changes: Any) -> None:
    message = identity_pb2.EntitiesChanged(**changes)
    async with world.database.transaction() as uow:
        await follow_entities(uow, [Message("1", "s", message.SerializeToString(), {}, 1)])


async def merge(world: World, survivor: int, other: int, op: int, operation: str = "merge") -> None:
    change = identity_pb2.ClusterChange(
        op_id=op, entity_kind=identity_pb2.ENTITY_KIND_PERSON, operation=operation, survivor_id=survivor, other_id=other
    )
    await changed(world, cluster_changes=[change])


async def under_way(world: World) -> list[tuple[int, int, str]]:
    rows = await world.rows("SELECT person_id, present_id, end_reason FROM enrolment ORDER BY enrolment_id")
    return [tuple(row) for row in rows]


async def test_of_two_enrolments_of_one_human_the_older_goes_on(world: World) -> None:
    await world.start(PLAIN)
    await world.event("Begun", 1)
    world.clock.later(hours=1)
    await world.event("Begun", 2, 3)
    await merge(world, survivor=2, other=1, op=1)
    assert [(1, 2, ""), (2, 2, "merged"), (3, 3, "")] == await under_way(world)
    await merge(world, survivor=3, other=2, op=2)
    assert [(1, 3, ""), (2, 3, "merged"), (3, 3, "merged")] == await under_way(world)
    world.clock.later(days=2)
    await world.tick()
    assert {1: "rested", 2: "merged", 3: "merged"} == await world.ends()
    # Once per person, whoever she was then.
    await world.event("Begun", 1, 2, 3)
    assert 3 == len(await under_way(world))


async def test_who_parts_again_goes_on_as_herself(world: World) -> None:
    await world.start(PLAIN + "goal: {event: Bought}\n")
    await world.event("Begun", 1)
    await merge(world, survivor=2, other=1, op=1)
    await merge(world, survivor=3, other=2, op=2)
    assert [(1, 3, "")] == await under_way(world)
    await merge(world, survivor=3, other=2, op=3, operation="split")
    assert [(1, 2, "")] == await under_way(world)
    await merge(world, survivor=2, other=1, op=4, operation="split")
    assert [(1, 1, "")] == await under_way(world)
    await world.event("Bought", 2, 3)
    assert [(1, 1, "")] == await under_way(world)
    await world.event("Bought", 1)
    assert [(1, 1, "goal")] == await under_way(world)


async def test_orders_of_one_human_stay_apart_when_persons_merge(world: World) -> None:
    await world.start(PLAIN + "entry: {per: 'property:order'}\n")
    await world.event("Begun", 1, order="A")
    await world.event("Begun", 2, order="B")
    await world.event("Begun", 2, order="A")
    await merge(world, survivor=2, other=1, op=1)
    rows = await world.rows("SELECT object, end_reason FROM enrolment ORDER BY enrolment_id")
    assert [("A", ""), ("B", ""), ("A", "merged")] == [tuple(row) for row in rows]


async def test_what_a_merged_person_does_counts_for_who_she_is_now(world: World) -> None:
    await world.start(PLAIN + "goal: {event: Bought}\n")
    await world.event("Begun", 2)
    await merge(world, survivor=2, other=1, op=1)
    await world.event("Bought", 1)
    assert {2: "goal"} == await world.ends()


async def test_the_erased_leave_nothing_and_do_not_come_back(world: World) -> None:
    await world.start(PLAIN)
    await world.event("Begun", 1, 2, 3)
    await merge(world, survivor=2, other=1, op=1)
    erasure = identity_pb2.Erasure(erasure_id=1, person_id=2, anchor_ids=[100_001, 100_002])
    await changed(world, erasures=[erasure])
    late = happened("Begun", 1, world.clock.now)
    await world.happen(late._replace(version=0), late._replace(person_id=2), happened("Begun", 2, world.clock.now))
    assert [(3, 3, "")] == await under_way(world)
    rows = await world.rows("SELECT count(*) AS n FROM journey_passage")
    assert 1 == rows[0].n


def room(world: World) -> Room:
    class Known:
        async def read(self, text: str) -> Any:
            return read(text)

    none: Any = None
    return Room(world.house, Known(), none, none, ("other",))  # type: ignore[arg-type]


async def new_version(world: World, journey_id: int, document: str) -> int:
    """Approved while it runs; returns how many were moved."""
    async with world.database.read() as uow:
        known = await JourneyStore(uow).get(JourneyId(journey_id))
    assert known is not None
    changed_ = await handlers.update(room(world), known.journey_id, known.version, document, "author")
    await handlers.submit(room(world), known.journey_id, changed_.version, "author")
    return (await handlers.approve(room(world), known.journey_id, changed_.version, "other"))[1]


OTHER = PLAIN.replace("leave\n  exit: rested", "leave\n  exit: anew")


async def test_people_stay_on_their_version_unless_the_new_one_says_otherwise(world: World) -> None:
    journey_id = await world.start(PLAIN)
    await world.event("Begun", 1)
    assert 0 == await new_version(world, journey_id, OTHER)
    await world.event("Begun", 2)
    world.clock.later(days=2)
    await world.tick()
    assert {1: "rested", 2: "anew"} == await world.ends()


async def test_people_begin_anew_where_the_new_version_says_so(world: World) -> None:
    journey_id = await world.start(PLAIN)
    await world.event("Begun", 1)
    world.clock.later(days=1)
    assert 1 == await new_version(world, journey_id, "on_update: restart\n" + OTHER)
    await world.tick()
    world.clock.later(days=1)
    await world.tick()
    assert {1: ""} == await world.ends()
    world.clock.later(days=1)
    await world.tick()
    greeted = [("greet", "proposed"), ("greet", "proposed"), ("rest", "waited"), ("leave", "anew")]
    assert {1: greeted} == await world.paths()


async def test_people_wait_on_at_the_same_step_and_stay_where_it_is_gone(world: World) -> None:
    waits = "- id: here\n  wait: 4 days\n- id: there\n  wait_until: {event: Go, timeout: 9 days}\n"
    journey_id = await world.start(journey(waits))
    await world.event("Begun", 1, 2)
    world.clock.later(days=4)
    await world.tick()
    await world.event("Begun", 3)
    # `there` is gone, `here` is as it was, and a step comes before it.
    new = "on_update: same_step\n" + journey("- id: before\n  wait: 1 day\n- id: here\n  wait: 4 days\n")
    assert 1 == await new_version(world, journey_id, new)
    world.clock.later(days=4)
    await world.tick()
    paths = await world.paths()
    assert ("here", "waited") in paths[3] and ("last_bye", "proposed") in paths[3]
    rows = await world.rows("SELECT person_id, version FROM enrolment ORDER BY person_id")
    assert [(1, 1), (2, 1), (3, 2)] == [tuple(row) for row in rows]


async def test_who_waits_at_a_changed_step_begins_its_waiting_anew(world: World) -> None:
    journey_id = await world.start(PLAIN)
    await world.event("Begun", 1)
    world.clock.later(days=1)
    new = "on_update: same_step\n" + PLAIN.replace("wait: 2 days", "wait: 3 days")
    assert 1 == await new_version(world, journey_id, new)
    await world.tick()
    due = await world.rows("SELECT due_at FROM enrolment")
    assert world.clock.now + timedelta(days=3) == due[0].due_at


async def test_workers_share_and_nobody_is_moved_twice(world: World) -> None:
    await world.start(PLAIN)
    await world.event("Begun", *range(1, 901))
    world.clock.later(days=2)
    workers = [world.worker() for _ in range(4)]
    while sum(await asyncio.gather(*(worker.work_once(100) for worker in workers))):
        pass
    paths = await world.paths()
    expected = [("greet", "proposed"), ("rest", "waited"), ("leave", "rested")]
    assert 900 == len(paths) and all(path == expected for path in paths.values())


class Killed(Exception):
    """The process is gone."""


async def test_a_killed_asker_is_replaced_and_the_answer_counts_once(world: World) -> None:
    asks = "- id: asks\n  condition: {holds: x, then: last_hello, otherwise: last_bye}\n"
    await world.start(journey(asks).replace("push: {theme: hello}\n", "push: {theme: hello}\n  next: end\n"))
    world.told.holds = lambda predicate, person: True
    await world.event("Begun", 1, 2)
    answers = world.told.answers

    async def die(*_: Any) -> Any:
        raise Killed

    world.told.answers = die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        await world.worker().work_once()
    world.told.answers = answers  # type: ignore[method-assign]
    # While the lease runs nobody asks; then somebody else does.
    assert 0 == await world.worker().work_once()
    world.clock.later(seconds=31)
    await world.tick()
    assert [(1, 1), (1, 2)] == sorted(await world.proposals())


async def test_a_late_answer_to_who_went_on_is_not_heard(world: World) -> None:
    asks = "- id: asks\n  condition: {holds: x, then: last_hello, otherwise: last_bye}\n"
    await world.start(journey(asks).replace("push: {theme: hello}\n", "push: {theme: hello}\n  next: end\n"))
    await world.event("Begun", 1)
    rows = await world.rows("SELECT enrolment_id FROM enrolment")
    async with world.database.transaction() as uow:
        claimed = await EnrolmentStore(uow).claim(1, world.clock.now, 10)
        assert [rows[0].enrolment_id] == [row["enrolment_id"] for row in claimed]
    await world.tick()
    async with world.database.transaction() as uow:
        assert [] == list(await EnrolmentStore(uow).again(1, 1, [rows[0].enrolment_id], [0]))
    assert [(2, 1)] == await world.proposals()


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(
    documents(),
    st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from("ABG"), st.integers(1, 100 * 60)),
        max_size=8,
        unique_by=lambda each: each[2],
    ),
    st.lists(st.booleans(), min_size=30, max_size=30),
)
async def test_any_journey_does_for_all_what_the_reference_does_for_each_whoever_is_killed(
    world: World, text: str, given_: list[tuple[int, str, int]], kills: list[bool]
) -> None:
    program, _ = read(text)
    assert program is not None

    def holds(predicate: str, person: int) -> bool:
        return (person + int(predicate[1:])) % 3 == 0

    world.told.holds = holds
    async with world.database.transaction() as uow:
        await uow.execute("TRUNCATE journey, journey_version, enrolment, journey_passage, decision")
    began = world.clock.later(days=1)
    journey_id = await world.start(text, SALT)
    persons = (1, 2, 3)
    events = [happened(name, person, began + timedelta(minutes=after, seconds=7)) for person, name, after in given_]
    chances = iter(kills)
    await world.event("Begun", *persons)
    for moment, event in sorted(
        [(began + timedelta(hours=hour), None) for hour in range(0, 120, 2)] + [(e.at, e) for e in events],
        key=lambda each: each[0],
    ):
        await _until(world, moment, chances)
        if event is not None:
            await world.happen(event)
    end = world.clock.now
    rows = await world.rows(
        "SELECT e.person_id, p.step, p.outcome FROM journey_passage p JOIN enrolment e USING (enrolment_id)"
        " WHERE e.journey_id = :id ORDER BY e.person_id, p.visit",
        id=journey_id,
    )
    ends = await world.ends()
    pushes = 0
    for person in persons:
        path, reason = walk(program, SALT, person, began, [e for e in events if e.person_id == person], holds, end)
        done = [(program.nodes[row.step].id, row.outcome) for row in rows if row.person_id == person]
        assert [(left.step, left.outcome) for left in path] == done
        assert reason == ends[person]
        pushes += sum(left.outcome == "proposed" for left in path)
    assert pushes == len(await world.proposals())


async def _until(world: World, moment: Any, chances: Any) -> None:
    """Works through all that is due until a moment, each at its time; transactions die on the way."""
    while True:
        rows = await world.rows("SELECT min(due_at) AS due FROM enrolment WHERE ended_at IS NULL AND due_at <= :m", m=moment)
        if rows[0].due is None:
            break
        world.clock.now = max(world.clock.now, rows[0].due)
        if next(chances, False):
            with pytest.raises(Killed):
                await _die(world)
        await world.tick()
        # Who waits for a dead asker's lease is due later than she would have been; nobody died after asking here.
    world.clock.now = max(world.clock.now, moment)


async def _die(world: World) -> None:
    """A tick whose process dies just before it commits."""
    async with world.database.transaction() as uow:
        now = world.clock.now
        for each in await EnrolmentStore(uow).with_due(now):
            rows = await EnrolmentStore(uow).claim(each.journey_id, now, 100)
            await engine._move_all(uow, world.house, each.journey_id, SALT, rows, now)
        raise Killed
