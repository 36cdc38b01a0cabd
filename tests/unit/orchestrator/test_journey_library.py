"""Each ready-made journey, run through in a clock of its own: with everything going well, and with nothing."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from services.orchestrator.journeys import catalogue, programs
from services.orchestrator.journeys.advancing import Answers, People
from services.orchestrator.journeys.hearing import Happened
from services.orchestrator.journeys.programs import Node, Program
from services.orchestrator.journeys.simulating import simulate
from services.tags.catalogue import vocabulary, yaml_files
from services.tags.domain.catalogue import Kind
from services.tags.domain.predicates import parse_predicate

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def bound(name: str) -> Program:
    """With themes; theme 1 stands first in the file."""
    numbers = iter(range(1, 100))
    text = catalogue.library()[name]
    head, rest = text.split("trigger:", 1)
    head = re.sub(r"^  (\w+):$", lambda found: f"  {found[1]}: themes/{next(numbers)}", head, flags=re.MULTILINE)
    program, faults = programs.read(f"{head}trigger:{rest}")
    assert program is not None, faults
    return program


async def run(name: str, holds: bool, *events: tuple[float, str, dict[str, str]]) -> tuple[list[tuple[str, str, float]], str]:
    """((step, outcome, days since the beginning) …, why it ended)."""

    async def answer(node: Node, people: People) -> Answers:
        return Answers(np.full(len(people), int(holds), np.int64))

    assumed = [Happened(event, 0, 7, 0, 0, NOON + timedelta(days=day), about) for day, event, about in events]
    path, reason = await simulate(bound(name), b"0123456789abcdef", 7, NOON, assumed, answer)
    return [(step.node.id, step.outcome, round((step.at - NOON) / timedelta(days=1), 1)) for step in path], reason


def pushes(path: list[tuple[str, str, float]]) -> list[tuple[str, float]]:
    return [(step, day) for step, outcome, day in path if outcome in ("proposed", "created")]


# Stated by ReferralService.
OURS = {"Referral Redeemed", "Referral Credited"}


@pytest.mark.parametrize("name", catalogue.library())
def test_tags_and_events_are_those_that_ship(name: str) -> None:
    document, tags, events = bound(name).document, yaml_files.load(), vocabulary.load()
    asked = [step.condition.holds for step in document.steps if step.condition]
    if (date := document.trigger.date) is not None:
        inside = f"{date.tag} >= TIMESTAMP '2026-01-01T00:00:00Z'"
        asked.append(inside if date.of == "person" else f"ANY(vehicle, {inside})")
    for predicate in asked:
        parse_predicate(predicate, Kind.PERSON, tags)
    heard = [step.wait_until.event for step in document.steps if step.wait_until]
    heard += [each.event for each in (document.trigger, document.goal) if each is not None and each.event is not None]
    assert set() == set(heard) - set(events) - OURS


@pytest.mark.parametrize(
    ("name", "holds", "expected", "reason"),
    [
        ("app-wake-up", True, [("show_news", 0.3), ("remind", 10.3)], "still_asleep"),
        ("birthday", True, [("congratulate", 0.9)], "completed"),
        ("insurance-renewal", True, [("offer", 0.0), ("compare", 14.9), ("call", 35.9)], "completed"),
        ("lead-nurturing", True, [("call", 0.0)], "completed"),
        ("lead-nurturing", False, [("inform", 0.0), ("make_offer", 7.0)], "not_yet"),
        ("post-delivery-care", True, [("explain", 2.2), ("ask", 14.2), ("first_check", 91.2)], "completed"),
        ("referral", True, [("welcome", 0.0), ("remind", 30.0)], "never_ordered"),
        ("referral-thanks", True, [("thank", 0.0)], "completed"),
        ("service-due", True, [("remind", 0.9), ("again", 10.9), ("call", 20.9)], "completed"),
        ("test-drive-follow-up", True, [("thank", 0.9), ("advisor_calls", 2.9), ("offer", 7.9)], "completed"),
        ("warranty-end", True, [("offer", 0.0), ("remind", 30.9)], "completed"),
        ("warranty-end", False, [("offer", 0.0)], "completed"),
        ("win-back", True, [("write", 7.9), ("call", 21.9)], "completed"),
        ("win-back", False, [], "unreachable"),
    ],
)
async def test_nobody_answers(name: str, holds: bool, expected: list[tuple[str, float]], reason: str) -> None:
    path, why = await run(name, holds)
    # Person 7 draws the short pause of the wake-up or the long one, always the same.
    if name == "app-wake-up" and ("two_weeks", "waited", 17.3) in path:
        expected = [expected[0], ("remind", 17.3)]
    assert (expected, reason) == (pushes(path), why)


@pytest.mark.parametrize(
    ("name", "event", "reason"),
    [
        ("app-wake-up", (1.0, "Push Opened", {}), "opened"),
        ("app-wake-up", (1.0, "App Opened", {}), "goal"),
        ("insurance-renewal", (1.0, "Insurance Renewed", {}), "goal"),
        ("post-delivery-care", (5.0, "Complaint Filed", {}), "completed"),
        ("referral", (5.0, "Referral Credited", {"side": "referred"}), "completed"),
        ("referral", (5.0, "Referral Credited", {"side": "referrer"}), "never_ordered"),
        ("service-due", (12.0, "Service Booked", {}), "booked"),
        ("service-due", (5.0, "Service Completed", {}), "goal"),
        ("test-drive-follow-up", (1.0, "Order Placed", {}), "goal"),
        ("warranty-end", (1.0, "Warranty Extended", {}), "goal"),
        ("win-back", (10.0, "Offer Answered", {}), "answered"),
        ("win-back", (10.0, "Service Completed", {}), "goal"),
    ],
)
async def test_somebody_answers(name: str, event: tuple[float, str, dict[str, str]], reason: str) -> None:
    assert reason == (await run(name, True, event))[1]


async def test_a_complaint_reaches_the_dealer_before_anything_else_is_asked() -> None:
    path, _ = await run("post-delivery-care", True, (5.0, "Complaint Filed", {}))
    assert [("explain", 2.2), ("care", 5.0), ("first_check", 82.0)] == pushes(path)


async def test_a_warm_lead_that_books_a_test_drive_is_left_to_the_dealer() -> None:
    path, reason = await run("lead-nurturing", False, (2.0, "Push Opened", {}), (5.0, "Test Drive Booked", {}))
    assert [("inform", 0.0), ("make_offer", 2.0)] == pushes(path)
    assert "test_drive_booked" == reason
