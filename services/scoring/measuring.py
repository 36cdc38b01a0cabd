"""How well probabilities were kept: ranks, calibration, and what came of each band of scores.

In numpy alone: evaluations are at home in a process that serves, and what training uses would weigh 150 MB there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.scoring.domain import Floats, score_of

Flags = NDArray[np.bool_]

# Two-sided 95 % of a normal distribution.
Z95 = 1.959964
BINS = 10
# Lowest score of each band, the best first.
BANDS = {"a": 800.0, "b": 600.0, "c": 400.0, "d": 0.0}
# A probability of 0 or 1 that was wrong is as bad as this one, not infinitely bad.
SURE = 1e-9


def measure(probability: Floats, did: Flags) -> dict[str, float]:
    """Every figure of an evaluation by name; both classes must occur."""
    figures = {
        "persons": float(len(did)),
        "positives": float(did.sum()),
        "rate": float(did.mean()),
        "promised": float(probability.mean()),
        "average_precision": average_precision(probability, did),
        "ece": expected_calibration_error(probability, did),
        "log_loss": float(log_losses(probability, did).mean()),
    }
    area, error = auc(probability, did)
    figures |= {"auc": area, "auc_low": max(area - Z95 * error, 0.0), "auc_high": min(area + Z95 * error, 1.0)}
    return figures | calibration(probability, did) | bands(probability, did)


def auc(score: Floats, did: Flags) -> tuple[float, float]:
    """Area under the ROC curve and its standard error (DeLong et al. 1988, from ranks as by Sun & Xu 2014)."""
    ranks, yes, no = _ranks(score), int(did.sum()), int((~did).sum())
    above = (ranks[did] - _ranks(score[did])) / no
    below = 1 - (ranks[~did] - _ranks(score[~did])) / yes
    return float(above.mean()), float(np.sqrt(above.var() / max(yes - 1, 1) + below.var() / max(no - 1, 1)))


def _ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts + 1) / 2)[places]


def average_precision(score: Floats, did: Flags) -> float:
    """The mean precision at the places of those who did it; equal scores count as one place."""
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    found = np.cumsum(did[order], dtype=np.float64)[ends]
    return float(np.diff(found, prepend=0) @ (found / (ends + 1)) / found[-1])


def expected_calibration_error(probability: Floats, did: Flags) -> float:
    """Mean distance of the promised from the observed share over ten bins of equally many persons."""
    parts = [part for part in np.array_split(np.argsort(probability, kind="stable"), BINS) if len(part)]
    return float(sum(len(part) * abs(probability[part].mean() - did[part].mean()) for part in parts) / len(did))


def log_losses(probability: Floats, did: Flags) -> Floats:
    """What each promise cost: minus the logarithm of what had been said of that which happened."""
    said = np.clip(probability, SURE, 1 - SURE)
    return -np.where(did, np.log(said), np.log1p(-said))


def log_odds(probability: Floats) -> Floats:
    """The logarithm of the odds."""
    said = np.clip(probability, SURE, 1 - SURE)
    return np.log(said) - np.log1p(-said)


def calibration(probability: Floats, did: Flags) -> dict[str, float]:
    """Intercept and slope of the outcome's log-odds on the promised ones, with standard errors; 0 and 1 are perfect.

    Cox (1958). The intercept is that at slope 1, hence how much too low all promises were; beside the slope is another one.
    """
    promised, ones = log_odds(probability), np.ones((len(did), 1))
    [intercept], [[variance]] = _logistic(ones, did, promised)
    line, covariance = _logistic(np.column_stack([ones, promised]), did, np.zeros(len(did)))
    return {
        "calibration_intercept": float(intercept),
        "calibration_intercept_error": float(np.sqrt(variance)),
        "calibration_slope": float(line[1]),
        "calibration_slope_error": float(np.sqrt(covariance[1, 1])),
    }


def _logistic(inputs: Floats, did: Flags, offset: Floats) -> tuple[Floats, Floats]:
    """Weights of a logistic regression and their covariance, by Newton's method."""
    width = inputs.shape[1]
    weights: Floats = np.zeros(width)
    for _ in range(50):
        likely = 1 / (1 + np.exp(-np.clip(inputs @ weights + offset, -35, 35)))
        # A hair of ridge: where both classes stand apart, the weights end somewhere.
        curvature = (inputs * (likely * (1 - likely))[:, None]).T @ inputs + 1e-6 * np.eye(width)
        step = np.linalg.solve(curvature, inputs.T @ (did - likely) - 1e-6 * weights)
        weights = weights + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return weights, np.asarray(np.linalg.inv(curvature), np.float64)


def bands(probability: Floats, did: Flags) -> dict[str, float]:
    """What was promised and what came of each band of scores that has anybody, with a 95 % interval."""
    score, above = score_of(probability), np.inf
    figures: dict[str, float] = {}
    for band, least in BANDS.items():
        inside = (score >= least) & (score < above)
        above = least
        if persons := int(inside.sum()):
            low, high = wilson(int(did[inside].sum()), persons)
            figures |= {
                f"band_{band}_persons": float(persons),
                f"band_{band}_promised": float(probability[inside].mean()),
                f"band_{band}_rate": float(did[inside].mean()),
                f"band_{band}_rate_low": low,
                f"band_{band}_rate_high": high,
            }
    return figures


def wilson(successes: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    share, z2 = successes / of, Z95**2
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = Z95 / (1 + z2 / of) * float(np.sqrt(share * (1 - share) / of + z2 / (4 * of**2)))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def hits(said: NDArray[np.str_], happened: NDArray[np.str_]) -> dict[str, float]:
    """How often the class that was said is the one that came true."""
    right = int((said == happened).sum())
    low, high = wilson(right, len(happened))
    share = right / len(happened)
    return {"persons": float(len(happened)), "accuracy": share, "accuracy_low": low, "accuracy_high": high}


def effects(effect: Floats, did: Flags, pushed: Flags) -> dict[str, float]:
    """What pushes were promised to do and what they did: to all, and to the half of whom most was promised."""
    figures = {"persons": float(len(did)), "pushed": float(pushed.sum()), "positives": float(did.sum())}
    best = np.zeros(len(did), bool)
    best[np.argsort(-effect, kind="stable")[: len(did) // 2]] = True
    for name, inside in (("", np.ones(len(did), bool)), ("best_half_", best)):
        arms = [did[inside & pushed], did[inside & ~pushed]]
        if not all(map(len, arms)):
            continue
        gain = float(arms[0].mean() - arms[1].mean())
        error = float(np.sqrt(sum(arm.var() / max(len(arm) - 1, 1) for arm in arms)))
        figures |= {
            f"{name}promised": float(effect[inside].mean()),
            f"{name}effect": gain,
            f"{name}effect_low": gain - Z95 * error,
            f"{name}effect_high": gain + Z95 * error,
        }
    return figures
