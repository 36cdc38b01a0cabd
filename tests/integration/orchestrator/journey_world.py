"""Journeys on a real database, in a clock of their own; other rooms' answers are a table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import numpy as np

from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.orchestrator.arbiter.proposing import propose
from services.orchestrator.journeys.advancing import Answers, People
from services.orchestrator.journeys.asking import PersonTags
from services.orchestrator.journeys.engine import House
from services.orchestrator.journeys.hearing import Ear, Happened
from services.orchestrator.journeys.programs import OUTSIDE, Kind, Node
from services.orchestrator.journeys.running import Shelf
from services.orchestrator.journeys.states import JourneyId, State, found
from services.orchestrator.journeys.store import JourneyStore
from services.orchestrator.journeys.working import Worker

MONDAY = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


@dataclass
class Clock:
    now: datetime = MONDAY

    def __call__(self) -> datetime:
        return self.now

    def later(self, **length: float) -> datetime:
        self.now += timedelta(**length)
        return self.now


@dataclass
class Told:
    """Answers of other rooms: a predicate holds for some persons, an experiment has variants, people live in zones."""

    holds: Callable[[str, int], bool] = lambda predicate, person: False
    variant: Callable[[int], str] = lambda person: ""
    zone: Callable[[int], tzinfo | None] = lambda person: None
    asked: list[tuple[str, int]] = field(default_factory=list)

    async def answers(self, node: Node, people: People, now: datetime) -> Answers:
        self.asked.append((node.id, len(people)))
        persons = people.present.tolist()
        if node.stated.condition is not None:
            predicate = node.stated.condition.holds
            return Answers(np.array([int(self.holds(predicate, person)) for person in persons], np.int64))
        if node.kind is Kind.AB:
            names = [name for name in node.ways if name != OUTSIDE]
            drawn = [self.variant(person) for person in persons]
            return Answers(np.array([names.index(name) if name in names else -1 for name in drawn], np.int64))
        zones: list[tzinfo] = []
        places = []
        for person in persons:
            zone = self.zone(person)
            if zone is not None and zone not in zones:
                zones.append(zone)
            places.append(-1 if zone is None else zones.index(zone))
        return Answers(np.array(places, np.int64), tuple(zones))


@dataclass
class World:
    house: House
    clock: Clock
    told: Told

    @property
    def database(self) -> Database:
        return self.house.database

    def worker(self) -> Worker:
        # Dates are asked of tags; these tests have none of them.
        return Worker(self.house, PersonTags.__new__(PersonTags))

    async def start(self, document: str, salt: bytes = b"0123456789abcdef") -> int:
        """A journey that runs, approved by somebody else."""
        async with self.database.transaction() as uow:
            store = JourneyStore(uow)
            journey_id = await store.add(document, "", "author")
            await uow.execute("UPDATE journey SET salt = :salt WHERE journey_id = :id", salt=salt, id=journey_id)
            journey = found(await store.get(journey_id), journey_id)
            await store.approve(journey, "other")
            await store.run(journey)
            await store.set_state(journey_id, State.RUNNING, self.clock.now)
        return journey_id

    async def set_state(self, journey_id: int, state: State) -> None:
        async with self.database.transaction() as uow:
            await JourneyStore(uow).set_state(JourneyId(journey_id), state, self.clock.now)

    async def happen(self, *events: Happened) -> None:
        async with self.database.transaction() as uow:
            await (await Ear.of(uow, self.house)).events(uow, events)

    async def event(self, name: str, *persons: int, **properties: Any) -> None:
        await self.happen(*(happened(name, person, self.clock.now, **properties) for person in persons))

    async def tick(self, most: int = 20_000) -> None:
        """Until nobody is due."""
        while await self.worker().work_once(most):
            pass

    async def rows(self, statement: str, **parameters: Any) -> Sequence[Any]:
        async with self.database.read() as uow:
            return await uow.rows(statement, **parameters)

    async def paths(self) -> dict[int, list[tuple[str, str]]]:
        """By person: the steps that were left, and how."""
        rows = await self.rows(
            "SELECT e.person_id, e.journey_id, p.version, p.step, p.outcome FROM journey_passage p JOIN enrolment e"
            " USING (enrolment_id) ORDER BY e.enrolment_id, p.visit"
        )
        found: dict[int, list[tuple[str, str]]] = {}
        async with self.database.read() as uow:
            for row in rows:
                program = await self.house.shelf.program(uow, row.journey_id, row.version)
                found.setdefault(row.person_id, []).append((program.nodes[row.step].id, row.outcome))
        return found

    async def ends(self) -> dict[int, str]:
        """By person: why the last enrolment ended, "" when it is under way."""
        rows = await self.rows("SELECT person_id, end_reason FROM enrolment ORDER BY enrolment_id")
        return {row.person_id: row.end_reason for row in rows}

    async def proposals(self) -> list[tuple[int, int]]:
        """(theme, person) of what was proposed, in order."""
        rows = await self.rows("SELECT theme_id, person_id FROM decision ORDER BY occasion")
        return [(row.theme_id, row.person_id) for row in rows]

    def in_zone(self, zone: tzinfo, asks: bool = False) -> World:
        return World(replace(self.house, zone=zone, asks_zone=asks), self.clock, self.told)


def happened(name: str, person: int, at: datetime, **properties: Any) -> Happened:
    return Happened(name, person + 100_000, person, 1, int(properties.pop("vehicle", 0)), at, properties)


@asynccontextmanager
async def open_world(databases: DatabaseFactory) -> AsyncIterator[World]:
    async with databases.database("orchestrator") as database:
        clock, told = Clock(), Told()
        yield World(House(database, Shelf(), propose, told, now=clock), clock, told)
