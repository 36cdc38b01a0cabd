"""What journeys make of facts: events let people in, wake who waits for them, and are goals; audiences and scores let in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from chassis.db import UnitOfWork
from services.orchestrator.journeys.advancing import CALLED, WAITS, People
from services.orchestrator.journeys.documents import Document, Event, Scalar, Test, Trigger
from services.orchestrator.journeys.engine import Course, House, hold, move
from services.orchestrator.journeys.enrolments import EnrolmentStore
from services.orchestrator.journeys.entering import Met, enter
from services.orchestrator.journeys.running import Running
from services.orchestrator.journeys.states import State
from services.orchestrator.journeys.store import JourneyStore

MOST_OBJECT = 200
GOAL = "goal"


class Happened(NamedTuple):
    """An event of a person; `vehicle_id` 0 for none."""

    name: str
    anchor_id: int
    person_id: int
    version: int
    vehicle_id: int
    at: datetime
    properties: Mapping[str, Any]


def meets(test: Test, given: Any) -> bool:
    """Whether a property is as it must be; words, numbers and yes and no compare as people write them."""
    if isinstance(given, (list, dict)):
        return False
    within = True
    if test.at_least is not None or test.at_most is not None:
        low, high = test.at_least, test.at_most
        is_number = isinstance(given, (int, float)) and not isinstance(given, bool)
        within = is_number and (low is None or given >= low) and (high is None or given <= high)
    return (
        within
        and (test.equals is None or _same(given, test.equals))
        and (test.is_not is None or (given is not None and not _same(given, test.is_not)))
        and (test.one_of is None or any(_same(given, each) for each in test.one_of))
    )


def _same(given: Any, stated: Scalar) -> bool:
    return given is not None and _text(given) == _text(stated)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def is_it(stated: Event | Trigger, happened: Happened) -> bool:
    """Whether an event is the one that is meant."""
    return happened.name == stated.event and all(meets(test, happened.properties.get(n)) for n, test in stated.where.items())


def object_of(per: str, happened: Happened) -> str | None:
    """What an event is about: "" where the person is meant, None where it does not say."""
    if per == "person":
        return ""
    if per == "vehicle":
        return str(happened.vehicle_id) if happened.vehicle_id else None
    given = happened.properties.get(per.removeprefix("property:"))
    if given is None or isinstance(given, (list, dict)) or not 0 < len(text := _text(given)) <= MOST_OBJECT:
        return None
    return text


def about(per: str, happened: Happened, object_: str) -> bool:
    """Whether an event concerns an enrolment's object: it names the same, or names none."""
    return per == "date" or object_of(per, happened) in (None, object_)


class Ear:
    """The journeys under way, and what they listen for, in one transaction."""

    def __init__(self, house: House, live: Sequence[Running]) -> None:
        self._house, self._live = house, {each.journey_id: each for each in live}
        self.names = frozenset(name for each in live for program in each.programs.values() for name in _names(program.document))

    @classmethod
    async def of(cls, uow: UnitOfWork, house: House) -> Ear:
        """What this transaction sees, and keeps as it is."""
        await hold(uow)
        return cls(house, await house.shelf.live(uow))

    async def events(self, uow: UnitOfWork, events: Sequence[Happened]) -> None:
        """Acts on events: goals first, then who waits, then who enters; of one person one after the other."""
        wanted = [each for each in events if each.name in self.names and each.person_id > 0]
        if not wanted:
            return
        who, now = await _who(uow, wanted), self._house.now()
        for turn in _turns(who):
            await self._notice(uow, turn, now)
            met = [found for person, each in turn for found in self._met(person, each)]
            await enter(uow, self._house, met, now, are_known=True)

    def _met(self, person: int, happened: Happened) -> Iterator[Met]:
        for running in self._live.values():
            trigger, per = running.program.document.trigger, running.program.document.entry.per
            if running.state is not State.RUNNING or trigger.event is None or happened.at < running.started_at:
                continue
            if is_it(trigger, happened) and (object_ := object_of(per, happened)) is not None:
                yield Met(running, person, object_, happened.at)

    async def _notice(self, uow: UnitOfWork, turn: Sequence[tuple[int, Happened]], now: datetime) -> None:
        """Ends those whose goal it is, wakes those who waited for it."""
        store = EnrolmentStore(uow)
        of_person = dict(turn)
        ended: list[int] = []
        awake: dict[tuple[int, int], list[tuple[int, ...]]] = {}
        for row in await store.of_persons(of_person):
            running, happened = self._live.get(row["journey_id"]), of_person[row["present_id"]]
            if running is None or happened.at < row["since_at"]:
                continue
            program = running.programs[row["version"]]
            document = program.document
            if not about(document.entry.per, happened, row["object"]):
                continue
            if document.goal is not None and is_it(document.goal, happened):
                ended.append(row["enrolment_id"])
                continue
            waits = program.nodes[row["step"]].stated.wait_until
            if waits is not None and row["phase"] == WAITS and is_it(waits, happened):
                awake.setdefault((running.journey_id, row["version"]), []).append((*tuple(row)[:5], CALLED))
        if ended:
            await store.end(ended, [GOAL] * len(ended), now)
        for (journey_id, version), rows in awake.items():
            running = self._live[journey_id]
            people = People.of(sorted(rows))
            if running.state is State.RUNNING:
                await move(uow, self._house, Course(journey_id, version, running.salt, running.programs[version]), people, now)
            else:
                # What is noticed in a pause is acted on after it.
                await store.call(people.enrolment.tolist(), now)

    async def audience(
        self, uow: UnitOfWork, name: str, entered: np.ndarray[Any, Any], left: np.ndarray[Any, Any], at: datetime
    ) -> None:
        """Lets in who entered or left a named audience."""
        met: list[Met] = []
        for running in self._live.values():
            trigger = running.program.document.trigger.audience
            if trigger is None or trigger.name != name or running.state is not State.RUNNING or at < running.started_at:
                continue
            who = entered if trigger.when == "entered" else left
            met += [Met(running, person, "", at) for person in who.tolist()]
        if met:
            await enter(uow, self._house, met, self._house.now(), by_tags=True)

    async def scores(self, uow: UnitOfWork, model: str, scores: Sequence[tuple[int, float, int]]) -> None:
        """Lets in whose (person, score, when in microseconds) crossed a line; keeps who is on which side of it."""
        if not scores:
            return
        met: list[Met] = []
        now = self._house.now()
        for running in self._live.values():
            trigger = running.program.document.trigger.score
            if trigger is None or trigger.model != model:
                continue
            sides = [(person, score >= trigger.crosses, at) for person, score, at in scores]
            crossed = await JourneyStore(uow).cross(running.journey_id, sides, trigger.direction == "up")
            if running.state is State.RUNNING:
                met += [Met(running, person, "", now) for person in crossed]
        if met:
            await enter(uow, self._house, met, now, by_tags=True)


def _names(document: Document) -> Iterator[str]:
    if document.trigger.event is not None:
        yield document.trigger.event
    if document.goal is not None:
        yield document.goal.event
    yield from (step.wait_until.event for step in document.steps if step.wait_until is not None)


def _turns(who: Sequence[tuple[int, Happened]]) -> Iterator[list[tuple[int, Happened]]]:
    """Rounds in which each person has one event, in the order in which they happened."""
    queue: dict[int, list[Happened]] = {}
    for person, happened in sorted(who, key=lambda each: each[1].at):
        queue.setdefault(person, []).append(happened)
    for number in range(max(map(len, queue.values()), default=0)):
        yield [(person, events[number]) for person, events in queue.items() if number < len(events)]


# Whose each event's anchor is, where a newer word on it came than the event's own, and who that is now; nobody who was erased.
_WHO = """
WITH RECURSIVE given AS (
  SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS g (anchor_id, person_id, version, place)
), owner AS (
  SELECT g.place, CASE WHEN o.version > g.version THEN o.person_id ELSE g.person_id END AS person_id
  FROM given g LEFT JOIN anchor_owner o USING (anchor_id)
  WHERE NOT EXISTS (SELECT FROM erased_anchor e WHERE e.anchor_id = g.anchor_id
    AND (e.person_id = g.person_id OR g.version <= e.version))
), way (place, person_id) AS (
  SELECT place, person_id FROM owner
  UNION SELECT w.place, a.survivor_id FROM way w JOIN person_alias a ON a.person_id = w.person_id AND a.survivor_id IS NOT NULL
)
SELECT w.place - 1 AS place, w.person_id FROM way w
WHERE NOT EXISTS (SELECT FROM person_alias a WHERE a.person_id = w.person_id AND a.survivor_id IS NOT NULL)
  AND NOT EXISTS (SELECT FROM erased_anchor e WHERE e.person_id = w.person_id)
"""


async def _who(uow: UnitOfWork, events: Sequence[Happened]) -> list[tuple[int, Happened]]:
    """Events of the living, with who each person is now."""
    columns = [[getattr(each, name) for each in events] for name in ("anchor_id", "person_id", "version")]
    return [(row["person_id"], events[row["place"]]) for row in await uow.fetch(_WHO, *columns)]
