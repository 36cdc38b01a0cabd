"""How many persons an experiment needs, and how long that takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chassis.errors import InvalidArgument
from services.orchestrator.experiments import sequences


@dataclass(frozen=True)
class Need:
    """Persons over all variants, and days until they have been exposed (without the metric's window); days 0: not asked."""

    persons: int
    days: float


@dataclass(frozen=True)
class Power:
    """`fixed` is looked at once, at its end; `sequential` at any time, and may end sooner than said."""

    fixed: Need
    sequential: Need


def variances(baseline: float, deviation: float, minimal_effect: float) -> tuple[float, float]:
    """One person's variance in the control and in a variant; of a share (deviation 0) the larger that the variant's may be.

    Raises InvalidArgument for shares outside of 0 to 1.
    """
    if deviation:
        return deviation**2, deviation**2
    if not 0 < baseline < 1:
        raise InvalidArgument("a share lies between 0 and 1; of a mean, state the deviation", field="baseline")
    if baseline + minimal_effect > 1 and baseline - minimal_effect < 0:
        raise InvalidArgument("no share is that far from the baseline", field="minimal_effect")
    moved = [share for share in (baseline - minimal_effect, baseline + minimal_effect) if 0 <= share <= 1]
    return baseline * (1 - baseline), max(share * (1 - share) for share in moved)


def preview(
    control_variance: float,
    variant_variance: float,
    *,
    minimal_effect: float,
    weights: Sequence[float],
    alpha: float,
    power: float,
    persons_per_day: float,
) -> Power:
    """Persons needed to find the minimal effect (absolute) of the variant with the least weight.

    Variances are those of one person. Fixed: the usual normal formula. Sequential: persons at which the confidence sequence,
    tuned to that number, leaves 0 out with the wanted chance; to look before can only help.
    """
    alpha_each, whole = alpha / (len(weights) - 1), sum(weights)
    control, variant = weights[0] / whole, min(weights[1:]) / whole
    per_person = control_variance / control + variant_variance / variant
    needed = sequences.quantile(power)

    def persons(reach: float) -> int:
        return math.ceil((reach + needed) ** 2 * per_person / minimal_effect**2)

    # Tuned to n, the sequence reaches equally many standard errors at n whatever n is.
    reach = sequences.reach(1, alpha_each, sequences.tuning(alpha_each, 1))
    fixed, sequential = persons(sequences.quantile(1 - alpha_each / 2)), persons(reach)
    return Power(_need(fixed, persons_per_day), _need(sequential, persons_per_day))


def _need(persons: int, persons_per_day: float) -> Need:
    return Need(persons, persons / persons_per_day if persons_per_day else 0.0)
