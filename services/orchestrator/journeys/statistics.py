"""What became of people in a journey, counted; and one person's way, explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from chassis.db import UnitOfWork
from services.orchestrator.journeys.hearing import GOAL


@dataclass
class Counts:
    """Of a journey. `standing` and `left` by (version, step number)."""

    entered: int = 0
    standing: dict[tuple[int, int], int] = field(default_factory=dict)
    left: dict[tuple[int, int], dict[str, int]] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)

    @property
    def under_way(self) -> int:
        """Who is still in it."""
        return sum(self.standing.values())

    @property
    def goals(self) -> int:
        """Who reached the goal."""
        return self.exits.get(GOAL, 0)


@dataclass(frozen=True)
class Enrolment:
    """A person in a journey, as people read it."""

    enrolment_id: int
    journey_id: int
    version: int
    person_id: int
    object: str
    step: int
    due_at: datetime
    entered_at: datetime
    ended_at: datetime | None
    end_reason: str


_SELECT = (
    "SELECT enrolment_id, journey_id, version, present_id, object, step, due_at, entered_at, ended_at, end_reason"
    " FROM enrolment"
)


async def counts(uow: UnitOfWork, journey_id: int) -> Counts:
    """Counts of a journey; erased persons are not in them."""
    found = Counts()
    for row in await uow.rows(
        "SELECT version, step, end_reason, count(*) AS n FROM enrolment WHERE journey_id = :id GROUP BY 1, 2, 3", id=journey_id
    ):
        found.entered += row.n
        if row.end_reason:
            found.exits[row.end_reason] = found.exits.get(row.end_reason, 0) + row.n
        else:
            found.standing[row.version, row.step] = row.n
    for row in await uow.rows(
        "SELECT p.version, p.step, p.outcome, count(*) AS n FROM journey_passage p JOIN enrolment e USING (enrolment_id)"
        " WHERE e.journey_id = :id GROUP BY 1, 2, 3",
        id=journey_id,
    ):
        found.left.setdefault((row.version, row.step), {})[row.outcome] = row.n
    return found


async def of_person(uow: UnitOfWork, persons: Sequence[int], before: int, size: int) -> list[Enrolment]:
    """What a person (by all her numbers) is or was in, newest first."""
    rows = await uow.rows(
        _SELECT + " WHERE present_id = ANY(CAST(:persons AS bigint[])) AND enrolment_id < :before"
        " ORDER BY enrolment_id DESC LIMIT :size",
        persons=list(persons),
        before=before,
        size=size,
    )
    return [Enrolment(*row) for row in rows]


async def one(uow: UnitOfWork, enrolment_id: int) -> Enrolment | None:
    """One enrolment."""
    rows = await uow.rows(_SELECT + " WHERE enrolment_id = :id", id=enrolment_id)
    return Enrolment(*rows[0]) if rows else None


async def path(uow: UnitOfWork, enrolment_id: int) -> Sequence[Any]:
    """(version, step, outcome, left_at, effect_id) of the steps that were left, in order."""
    return await uow.rows(
        "SELECT version, step, outcome, left_at, effect_id FROM journey_passage WHERE enrolment_id = :id ORDER BY visit",
        id=enrolment_id,
    )
