"""Which offer to show whom: Thompson sampling on a linear model per offer (Agrawal & Goyal 2013, "Thompson sampling for
contextual bandits with linear payoffs"), with a floor under every chance.

Of each offer two sums are kept, of x x' and of r x. From them, a prior and a noise variance follow mean and covariance of its
weights exactly, in whatever order outcomes came in. The prior's mean is what offers about the same things have learnt (ridge
regression over their sums, weighted by cosine of content tags, drawn to the mean of all), so a new offer starts where its
likes stand.

Thompson's rule shows each offer with the chance that it is the best one. We compute these chances by quadrature, lift them to
the floor, and draw from the result: what is logged as propensity is exactly what was drawn from, whatever the quadrature's
error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_REACH: Final = 6.0
_STEPS: Final = 4096
_NORMAL: Final = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in np.linspace(-_REACH, _REACH, _STEPS + 1).tolist()])
_TINY: Final = 1e-300
_LOG_NORMAL: Final = np.log(np.maximum(_NORMAL, _TINY))
# Cells of the quadrature; 128 keep chances of 200 offers within 0.01 (tests/unit/orchestrator/test_bandit.py).
_CELLS: Final = 128


@dataclass(frozen=True)
class Tuning:
    """How careful the bandit is.

    `floor`: least chance of every eligible offer; all floors together take `most_exploration` at most, so with many offers each
    is lower. `prior_weight`: how many outcomes the prior is worth. `kin_weight`: how many outcomes of its likes it takes to
    move an offer's prior half way from the mean of all. `rate`, `rate_weight`: the rate of success expected before any
    outcome, and how many outcomes that is worth. `caution`: by how much the posterior's standard deviation is multiplied;
    below 1 explores less than Thompson's rule, which pays where there is not all the time in the world (Chapelle & Li 2011,
    "An empirical evaluation of Thompson sampling", posterior reshaping).
    """

    floor: float = 0.002
    most_exploration: float = 0.2
    prior_weight: float = 100.0
    kin_weight: float = 200.0
    rate: float = 0.01
    rate_weight: float = 100.0
    caution: float = 0.5


class Bandit:
    """Linear Thompson sampling over offers 0…k-1 and contexts of `features` numbers, the first of them always 1.

    Contexts are (n, features), or (n, k, features) where what is known depends on the offer, too.
    """

    def __init__(self, features: int, content: Sequence[Set[str]], tuning: Tuning | None = None) -> None:
        """`content`: each offer's content tags."""
        self.tuning = tuning or Tuning()
        self._outer = np.zeros((len(content), features, features))
        self._rewarded = np.zeros((len(content), features))
        self._successes = np.zeros(len(content))
        self._kinship = kinship(content)
        self._fitted: tuple[Floats, Floats] | None = None

    @classmethod
    def of(cls, content: Sequence[Set[str]], outer: Floats, rewarded: Floats, tuning: Tuning | None = None) -> Bandit:
        """A bandit with sums that were kept elsewhere: of x x' (k, features, features) and of r x (k, features)."""
        bandit = cls(outer.shape[2], content, tuning)
        # The first feature is always 1, so that its sum of r x counts the successes.
        bandit._outer, bandit._rewarded, bandit._successes = outer, rewarded, rewarded[:, 0].copy()
        return bandit

    @property
    def seen(self) -> Floats:
        """How many outcomes each offer has."""
        return self._outer[:, 0, 0].copy()

    def learn(self, offers: Ints, contexts: Floats, rewards: Floats) -> None:
        """Adds outcomes; contexts (n, features) as they were for the offers shown, rewards 0 or 1."""
        np.add.at(self._outer, offers, contexts[:, :, None] * contexts[:, None, :])
        np.add.at(self._rewarded, offers, contexts * rewards[:, None])
        np.add.at(self._successes, offers, rewards)
        self._fitted = None

    def weights(self) -> tuple[Floats, Floats]:
        """(mean (k, features), covariance (k, features, features)) of each offer's weights."""
        if self._fitted is None:
            tuning, size = self.tuning, self._outer.shape[1]
            count, won = self._outer[:, 0, 0].sum(), self._successes.sum()
            rate = (won + tuning.rate * tuning.rate_weight) / (count + tuning.rate_weight)
            start = np.zeros(size)
            start[0] = rate
            mild = np.eye(size)
            everybody = np.linalg.solve(
                self._outer.sum(axis=0) + tuning.prior_weight * mild,
                self._rewarded.sum(axis=0) + tuning.prior_weight * start,
            )
            kin_outer = np.tensordot(self._kinship, self._outer, 1) + tuning.kin_weight * mild
            kin_rewarded = self._kinship @ self._rewarded + tuning.kin_weight * everybody
            prior = np.linalg.solve(kin_outer, kin_rewarded[:, :, None])
            precision = self._outer + tuning.prior_weight * mild
            mean = np.linalg.solve(precision, self._rewarded[:, :, None] + tuning.prior_weight * prior)
            # The variance of a yes or no; the bound 1/4 would explore rare successes for ever.
            noise = tuning.caution**2 * max(rate * (1 - rate), 1e-6)
            covariance: Floats = noise * np.linalg.inv(precision)
            self._fitted = mean[:, :, 0].astype(np.float64), covariance
        return self._fitted

    def believed(self, contexts: Floats) -> tuple[Floats, Floats]:
        """(mean, standard deviation) of each offer's rate in each context, both (n, k)."""
        mean, covariance = self.weights()
        if contexts.ndim == 3:
            variance = np.einsum("nkd,kde,nke->nk", contexts, covariance, contexts, optimize=True)
            return np.einsum("nkd,kd->nk", contexts, mean), np.sqrt(variance)
        variance = np.einsum("nd,kde,ne->nk", contexts, covariance, contexts, optimize=True)
        return contexts @ mean.T, np.sqrt(variance)

    def propensities(self, contexts: Floats, eligible: Flags, values: Floats | None = None) -> Floats:
        """The chance of each offer in each context, (n, k): rows sum to 1, 0 for who is not eligible, else at least the floor.

        `eligible`: (n, k) or (k,); `values`: what a success of each offer is worth, (k,), alike when not given.
        Raises ValueError for a context without any eligible offer.
        """
        mean, spread = self.believed(contexts)
        return chances_of(mean, spread, np.broadcast_to(eligible, mean.shape), values, self.tuning)


def chances_of(mean: Floats, spread: Floats, eligible: Flags, values: Floats | None, tuning: Tuning) -> Floats:
    """The policy: chances from what is believed of the rates, all (n, k); see Bandit.propensities."""
    if not eligible.any(axis=1).all():
        raise ValueError("a context without an eligible offer")
    if values is not None:
        mean, spread = mean * values, spread * values
    return lift(best_chances(mean, spread, eligible), eligible, tuning.floor, tuning.most_exploration)


def kinship(content: Sequence[Set[str]]) -> Floats:
    """Cosine of content tags between offers, (k, k); 0 with itself and with offers about nothing."""
    words = sorted(set().union(*content))
    has = np.array([[word in tags for word in words] for tags in content], np.float64).reshape(len(content), len(words))
    length = np.sqrt(np.maximum(has.sum(axis=1), 1))
    alike: Floats = has @ has.T / np.outer(length, length)
    np.fill_diagonal(alike, 0)
    return alike


def best_chances(mean: Floats, spread: Floats, eligible: Flags) -> Floats:
    """P(offer has the highest of independent normal values), all (n, k).

    The sum over cells of P(it lies in the cell) times P(all others lie below the cell's middle); rows sum to 1.
    Below the lower end of the best one nobody is the best.
    """
    lowest = np.where(eligible, mean - 4 * spread, -np.inf).max(axis=1)
    highest = np.where(eligible, mean + 4 * spread, -np.inf).max(axis=1)
    # Whoever reaches up to nobody's lower end, anywhere, costs no more than this look.
    near = np.flatnonzero((eligible & (mean + 4 * spread >= lowest[:, None])).any(axis=0))
    chances = np.zeros(mean.shape)
    chances[:, near] = _compete(lowest, highest, mean[:, near], spread[:, near], eligible[:, near])
    chances = np.where(eligible, chances + _TINY, 0.0)
    scaled: Floats = chances / chances.sum(axis=1, keepdims=True)
    return scaled


def _compete(lowest: Floats, highest: Floats, mean: Floats, spread: Floats, eligible: Flags) -> Floats:
    """Chances of those who have any, not scaled. The normal distribution is looked up, to 0.0006."""
    edges = np.linspace(lowest, highest, _CELLS + 1, axis=1)
    scale = _STEPS / (2 * _REACH) / np.maximum(spread, 1e-12)
    place = edges[:, :, None] * scale[:, None, :] + (_STEPS / 2 + 0.5 - mean * scale)[:, None, :]
    at = np.clip(place, 0, _STEPS, out=place).astype(np.int32)
    within = np.diff(_NORMAL[at], axis=1)
    below = _LOG_NORMAL[(at[:, 1:] + at[:, :-1]) >> 1]
    below *= eligible[:, None, :]
    others = below.sum(axis=2, keepdims=True) - below
    within *= np.exp(np.minimum(others, 0.0, out=others), out=others)
    found: Floats = within.sum(axis=1)
    return found


def lift(chances: Floats, eligible: Flags, floor: float, most_exploration: float) -> Floats:
    """Chances mixed with a floor under each eligible offer; rows still sum to 1."""
    each = np.minimum(floor, most_exploration / eligible.sum(axis=1, keepdims=True))
    lifted: Floats = np.where(eligible, each + (1 - each * eligible.sum(axis=1, keepdims=True)) * chances, 0.0)
    scaled: Floats = lifted / lifted.sum(axis=1, keepdims=True)
    return scaled


def draw(propensities: Floats, units: Floats) -> Ints:
    """The offer of each context, drawn with its propensity by a number of [0, 1) each."""
    totals = np.cumsum(propensities, axis=1)
    chosen: Ints = (units[:, None] * totals[:, -1:] >= totals).sum(axis=1).astype(np.int64)
    return chosen
