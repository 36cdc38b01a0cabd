"""What it takes to close a gap: exact sums of customers who may or may not do it, and how far such forecasts held.

The number of successes among independent customers of unequal chances is Poisson-binomial (Hong, "On computing the distribution
function for the Poisson binomial distribution", 2013); its distribution is convolved exactly and absorbed at the gap.
Whether chances are right on the whole is not known but measured: of those foretold on past lists so many came true. That factor
has a gamma posterior, and everything is averaged over draws of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from services.orchestrator.leads.chain import Stage

Floats = NDArray[np.float64]
DRAWS = 64
# As if so many had been foretold and had come true already: a few weeks' lists say more, a few days' do not.
PRIOR = 10.0
# Nobody is surer than that of what a customer will do.
SUREST = 0.95


class Metric(IntEnum):
    """What a target counts; numbers are those of the contract and of the tables."""

    TEST_DRIVES = 1
    ORDERS = 2
    DELIVERIES = 3

    @property
    def stage(self) -> Stage:
        """The stage of leads that counts."""
        return {1: Stage.TEST_DRIVE, 2: Stage.ORDER, 3: Stage.DELIVERED}[self.value]

    @property
    def label(self) -> str:
        """The word of settings and commands."""
        return self.name.lower()


METRICS = {metric.label: metric for metric in Metric}


@dataclass(frozen=True)
class Track:
    """How past lists did: so many were foretold (a sum of chances), so many came true."""

    foretold: float = 0.0
    came_true: int = 0

    @property
    def realised(self) -> float:
        """How many came true for each one foretold, drawn towards 1 while little is known."""
        return (self.came_true + PRIOR) / (self.foretold + PRIOR)

    def draws(self) -> Floats:
        """Plausible values of that factor; the same every time."""
        sample = np.random.default_rng(7).gamma(self.came_true + PRIOR, 1 / (self.foretold + PRIOR), DRAWS)
        return np.asarray(sample, np.float64)


@dataclass(frozen=True)
class Closing:
    """What a list can do about a gap. Of `needed`: customers from the first on, None where the list is too short."""

    expected: float
    chance: float
    needed: int | None
    low: int | None
    high: int | None


def within(probability: Floats, days: float, horizon_days: float) -> Floats:
    """What chances over a horizon come to in fewer days, at an even pace."""
    share = min(1.0, max(0.0, days) / horizon_days)
    return np.asarray(1 - (1 - np.clip(probability, 0, SUREST)) ** share, np.float64)


def closing(probability: Floats, gap: int, track: Track) -> Closing:
    """What customers in this order can do about a gap, when each is spoken to."""
    factors = track.draws()
    expected = (
        float(np.minimum(SUREST, factors[:, None] * probability[None, :]).sum(axis=1).mean()) if len(probability) else 0.0
    )
    if gap <= 0:
        return Closing(expected, 1.0, 0, 0, 0)
    if gap > len(probability):
        return Closing(expected, 0.0, None, None, None)
    reached = np.zeros((DRAWS, gap + 1))
    reached[:, 0] = 1.0
    chances = np.zeros(len(probability))
    for place, chance in enumerate(probability.tolist()):
        each = np.minimum(SUREST, factors * chance)[:, None]
        moved = reached[:, :-1] * each
        reached[:, :-1] -= moved
        reached[:, 1:] += moved
        chances[place] = reached[:, -1].mean()
    return Closing(
        expected,
        float(chances[-1]),
        *(_first(chances, level) for level in (0.5, 0.1, 0.9)),
    )


def _first(chances: Floats, level: float) -> int | None:
    """How many customers it takes until the gap is closed with a probability."""
    place = int(np.searchsorted(chances, level))
    return place + 1 if place < len(chances) else None


def words(metric: Metric, gap: int, candidates: int, found: Closing) -> str:
    """A closing as one says it."""
    what = metric.label.replace("_", " ")
    if gap == 0:
        return f"reached; {found.expected:.1f} more are to be expected"
    if found.needed is None:
        return (
            f"{gap} {what} are missing and the list does not close the gap: all {candidates} customers spoken to bring about"
            f" {found.expected:.1f}, and close it in {found.chance:.0%} of all cases"
        )
    low = found.low if found.low is not None else found.needed
    high = f"{found.high}" if found.high is not None else f"more than {candidates}"
    return f"{gap} {what} are missing: speak to about {found.needed} customers (between {low} and {high})"
