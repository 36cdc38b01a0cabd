"""How far a batch of people goes now: through everything that needs no answer, up to a wait, a question or the end.

Pure, and over columns: a tick moves tens of thousands of people who stand at a few steps. One person's way depends on nothing
but the program, her number, the answers given and the moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Final

import numpy as np
from numpy.typing import NDArray

from chassis.moments import to_us
from services.orchestrator.domain.hashing import key_of, units
from services.orchestrator.journeys.programs import (
    DONE,
    HEARD,
    NO,
    OUTSIDE,
    OVER,
    TIMEOUT,
    WAITED,
    YES,
    Kind,
    Node,
    Program,
)

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Where somebody stands with regard to the step: just come, waiting until due, waiting no more because the event came, or
# waiting for an answer of another room.
ARRIVED, WAITS, CALLED, ASKS = 0, 1, 2, 3
# A journey that goes round for ever ends all the same.
MOST_VISITS: Final = 10_000
ENDLESS, COMPLETED = "endless", "completed"
# No answer yet.
UNKNOWN: Final = -(2**31)


@dataclass(frozen=True)
class People:
    """Enrolments as columns. `person`: as whom they entered, which draws; `present`: who that is now."""

    enrolment: Ints
    person: Ints
    present: Ints
    step: Ints
    visit: Ints
    phase: Ints

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> People:
        """From rows (enrolment, person, present, step, visit, phase)."""
        table = np.array(rows, np.int64).reshape(-1, 6)
        return cls(*(np.ascontiguousarray(column) for column in table.T))

    def __len__(self) -> int:
        return len(self.enrolment)

    def at(self, which: NDArray[np.int64] | Flags) -> People:
        """Some of them."""
        return People(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Clock:
    """The moment, and the zone of those whose own is not known.

    `asks_zone`: whether a person's own zone is asked for before an hour of her day is awaited.
    """

    now: datetime
    zone: tzinfo = UTC
    asks_zone: bool = False


@dataclass(frozen=True)
class Passage:
    """People (by place) who left a step in the same way; `visit` is each one's own count of steps before it."""

    at: Ints
    node: Node
    visit: Ints
    outcome: str


@dataclass
class Moved:
    """What became of everybody, aligned with the people: where they stand, until when, and why they ended ("": not)."""

    step: Ints
    visit: Ints
    phase: Ints
    due_us: Ints
    reason: NDArray[np.object_]
    passages: list[Passage] = field(default_factory=list)

    @property
    def asks(self) -> Flags:
        """Who waits for an answer."""
        asking: Flags = self.phase == ASKS
        return asking


@dataclass(frozen=True)
class Answers:
    """What other rooms said, for people who asked at the step where they stand: a number for each, by what the step is.

    Condition: 1 or 0; experiment: the place of the variant in the step's list, -1 for none; hour of the day: the place of the
    person's zone in `zones`, -1 for the usual one. UNKNOWN where nothing was said.
    """

    values: Ints
    zones: tuple[tzinfo, ...] = ()

    @classmethod
    def none(cls, count: int) -> Answers:
        """Nobody said anything."""
        return cls(np.full(count, UNKNOWN, np.int64))


def advance(program: Program, salt: bytes, people: People, clock: Clock, answers: Answers | None = None) -> Moved:
    """Moves everybody as far as it goes. Whoever WAITS must be due."""
    return _Walk(program, salt, people, clock, answers or Answers.none(len(people))).run()


class _Walk:
    def __init__(self, program: Program, salt: bytes, people: People, clock: Clock, answers: Answers) -> None:
        self._program, self._salt, self._people, self._clock = program, salt, people, clock
        # An answer belongs to the step where somebody stands at first, not to one of the same kind further on.
        self._said, self._zones = answers.values.copy(), answers.zones
        count = len(people)
        self._going = np.ones(count, np.bool_)
        self._moved = Moved(
            people.step.copy(),
            people.visit.copy(),
            people.phase.copy(),
            np.full(count, to_us(clock.now), np.int64),
            np.full(count, "", object),
        )

    def run(self) -> Moved:
        moved = self._moved
        while len(going := np.flatnonzero(self._going)):
            for number in np.unique(moved.step[going]).tolist():
                at = going[moved.step[going] == number]
                self._pass(self._program.nodes[number], at)
            endless = self._going & (moved.visit >= MOST_VISITS)
            self._end(np.flatnonzero(endless), ENDLESS)
        return moved

    def _pass(self, node: Node, at: Ints) -> None:
        """Everybody at a step does what the step is."""
        match node.kind:
            case Kind.WAIT | Kind.WAIT_UNTIL:
                self._wait(node, at)
            case Kind.CONDITION:
                at, said = self._answered(at)
                self._leave(node, at[said == 1], YES)
                self._leave(node, at[said != 1], NO)
            case Kind.AB:
                at, said = self._answered(at)
                variants = [name for name in node.ways if name != OUTSIDE]
                for place in np.unique(said).tolist():
                    inside = 0 <= place < len(variants)
                    self._leave(node, at[said == place], variants[place] if inside else OUTSIDE)
            case Kind.SPLIT:
                names, drawn = self._draw(node, at)
                for place, name in enumerate(names):
                    self._leave(node, at[drawn == place], name)
            case Kind.EXIT:
                self._leave(node, at, node.reason)
            case _:
                self._leave(node, at, DONE[node.kind])

    def _wait(self, node: Node, at: Ints) -> None:
        phase = self._moved.phase[at]
        self._leave(node, at[phase == CALLED], HEARD)
        self._leave(node, at[phase == WAITS], WAITED if node.kind is Kind.WAIT else TIMEOUT)
        came = at[(phase == ARRIVED) | (phase == ASKS)]
        due = self._clock.now + timedelta(seconds=node.lasting_s)
        if node.until_minutes is None:
            self._stay(came, due)
        elif not self._clock.asks_zone:
            self._stay(came, hour_after(due, self._clock.zone, node.until_minutes, strictly=not node.lasting_s))
        else:
            came, said = self._answered(came)
            for place in np.unique(said).tolist():
                zone = self._zones[place] if 0 <= place < len(self._zones) else self._clock.zone
                self._stay(came[said == place], hour_after(due, zone, node.until_minutes, strictly=not node.lasting_s))

    def _stay(self, at: Ints, due: datetime) -> None:
        self._moved.due_us[at], self._moved.phase[at], self._going[at] = to_us(due), WAITS, False

    def _answered(self, at: Ints) -> tuple[Ints, Ints]:
        """Those who have an answer, and the answers; the others stay and ask."""
        said = self._said[at]
        asks = at[said == UNKNOWN]
        self._moved.phase[asks], self._going[asks] = ASKS, False
        return at[said != UNKNOWN], said[said != UNKNOWN]

    def _draw(self, node: Node, at: Ints) -> tuple[list[str], Ints]:
        split = node.stated.split
        branches = split.branches if split else {}
        edges = np.cumsum([branch.share for branch in branches.values()])
        drawn = units(self._people.person[at], key_of(self._salt, node.id)) * edges[-1]
        return list(branches), np.minimum(np.searchsorted(edges, drawn, "right"), len(edges) - 1)

    def _leave(self, node: Node, at: Ints, outcome: str) -> None:
        """A passage is noted, and everybody stands at the next step; behind the last they end."""
        if not len(at):
            return
        moved = self._moved
        moved.passages.append(Passage(at, node, moved.visit[at].copy(), outcome))
        moved.visit[at] += 1
        self._said[at] = UNKNOWN
        target = node.ways.get(outcome, OVER)
        if target == OVER:
            self._end(at, node.reason)
        else:
            moved.step[at], moved.phase[at] = target, ARRIVED

    def _end(self, at: Ints, reason: str) -> None:
        self._moved.reason[at], self._moved.phase[at], self._going[at] = reason, ARRIVED, False


def hour_after(moment: datetime, zone: tzinfo, minutes: int, strictly: bool) -> datetime:
    """The next time (after, or not before, a moment) that clocks of a zone show an hour; minutes since midnight.

    Where clocks are put forward over it, the moment that it would have been; where they are put back, its first time.
    """
    local = moment.astimezone(zone)
    for days in (0, 1, 2):
        shown = datetime.combine(local.date() + timedelta(days=days), time(minutes // 60, minutes % 60), zone)
        if (found := shown.astimezone(UTC)) > moment or (found == moment and not strictly):
            return found
    raise AssertionError("a day has every hour")
