"""One function per command and question about journeys. Peers are asked outside of transactions."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from chassis.db import UnitOfWork
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from services.orchestrator.domain.approving import check_second_person
from services.orchestrator.experiments.store import ExperimentStore
from services.orchestrator.journeys import simulating, statistics
from services.orchestrator.journeys.advancing import Answers, People
from services.orchestrator.journeys.asking import PersonTags
from services.orchestrator.journeys.checking import OURS, Checker
from services.orchestrator.journeys.documents import Fault
from services.orchestrator.journeys.engine import House
from services.orchestrator.journeys.enrolments import EnrolmentStore
from services.orchestrator.journeys.hearing import Happened
from services.orchestrator.journeys.programs import Kind, Node, Program
from services.orchestrator.journeys.states import LIVE, Journey, JourneyId, State, found, require, require_version
from services.orchestrator.journeys.statistics import Counts, Enrolment
from services.orchestrator.journeys.store import JourneyStore
from services.orchestrator.peers import Tags

SAME_STEP, RESTART = "same_step", "restart"


@dataclass(frozen=True)
class Room:
    """What the handlers work with. `approvers`: who may approve."""

    house: House
    checker: Checker
    tags: Tags
    person_tags: PersonTags
    approvers: Collection[str]


async def validate(room: Room, document: str) -> list[Fault]:
    """All faults of a document."""
    return (await room.checker.read(document))[1]


async def _checked(room: Room, document: str) -> Program:
    program, faults = await room.checker.read(document)
    if program is None:
        first = faults[0]
        more = f" (line {first.line})" * bool(first.line) + f"; {len(faults) - 1} more faults" * (len(faults) > 1)
        where = f"document.{first.path}" if first.path else "document"
        raise InvalidArgument(f"{first.message}{more}", reason=first.reason, field=where, metadata={"line": str(first.line)})
    return program


async def create(room: Room, document: str, request_id: str, author: str) -> Journey:
    """Makes a draft; the same request gives the same journey."""
    if request_id:
        async with room.house.database.read() as uow:
            if made := await JourneyStore(uow).by_request(request_id):
                return made
    await _checked(room, document)
    async with room.house.database.transaction() as uow:
        store = JourneyStore(uow)
        journey_id = await store.add(document, request_id, author)
        return found(await store.get(journey_id), journey_id)


async def update(room: Room, journey_id: JourneyId, version: int, document: str, author: str) -> Journey:
    """A new version of a journey that nobody changed meanwhile."""
    program = await _checked(room, document)
    async with room.house.database.transaction() as uow:
        store = JourneyStore(uow)
        journey = found(await store.lock(journey_id), journey_id)
        require(journey, State.DRAFT, State.IN_REVIEW, State.APPROVED, State.RUNNING, State.PAUSED)
        require_version(journey, version)
        if journey.running_version:
            running = await room.house.shelf.program(uow, journey_id, journey.running_version)
            if running.document.entry.per != program.document.entry.per:
                raise FailedPrecondition(
                    "people are on the way per something else", reason="JOURNEY_FIXED", field="document.entry.per"
                )
        await store.change(journey, document, author)
        return found(await store.get(journey_id), journey_id)


async def submit(room: Room, journey_id: JourneyId, version: int, caller: str) -> Journey:
    """The latest version waits for a second person; one that waits already stays as it is."""
    async with room.house.database.transaction() as uow:
        store = JourneyStore(uow)
        journey = found(await store.lock(journey_id), journey_id)
        require_version(journey, version)
        if journey.submitted_by:
            return journey
        require(journey, State.DRAFT, *LIVE)
        await store.submit(journey, caller)
        return found(await store.get(journey_id), journey_id)


async def approve(room: Room, journey_id: JourneyId, version: int, caller: str) -> tuple[Journey, int]:
    """The latest version may run, and does where the journey is under way; how many people were moved to it."""
    journey = await get(room, journey_id)
    program = await _checked(room, journey.document)
    async with room.house.database.transaction() as uow:
        store = JourneyStore(uow)
        await store.take_hold()
        journey = found(await store.lock(journey_id), journey_id)
        require_version(journey, version)
        if not journey.submitted_by:
            raise FailedPrecondition("nobody has asked for it", reason="VERSION_NOT_SUBMITTED", field="version")
        check_second_person(caller, (*journey.authors, journey.submitted_by), room.approvers)
        if journey.approved_by:
            return journey, 0
        require(journey, State.IN_REVIEW, *LIVE)
        await store.approve(journey, caller)
        moved = 0
        if journey.state in LIVE:
            await store.run(journey)
            moved = await _transfer(uow, room, journey, program)
        return found(await store.get(journey_id), journey_id), moved


async def _transfer(uow: UnitOfWork, room: Room, journey: Journey, program: Program) -> int:
    """People on the way go by the new version's rule: `stay`, `restart`, or `same_step` where that step still is."""
    rule = program.document.on_update
    if rule not in (RESTART, SAME_STEP):
        return 0
    rows: list[tuple[int, int, int, int]] = []
    for each in await JourneyStore(uow).versions(journey.journey_id):
        if each.version == journey.version or each.approved_at is None:
            continue
        old = await room.house.shelf.program(uow, journey.journey_id, each.version)
        for node in old.nodes:
            target = 0 if rule == RESTART else program.numbers.get(node.id)
            if target is not None:
                rows.append((each.version, node.number, target, int(not _waits_alike(node, program.nodes[target]))))
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    now = room.house.now()
    return await EnrolmentStore(uow).transfer(journey.journey_id, columns, journey.version, rule == RESTART, now)


def _waits_alike(old: Node, new: Node) -> bool:
    """Whether somebody who waits at the one may wait on at the other with the moment that she has."""
    return old.kind is new.kind and old.stated.wait == new.stated.wait and old.stated.wait_until == new.stated.wait_until


async def start(room: Room, journey_id: JourneyId) -> Journey:
    """Lets people enter; a running journey stays as it is. Whoever stands beyond a score's line has not just crossed it."""
    journey = await get(room, journey_id)
    if journey.state in LIVE:
        return journey
    program = await _checked(room, journey.document)
    above = await _above(room, program)
    async with room.house.database.transaction() as uow:
        store = JourneyStore(uow)
        await store.take_hold()
        locked = found(await store.lock(journey_id), journey_id)
        require_version(locked, journey.version)
        require(locked, State.APPROVED)
        await store.seed_sides(journey_id, above)
        await store.run(locked)
        await store.set_state(journey_id, State.RUNNING, room.house.now())
        return found(await store.get(journey_id), journey_id)


async def _above(room: Room, program: Program) -> list[int]:
    trigger = program.document.trigger.score
    if trigger is None:
        return []
    tag = await _score_tag(room, trigger.model)
    members = await room.person_tags.members(f"{tag} >= {trigger.crosses!r}", "trigger.score.model")
    return list(map(int, members.tolist()))


async def _score_tag(room: Room, model: str) -> str:
    for name, tag in (await room.tags.catalogue()).items():
        if tag.score_model == model and model != OURS:
            return name
    raise FailedPrecondition(f"no tag holds the scores of {model}", reason="NO_SCORE_TAG", field="trigger.score.model")


async def pause(room: Room, journey_id: JourneyId) -> Journey:
    """Nobody moves once this has answered."""
    return await _go(room, journey_id, State.PAUSED, State.RUNNING)


async def resume(room: Room, journey_id: JourneyId) -> Journey:
    """Goes on; who became due meanwhile is moved at once."""
    return await _go(room, journey_id, State.RUNNING, State.PAUSED)


async def finish(room: Room, journey_id: JourneyId) -> Journey:
    """Ends for good; the worker ends everybody in it."""
    return await _go(room, journey_id, State.FINISHED, State.DRAFT, State.IN_REVIEW, State.APPROVED, *LIVE)


async def _go(room: Room, journey_id: JourneyId, to: State, *allowed: State) -> Journey:
    async with room.house.database.transaction() as uow:
        store = JourneyStore(uow)
        await store.take_hold()
        journey = found(await store.lock(journey_id), journey_id)
        if journey.state is to:
            return journey
        require(journey, *allowed)
        await store.set_state(journey_id, to, room.house.now())
        return found(await store.get(journey_id), journey_id)


async def get(room: Room, journey_id: JourneyId) -> Journey:
    """One journey; raises NotFound."""
    async with room.house.database.read() as uow:
        return found(await JourneyStore(uow).get(journey_id), journey_id)


async def versions(room: Room, journey_id: JourneyId) -> Sequence[Any]:
    """Its versions, newest first."""
    async with room.house.database.read() as uow:
        return await JourneyStore(uow).versions(journey_id)


async def page(room: Room, before: int, size: int) -> list[Journey]:
    """Up to `size` journeys with ids below `before`, newest first."""
    async with room.house.database.read() as uow:
        return await JourneyStore(uow).page(before, size)


async def counts(room: Room, journey_id: JourneyId) -> tuple[Counts, Mapping[int, Program]]:
    """What became of people, and the programs of the versions that are spoken of."""
    async with room.house.database.read() as uow:
        found(await JourneyStore(uow).get(journey_id), journey_id)
        counted = await statistics.counts(uow, journey_id)
        spoken = {version for version, _ in [*counted.standing, *counted.left]}
        return counted, {each: await room.house.shelf.program(uow, journey_id, each) for each in spoken}


async def enrolments(
    room: Room, person: int, before: int, size: int
) -> tuple[list[Enrolment], Mapping[tuple[int, int], Program]]:
    """What a person is or was in, and the programs."""
    async with room.house.database.read() as uow:
        present = (await ExperimentStore(uow).present([person]))[person]
        rows = await statistics.of_person(uow, [present], before, size)
        pairs = {(row.journey_id, row.version) for row in rows}
        return rows, {pair: await room.house.shelf.program(uow, *pair) for pair in pairs}


async def explain(room: Room, enrolment_id: int) -> tuple[Enrolment, Sequence[Any], Mapping[tuple[int, int], Program]]:
    """An enrolment, the steps that it left, and the programs; raises NotFound."""
    async with room.house.database.read() as uow:
        row = await statistics.one(uow, enrolment_id)
        if row is None:
            raise NotFound("there is no such enrolment", reason="ENROLMENT_NOT_FOUND", field="enrolment_id")
        steps = await statistics.path(uow, enrolment_id)
        pairs = {(row.journey_id, each) for each in {row.version, *(step.version for step in steps)}}
        return row, steps, {pair: await room.house.shelf.program(uow, *pair) for pair in pairs}


async def simulate(
    room: Room, document: str, person: int, enters_at: datetime, events: Sequence[Happened], journey_id: JourneyId | None
) -> tuple[list[simulating.Step], str]:
    """A person's way from now on, under assumed events; conditions are answered by the tags of now, experiments with none."""
    program = await _checked(room, document)
    salt = (await get(room, journey_id)).salt if journey_id else secrets.token_bytes(16)

    async def answer(node: Node, people: People) -> Answers:
        if node.kind is Kind.AB:
            # An exposure would be logged.
            return Answers(np.full(len(people), -1, np.int64))
        return await room.house.asking.answers(node, people, room.house.now())

    return await simulating.simulate(program, salt, person, enters_at, events, answer, room.house.zone)


async def entrants(room: Room, document: str) -> tuple[int, str]:
    """How many a document's trigger would let in today, and what was counted."""
    trigger = (await _checked(room, document)).document.trigger
    if trigger.date is not None:
        today = room.house.now().astimezone(room.house.zone).date()
        persons = await room.person_tags.on_day(trigger.date, today, "document.trigger.date")
        return len(persons), f"persons whose day {today.isoformat()} is"
    if trigger.audience is not None:
        answer = await room.person_tags.audience(trigger.audience.name, "document.trigger.audience.name")
        return answer.count, f"present members of {trigger.audience.name}"
    if trigger.score is not None:
        sign = ">=" if trigger.score.direction == "up" else "<"
        tag = await _score_tag(room, trigger.score.model)
        predicate = f"{tag} {sign} {trigger.score.crosses!r}"
        return await room.tags.count(predicate, "document.trigger.score"), f"persons with {predicate}"
    raise FailedPrecondition("nobody knows how often an event will happen", reason="NOT_COUNTABLE", field="document.trigger")
