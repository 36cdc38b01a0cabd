"""What came of a theme, folded from counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.orchestrator.domain.channels import CHANNELS
from services.orchestrator.domain.statistics import Interval, newcombe, wilson

BAND_WIDTH = 200
BANDS = 5
# States of a delivery as touchpoints numbers them: along the usual way they grow, from 7 on they are failures.
ACCEPTED, DELIVERED, ANSWERED, FIRST_FAILURE = 3, 4, 6, 7


@dataclass(frozen=True)
class Cell:
    """Decisions that agree in outcome, channel, score band (0 to 4) and delivery state (0 when nothing is known).

    `persons`: for how many persons they are the first push or holdout; `goals`: how many of these reached the goal.
    """

    outcome: str
    channel: str
    band: int
    state: int
    decisions: int
    persons: int
    goals: int


@dataclass(frozen=True)
class Rate:
    """How many reached the goal, of how many, with a Wilson interval."""

    persons: int
    goals: int
    interval: Interval


@dataclass(frozen=True)
class Funnel:
    """How far the pushes of one channel came; each stage counts those that came further as well."""

    channel: str
    requested: int
    accepted: int
    delivered: int
    answered: int
    goals: int
    failed: int


@dataclass(frozen=True)
class Report:
    """What came of a theme."""

    decisions: Mapping[str, int]
    funnels: tuple[Funnel, ...]
    pushed: Rate
    holdout: Rate
    effect: Interval
    cost_fen: int
    bands: tuple[Rate, ...]


def fold(cells: Iterable[Cell], unit_cost_fen: Mapping[str, int]) -> Report:
    """The report over all cells. Rates count everybody chosen, reached or not: only so is the holdout comparable."""
    cells = list(cells)
    pushes = [cell for cell in cells if cell.outcome == "push"]
    funnels = tuple(f for channel in CHANNELS if (f := _funnel(channel, [c for c in pushes if c.channel == channel])).requested)
    pushed, holdout = _rate(pushes), _rate([cell for cell in cells if cell.outcome == "holdout"])
    decisions: dict[str, int] = {}
    for cell in cells:
        decisions[cell.outcome] = decisions.get(cell.outcome, 0) + cell.decisions
    return Report(
        decisions,
        funnels,
        pushed,
        holdout,
        newcombe(pushed.goals, pushed.persons, holdout.goals, holdout.persons),
        sum(f.accepted * unit_cost_fen.get(f.channel, 0) for f in funnels),
        tuple(_rate([cell for cell in pushes if cell.band == band]) for band in range(BANDS)),
    )


def _rate(cells: Iterable[Cell]) -> Rate:
    cells = list(cells)
    persons, goals = sum(c.persons for c in cells), sum(c.goals for c in cells)
    return Rate(persons, goals, wilson(goals, persons))


def _funnel(channel: str, cells: Iterable[Cell]) -> Funnel:
    cells = list(cells)

    def reached(stage: int) -> int:
        return sum(c.decisions for c in cells if stage <= c.state < FIRST_FAILURE)

    return Funnel(
        channel,
        sum(c.decisions for c in cells),
        reached(ACCEPTED),
        reached(DELIVERED),
        reached(ANSWERED),
        sum(c.goals for c in cells),
        sum(c.decisions for c in cells if c.state >= FIRST_FAILURE),
    )
