"""Who enters: what re-entry allows, in one statement; a few go as far as they go at once, crowds are left to the tick."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from chassis.db import UnitOfWork
from services.orchestrator.experiments.store import ExperimentStore
from services.orchestrator.journeys.advancing import People
from services.orchestrator.journeys.documents import seconds
from services.orchestrator.journeys.engine import Course, House, move
from services.orchestrator.journeys.enrolments import EnrolmentStore, Entrant
from services.orchestrator.journeys.running import Running

# More than these would keep the bus waiting.
AT_ONCE: Final = 1_000
ONCE, ALWAYS = -1, 0
PART: Final = 50_000


class Met(NamedTuple):
    """A person who met a journey's trigger. `object`: the order, vehicle or day; "" for the person."""

    running: Running
    person_id: int
    object: str
    since_at: datetime


async def enter(
    uow: UnitOfWork, house: House, met: Sequence[Met], now: datetime, by_tags: bool = False, are_known: bool = False
) -> None:
    """Lets in who may enter; `by_tags`: the trigger knows people by their tags, which some do not want.

    Everybody enters as who she is now (`are_known`: the caller has looked); the erased do not. The caller holds.
    """
    if not met:
        return
    persons = sorted({each.person_id for each in met})
    present = {each: each for each in persons} if are_known else await ExperimentStore(uow).present(persons)
    out = set() if are_known else await _out(uow, present.values(), now, by_tags)
    entrants = [
        Entrant(
            each.running.journey_id,
            each.running.version,
            present[each.person_id],
            each.object if each.running.program.document.entry.per != "person" else "",
            again(each.running),
            each.since_at,
        )
        for each in met
        if present[each.person_id] not in out
    ]
    store = EnrolmentStore(uow)
    entered: list[Any] = []
    for start in range(0, len(entrants), PART):
        entered += await store.enter(entrants[start : start + PART], now)
    if len(entered) > AT_ONCE:
        return
    by_journey = {each.running.journey_id: each.running for each in met}
    for journey_id, running in by_journey.items():
        rows = sorted(tuple(row)[:6] for row in entered if row["journey_id"] == journey_id)
        if rows:
            course = Course(journey_id, running.version, running.salt, running.program)
            await move(uow, house, course, People.of(rows), now)


def again(running: Running) -> int:
    """When a person or object may enter anew: ONCE, ALWAYS, or so many seconds after the last time."""
    match running.program.document.entry.again:
        case "once":
            return ONCE
        case "always":
            return ALWAYS
        case length:
            return seconds(length)


async def _out(uow: UnitOfWork, persons: Iterable[int], now: datetime, by_tags: bool) -> set[int]:
    known = sorted(set(persons))
    rows = await uow.rows(
        "SELECT DISTINCT person_id FROM erased_anchor WHERE person_id = ANY(CAST(:persons AS bigint[]))", persons=known
    )
    out = {row.person_id for row in rows}
    return out | await ExperimentStore(uow).without_personalisation(known, now) if by_tags else out
