"""Did a list put those first who then did it? The area under its curve of conversions, against other orders of the same people.

The area is the mean place, from 1 (first) to 0 (last), of those who converted. Customers stand on the lists of many days, so
the bootstrap draws customers, each with all days. That those who were spoken to convert more often helps the order in which
dealers really called; a list that beats it does so in spite of that, and one that does not may still be the better one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
DRAWS = 400


@dataclass(frozen=True)
class DayList:
    """One list of one day, as aligned columns: who, whether they did it, and their places in each order (lower is earlier)."""

    person: Ints
    converted: NDArray[np.bool_]
    rank: Floats
    other: Floats


@dataclass(frozen=True)
class Comparison:
    """Areas, their difference and its 95 % interval; all NaN where nobody converted."""

    area: float
    other: float
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """better, worse, not_proven or no_data."""
        if not np.isfinite(self.difference):
            return "no_data"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not_proven"


def compare(lists: Sequence[DayList]) -> Comparison:
    """The lists' order against the other one."""
    persons = np.unique(np.concatenate([each.person for each in lists])) if lists else np.empty(0, np.int64)
    places = [np.searchsorted(persons, each.person) for each in lists]
    one = np.ones((1, len(persons)))
    area, other = (_area(lists, places, one, which)[0] for which in ("rank", "other"))
    if not np.isfinite(area):
        return Comparison(np.nan, np.nan, np.nan, np.nan, np.nan)
    draw = np.random.default_rng(11)
    # Of each customer as many as are drawn; Poisson(1) is that, customer by customer.
    weights = draw.poisson(1.0, (DRAWS, len(persons))).astype(np.float64)
    differences = _area(lists, places, weights, "rank") - _area(lists, places, weights, "other")
    low, high = np.nanpercentile(differences, [2.5, 97.5])
    return Comparison(float(area), float(other), float(area - other), float(low), float(high))


def _area(lists: Sequence[DayList], places: Sequence[Ints], weights: Floats, which: str) -> Floats:
    """One area for each row of weights over persons, pooled over the lists by their conversions; NaN without any."""
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    for each, place in zip(lists, places, strict=True):
        order = np.lexsort((each.person, getattr(each, which)))
        mine = weights[:, place[order]]
        reached = mine.cumsum(axis=1)
        size = reached[:, -1:]
        early = 1 - (reached - mine / 2) / np.where(size > 0, size, 1)
        hits = mine * each.converted[order]
        total += (hits * early).sum(axis=1)
        count += hits.sum(axis=1)
    return np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)
