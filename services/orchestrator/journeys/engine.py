"""Moves people through journeys: what is due, in a few statements per ten thousand, each effect once whatever is killed.

A tick claims due people with SKIP LOCKED, so any number of workers share; passages, new places, proposals, tags and tasks
commit together. Who needs an answer of another room is leased meanwhile (due again in a while, should the asker die), the
answer is fetched without any transaction, and counts only for who still stands where the question was asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, Protocol

import numpy as np

from chassis.db import Database, UnitOfWork
from chassis.moments import from_us, to_us
from services.orchestrator.arbiter.proposing import Proposal
from services.orchestrator.domain.themes import PersonId, ThemeId
from services.orchestrator.journeys.advancing import Answers, Clock, Moved, People, advance
from services.orchestrator.journeys.documents import seconds
from services.orchestrator.journeys.enrolments import EnrolmentStore, Left
from services.orchestrator.journeys.programs import Kind, Node, Program
from services.orchestrator.journeys.running import Shelf
from services.orchestrator.journeys.states import name_of
from services.orchestrator.journeys.stating import Stated, publish_tags
from services.orchestrator.leads.tasks import NewTask, create_tasks
from services.orchestrator.offers.definitions import OfferId

BATCH: Final = 20_000
# Whoever asks is given this long before others ask in her place.
LEASE: Final = timedelta(seconds=30)

Propose = Callable[[UnitOfWork, Sequence[Proposal]], Awaitable[None]]


class Asking(Protocol):
    """What journeys ask other rooms, for many people at once."""

    async def answers(self, node: Node, people: People, now: datetime) -> Answers:
        """One answer for everybody who stands at the step."""


@dataclass(frozen=True)
class House:
    """What moving people needs; `now` is a clock of its own in simulations."""

    database: Database
    shelf: Shelf
    propose: Propose
    asking: Asking
    zone: tzinfo = UTC
    asks_zone: bool = False
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


@dataclass(frozen=True)
class Course:
    """One version of one journey, ready to run."""

    journey_id: int
    version: int
    salt: bytes
    program: Program


@dataclass(frozen=True)
class Question:
    """People who ask at one step."""

    course: Course
    node: Node
    people: People


async def hold(uow: UnitOfWork) -> None:
    """Keeps journeys, persons and erasures as they are until this transaction ends. Always in this order, in one trip."""
    await uow.rows(
        "SELECT pg_advisory_xact_lock_shared(hashtext('orchestrator journeys')),"
        " pg_advisory_xact_lock_shared(hashtext('orchestrator merge')),"
        " pg_advisory_xact_lock_shared(hashtext('orchestrator erasure'))"
    )


async def tick(house: House, journey_id: int, salt: bytes, most: int = BATCH) -> int:
    """Moves up to `most` due people of a running journey to where they wait; returns how many it claimed."""
    now = house.now()
    async with house.database.transaction(traced=False) as uow:
        await hold(uow)
        rows = await EnrolmentStore(uow).claim(journey_id, now, most)
        questions = await _move_all(uow, house, journey_id, salt, rows, now)
    await settle(house, questions)
    return len(rows)


async def settle(house: House, questions: Sequence[Question]) -> None:
    """Asks, and moves those who asked, until nobody asks any more."""
    open_ = list(questions)
    while open_:
        question = open_.pop()
        people, now = question.people, house.now()
        answers = await house.asking.answers(question.node, people, now)
        async with house.database.transaction(traced=False) as uow:
            await hold(uow)
            course, asked = question.course, (people.enrolment.tolist(), people.visit.tolist())
            rows = await EnrolmentStore(uow).again(course.journey_id, course.version, *asked)
            if not rows:
                continue
            still = People.of([tuple(row)[:6] for row in rows])
            said = answers.values[np.searchsorted(people.enrolment, still.enrolment)]
            open_ += await move(uow, house, course, still, now, Answers(said, answers.zones), LEASE)


async def _move_all(
    uow: UnitOfWork, house: House, journey_id: int, salt: bytes, rows: Sequence[Any], now: datetime
) -> list[Question]:
    """Moves locked people of any versions of one journey."""
    by_version: dict[int, list[tuple[int, ...]]] = {}
    for row in rows:
        by_version.setdefault(row["version"], []).append(tuple(row)[:6])
    questions: list[Question] = []
    for version, those in by_version.items():
        course = Course(journey_id, version, salt, await house.shelf.program(uow, journey_id, version))
        questions += await move(uow, house, course, People.of(sorted(those)), now, None, LEASE)
    return questions


async def move(
    uow: UnitOfWork,
    house: House,
    course: Course,
    people: People,
    now: datetime,
    answers: Answers | None = None,
    lease: timedelta = timedelta(),
) -> list[Question]:
    """Moves locked people (ascending) as far as they go, with all effects; returns who asks what.

    The caller who does not ask gives no lease: then the next tick does.
    """
    clock = Clock(now, house.zone, house.asks_zone)
    moved = advance(course.program, course.salt, people, clock, answers)
    store = EnrolmentStore(uow)
    await _effects(uow, house, course, people, moved, now)
    asks = moved.asks
    due = np.where(asks, to_us(now + lease), moved.due_us).tolist()
    columns = [
        people.enrolment.tolist(),
        [course.version] * len(people),
        moved.step.tolist(),
        moved.visit.tolist(),
        moved.phase.tolist(),
        [from_us(each) for each in due],
        moved.reason.tolist(),
    ]
    await store.move(columns, now)
    found = []
    for number in np.unique(moved.step[asks]).tolist():
        at = np.flatnonzero(asks & (moved.step == number))
        there = people.at(at)
        asking = People(there.enrolment, there.person, there.present, moved.step[at], moved.visit[at], moved.phase[at])
        found.append(Question(course, course.program.nodes[number], asking))
    return found


async def _effects(uow: UnitOfWork, house: House, course: Course, people: People, moved: Moved, now: datetime) -> None:
    """Writes every step that was left, and does what it is."""
    store, plain, numbered = EnrolmentStore(uow), list[Left](), list[Left]()
    pushed: list[tuple[Node, Sequence[int]]] = []
    for passage in moved.passages:
        node = passage.node
        ids, persons = people.enrolment[passage.at].tolist(), people.present[passage.at].tolist()
        visits = passage.visit.tolist()
        rows = [(i, v, course.version, node.number, passage.outcome, now) for i, v in zip(ids, visits, strict=True)]
        if node.kind is Kind.PUSH:
            pushed.append((node, persons))
            numbered += rows
            continue
        plain += rows
        if node.kind is Kind.UPDATE_TAG and (stated := node.stated.update_tag) is not None:
            publish_tags(uow, [Stated(stated.tag, person, stated.value, now) for person in persons])
        if node.kind is Kind.CREATE_TASK:
            await create_tasks(uow, _tasks(course, node, ids, visits, persons, now))
    occasions = iter(await store.pass_by(plain, numbered))
    proposals: list[Proposal] = []
    for node, persons in pushed:
        proposals += _proposals(course.program, node, persons, [next(occasions) for _ in persons], now)
    if proposals:
        await house.propose(uow, proposals)


def _proposals(program: Program, node: Node, persons: Sequence[int], occasions: Sequence[int], now: datetime) -> list[Proposal]:
    if (stated := node.stated.push) is None:
        return []
    theme, offer = ThemeId(program.theme_id(stated.theme)), program.offer_id(stated.offer)
    until = now + timedelta(seconds=seconds(stated.within))
    return [
        Proposal(theme, PersonId(person), occasion, None if offer is None else OfferId(offer), now, until)
        for person, occasion in zip(persons, occasions, strict=True)
    ]


def _tasks(
    course: Course, node: Node, ids: Sequence[int], visits: Sequence[int], persons: Sequence[int], now: datetime
) -> list[NewTask]:
    if (stated := node.stated.create_task) is None:
        return []
    due, author = now + timedelta(seconds=seconds(stated.due)), name_of(course.journey_id)
    theme = course.program.theme_id(stated.theme) if stated.theme else None
    return [
        NewTask(f"enrolments/{enrolment}/{visit}", person, stated.kind, due, stated.text, theme_id=theme, author=author)
        for enrolment, visit, person in zip(ids, visits, persons, strict=True)
    ]
