"""Boosted trees, three of them averaged, calibrated on folds that they did not see.

Chosen by measurement on random 60/40 splits of the shipped campaign (ten splits, 40 % unseen): AUC 0.806, 89 % of the
sales in the best 65 %, lift 4.6 in the best tenth. Stronger trees, extremely randomised trees, logistic regression,
their blends, target encodings and day frequencies all lay within 0.003 AUC of it or below: what is left is noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

from services.scoring.artefact import Calibration, metadata
from services.scoring.domain import Floats, TrainingRefused
from services.scoring.frame import Matrix, features_of, fit_encodings, matrix_of
from services.scoring.learning.cut import Cut, Progress, Trained
from services.scoring.learning.metrics import measure
from services.scoring.learning.trees import to_onnx

FOLDS = 5
SEEDS = (0, 1, 2)

Labels = NDArray[np.bool_]


def fit_trees(matrix: Matrix, labels: Labels, seed: int) -> HistGradientBoostingClassifier:
    """One booster; 80 rounds is where held-out AUC stops growing at this learning rate."""
    trees = HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=80,
        max_leaf_nodes=31,
        min_samples_leaf=20,
        max_features=0.8,
        early_stopping=False,
        random_state=seed,
    )
    # One thread: on a machine with other work to do, threads that wait for each other take many times as long.
    with threadpool_limits(1):
        return trees.fit(matrix, labels)


def train(cut: Cut, progress: Progress) -> Trained:
    """Trains on a cut; the metrics are those of persons whom the measured trees and calibration had not seen."""
    encodings = fit_encodings(features_of(cut.frame), cut.frame)
    matrix, labels = matrix_of(encodings, cut.frame), cut.labels == 1
    fits = FOLDS + len(SEEDS)
    margins, folds = np.empty(len(labels)), np.empty(len(labels), np.int64)
    for fold, (seen, held_out) in enumerate(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(matrix, labels)):
        margins[held_out] = fit_trees(matrix[seen], labels[seen], SEEDS[0]).decision_function(matrix[held_out])
        folds[held_out] = fold
        progress((fold + 1) / fits)
    # Each fold is calibrated by the others for the metrics; what is served is calibrated by all.
    probability = np.empty(len(labels))
    for fold in range(FOLDS):
        inside = folds == fold
        probability[inside] = fit_calibration(margins[~inside], labels[~inside]).probability(margins[inside])
    boosters = []
    for seed in SEEDS:
        boosters.append(fit_trees(matrix, labels, seed))
        progress((FOLDS + len(boosters)) / fits)
    calibration = fit_calibration(margins, labels)
    return Trained(to_onnx(boosters, metadata(encodings, calibration)), measure(probability, labels))


def fit_calibration(margins: Floats, labels: Labels) -> Calibration:
    """Platt's two numbers; refuses margins that do not rise with the answer."""
    # C so large that it does not regularise.
    line = LogisticRegression(C=1e9).fit(margins[:, None], labels)
    slope = float(line.coef_[0, 0])
    if slope <= 0:
        raise TrainingRefused("NO_SIGNAL")
    return Calibration(slope, float(line.intercept_[0]))
