"""From margins to probabilities that come true: once at the training, and again and again as outcomes come in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from services.scoring.artefact import Calibration
from services.scoring.domain import Floats

Labels = NDArray[np.bool_] | NDArray[np.int32]

# Forgetting, as outcomes after which an outcome counts half. Which of them fits is found out while it runs.
HALF_LIVES = (250.0, 1_000.0, 4_000.0)
# How sure the training was of its own line before the first outcome came, as standard deviations of slope and intercept.
PRIOR_SLOPE, PRIOR_INTERCEPT = 0.3, 1.0
# A slope of nothing would make ties of ranks.
LEAST_SLOPE = 0.05
# How fast a half-life that once fitted better is forgotten (alpha of the paper).
MODEL_FORGETTING = 0.99


def matched_intercept(slope: float, margins: Floats, rate: float) -> float:
    """The intercept at which the mean probability of these margins is `rate`; by bisection, for it rises with it."""
    low, high = -50.0, 50.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if Calibration(slope, middle).probability(margins).mean() < rate else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class Line:
    """A belief about (slope, intercept): a normal distribution by its mean and covariance."""

    mean: Floats
    covariance: Floats

    @property
    def calibration(self) -> Calibration:
        """Its mean as the calibration of a served model."""
        return Calibration(max(float(self.mean[0]), LEAST_SLOPE), float(self.mean[1]))


@dataclass(frozen=True)
class Recalibration:
    """Keeps a model's calibration while the base rate moves: dynamic logistic regression of the outcome on the margin.

    McCormick, Raftery, Madigan & Burd, "Dynamic logistic regression and dynamic model averaging for binary
    classification", Biometrics 68 (2012): slope and intercept are a state that drifts. Before each batch of outcomes the
    belief is widened by forgetting, then it is moved to the posterior mode. Several speeds of forgetting run side by side and
    are weighted by how well each had foretold. A belief is never wider than the prior: silence is not ignorance.
    """

    lines: tuple[Line, ...]
    weights: Floats
    prior: Floats = field(default_factory=lambda: np.diag([PRIOR_SLOPE**2, PRIOR_INTERCEPT**2]))

    @classmethod
    def start(cls, calibration: Calibration) -> Recalibration:
        """The state before the first outcome: the calibration of the training."""
        prior = np.diag([PRIOR_SLOPE**2, PRIOR_INTERCEPT**2])
        line = Line(np.array([calibration.slope, calibration.intercept]), prior)
        return cls((line,) * len(HALF_LIVES), np.full(len(HALF_LIVES), 1 / len(HALF_LIVES)), prior)

    @property
    def calibration(self) -> Calibration:
        """What a model should be served with now."""
        slope, intercept = self.weights @ np.array([line.mean for line in self.lines])
        return Calibration(max(float(slope), LEAST_SLOPE), float(intercept))

    def after(self, margins: Floats, labels: Labels) -> Recalibration:
        """The state after one more batch of outcomes, which came at about the same time."""
        if not len(margins):
            return self
        answers = np.asarray(labels, np.float64)
        foretold = np.array([_log_likelihood(line.calibration, margins, answers) for line in self.lines])
        # In logarithms: a batch of hundreds makes likelihoods that no float can hold.
        belief = MODEL_FORGETTING ** len(margins) * np.log(np.maximum(self.weights, 1e-12)) + foretold
        weights = np.exp(belief - belief.max())
        lines = tuple(
            _posterior(_widened(line, self.prior, len(margins) / half_life), margins, answers)
            for line, half_life in zip(self.lines, HALF_LIVES, strict=True)
        )
        return replace(self, lines=lines, weights=weights / weights.sum())


def recalibrated(calibration: Calibration, margins: Floats, labels: Labels, batch: int = 200) -> tuple[Floats, Calibration]:
    """Walks through outcomes in time order: (the probability of each row as promised before its batch's outcomes were
    known, the calibration after all of them)."""
    state, promised = Recalibration.start(calibration), np.empty(len(margins))
    for first in range(0, len(margins), batch):
        now = slice(first, first + batch)
        promised[now] = state.calibration.probability(margins[now])
        state = state.after(margins[now], labels[now])
    return promised, state.calibration


def _widened(line: Line, prior: Floats, half_lives: float) -> Line:
    precision = np.linalg.inv(line.covariance) * 0.5**half_lives
    # What is forgotten of the outcomes is taken over by the width of the prior, never by less knowledge than that.
    precision += np.linalg.inv(prior) * (1 - 0.5**half_lives)
    return Line(line.mean, np.asarray(np.linalg.inv(precision), np.float64))


def _posterior(line: Line, margins: Floats, answers: Floats) -> Line:
    """Laplace's approximation: Newton steps to the mode, the curvature there as the precision."""
    inputs = np.column_stack([margins, np.ones(len(margins))])
    precision = np.linalg.inv(line.covariance)
    mean = line.mean
    for _ in range(8):
        probability = 1 / (1 + np.exp(-np.clip(inputs @ mean, -35, 35)))
        gradient = inputs.T @ (answers - probability) - precision @ (mean - line.mean)
        curvature = precision + (inputs * (probability * (1 - probability))[:, None]).T @ inputs
        step = np.linalg.solve(curvature, gradient)
        # A step of more than this is outside of what the quadratic says.
        mean = mean + step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return Line(np.asarray(mean, np.float64), np.asarray(np.linalg.inv(curvature), np.float64))


def _log_likelihood(calibration: Calibration, margins: Floats, answers: Floats) -> float:
    probability = np.clip(calibration.probability(margins), 1e-12, 1 - 1e-12)
    return float((answers * np.log(probability) + (1 - answers) * np.log1p(-probability)).sum())
