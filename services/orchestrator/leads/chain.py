"""What steps make of a human's leads: a fold over the set of steps, so that their order of arrival and repeats do not matter.

A lead is one interest of one human. It ends with delivery, or with a year's silence: what opens anew after that is the next
lead. Loss ends nothing for good: any later step takes the lead up again, in a new cycle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import NamedTuple


class Stage(IntEnum):
    """How far a lead has come; numbers are those of the contract and of the table."""

    LEAD = 1
    CONTACTED = 2
    INVITED = 3
    VISIT = 4
    TEST_DRIVE = 5
    ORDER = 6
    DELIVERED = 7
    LOST = 8

    @property
    def label(self) -> str:
        """The word of settings and commands."""
        return self.name.lower()


STAGES = {stage.label: stage for stage in Stage}
# What a customer does that begins something new when the last thing is over; a call or a visit may still belong to it.
OPENERS = frozenset({Stage.LEAD, Stage.TEST_DRIVE, Stage.ORDER})
SILENCE = timedelta(days=365)

ORDER_CANCELLED, NOT_INTERESTED, UNREACHABLE, OTHER = "order_cancelled", "not_interested", "unreachable", "other"
LOST_REASONS = frozenset(
    {
        "bought_elsewhere",
        "price",
        "no_budget",
        NOT_INTERESTED,
        "timing",
        "model_unavailable",
        "financing_refused",
        UNREACHABLE,
        "wrong_contact",
        ORDER_CANCELLED,
        "duplicate",
        OTHER,
    }
)


class Step(NamedTuple):
    """One thing that happened; `key` tells repeats, `interest` is empty where nobody said what it was about."""

    step_id: int
    key: bytes
    stage: Stage
    interest: str
    at: datetime
    reason: str = ""
    dealer_code: str = ""
    brand: str = ""
    area: str = ""
    source: str = ""


@dataclass(frozen=True)
class Chain:
    """One lead. `steps` by time; `reached` are the steps with which a cycle first came to a stage."""

    interest: str
    steps: tuple[Step, ...]
    stage: Stage
    since: datetime
    furthest: Stage
    lost_reason: str
    reached: frozenset[int]

    @property
    def opened_at(self) -> datetime:
        """When it began."""
        return self.steps[0].at

    @property
    def last_at(self) -> datetime:
        """When last anything happened."""
        return self.steps[-1].at

    def last_said(self, field: str) -> str:
        """The latest word of the steps on `dealer_code`, `brand`, `area` or `source`; empty for none."""
        return next((word for step in reversed(self.steps) if (word := getattr(step, field))), "")


def fold(steps: Iterable[Step]) -> list[Chain]:
    """The leads of one human, by interest and time."""
    ordered = sorted({step.key: step for step in sorted(steps, key=lambda s: -s.step_id)}.values(), key=_by_time)
    by_interest: dict[str, list[Step]] = {}
    for interest, step in zip(_interests(ordered), ordered, strict=True):
        by_interest.setdefault(interest, []).append(step)
    return [_chain(interest, part) for interest in sorted(by_interest) for part in _parts(by_interest[interest])]


def _by_time(step: Step) -> tuple[datetime, Stage, bytes]:
    # Of what is told for one moment the further stage is the later one, loss the last.
    return step.at, step.stage, step.key


def _interests(ordered: Sequence[Step]) -> list[str]:
    """What each step is about: what was said last, else what was said first afterwards."""
    first = next((step.interest for step in ordered if step.interest), "")
    found, present = [], first
    for step in ordered:
        present = step.interest or present
        found.append(present)
    return found


def _parts(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps of one interest, cut where a new lead begins."""
    parts: list[list[Step]] = []
    delivered = False
    for step in steps:
        silent = bool(parts) and step.at - parts[-1][-1].at > SILENCE
        if not parts or (step.stage in OPENERS and (delivered or silent)):
            parts.append([])
            delivered = False
        parts[-1].append(step)
        delivered = delivered or step.stage is Stage.DELIVERED
    return parts


def _chain(interest: str, steps: Sequence[Step]) -> Chain:
    reached: set[int] = set()
    # First step of each stage since the lead was last lost.
    cycle: dict[Stage, Step] = {}
    delivered: Step | None = None
    lost: Step | None = None
    furthest = Stage.LEAD
    for step in steps:
        if step.stage is Stage.LOST:
            # Nobody loses twice in a row, and nobody loses what was delivered.
            if lost is None and delivered is None:
                lost, cycle = step, {}
                reached.add(step.step_id)
            continue
        if step.stage is Stage.DELIVERED:
            delivered = delivered or step
        furthest = max(furthest, step.stage)
        lost = None
        if step.stage not in cycle:
            cycle[step.stage] = step
            reached.add(step.step_id)
    if delivered is not None:
        stage, since, reason = Stage.DELIVERED, delivered.at, ""
    elif lost is not None:
        stage, since, reason = Stage.LOST, lost.at, lost.reason or OTHER
    else:
        stage = max(cycle)
        since, reason = cycle[stage].at, ""
    return Chain(interest, tuple(steps), stage, since, furthest, reason, frozenset(reached))


def is_open(stage: Stage) -> bool:
    """Whether anything is still to be done about it."""
    return stage not in (Stage.DELIVERED, Stage.LOST)
