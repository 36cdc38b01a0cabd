"""Intervals for rates and for the difference of two rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, trials: int) -> Interval:
    """Score interval of a rate without continuity correction (Wilson 1927); nothing tried: rate 0, anything possible."""
    if trials == 0:
        return Interval(0.0, 0.0, 1.0)
    rate, z2 = successes / trials, Z95 * Z95
    centre = (2 * successes + z2) / (2 * (trials + z2))
    half = Z95 * math.sqrt(z2 + 4 * successes * (1 - rate)) / (2 * (trials + z2))
    # At the ends the bound is 0 or 1 exactly; rounding must not put it beyond the rate.
    return Interval(rate, max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half)))


def newcombe(successes: int, trials: int, other_successes: int, other_trials: int) -> Interval:
    """First rate minus second, hybrid score interval (Newcombe 1998, Statistics in Medicine 17:873, method 10)."""
    if trials == 0 or other_trials == 0:
        return Interval(0.0, -1.0, 1.0)
    a, b = wilson(successes, trials), wilson(other_successes, other_trials)
    difference = a.value - b.value
    low = difference - math.hypot(a.value - a.low, b.high - b.value)
    high = difference + math.hypot(a.high - a.value, b.value - b.low)
    return Interval(difference, max(-1.0, low), min(1.0, high))
