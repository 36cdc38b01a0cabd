"""Whether a layer's response holds against its target: looked at after every push, wrong about it one time in twenty at most.

The interval is the mixture martingale of Robbins ("Statistical methods related to the law of the iterated logarithm", Annals
of Mathematical Statistics 41, 1970) for a yes or no with a Beta(1/2, 1/2) mixture: it holds the true rate at all times together
with chance 1 - alpha, exactly, also where successes are rare. The sequences of experiments hold from some hundred successes on,
which a layer may never see.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

ALPHA = 0.05
_STEPS = 60


class Verdict(IntEnum):
    """What follows for a layer; the numbers are those of the contract."""

    WAIT = 1
    # Proven to hold: the next layer may open before this one has had all its time.
    PROVEN = 2
    # All have had their time, and the rate is not below the target.
    HOLDS = 3
    BELOW_TARGET = 4
    # All have had their time, and the rate is below the target without that being proven.
    NOT_HELD = 5
    TOO_FEW = 6


OPENS = frozenset({Verdict.PROVEN, Verdict.HOLDS})
STOPS = frozenset({Verdict.BELOW_TARGET, Verdict.NOT_HELD, Verdict.TOO_FEW})


@dataclass(frozen=True)
class Judgement:
    """A verdict with what was seen: pushes whose time to respond is over, goals among them, and the rate's interval."""

    verdict: Verdict
    pushes: int
    goals: int
    low: float
    high: float

    def words(self, target: float, least: int, *, last: bool) -> str:
        """What people read; `last`: no layer is left to open."""
        follows = "and this was the last layer" if last else "the next layer opens"
        rate = f"{self.goals} of {self.pushes}" + (f" ({self.goals / self.pushes:.2%})" if self.pushes else "")
        seen = f"{rate} reached the goal, {self.low:.2%} to {self.high:.2%} at any time"
        match self.verdict:
            case Verdict.PROVEN:
                return f"{seen}: above the target of {target:.2%}, {follows}"
            case Verdict.HOLDS:
                return f"{seen}: the target of {target:.2%} holds, {follows}"
            case Verdict.BELOW_TARGET:
                return f"{seen}: below the target of {target:.2%}, no further layer opens"
            case Verdict.NOT_HELD:
                return f"{seen}: the target of {target:.2%} did not hold, no further layer opens"
            case Verdict.TOO_FEW:
                return f"{seen}: fewer than {least} pushes judge nothing, no further layer opens"
            case Verdict.WAIT:
                return f"{seen}: nothing is proven yet about the target of {target:.2%}"


def judge(pushes: int, goals: int, *, target: float, least: int, over: bool, alpha: float = ALPHA) -> Judgement:
    """`over`: everybody of the layer was decided on and had the time to respond."""
    low, high = bounds(pushes, goals, alpha)
    if pushes < least:
        verdict = Verdict.TOO_FEW if over else Verdict.WAIT
    elif high < target:
        verdict = Verdict.BELOW_TARGET
    elif low >= target:
        verdict = Verdict.PROVEN
    elif over:
        verdict = Verdict.HOLDS if goals >= target * pushes else Verdict.NOT_HELD
    else:
        verdict = Verdict.WAIT
    return Judgement(verdict, pushes, goals, low, high)


def bounds(trials: int, successes: int, alpha: float = ALPHA) -> tuple[float, float]:
    """The rates that the trials do not speak against, by bisection; (0, 1) without any trial."""
    if not trials:
        return 0.0, 1.0
    limit = _mixture(trials, successes) + math.log(alpha)
    rate = successes / trials

    def unlikely(p: float) -> bool:
        """Whether the mixture explains the trials 1 / alpha times as well as the rate p."""
        failures = trials - successes
        told = (successes * math.log(p) if successes else 0.0) + (failures * math.log1p(-p) if failures else 0.0)
        return told < limit

    low = 0.0 if not successes else _edge(0.0, rate, unlikely)
    high = 1.0 if successes == trials else _edge(1.0, rate, unlikely)
    return low, high


def _edge(outside: float, inside: float, unlikely: Callable[[float], bool]) -> float:
    for _ in range(_STEPS):
        middle = (outside + inside) / 2
        if unlikely(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _mixture(trials: int, successes: int) -> float:
    """Logarithm of the chance of just these trials under a rate drawn from Beta(1/2, 1/2)."""
    half = 0.5
    return math.lgamma(successes + half) + math.lgamma(trials - successes + half) - math.lgamma(trials + 1) - math.log(math.pi)
