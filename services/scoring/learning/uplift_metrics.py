"""How well people are ranked by what a push does to them. Nobody is seen both pushed and not, so curves compare the arms.

Of the k persons ranked best, n_t were pushed and y_t of them said yes, n_c were not and y_c of them said yes.
Qini curve (Radcliffe 2007, "Using control groups to target on predicted lift"): y_t - y_c * n_t / n_c. Uplift curve
(Devriendt, Guns, Verbeke 2020, arXiv:2002.05897, "joint, relative"): (y_t / n_t - y_c / n_c) * k. `qini` and `auuc` are the
areas between these curves and their diagonals as shares of what a ranking by the outcomes themselves would have: one is
beyond reach, zero is chance, and persons of equal effect count as one step. scikit-uplift's qini_auc_score and
uplift_auc_score are the same figures.
IRR and NIR are Starbucks' (its promotion exercise): among those whom a rule chooses, the difference of the arms' response
rates, and what the pushes earned beyond what the same sales without them would have: 10 a sale, 0.15 a push.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.scoring.domain import Floats

Flags = NDArray[np.bool_]
# (labels, treated, effect) to a figure.
Figure = Callable[[Flags, Flags, Floats], float]

REVENUE, COST = 10.0, 0.15
ROUNDS = 500


@dataclass(frozen=True)
class _Steps:
    """Running sums after each step of a ranking."""

    pushed: Floats
    pushed_yes: Floats
    spared: Floats
    spared_yes: Floats

    @classmethod
    def of(cls, labels: Flags, treated: Flags, effect: Floats) -> _Steps:
        """Steps from the largest effect down; equal effects are one step."""
        order = np.argsort(-effect, kind="stable")
        labels, treated, ranked = labels[order], treated[order], effect[order]
        ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        parts = (treated, treated & labels, ~treated, ~treated & labels)
        return cls(*(np.concatenate([[0.0], np.cumsum(part, dtype=np.float64)[ends]]) for part in parts))

    def qini(self) -> float:
        """Area between the Qini curve and its diagonal, in persons times persons."""
        return _above_diagonal(self.pushed + self.spared, self.pushed_yes - self.spared_yes * _share(self.pushed, self.spared))

    def uplift(self) -> float:
        """Area between the uplift curve and its diagonal, in persons times persons."""
        persons = self.pushed + self.spared
        rates = _share(self.pushed_yes, self.pushed) - _share(self.spared_yes, self.spared)
        return _above_diagonal(persons, rates * persons)


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _above_diagonal(x: Floats, y: Floats) -> float:
    return float(np.trapezoid(y, x) - x[-1] * y[-1] / 2)


def qini(labels: Flags, treated: Flags, effect: Floats) -> float:
    """The Qini coefficient; the best ranking has pushed buyers first and buyers who were not pushed last."""
    best = _Steps.of(labels, treated, np.where(labels, np.where(treated, 1.0, -1.0), 0.0)).qini()
    return _Steps.of(labels, treated, effect).qini() / best if best else 0.0


def auuc(labels: Flags, treated: Flags, effect: Floats) -> float:
    """The normalised area under the uplift curve."""
    spared_buyers, pushed_others = int((labels & ~treated).sum()), int((~labels & treated).sum())
    second = labels if spared_buyers > pushed_others else treated
    best = _Steps.of(labels, treated, 2.0 * (labels == treated) + second).uplift()
    return _Steps.of(labels, treated, effect).uplift() / best if best else 0.0


def qini_area(labels: Flags, treated: Flags, effect: Floats) -> float:
    """The area between the Qini curve and its diagonal, more answers per pushed person, over the share of persons."""
    pushed = int(treated.sum())
    return _Steps.of(labels, treated, effect).qini() / (len(labels) * pushed) if pushed else 0.0


def irr(labels: Flags, treated: Flags, chosen: Flags) -> float:
    """Incremental response rate among the chosen; zero when one arm has none of them."""
    pushed, spared = chosen & treated, chosen & ~treated
    if not pushed.any() or not spared.any():
        return 0.0
    return float(labels[pushed].mean() - labels[spared].mean())


def nir(labels: Flags, treated: Flags, chosen: Flags, revenue: float = REVENUE, cost: float = COST) -> float:
    """Net incremental revenue among the chosen. As Starbucks counts, it is meant for arms of equal size."""
    pushed, spared = chosen & treated, chosen & ~treated
    return revenue * float(labels[pushed].sum()) - cost * float(pushed.sum()) - revenue * float(labels[spared].sum())


def resampled(
    figure: Figure, labels: Flags, treated: Flags, effects: Sequence[Floats], seed: int, rounds: int = ROUNDS
) -> Floats:
    """Rounds by rankings: the figure of each ranking on bootstrap samples, in each round the same persons for all."""
    random = np.random.default_rng(seed)
    found = np.empty((rounds, len(effects)))
    for number in range(rounds):
        rows = random.integers(len(labels), size=len(labels))
        found[number] = [figure(labels[rows], treated[rows], effect[rows]) for effect in effects]
    return found


def interval(samples: Floats) -> tuple[float, float]:
    """The middle 95 % of resampled figures."""
    low, high = np.quantile(samples, (0.025, 0.975))
    return float(low), float(high)


def places(effect: Floats) -> Floats:
    """Each person's place in the ranking, 0 (moved least) to 1; equal effects share their place."""
    _, group, counts = np.unique(effect, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - counts / 2)[group] / len(effect))


def gain(pseudo_effects: Floats, effect: Floats) -> tuple[float, float]:
    """Covariance of a person's place in the ranking with what the push did to her, and its standard error.

    `pseudo_effects` are unbiased, noisy effects of single persons. The rank-weighted effect with Qini weights of Yadlowsky,
    Fleming, Shah, Brunskill and Wager (2021, arXiv:2111.07966): zero when the ranking says nothing, and nearly normal, so
    that value over error is a test where the ranking was made without these persons.
    """
    parts = (pseudo_effects - pseudo_effects.mean()) * (places(effect) - 0.5)
    return float(parts.mean()), float(parts.std() / np.sqrt(len(parts)))
