"""The learners of effects among which a training chooses, from the simplest to the most supple.

All of them shrink: lines by a ridge penalty, trees by small leaves' values, few leaves, slow learning and the mean over
subsamples. A leaf holds so many persons that it has ten answers or so: below that, a difference of arms is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import Ridge

from services.scoring.domain import Floats
from services.scoring.frame import Encoding, Ids, Matrix
from services.scoring.learning.additive import Additive, fit_additive, fit_basis, standard
from services.scoring.learning.calibration import matched_intercept
from services.scoring.learning.uplift_graph import Function, Line, Probability, Sum, Trees

Flags = NDArray[np.bool_]

BAGS = 2
BAG_SHARE = 0.7
ANSWERS_OF_A_LEAF = 10
# Penalty of the leaning line, per person; from 4 on only covariances count, and below it was worse.
PULL = 4.0


@dataclass(frozen=True)
class Campaign:
    """Persons of a randomised push. `expected` is P(yes), `share` P(pushed) of each, both from persons other than herself."""

    matrix: Matrix
    encodings: Sequence[Encoding]
    labels: Flags
    treated: Flags
    expected: Floats
    share: Floats

    @property
    def pseudo_effects(self) -> Floats:
        """An unbiased, noisy effect of each person (the transformed outcome of the R-learner; doubly robust).

        Nie and Wager 2021, "Quasi-oracle estimation of heterogeneous treatment effects".
        """
        return (self.treated - self.share) * (self.labels - self.expected) / (self.share * (1 - self.share))

    @property
    def leaf(self) -> int:
        """How many persons a leaf needs."""
        rate = max(min(self.labels.mean(), 1 - self.labels.mean()), 1e-6)
        return int(np.clip(ANSWERS_OF_A_LEAF / rate, 50, max(50, len(self.labels) // 20)))

    def part(self, rows: Ids) -> Campaign:
        """These persons."""
        return Campaign(
            self.matrix[rows], self.encodings, self.labels[rows], self.treated[rows], self.expected[rows], self.share[rows]
        )


Learner = Callable[[Campaign], Function]


def constant_odds(campaign: Campaign) -> Function:
    """A push multiplies everybody's odds alike, so it moves the undecided most."""
    labels = campaign.labels.astype(np.int32)
    [answers] = fit_additive(campaign.matrix, campaign.encodings, labels, (0.1,), pieces=1)
    margin = answers.margin(campaign.matrix)
    pushed, spared = (
        Sum((Line(answers),), (1.0,), matched_intercept(1.0, margin[arm], campaign.labels[arm].mean()))
        for arm in (campaign.treated, ~campaign.treated)
    )
    return _difference(pushed, spared)


def leaning(campaign: Campaign) -> Function:
    """R-learner, a line so strongly pulled to nothing that each column counts by its own covariance with the effect."""
    basis = fit_basis(campaign.matrix, campaign.encodings, pieces=1)
    design, centre, spread = standard(basis.design(campaign.matrix))
    fitted = Ridge(alpha=PULL * len(design)).fit(design, campaign.pseudo_effects)
    weights = fitted.coef_ / spread
    return Line(Additive(basis, weights, float(fitted.intercept_ - centre @ weights)))


def t_trees(campaign: Campaign) -> Function:
    """T-learner: trees of those who were pushed against trees of those who were not."""
    sides = []
    for arm in (campaign.treated, ~campaign.treated):
        matrix, labels = campaign.matrix[arm], campaign.labels[arm]
        grown = (_grown(_classifier(campaign.leaf, 60, s), matrix[rows], labels[rows]) for rows, s in _bags(len(labels)))
        sides.append(Trees(tuple(grown)))
    return _difference(*sides)


@dataclass(frozen=True)
class Candidate:
    """A learner, how much it is believed before any block was asked, and the standard errors by which it is doubted after."""

    learner: Learner
    belief: float
    doubt: float


# All but the simplest must have ranked clearly by more than a standard error before they count. Learners and beliefs were set
# by cross-validation within training parts of hillstrom_email, starbucks_promotion and insurance_campaign. Measured there and
# not above these: logistic regressions with interactions or of each arm at any penalty, trees that may split on the push,
# X-learners, class transformation, ranks instead of effects; instead of weighing, choosing one learner, non-negative least
# squares, greedy ensembles.
CANDIDATES: dict[str, Candidate] = {
    "constant_odds": Candidate(constant_odds, 1 / 3, 0.0),
    "leaning": Candidate(leaning, 1 / 2, 1.0),
    "t_trees": Candidate(t_trees, 1 / 6, 1.0),
}


def expected_answer(campaign: Campaign) -> Function:
    """P(yes) whatever was done: the mean of bent lines and trees, which err differently."""
    [line] = fit_additive(campaign.matrix, campaign.encodings, campaign.labels.astype(np.int32), (0.01,))
    trees = _grown(_classifier(campaign.leaf, 80, 0), campaign.matrix, campaign.labels)
    return Sum((Probability(Line(line)), Probability(Trees((trees,)))), (0.5, 0.5))


def _difference(pushed: Function, spared: Function) -> Function:
    return Sum((Probability(pushed), Probability(spared)), (1.0, -1.0))


def _bags(count: int) -> list[tuple[Ids, int]]:
    """Rows and seed of each subsample."""
    size = max(1, int(BAG_SHARE * count))
    return [(np.sort(np.random.default_rng(seed).permutation(count)[:size]), seed) for seed in range(BAGS)]


def _classifier(leaf: int, rounds: int, seed: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=rounds,
        max_leaf_nodes=8,
        min_samples_leaf=leaf,
        l2_regularization=10.0,
        early_stopping=False,
        random_state=seed,
    )


def _grown(booster: HistGradientBoostingClassifier, matrix: Matrix, outcome: Flags) -> HistGradientBoostingClassifier:
    # scikit-learn cannot bin a column without a number; one of zeros is never split either.
    empty = np.isnan(matrix).all(axis=0)
    return booster.fit(np.where(empty, np.float32(0), matrix), outcome)
