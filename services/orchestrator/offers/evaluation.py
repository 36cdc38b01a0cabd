"""What a policy would have earned, judged from another one's log: three estimators of its mean reward, with intervals.

Intervals are normal approximations: with few successes, or few effective rows, they are too narrow and may leave the range of
the reward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Standard normal, two-sided 95 %.
_Z = 1.959963984540054


@dataclass(frozen=True)
class Value:
    """A mean reward with its 95 % interval (normal approximation) and the effective number of rows behind it (Kish 1965)."""

    mean: float
    low: float
    high: float
    effective_rows: float


@dataclass(frozen=True)
class Log:
    """What was shown, what came of it, and the chance it was shown with; all (n,), chances in (0, 1]."""

    offer: Ints
    reward: Floats
    propensity: Floats

    def __post_init__(self) -> None:
        if not len(self.offer) == len(self.reward) == len(self.propensity) or not len(self.offer):
            raise ValueError("a log has as many offers as rewards and propensities, and at least one")
        if not ((self.propensity > 0) & (self.propensity <= 1)).all():
            raise ValueError("a propensity lies in (0, 1]")

    def ratio(self, policy: Floats) -> Floats:
        """How much more often the policy, (n, k) chances, would have shown what was shown."""
        ratio: Floats = policy[np.arange(len(self.offer)), self.offer] / self.propensity
        return ratio


def ips(log: Log, policy: Floats) -> Value:
    """Inverse propensity scoring (Horvitz & Thompson 1952): unbiased, and wide where the policies differ."""
    ratio = log.ratio(policy)
    return _interval(ratio * log.reward, ratio)


def snips(log: Log, policy: Floats) -> Value:
    """Self-normalised (Swaminathan & Joachims 2015): slightly biased, narrower; interval by delta method (Owen 2013, 9.2)."""
    ratio = log.ratio(policy)
    total = ratio.sum()
    if not total:
        raise ValueError("the log never shows what the policy would")
    mean = float((ratio * log.reward).sum() / total)
    half = _Z * float(np.sqrt((ratio**2 * (log.reward - mean) ** 2).sum()) / total)
    return Value(mean, mean - half, mean + half, _effective(ratio))


def doubly_robust(log: Log, policy: Floats, expected: Floats) -> Value:
    """Doubly robust (Dudík, Langford & Li 2011): right when either the propensities or the `expected` rewards, (n, k), are.

    `expected` must come from other rows than those it is used on, or the interval is too narrow.
    """
    ratio = log.ratio(policy)
    modelled = (policy * expected).sum(axis=1)
    surprise = log.reward - expected[np.arange(len(log.offer)), log.offer]
    return _interval(modelled + ratio * surprise, ratio)


def difference(log: Log, one: Floats, other: Floats, expected: Floats) -> Value:
    """By how much the one policy's mean reward is above the other's, doubly robust on the same rows."""
    ratio = log.ratio(one) - log.ratio(other)
    surprise = log.reward - expected[np.arange(len(log.offer)), log.offer]
    return _interval(((one - other) * expected).sum(axis=1) + ratio * surprise, ratio)


def _interval(scores: Floats, ratio: Floats) -> Value:
    mean = float(scores.mean())
    half = _Z * float(scores.std(ddof=1)) / float(np.sqrt(len(scores))) if len(scores) > 1 else float("inf")
    return Value(mean, mean - half, mean + half, _effective(ratio))


def _effective(ratio: Floats) -> float:
    squares = float((ratio**2).sum())
    return float(np.abs(ratio).sum()) ** 2 / squares if squares else 0.0
