"""How channels and endpoints do.

An endpoint fails when its circuit is open or most of its calls fail; a channel when nothing of it works. Orchestrator is
told and prefers other channels: then there are no calls any more, the channel is idle, and gets pushes again to show what
it can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from services.touchpoints.domain.deliveries import Channel

# How far back calls count.
WINDOW_S: Final = 300
# Upper bounds of the parts of the histogram of latencies, seconds; what is above the last one is in a part of its own.
BOUNDS_S: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
# Fewer calls than this say nothing about whether an endpoint works; a smaller share of successes says that it does not.
LEAST_CALLS: Final = 20
LEAST_SUCCESS: Final = 0.5


class Condition(IntEnum):
    """How it does; the numbers are those of the contract."""

    IDLE = 1
    WORKING = 2
    PAUSED = 3
    FAILING = 4
    DISABLED = 5


@dataclass
class Tally:
    """Calls of a window: how many, how many were taken, how many failed for the receiver's sake, and how long they took."""

    calls: int = 0
    accepted: int = 0
    failed: int = 0
    seconds: float = 0.0
    took: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))

    def add(self, other: Tally) -> None:
        """Counts another one in."""
        self.calls += other.calls
        self.accepted += other.accepted
        self.failed += other.failed
        self.seconds += other.seconds
        self.took = [a + b for a, b in zip(self.took, other.took, strict=True)]

    @property
    def success(self) -> float | None:
        """Share of calls that did not fail for the receiver's sake; None without any. A refusal is an answer."""
        return 1 - self.failed / self.calls if self.calls else None

    def quantile_s(self, share: float) -> float | None:
        """The bound below which a share of the calls ended, seconds; None without any."""
        wanted, seen = share * sum(self.took), 0
        for bound, count in zip((*BOUNDS_S, BOUNDS_S[-1]), self.took, strict=True):
            seen += count
            if count and seen >= wanted:
                return bound
        return None


@dataclass(frozen=True)
class Health:
    """How an endpoint or, with an empty name, a channel does. `quota_left`, `credits`: None where nobody counts them."""

    name: str
    channel: Channel
    condition: Condition
    reason: str
    tally: Tally
    quota_left: int | None = None
    credits: int | None = None

    @property
    def left(self) -> int | None:
        """How many pushes more can go; None where nobody counts them."""
        return min((number for number in (self.quota_left, self.credits) if number is not None), default=None)

    @property
    def fails(self) -> bool:
        """Whether others are to be preferred."""
        return self.condition in (Condition.FAILING, Condition.PAUSED, Condition.DISABLED)


def of_channel(endpoints: Sequence[Health]) -> Health:
    """What its endpoints make of a channel: it fails when all of them do, or most of all its calls."""
    tally = Tally()
    for each in endpoints:
        tally.add(each.tally)
    quotas = [each.quota_left for each in endpoints if each.quota_left is not None]
    permissions = [each.credits for each in endpoints if each.credits is not None]
    worst = max(endpoints, key=lambda each: each.condition)
    if all(each.fails for each in endpoints):
        condition, reason = min((each.condition, each.reason) for each in endpoints)
    elif tally.calls >= LEAST_CALLS and (tally.success or 0.0) < LEAST_SUCCESS:
        condition, reason = Condition.FAILING, "most_calls_fail"
    else:
        working = any(each.condition is Condition.WORKING for each in endpoints)
        condition, reason = (Condition.WORKING if working else Condition.IDLE), ""
    return Health(
        "", worst.channel, condition, reason, tally, sum(quotas) if quotas else None, sum(permissions) if permissions else None
    )
