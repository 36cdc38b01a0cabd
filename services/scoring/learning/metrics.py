"""How good probabilities are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from services.scoring.domain import Floats

BINS = 10
# Two-sided 95 % of a normal distribution.
Z95 = 1.959964

Labels = NDArray[np.bool_] | NDArray[np.int32]


def measure(probability: Floats, labels: Labels) -> dict[str, float]:
    """auc with its 95 % interval, average_precision and ece of probabilities against what happened."""
    auc, error = auc_with_error(probability, labels)
    return {
        "auc": auc,
        "auc_low": max(auc - Z95 * error, 0.0),
        "auc_high": min(auc + Z95 * error, 1.0),
        "average_precision": float(average_precision_score(labels, probability)),
        "ece": expected_calibration_error(probability, labels),
    }


def auc_with_error(score: Floats, labels: Labels) -> tuple[float, float]:
    """Area under the ROC curve and its standard error.

    DeLong, DeLong & Clarke-Pearson (1988), computed from ranks as by Sun & Xu (2014).
    """
    above, below = _placements(score, labels)
    return float(above.mean()), _error(above, below)


def auc_gain(score: Floats, other: Floats, labels: Labels) -> tuple[float, float]:
    """(AUC of `other` minus AUC of `score`, its standard error) on the same rows, after DeLong."""
    first, second = _placements(score, labels), _placements(other, labels)
    above, below = second[0] - first[0], second[1] - first[1]
    return float(above.mean()), _error(above, below)


def _placements(score: Floats, labels: Labels) -> tuple[Floats, Floats]:
    """For each positive the share of negatives below it, for each negative the share of positives above it."""
    positive = np.asarray(labels, bool)
    ranks = rankdata(score)
    above = (ranks[positive] - rankdata(score[positive])) / max(int((~positive).sum()), 1)
    below = 1 - (ranks[~positive] - rankdata(score[~positive])) / max(int(positive.sum()), 1)
    return above, below


def _error(above: Floats, below: Floats) -> float:
    return float(np.sqrt(above.var() / max(len(above) - 1, 1) + below.var() / max(len(below) - 1, 1)))


@dataclass(frozen=True)
class Reliability:
    """What was promised and what happened, by bin of equally many persons."""

    promised: Floats
    observed: Floats
    persons: NDArray[np.int64]


def reliability(probability: Floats, labels: Labels) -> Reliability:
    """Ten bins in order of probability."""
    parts = [part for part in np.array_split(np.argsort(probability, kind="stable"), BINS) if len(part)]
    return Reliability(
        np.array([probability[part].mean() for part in parts]),
        np.array([labels[part].mean() for part in parts]),
        np.array([len(part) for part in parts]),
    )


def expected_calibration_error(probability: Floats, labels: Labels) -> float:
    """Mean distance of promised from observed share over ten bins of equally many persons."""
    bins = reliability(probability, labels)
    return float(np.abs(bins.promised - bins.observed) @ bins.persons / len(probability))


def kept_by_best(score: Floats, labels: Labels, share: float) -> float:
    """The share of all positives that lies in the best `share` of the list, ties broken by order."""
    best = np.argsort(-score, kind="stable")[: round(share * len(score))]
    return float(labels[best].sum() / labels.sum())
