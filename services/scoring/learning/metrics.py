"""How good probabilities are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from services.scoring.domain import Floats

BINS = 10


def measure(probability: Floats, labels: NDArray[np.bool_]) -> dict[str, float]:
    """auc, average_precision and ece of probabilities against what happened."""
    return {
        "auc": float(roc_auc_score(labels, probability)),
        "average_precision": float(average_precision_score(labels, probability)),
        "ece": expected_calibration_error(probability, labels),
    }


def expected_calibration_error(probability: Floats, labels: NDArray[np.bool_]) -> float:
    """Mean distance of promised from observed share over ten bins of equally many persons."""
    parts = np.array_split(np.argsort(probability, kind="stable"), BINS)
    gaps = [abs(float(probability[part].mean() - labels[part].mean())) * len(part) for part in parts if len(part)]
    return sum(gaps) / len(probability)
