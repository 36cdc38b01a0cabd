"""Chances and intervals: normal, chi-square, confidence sequences that may be looked at at any time, false discovery rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

_NORMAL = NormalDist()


def quantile(chance: float) -> float:
    """The standard normal's quantile."""
    return _NORMAL.inv_cdf(chance)


def two_sided(z: float) -> float:
    """The chance of a standard normal farther from 0 than z."""
    return math.erfc(abs(z) / math.sqrt(2))


def chi_square_tail(x: float, degrees: int) -> float:
    """The chance of a chi-square above x; the finite sums of Abramowitz & Stegun 26.4.4 and 26.4.5."""
    if x <= 0:
        return 1.0
    half = x / 2
    if degrees % 2:
        tail, term = math.erfc(math.sqrt(half)), math.exp(-half) * math.sqrt(half) / math.gamma(1.5)
        powers = (i + 1.5 for i in range(degrees // 2))
    else:
        tail, term = 0.0, math.exp(-half)
        powers = (i + 1.0 for i in range(degrees // 2))
    for power in powers:
        tail += term
        term *= half / power
    return min(1.0, tail)


def tuning(alpha: float, persons: int) -> float:
    """The mixture's variance (rho squared) that makes the sequence narrowest when this many persons have been counted.

    Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences"
    (Annals of Statistics 52, 2024; arXiv 2103.06476), equation (27), with the approximation of Lambert's W they give.
    """
    spent = -2 * math.log(alpha)
    return (spent + math.log(spent + 1)) / persons


def reach(persons: int, alpha: float, mixture: float) -> float:
    """How many standard errors a two-sided (1 - alpha) sequence reaches to either side, theorem 2.2 of the same paper.

    With normal outcomes it is the mixture sequential probability ratio test of Johari, Koomen, Pekelis & Walsh (Operations
    Research 70, 2022): whoever looks after every single person still errs with chance alpha at most.
    """
    t = persons * mixture
    return math.sqrt(2 * (t + 1) / t * math.log(math.sqrt(t + 1) / alpha))


def always_valid_p(z: float, persons: int, mixture: float) -> float:
    """The smallest alpha whose sequence leaves 0 out now."""
    t = persons * mixture
    return min(1.0, math.sqrt(t + 1) * math.exp(-z * z * t / (2 * (t + 1))))


def discoveries(chances: Sequence[float]) -> list[float]:
    """The q value of each p value: at which false discovery rate it would count (Benjamini & Hochberg 1995)."""
    order = sorted(range(len(chances)), key=lambda i: -chances[i])
    found, least = [1.0] * len(chances), 1.0
    for rank, i in zip(range(len(chances), 0, -1), order, strict=True):
        least = min(least, chances[i] * len(chances) / rank)
        found[i] = least
    return found


def sample_ratio(persons: Sequence[int], weights: Sequence[float]) -> tuple[float, float]:
    """(chi-square, p) of the numbers of persons against the weights that they were drawn with."""
    total, whole = sum(persons), sum(weights)
    if not total or len(persons) < 2:
        return 0.0, 1.0
    expected = [total * weight / whole for weight in weights]
    found = sum((n - e) ** 2 / e for n, e in zip(persons, expected, strict=True))
    return found, chi_square_tail(found, len(persons) - 1)
