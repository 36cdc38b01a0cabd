"""A batch goes as far as each of its people would alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.moments import to_us
from services.orchestrator.journeys import programs
from services.orchestrator.journeys.advancing import (
    ARRIVED,
    ASKS,
    UNKNOWN,
    WAITS,
    Answers,
    Clock,
    People,
    advance,
    hour_after,
)
from services.orchestrator.journeys.hearing import Happened
from services.orchestrator.journeys.programs import Node, Program
from services.orchestrator.journeys.simulating import simulate
from tests.unit.orchestrator.journey_drawing import documents
from tests.unit.orchestrator.journey_reference import walk

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
SALT = b"0123456789abcdef"


def holds(predicate: str, person: int) -> bool:
    return (person + int(predicate[1:])) % 3 == 0


def people(count: int) -> People:
    numbers = np.arange(1, count + 1, dtype=np.int64)
    zero = np.zeros(count, np.int64)
    return People(numbers, numbers, numbers, zero, zero, zero)


def program(text: str) -> Program:
    found, faults = programs.read(text)
    assert found is not None, faults
    return found


@given(documents())
def test_nobody_depends_on_the_others_of_a_batch(text: str) -> None:
    found = program(text)
    together = advance(found, SALT, people(7), Clock(NOON))
    for place in range(7):
        alone = advance(found, SALT, people(7).at(np.array([place])), Clock(NOON))
        for name in ("step", "visit", "phase", "due_us", "reason"):
            assert getattr(together, name)[place] == getattr(alone, name)[0]


@given(documents())
def test_everybody_ends_waits_or_asks_and_every_step_is_passed_once(text: str) -> None:
    found = program(text)
    moved = advance(found, SALT, people(5), Clock(NOON))
    for place in range(5):
        kind = found.nodes[int(moved.step[place])].kind
        if moved.reason[place]:
            continue
        assert (moved.phase[place] == WAITS) == (kind in programs.WAITING)
        assert (moved.phase[place] == ASKS) == (kind is programs.Kind.CONDITION)
        assert moved.phase[place] == ASKS or moved.due_us[place] > to_us(NOON)
    visits = [(int(one), int(visit)) for p in moved.passages for one, visit in zip(p.at, p.visit, strict=True)]
    assert len(set(visits)) == len(visits)
    assert sorted(visits) == [(place, visit) for place in range(5) for visit in range(int(moved.visit[place]))]


@settings(max_examples=50, deadline=None)
@given(documents(), st.lists(st.tuples(st.sampled_from("ABG"), st.integers(1, 200 * 60)), max_size=6), st.integers(1, 50))
async def test_a_simulation_is_what_the_reference_does(text: str, given_: list[tuple[str, int]], person: int) -> None:
    found = program(text)
    # A second beside every full minute, so that nothing happens just when a time is over.
    events = [Happened(name, 1, person, 1, 0, NOON + timedelta(minutes=after, seconds=7), {}) for name, after in given_]

    async def answer(node: Node, who: People) -> Answers:
        asked = node.stated.condition.holds if node.stated.condition else ""
        return Answers(np.array([int(holds(asked, one)) for one in who.present.tolist()], np.int64))

    path, reason = await simulate(found, SALT, person, NOON, events, answer)
    until = path[-1].at if path and reason == "open" else NOON + timedelta(days=4000)
    expected, why = walk(found, SALT, person, NOON, events, holds, until) if reason != "open" else ([], "open")
    assert reason == why
    if reason != "open":
        assert [(left.step, left.outcome, left.at) for left in expected] == [(s.node.id, s.outcome, s.at) for s in path]


def test_an_answer_belongs_to_the_step_that_asked() -> None:
    found = program(
        "title: T\ntrigger: {event: E}\nsteps:\n- id: a\n  condition: {holds: x, then: b, otherwise: end}\n"
        "- id: b\n  condition: {holds: y, then: c, otherwise: end}\n- id: c\n  exit: both\n"
    )
    asked = advance(found, SALT, people(2), Clock(NOON))
    assert [ASKS, ASKS] == asked.phase.tolist()
    moved = advance(found, SALT, people(2), Clock(NOON), Answers(np.array([1, UNKNOWN])))
    assert [1, 0] == moved.step.tolist()
    assert [ASKS, ASKS] == moved.phase.tolist()
    assert ["", ""] == moved.reason.tolist()


@pytest.mark.parametrize(
    ("zone", "moment", "minutes", "strictly", "expected"),
    [
        ("UTC", "2026-03-02T08:59:59+00:00", 540, True, "2026-03-02T09:00:00+00:00"),
        ("UTC", "2026-03-02T09:00:00+00:00", 540, True, "2026-03-03T09:00:00+00:00"),
        ("UTC", "2026-03-02T09:00:00+00:00", 540, False, "2026-03-02T09:00:00+00:00"),
        ("Asia/Shanghai", "2026-03-02T20:00:00+00:00", 540, True, "2026-03-03T01:00:00+00:00"),
        ("America/New_York", "2026-03-02T01:00:00+00:00", 540, True, "2026-03-02T14:00:00+00:00"),
        # Clocks are put forward on the 29th at 02:00: 02:30 is not there.
        ("Europe/Berlin", "2026-03-28T12:00:00+00:00", 150, True, "2026-03-29T01:30:00+00:00"),
        ("Europe/Berlin", "2026-03-28T12:00:00+00:00", 540, True, "2026-03-29T07:00:00+00:00"),
        # And back on the 25th of October at 03:00: 02:30 comes twice, the first time counts.
        ("Europe/Berlin", "2026-10-24T12:00:00+00:00", 150, True, "2026-10-25T00:30:00+00:00"),
    ],
)
def test_an_hour_is_the_next_that_clocks_of_the_zone_show(
    zone: str, moment: str, minutes: int, strictly: bool, expected: str
) -> None:
    found = hour_after(datetime.fromisoformat(moment), ZoneInfo(zone), minutes, strictly)
    assert datetime.fromisoformat(expected) == found


@given(st.datetimes(datetime(2000, 1, 1), datetime(2050, 1, 1)), st.integers(0, 1439))
def test_an_hour_is_never_more_than_a_day_and_a_shift_away(moment: datetime, minutes: int) -> None:
    aware = moment.replace(tzinfo=UTC)
    for zone in ("Asia/Shanghai", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"):
        found = hour_after(aware, ZoneInfo(zone), minutes, strictly=True)
        assert timedelta(0) < found - aware <= timedelta(hours=26)


def test_phases_are_those_that_the_tables_keep() -> None:
    assert (0, 1, 3) == (ARRIVED, WAITS, ASKS)
