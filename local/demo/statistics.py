"""The few statistics of the report."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % Wilson interval."""

    count: int
    of: int
    value: float
    low: float
    high: float


def rate(count: int, of: int) -> Rate:
    """Wilson's score interval (Wilson 1927); 0 with the interval 0..1 when there is nobody."""
    if of == 0:
        return Rate(0, 0, 0.0, 0.0, 1.0)
    share, z2 = count / of, Z95 * Z95
    centre = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = Z95 * sqrt(share * (1 - share) / of + z2 / (4 * of * of)) / (1 + z2 / of)
    return Rate(count, of, share, max(0.0, centre - half), min(1.0, centre + half))


@dataclass(frozen=True)
class Ranking:
    """What a score is worth on people whose answer is known; ties are cut in the order given."""

    sales_kept_at_65_percent: float
    sales_per_call_vs_all: float
    top_decile_lift: float
    base_rate: float


def ranking(scores: npt.NDArray[np.float64], answers: npt.NDArray[np.bool_]) -> Ranking:
    """Calls the best 65 %, then the best 10 %, and counts the real answers among them."""
    best_first = answers[np.argsort(-scores, kind="stable")]
    people, sales = len(answers), int(answers.sum())
    called, top = round(0.65 * people), max(1, people // 10)
    kept = int(best_first[:called].sum()) / sales
    base = sales / people
    return Ranking(kept, kept / (called / people), float(best_first[:top].mean()) / base, base)
