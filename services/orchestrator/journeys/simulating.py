"""One person on her way through a program in a clock of its own: for dry runs, nothing is stored and nobody is pushed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

import numpy as np

from chassis.moments import from_us
from services.orchestrator.journeys.advancing import (
    ARRIVED,
    ASKS,
    CALLED,
    Answers,
    Clock,
    Moved,
    People,
    advance,
)
from services.orchestrator.journeys.documents import LONGEST_S
from services.orchestrator.journeys.hearing import GOAL, Happened, is_it
from services.orchestrator.journeys.programs import Node, Program

OPEN: Final = "open"
MOST_STEPS: Final = 1_000
# Asks for one person at a moment of the simulation.
Answering = Callable[[Node, People], Awaitable[Answers]]


@dataclass(frozen=True)
class Step:
    """A step that was left, and when."""

    node: Node
    outcome: str
    at: datetime


async def simulate(
    program: Program,
    salt: bytes,
    person: int,
    enters_at: datetime,
    events: Sequence[Happened],
    answering: Answering,
    zone: tzinfo = UTC,
) -> tuple[list[Step], str]:
    """(path, why it ends): `open` when she still waits after five years, or after MOST_STEPS steps."""
    one = np.array([person], np.int64)
    zero = np.zeros(1, np.int64)
    here = People(one, one, one, zero, zero, zero)
    now, path = enters_at, list[Step]()
    ahead = sorted(events, key=lambda each: each.at)
    until = enters_at + timedelta(seconds=LONGEST_S)
    while len(path) < MOST_STEPS:
        moved, answers = _step(program, salt, here, now, zone, None), None
        while moved.phase[0] == ASKS:
            _keep(path, moved, now)
            here = _there(here, moved)
            answers = await answering(program.nodes[int(moved.step[0])], here)
            moved = _step(program, salt, here, now, zone, answers)
        _keep(path, moved, now)
        if moved.reason[0]:
            return path, str(moved.reason[0])
        here = _there(here, moved)
        due = from_us(int(moved.due_us[0]))
        called = False
        while not called and ahead and ahead[0].at < due:
            happened = ahead.pop(0)
            if happened.at < now:
                continue
            now = happened.at
            if program.document.goal is not None and is_it(program.document.goal, happened):
                return path, GOAL
            waits = program.nodes[int(here.step[0])].stated.wait_until
            called = waits is not None and is_it(waits, happened)
        if called:
            here = replace(here, phase=np.array([CALLED], np.int64))
        elif due > until:
            break
        else:
            now = due
    return path, OPEN


def _step(program: Program, salt: bytes, here: People, now: datetime, zone: tzinfo, answers: Answers | None) -> Moved:
    return advance(program, salt, here, Clock(now, zone), answers)


def _there(here: People, moved: Moved) -> People:
    phase = np.where(moved.phase == ASKS, ARRIVED, moved.phase)
    return replace(here, step=moved.step, visit=moved.visit, phase=phase)


def _keep(path: list[Step], moved: Moved, now: datetime) -> None:
    path += [Step(passage.node, passage.outcome, now) for passage in moved.passages]
