"""Journeys as one would write them for one person: a loop. The engine must do the same for everybody at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from services.orchestrator.domain.hashing import key_of, units
from services.orchestrator.journeys.hearing import GOAL, Happened, is_it
from services.orchestrator.journeys.programs import OVER, Kind, Node, Program


@dataclass(frozen=True)
class Left:
    """A step that was left, and when."""

    step: str
    outcome: str
    at: datetime


def walk(
    program: Program,
    salt: bytes,
    person: int,
    entered: datetime,
    events: Sequence[Happened],
    holds: Callable[[str, int], bool],
    until: datetime,
) -> tuple[list[Left], str]:
    """What happens to a person until a moment, and why it ended ("": it did not). Steps without waits take no time."""
    path: list[Left] = []
    now, number = entered, 0
    ahead = [each for each in sorted(events, key=lambda each: each.at) if each.at > entered]
    while True:
        node = program.nodes[number]
        outcome = _outcome(node, salt, person, holds)
        if outcome is None:
            due = now + timedelta(seconds=node.lasting_s)
            if node.until_minutes is not None:
                due = _next(due, node.until_minutes, strictly=not node.lasting_s)
            outcome, now = _wait(program, node, ahead, due)
            if now > until:
                return path, ""
            if outcome == GOAL:
                return path, GOAL
        path.append(Left(node.id, outcome, now))
        if (number := node.ways.get(outcome, OVER)) == OVER:
            return path, node.reason


def _outcome(node: Node, salt: bytes, person: int, holds: Callable[[str, int], bool]) -> str | None:
    """How a step is left at once; None when it is waited at."""
    if node.kind is Kind.CONDITION and node.stated.condition is not None:
        return "yes" if holds(node.stated.condition.holds, person) else "no"
    if node.kind is Kind.SPLIT and node.stated.split is not None:
        branches = node.stated.split.branches
        point = float(units(np.array([person], np.int64), key_of(salt, node.id))[0]) * sum(b.share for b in branches.values())
        for name, branch in branches.items():
            if point < branch.share:
                return name
            point -= branch.share
        return list(branches)[-1]
    if node.kind is Kind.PUSH:
        return "proposed"
    if node.kind is Kind.EXIT:
        return node.reason
    return None


def _wait(program: Program, node: Node, ahead: list[Happened], due: datetime) -> tuple[str, datetime]:
    """How and when the waiting ends; events that came meanwhile are used up."""
    while ahead and ahead[0].at < due:
        happened = ahead.pop(0)
        if program.document.goal is not None and is_it(program.document.goal, happened):
            return GOAL, happened.at
        if node.stated.wait_until is not None and is_it(node.stated.wait_until, happened):
            return "event", happened.at
    return ("timeout" if node.kind is Kind.WAIT_UNTIL else "waited"), due


def _next(moment: datetime, minutes: int, strictly: bool) -> datetime:
    found = moment.replace(hour=minutes // 60, minute=minutes % 60, second=0, microsecond=0)
    return found + timedelta(days=1) if found < moment or (strictly and found == moment) else found
