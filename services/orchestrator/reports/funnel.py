"""From the audience to the goal, and where people were lost on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from services.orchestrator.arbiter import deciding as d
from services.orchestrator.reports.cells import ACCEPTED, ANSWERED, DELIVERED, EXPIRED, FAILED, OPENED, SUPPRESSED, Cell

AUDIENCE, DECIDED, CONTACTABLE, CHOSEN, PUSHED = "audience", "decided", "contactable", "chosen", "pushed"
GOAL: Final = "goal"
STAGES: Final = (
    AUDIENCE, DECIDED, CONTACTABLE, CHOSEN, PUSHED, "accepted", "delivered", "opened", "answered", GOAL,
)  # fmt: skip
# So many stages tell what was done with people; those after them tell what they did.
DONE: Final = STAGES.index("opened")
# At which stage each outcome is lost; what is named nowhere was never looked at to the end.
_LOST_AT: Final = {
    d.HOLDOUT: PUSHED,
    **dict.fromkeys((d.BUDGET, d.NO_VALUE, d.PACING, d.CAPACITY, d.STOCK, d.QUOTA), CHOSEN),
    **dict.fromkeys(
        (
            d.GLOBAL_HOLDOUT, d.OPTED_OUT, d.NO_SCORE, d.NO_CHANNEL, d.NO_OFFER, d.EXCLUSION, d.FREQUENCY_CAP, d.QUIET_HOURS,
            d.PRIORITY,
        ),
        CONTACTABLE,
    ),
}  # fmt: skip
_ENDED: Final = {FAILED: "failed", SUPPRESSED: "suppressed", EXPIRED: "not_in_time"}
_STEPS: Final = (
    ("accepted", ACCEPTED, "on_the_way"),
    ("delivered", DELIVERED, "not_delivered"),
    ("opened", OPENED, "not_opened"),
    ("answered", ANSWERED, "not_answered"),
)


@dataclass(frozen=True)
class Stage:
    """How many came so far, and by reason how many of the stage before did not.

    All but the last count decisions: one for each person and occasion. The last counts persons, whether they answered or not.
    """

    name: str
    count: int
    lost: Mapping[str, int]


def funnel_of(cells: Iterable[Cell]) -> tuple[Stage, ...]:
    """One stage for each of STAGES, whatever order the cells come in."""
    lost: dict[str, dict[str, int]] = {name: {} for name in STAGES}
    total = goals = 0
    for cell in cells:
        total += cell.decisions
        if cell.outcome == d.PUSH:
            goals += cell.goals
        if (where := lost_at(cell)) is not None:
            stage, reason = where
            lost[stage][reason] = lost[stage].get(reason, 0) + cell.decisions
    stages, count = [], total
    for name in STAGES[:-1]:
        count -= sum(lost[name].values())
        stages.append(Stage(name, count, _sorted(lost[name])))
    return (*stages, Stage(GOAL, goals, {}))


def lost_at(cell: Cell) -> tuple[str, str] | None:
    """The stage that a cell's decisions did not reach and why; None for those who answered."""
    if cell.outcome == d.DEFERRED:
        return DECIDED, f"waiting_{cell.reason}"
    if cell.outcome != d.PUSH:
        return _LOST_AT.get(cell.outcome, DECIDED), cell.outcome
    if cell.state in _ENDED:
        return "accepted", _ENDED[cell.state]
    return next(((name, why) for name, state, why in _STEPS if cell.state < state), None)


def _sorted(lost: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(lost.items(), key=lambda item: (-item[1], item[0])))
