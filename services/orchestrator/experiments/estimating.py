"""Means of variants, the difference of two of them, and how much a covariate from before the exposure narrows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.orchestrator.experiments import sequences
from services.orchestrator.experiments.definitions import Kind

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Both kinds of interval lean on the central limit theorem; before this many in either group they say nothing.
LEAST_PERSONS = 100
# And, of a share, this many who did it and who did not, in the two groups together.
LEAST_OF_EACH = 10


@dataclass(frozen=True)
class Sample:
    """Persons as aligned columns; a row stands for `persons` who are alike.

    `variant`: position; `outcome`: 0 or 1, a sum, or the sum that a mean is of; `events`: how many numbers that sum has;
    `covariate`: NaN where it is not known.
    """

    variant: Ints
    persons: Ints
    outcome: Floats
    events: Floats
    covariate: Floats

    def of(self, rows: NDArray[np.bool_]) -> Sample:
        """These rows."""
        return Sample(self.variant[rows], self.persons[rows], self.outcome[rows], self.events[rows], self.covariate[rows])


@dataclass(frozen=True)
class Arm:
    """One variant's persons and their mean, plain and corrected by the covariate; variances are those of the means."""

    persons: int
    total: float
    events: float
    mean: float
    variance: float
    adjusted_mean: float
    adjusted_variance: float


@dataclass(frozen=True)
class Bounds:
    """An interval and the p value of no difference."""

    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Effect:
    """A variant's mean minus the control's. `always` holds whenever it is looked at, `fixed` if only once, at a planned size.

    `reduction`: the share of the variance that the covariate took away; `enough`: whether there are persons enough to say
    anything, without which intervals are infinite.
    """

    value: float
    relative: float
    always: Bounds
    fixed: Bounds
    reduction: float
    enough: bool


NOTHING = Bounds(-math.inf, math.inf, 1.0)


def arms(sample: Sample, variants: int, kind: Kind) -> list[Arm]:
    """Each variant's mean, with and without the covariate."""
    if kind is Kind.MEAN:
        return [_ratio(sample.of(sample.variant == variant)) for variant in range(variants)]
    parts = [sample.of(sample.variant == variant) for variant in range(variants)]
    moments = [_moments(part, _filled(sample)) for part in parts]
    # CUPED (Deng, Xu, Kohavi & Walker, WSDM 2013): one slope from within all variants, so that no effect leaks into it.
    sxx, sxy = sum(m.sxx for m in moments), sum(m.sxy for m in moments)
    slope = sxy / sxx if sxx > 0 else 0.0
    everybody = sum(m.persons for m in moments)
    centre = sum(m.persons * m.mean_x for m in moments) / everybody if everybody else 0.0
    return [_arm(m, kind, slope, centre) for m in moments]


@dataclass(frozen=True)
class _Moments:
    persons: int
    total: float
    mean: float
    mean_x: float
    syy: float
    sxx: float
    sxy: float


def _filled(sample: Sample) -> float:
    """What stands for an unknown covariate: the mean of the known, over all variants; then it changes nothing on average."""
    known = ~np.isnan(sample.covariate)
    persons = sample.persons[known]
    return float((sample.covariate[known] * persons).sum() / persons.sum()) if persons.sum() else 0.0


def _moments(part: Sample, unknown: float) -> _Moments:
    persons = int(part.persons.sum())
    if not persons:
        return _Moments(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    covariate = np.where(np.isnan(part.covariate), unknown, part.covariate)
    total = float((part.outcome * part.persons).sum())
    mean, mean_x = total / persons, float((covariate * part.persons).sum()) / persons
    dy, dx = part.outcome - mean, covariate - mean_x
    squares = [float((a * b * part.persons).sum()) for a, b in ((dy, dy), (dx, dx), (dx, dy))]
    return _Moments(persons, total, mean, mean_x, *squares)


def _arm(m: _Moments, kind: Kind, slope: float, centre: float) -> Arm:
    if not m.persons:
        return Arm(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    variance = m.syy / max(1, m.persons - 1) / m.persons
    left = max(0.0, m.syy - 2 * slope * m.sxy + slope * slope * m.sxx)
    kept = left / m.syy if m.syy > 0 else 1.0
    if kind is Kind.SHARE:
        # As if one more had done it and one had not: a share of 0 must not look certain (Agresti & Coull 1998).
        share = (m.total + 1) / (m.persons + 2)
        variance = share * (1 - share) / m.persons
    adjusted = m.mean - slope * (m.mean_x - centre)
    return Arm(m.persons, m.total, float(m.persons), m.mean, variance, adjusted, variance * kept)


def _ratio(part: Sample) -> Arm:
    """A mean per event, whose persons are drawn: its variance by the delta method (Deng, Knoblich & Lu, KDD 2018)."""
    persons, total = int(part.persons.sum()), float((part.outcome * part.persons).sum())
    events = float((part.events * part.persons).sum())
    if not events:
        return Arm(persons, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    mean = total / events
    away = part.outcome - mean * part.events
    per_person = events / persons
    variance = float((away * away * part.persons).sum()) / max(1, persons - 1) / persons / per_person**2
    return Arm(persons, total, events, mean, variance, mean, variance)


def effect(arm: Arm, control: Arm, kind: Kind, alpha: float, planned_persons: int) -> Effect:
    """A variant against the control; `planned_persons` of the whole experiment, where the sequence is narrowest."""
    value, plain = arm.adjusted_mean - control.adjusted_mean, arm.variance + control.variance
    variance = arm.adjusted_variance + control.adjusted_variance
    reduction = 1 - variance / plain if plain > 0 else 0.0
    relative = value / abs(control.adjusted_mean) if control.adjusted_mean else math.nan
    enough = _enough(arm, control, kind) and variance > 0
    if not enough:
        return Effect(value, relative, NOTHING, NOTHING, reduction, enough=False)
    error = math.sqrt(variance)
    z, persons = value / error, arm.persons + control.persons
    mixture = sequences.tuning(alpha, planned_persons)
    wide, narrow = error * sequences.reach(persons, alpha, mixture), error * sequences.quantile(1 - alpha / 2)
    return Effect(
        value,
        relative,
        Bounds(value - wide, value + wide, sequences.always_valid_p(z, persons, mixture)),
        Bounds(value - narrow, value + narrow, sequences.two_sided(z)),
        reduction,
        enough=True,
    )


def _enough(arm: Arm, control: Arm, kind: Kind) -> bool:
    if min(arm.persons, control.persons) < LEAST_PERSONS:
        return False
    did = arm.total + control.total
    return kind is not Kind.SHARE or LEAST_OF_EACH <= did <= arm.persons + control.persons - LEAST_OF_EACH


def interval(arm: Arm, alpha: float) -> tuple[float, float]:
    """A variant's mean alone, at a fixed size."""
    half = sequences.quantile(1 - alpha / 2) * math.sqrt(arm.adjusted_variance)
    return arm.adjusted_mean - half, arm.adjusted_mean + half


def planned_for_two(planned_persons: int, weights: Sequence[float], variant: int) -> int:
    """How many of the planned persons fall to a variant and the control."""
    return max(1, round(planned_persons * (weights[0] + weights[variant]) / sum(weights)))
