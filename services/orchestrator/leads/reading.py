"""Leads, their history and tasks as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NewType

from chassis.db import UnitOfWork
from services.orchestrator.leads.chain import Stage

LeadId = NewType("LeadId", int)
TaskId = NewType("TaskId", int)
MOST_STEPS = 1000
OPEN, DONE, CANCELLED = 1, 2, 3
TASK_STATES = {OPEN: "open", DONE: "done", CANCELLED: "cancelled"}


def name_of(lead_id: int) -> str:
    """The name under which callers know a lead."""
    return f"leads/{lead_id}"


def task_name(task_id: int) -> str:
    """The name under which callers know a task."""
    return f"tasks/{task_id}"


def lead_of(name: str) -> LeadId:
    """The number of a lead's name, which the contract has checked."""
    return LeadId(int(name.removeprefix("leads/")))


def task_of(name: str) -> TaskId:
    """The number of a task's name, which the contract has checked."""
    return TaskId(int(name.removeprefix("tasks/")))


@dataclass(frozen=True)
class Lead:
    """A lead as it is now, and the numbers of its duplicates."""

    lead_id: LeadId
    merged: tuple[int, ...]
    human_id: int
    interest: str
    brand: str
    area: str
    source: str
    stage: Stage
    furthest: Stage
    since: datetime
    opened_at: datetime
    last_at: datetime
    lost_reason: str
    dealer_code: str
    advisor: str
    assigned_at: datetime | None
    sla_due_at: datetime | None
    escalated_at: datetime | None
    withheld: str


@dataclass(frozen=True)
class Happened:
    """One step of a lead's history; `note` empty unless it was asked for."""

    stage: Stage
    at: datetime
    interest: str
    source: str
    dealer_code: str
    advisor: str
    reason: str
    author: str
    counts: bool
    note: str


@dataclass(frozen=True)
class Assignment:
    """Who was given a lead; `parts` say what spoke for it."""

    lead_id: int
    dealer_code: str
    advisor: str
    assigned_at: datetime | None
    ended_at: datetime | None
    end_reason: str
    score: float
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Task:
    """Something to be done about somebody."""

    task_id: TaskId
    person_id: int
    lead_id: int | None
    theme_id: int | None
    kind: str
    words: str
    dealer_code: str
    advisor: str
    state: int
    attempt: int
    result: str
    due_at: datetime
    completed_at: datetime | None


@dataclass(frozen=True)
class Wanted:
    """Which leads; what is empty does not matter."""

    dealer_code: str = ""
    advisor: str = ""
    person_id: int = 0
    stage: int = 0
    unassigned: bool = False
    escalated: bool = False
    overdue: bool = False


_LEAD = (
    "SELECT l.lead_id, ARRAY(SELECT d.lead_id FROM lead d WHERE d.merged_into = l.lead_id ORDER BY 1) AS merged, l.human_id,"
    " l.interest, l.brand, l.area, l.source, l.stage, l.furthest, l.since, l.opened_at, l.last_at, l.lost_reason,"
    " l.dealer_code, l.advisor, l.assigned_at, l.sla_due_at, l.escalated_at, l.withheld FROM lead l"
)
_ONE = f"{_LEAD} WHERE l.lead_id = (SELECT COALESCE(m.merged_into, m.lead_id) FROM lead m WHERE m.lead_id = :id)"  # noqa: S608
_OF_STEP = f"{_LEAD} WHERE l.lead_id = (SELECT s.lead_id FROM lead_step s WHERE s.step_key = :key)"  # noqa: S608
_TASK = (
    "SELECT task_id, person_id, lead_id, theme_id, kind, words, dealer_code, advisor, state, attempt, result, due_at,"
    " completed_at FROM lead_task"
)


class LeadReader:
    """Leads and tasks of one transaction."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def get(self, lead_id: int) -> Lead | None:
        """A lead, or the one that its number was merged into."""
        rows = await self._uow.rows(_ONE, id=lead_id)
        return _lead(rows[0]) if rows else None

    async def of_step(self, key: bytes) -> Lead | None:
        """The lead that a step belongs to now."""
        rows = await self._uow.rows(_OF_STEP, key=key)
        return _lead(rows[0]) if rows else None

    async def page(self, wanted: Wanted, before: int, size: int) -> list[Lead]:
        """Leads with numbers below `before`, newest first, without duplicates."""
        conditions = ["l.merged_into IS NULL", "l.lead_id < :before"]
        given: dict[str, Any] = {}
        for column, value in (
            ("dealer_code", wanted.dealer_code),
            ("advisor", wanted.advisor),
            ("human_id", wanted.person_id),
            ("stage", wanted.stage),
        ):
            if value:
                conditions.append(f"l.{column} = :{column}")
                given[column] = value
        if wanted.unassigned:
            conditions.append("l.dealer_code = '' AND l.stage < 7")
        if wanted.escalated:
            conditions.append("l.escalated_at IS NOT NULL AND l.dealer_code = '' AND l.stage < 7")
        if wanted.overdue:
            conditions.append("l.sla_due_at <= now()")
        rows = await self._uow.rows(
            f"{_LEAD} WHERE {' AND '.join(conditions)} ORDER BY l.lead_id DESC LIMIT :size",
            before=before,
            size=size,
            **given,
        )
        return [_lead(row) for row in rows]

    async def history(self, lead_id: int, with_notes: bool) -> list[Happened]:
        """All steps of a lead and its duplicates, oldest first."""
        rows = await self._uow.rows(
            "SELECT stage, occurred_at, interest, source, dealer_code, advisor, reason, author, reached, note FROM lead_step"
            " WHERE lead_id = :id ORDER BY occurred_at, stage, step_key LIMIT :most",
            id=lead_id,
            most=MOST_STEPS,
        )
        return [_happened(row, with_notes) for row in rows]

    async def assignments(self, lead_ids: Sequence[int]) -> list[Assignment]:
        """Who was given some leads, oldest first."""
        rows = await self._uow.rows(
            "SELECT lead_id, dealer_code, advisor, assigned_at, ended_at, end_reason, score, parts FROM lead_assignment"
            " WHERE lead_id = ANY(CAST(:ids AS bigint[])) ORDER BY assignment_id",
            ids=list(lead_ids),
        )
        return [Assignment(*row) for row in rows]

    async def task(self, task_id: int, lock: bool = False) -> Task | None:
        """One task, kept from others until the transaction ends where that is wanted."""
        rows = await self._uow.rows(_TASK + " WHERE task_id = :id" + (" FOR UPDATE" if lock else ""), id=task_id)
        return Task(*rows[0]) if rows else None

    async def task_of_key(self, key: str) -> Task | None:
        """The task that somebody made under a key."""
        rows = await self._uow.rows(_TASK + " WHERE task_key = :key", key=key)
        return Task(*rows[0]) if rows else None

    async def tasks(
        self, dealer_code: str, advisor: str, kind: str, person_id: int, after: tuple[int, int], size: int
    ) -> list[Task]:
        """Open tasks (of a person: all), the most urgent first, behind (microseconds of the deadline, number)."""
        given: dict[str, Any] = {"at": after[0], "id": after[1], "size": size}
        # Expired ones are open no more, whether or not anybody has written that down.
        conditions = ["state = 1 AND COALESCE(expires_at > now(), true)"] if not person_id else []
        for column, value in (
            ("dealer_code", dealer_code),
            ("advisor", advisor),
            ("kind", kind),
            ("person_id", person_id),
        ):
            if value:
                conditions.append(f"{column} = :{column}")
                given[column] = value
        rows = await self._uow.rows(
            f"{_TASK} WHERE {' AND '.join(conditions)}"
            " AND (due_at, task_id) > (timestamptz 'epoch' + :at * interval '1 us', :id) ORDER BY due_at, task_id LIMIT :size",
            **given,
        )
        return [Task(*row) for row in rows]


def _happened(row: Any, with_notes: bool) -> Happened:
    return Happened(
        Stage(row.stage),
        row.occurred_at,
        row.interest,
        row.source,
        row.dealer_code,
        row.advisor,
        row.reason,
        row.author,
        row.reached,
        row.note if with_notes else "",
    )


def _lead(row: Any) -> Lead:
    return Lead(
        row.lead_id,
        tuple(row.merged),
        row.human_id,
        row.interest,
        row.brand,
        row.area,
        row.source,
        Stage(row.stage),
        Stage(row.furthest),
        row.since,
        row.opened_at,
        row.last_at,
        row.lost_reason,
        row.dealer_code,
        row.advisor,
        row.assigned_at,
        row.sla_due_at,
        row.escalated_at,
        row.withheld,
    )
