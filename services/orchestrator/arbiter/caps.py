"""Caps: no more than so many pushes in so many days, over all themes and journeys, of any channel and of single ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from services.orchestrator.domain.channels import CHANNELS

Ints = NDArray[np.int64]

ANY: Final = "any"
DAY_US: Final = 24 * 3600 * 1_000_000
LONGEST_DAYS: Final = 366


def _checked(caps: dict[str, tuple[int, float]]) -> dict[str, tuple[int, float]]:
    for channel, (pushes, days) in caps.items():
        if channel not in (ANY, *CHANNELS):
            raise ValueError(f"{channel!r} is neither any nor one of {', '.join(CHANNELS)}")
        if pushes < 1 or not 0 < days <= LONGEST_DAYS:
            raise ValueError(f"{channel}: at least one push, in 0 to {LONGEST_DAYS} days")
    return caps


# "any" or a channel to (pushes, days).
CapTable = Annotated[dict[str, tuple[int, float]], AfterValidator(_checked)]


@dataclass(frozen=True)
class Pushed:
    """Pushes of the past as aligned columns: the row of whom they went to, the channel's code, and when."""

    row: Ints
    channel: Ints
    at_us: Ints


def longest_us(caps: Mapping[str, tuple[int, float]]) -> int:
    """How far back the caps look."""
    return max((round(days * DAY_US) for _, days in caps.values()), default=0)


def opens(caps: Mapping[str, tuple[int, float]], pushed: Pushed, rows: int, now_us: int) -> tuple[Ints, NDArray[np.int32]]:
    """(until when each channel is closed for each row (rows, channels), how many pushes the cap of any channel counts now).

    A cap of n opens when the n-th newest push leaves its window. A push later than `now_us` is one that a clock put there
    which has gone backwards since: it counts.
    """
    until = np.zeros((rows, len(CHANNELS)), np.int64)
    counted = np.zeros(rows, np.int32)
    for name, (pushes, days) in caps.items():
        window_us = round(days * DAY_US)
        meant = pushed.at_us > now_us - window_us
        if name != ANY:
            meant &= pushed.channel == CHANNELS.index(name)
        row, at_us = pushed.row[meant], pushed.at_us[meant]
        if name == ANY:
            counted = np.bincount(row, minlength=rows).astype(np.int32)
        order = np.lexsort((-at_us, row))
        row, at_us = row[order], at_us[order]
        first = np.searchsorted(row, row, "left")
        full = np.arange(len(row)) - first == pushes - 1
        columns = slice(None) if name == ANY else slice(CHANNELS.index(name), CHANNELS.index(name) + 1)
        until[row[full], columns] = np.maximum(until[row[full], columns], (at_us[full] + window_us)[:, None])
    return until, counted
