"""Which of several is it: boosted trees with one output for each class, calibrated so that the shares come true.

Size and rounds of the trees are chosen on rows that they did not see, and so are the calibration's temperature and the
level of each class. A class of fewer than 50 rows cannot be learnt: such classes together become the class `other` when
they reach 50 together, and are left out of the cut otherwise. `other` foretells "none of the frequent ones".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold

from services.scoring.artefact import CLASS, Calibration, metadata, softmax
from services.scoring.domain import MIN_OF_EACH_CLASS, Floats, TrainingRefused
from services.scoring.frame import features_of, fit_encodings, matrix_of
from services.scoring.learning.cut import Cut, Labels, Progress, Trained
from services.scoring.learning.metrics import Z95, auc_with_error, expected_calibration_error
from services.scoring.learning.trees import Shape, fit_trees, sum_of_trees, to_file
from services.scoring.learning.validation import FOLDS, Fold, plan

OTHER = "other"
# Rounds that are tried are read off one fit.
TREES: dict[Shape, tuple[int, ...]] = {
    Shape(leaves=6, persons=20, columns=0.4): (30, 60, 100, 150),
    Shape(leaves=15, persons=20, columns=0.5): (20, 40, 60, 90),
}
# Boosters that are averaged in what is served.
SEEDS = (0, 1)
RESAMPLES = 200


@dataclass(frozen=True)
class Levels:
    """Calibrated log-shares up to a constant: temperature * margin + one number for each class."""

    temperature: float
    levels: Floats

    def probabilities(self, margins: Floats) -> Floats:
        """Rows by classes; each row sums to 1."""
        return softmax(self.temperature * margins + self.levels)


def train(cut: Cut, progress: Progress) -> Trained:
    """Trains on a cut of any number of classes; metrics are those of rows that the measured trees had not seen.

    Refuses EMPTY_CUT, CONSTANT_LABEL, TOO_FEW_OF_EACH_CLASS when fewer than two classes have 50 rows, and NO_SIGNAL when
    unseen rows are foretold no better than by the shares of the classes alone.
    """
    cut = without_rare(cut)
    encodings = fit_encodings(features_of(cut.frame), cut.frame)
    matrix, labels = matrix_of(encodings, cut.frame), cut.labels
    folds = _folds(cut)
    judged = [unseen for _, unseen in folds]
    said: dict[tuple[Shape, int], list[Floats]] = {}
    for number, (seen, unseen) in enumerate(folds):
        for shape, tried in TREES.items():
            booster = fit_trees(matrix[seen], labels[seen], shape, max(tried), SEEDS[0])
            for rounds, margin in enumerate(booster.staged_decision_function(matrix[unseen]), start=1):
                if rounds in tried:
                    said.setdefault((shape, rounds), []).append(_both(margin))
        progress(0.7 * (number + 1) / len(folds))
    truth = labels[np.concatenate(judged)]
    options = {option: np.concatenate(margins) for option, margins in said.items()}
    shape, rounds = min(options, key=lambda option: _loss(softmax(options[option]), truth).mean())
    margins = options[shape, rounds]
    fold = np.repeat(np.arange(len(judged)), [len(rows) for rows in judged])
    metrics = _measure(_calibrated_by_others(margins, truth, fold), truth)
    if metrics["gain_low"] <= 0:
        raise TrainingRefused("NO_SIGNAL", "unseen rows were foretold no better than by the shares of the classes")
    boosters = []
    for seed in SEEDS:
        boosters.append(fit_trees(matrix, labels, shape, rounds, seed))
        progress(0.7 + 0.3 * len(boosters) / len(SEEDS))
    fitted = fit_levels(margins, truth)
    carried = metadata(encodings, Calibration(fitted.temperature, 0.0), CLASS, cut.classes)
    return Trained(to_onnx(boosters, fitted.levels / fitted.temperature, carried), metrics)


def without_rare(cut: Cut) -> Cut:
    """The cut with its rare classes folded into `other` or left out; the classes are ordered by name, `other` last."""
    if len(cut.labels) == 0:
        raise TrainingRefused("EMPTY_CUT")
    counts = np.bincount(cut.labels, minlength=len(cut.classes))
    if (counts > 0).sum() < 2:
        raise TrainingRefused("CONSTANT_LABEL", "all rows are of one class")
    frequent = sorted(cut.classes[k] for k in np.flatnonzero(counts >= MIN_OF_EACH_CLASS) if cut.classes[k] != OTHER)
    places = np.array([frequent.index(word) if word in frequent else len(frequent) for word in cut.classes], np.int32)
    labels = places[cut.labels]
    kept = np.ones(len(labels), np.bool_)
    if (labels == len(frequent)).sum() >= MIN_OF_EACH_CLASS:
        frequent.append(OTHER)
    else:
        kept = labels < len(frequent)
    if len(frequent) < 2:
        raise TrainingRefused("TOO_FEW_OF_EACH_CLASS", f"fewer than two classes have {MIN_OF_EACH_CLASS} rows")
    rows = np.flatnonzero(kept)
    moments = cut.moments[rows] if len(cut.moments) else cut.moments
    return Cut(cut.frame.rows(rows), labels[rows], tuple(frequent), moments)


def _folds(cut: Cut) -> Sequence[Fold]:
    """By time where that can be, see `plan`; a part of the past in which a class does not occur cannot foretell it."""
    folds = [fold for fold in plan(cut).folds if len(np.unique(cut.labels[fold[0]])) == len(cut.classes)]
    if folds:
        return folds
    return list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(np.zeros((len(cut.labels), 1)), cut.labels))


def fit_levels(margins: Floats, labels: Labels) -> Levels:
    """The temperature and levels under which what happened is likeliest; refuses margins that do not rise with it."""
    count = margins.shape[1]
    hit = np.eye(count)[labels]

    def loss(parameters: Floats) -> tuple[float, Floats]:
        probability = softmax(parameters[0] * margins + parameters[1:])
        residual = (probability - hit) / len(labels)
        # A hair of ridge: levels are known up to a constant only.
        ridge = 1e-6 * parameters[1:]
        gradient = np.concatenate([[(residual * margins).sum()], residual.sum(axis=0) + ridge])
        return float(_loss(probability, labels).mean() + parameters[1:] @ ridge / 2), gradient

    found = minimize(loss, np.concatenate([[1.0], np.zeros(count)]), jac=True, method="L-BFGS-B").x
    if found[0] <= 0:
        raise TrainingRefused("NO_SIGNAL", "what was learnt does not rise with the outcome on rows that it had not seen")
    return Levels(float(found[0]), found[1:])


def _calibrated_by_others(margins: Floats, labels: Labels, fold: NDArray[np.int64]) -> Floats:
    """Each fold's probabilities by the calibration of the other folds."""
    probabilities = np.empty_like(margins)
    numbers = np.unique(fold)
    for number in numbers:
        inside = fold == number
        others = ~inside if len(numbers) > 1 else inside
        probabilities[inside] = fit_levels(margins[others], labels[others]).probabilities(margins[inside])
    return probabilities


def _both(margin: Floats) -> Floats:
    """Margins of each class, also where scikit-learn has one for two classes."""
    margin = margin.reshape(len(margin), -1)
    return np.column_stack([np.zeros(len(margin)), margin[:, 0]]) if margin.shape[1] == 1 else margin


def _loss(probabilities: Floats, labels: Labels) -> Floats:
    """Log loss of each row, nats."""
    losses: Floats = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-15))
    return losses


def _measure(probabilities: Floats, labels: Labels) -> dict[str, float]:
    """Figures with 95 % intervals.

    `gain`: by how much the log loss is below that of the shares of the classes. `ece`: of the likeliest class; its interval
    is a percentile bootstrap. `auc_macro`: mean of each class against the rest, its interval as if their errors went together.
    """
    shares = np.bincount(labels, minlength=probabilities.shape[1]) / len(labels)
    losses, plain = _loss(probabilities, labels), -np.log(shares[labels])
    correct, confidence = (probabilities.argmax(axis=1) == labels), probabilities.max(axis=1)
    areas = [auc_with_error(column, labels == place) for place, column in enumerate(probabilities.T)]
    area, error = float(np.mean([a for a, _ in areas])), float(np.mean([e for _, e in areas]))
    random = np.random.default_rng(0)
    drawn = [random.integers(0, len(labels), len(labels)) for _ in range(RESAMPLES)]
    low, high = np.quantile(
        [expected_calibration_error(confidence[rows], correct[rows].astype(np.int32)) for rows in drawn], (0.025, 0.975)
    )
    return {
        **_mean("accuracy", correct.astype(np.float64)),
        "accuracy_majority": float(shares.max()),
        **_mean("log_loss", losses),
        **_mean("gain", plain - losses),
        "auc_macro": area,
        "auc_macro_low": max(area - Z95 * error, 0.0),
        "auc_macro_high": min(area + Z95 * error, 1.0),
        "ece": expected_calibration_error(confidence, correct.astype(np.int32)),
        "ece_low": float(low),
        "ece_high": float(high),
        "classes": float(probabilities.shape[1]),
    }


def _mean(name: str, values: Floats) -> dict[str, float]:
    mean, error = float(values.mean()), float(values.std() / np.sqrt(len(values)))
    return {name: mean, f"{name}_low": mean - Z95 * error, f"{name}_high": mean + Z95 * error}


def to_onnx(boosters: list[HistGradientBoostingClassifier], levels: Floats, carried: str) -> bytes:
    """One node with one output for each class: the mean of the boosters' margins plus the levels."""
    weighted = [
        # Of two classes scikit-learn has one margin, that of the second.
        (tree.nodes, 1 / len(boosters), place if len(stage) > 1 else 1)
        for booster in boosters
        for stage in booster._predictors
        for place, tree in enumerate(stage)
    ]
    base = np.mean([_both(booster._baseline_prediction.reshape(1, -1))[0] for booster in boosters], axis=0) + levels
    # onnxruntime forgets the base of an output without trees, the first of two; shares do not mind what is added to all.
    base -= base[0]
    node = sum_of_trees(weighted, base.tolist(), "margin")
    return to_file([node], [], int(boosters[0].n_features_in_), carried, len(levels))
