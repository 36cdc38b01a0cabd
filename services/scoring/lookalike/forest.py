"""Boosted trees of seeds against others: what the sum of single tags cannot say. Each tree says which tag moved a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

from services.scoring.domain import Floats
from services.scoring.frame import Matrix
from services.scoring.lookalike.bits import Labels

Nodes = NDArray[Any]

ROUNDS = 100


@dataclass(frozen=True)
class Forest:
    """Boosters that are averaged; log-odds."""

    boosters: tuple[HistGradientBoostingClassifier, ...]

    def margin(self, matrix: Matrix) -> Floats:
        """Log-odds of rows; NaN is unknown."""
        total = np.zeros(len(matrix))
        # One thread: threads that wait for each other on a busy machine take many times as long.
        with threadpool_limits(1):
            for booster in self.boosters:
                total += booster.decision_function(matrix)
        return total / len(self.boosters)

    def contributions(self, matrix: Matrix) -> Floats:
        """Rows by columns: what the splits on a column moved, along each row's path. Plus a constant they sum to the margin."""
        total = np.zeros(matrix.shape)
        for booster in self.boosters:
            for stage in booster._predictors:
                _follow(stage[0].nodes, matrix, total)
        return total / len(self.boosters)


def fit_forest(matrix: Matrix, labels: Labels, seeds: Sequence[int]) -> Forest:
    """One booster for each random state. Few tags are tried at each split: seeds are few, and tags say the same twice."""
    with threadpool_limits(1):
        return Forest(tuple(_booster(seed).fit(matrix, labels) for seed in seeds))


def _booster(seed: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=ROUNDS,
        max_leaf_nodes=12,
        min_samples_leaf=20,
        max_features=0.2,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )


def _follow(nodes: Nodes, matrix: Matrix, total: Floats) -> None:
    values = _values(nodes)
    leaf, column = nodes["is_leaf"].astype(bool), nodes["feature_idx"]
    rows = np.arange(len(matrix)) if not leaf[0] else np.empty(0, np.int64)
    at = np.zeros(len(rows), np.int64)
    while len(rows):
        columns = column[at]
        cells = matrix[rows, columns]
        left = np.where(np.isnan(cells), nodes["missing_go_to_left"][at].astype(bool), cells <= nodes["num_threshold"][at])
        after = np.where(left, nodes["left"][at], nodes["right"][at]).astype(np.int64)
        total[rows, columns] += values[after] - values[at]
        on = ~leaf[after]
        rows, at = rows[on], after[on]


def _values(nodes: Nodes) -> Floats:
    """The value of each node: of a leaf its own, of a split the mean of what lies under it by training rows."""
    values = nodes["value"].astype(np.float64)
    # Children are written after their parent, so from the end on each is known before it is asked.
    for place in range(len(nodes) - 1, -1, -1):
        if not nodes["is_leaf"][place]:
            left, right = int(nodes["left"][place]), int(nodes["right"][place])
            weights = float(nodes["count"][left]), float(nodes["count"][right])
            values[place] = np.average([values[left], values[right]], weights=weights)
    return values
