"""What the bandit is told of a context: a row of numbers whose order never changes, because sums are kept over it.

New features go to the end; sums of fewer features are then read with zeroes. Only `match` depends on the offer: the share of
its content tags that are true of the person, in 64ths, so that sums are exact in whatever order they are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEATURES: Final = (
    "always",
    "match",
    *(f"hour:{band}" for band in ("morning", "noon", "afternoon", "evening")),
    "weekend",
    *(f"channel:{name}" for name in ("wechat", "dealer", "sms", "email", "web", "car")),
    *(f"place:{name}" for name in ("home", "work", "dealer", "charging", "road", "online")),
    *(f"vehicle:{name}" for name in ("parked", "driving", "charging", "service_due")),
    *(f"weather:{name}" for name in ("clear", "rain", "snow", "fog", "hot", "cold")),
    *(f"channel:{name}" for name in ("push", "wechat_mini", "wecom", "call_list")),
)
MATCH: Final = FEATURES.index("match")
GRAIN: Final = 64
_AT: Final = {name: number for number, name in enumerate(FEATURES)}
_BANDS: Final = ((6, 11, "morning"), (11, 14, "noon"), (14, 18, "afternoon"), (18, 22, "evening"))


@dataclass(frozen=True)
class SlotContext:
    """Where and when somebody looks; words of the contract, empty where nothing is known."""

    channel: str
    at: datetime
    place: str = ""
    vehicle_state: str = ""
    weather: str = ""

    def active(self, clock: timedelta) -> tuple[int, ...]:
        """Features that are 1, ascending, without `match`; `clock` is how far the clock of hours is ahead of UTC."""
        local = self.at + clock
        band = next((name for start, end, name in _BANDS if start <= local.hour < end), "")
        said = (
            "always",
            f"hour:{band}",
            "weekend" if local.weekday() >= 5 else "",
            f"channel:{self.channel}",
            f"place:{self.place}",
            f"vehicle:{self.vehicle_state}",
            f"weather:{self.weather}",
        )
        return tuple(sorted(_AT[name] for name in said if name in _AT))


def rows(active: Sequence[Sequence[int]], match: Floats) -> Floats:
    """Contexts as numbers: of n contexts and matches (n,) the rows (n, features), of matches (n, k) (n, k, features)."""
    found = np.zeros((len(active), len(FEATURES)))
    for row, places in zip(found, active, strict=True):
        row[list(places)] = 1
    if match.ndim == 2:
        found = np.repeat(found[:, None, :], match.shape[1], axis=1)
    found[..., MATCH] = match
    return found


def believed(mean: Floats, covariance: Floats, active: Sequence[int], match: Floats) -> tuple[Floats, Floats]:
    """(mean, standard deviation) of each offer's rate in one context, (k,), from weights (k, features) and their covariance.

    The same as Bandit.believed for that context, in a twentieth of the time: nearly all features are 0.
    """
    here = np.array(active)
    rate = mean[:, here].sum(axis=1) + mean[:, MATCH] * match
    within = covariance[:, here]
    once = within[:, :, here].sum(axis=(1, 2))
    variance = once + match * (2 * within[:, :, MATCH].sum(axis=1) + match * covariance[:, MATCH, MATCH])
    return rate, np.sqrt(np.maximum(variance, 0))
