"""What came of an experiment: effects, guardrails, segments, and one verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from services.orchestrator.experiments import sequences
from services.orchestrator.experiments.definitions import Metric, Role, Variant
from services.orchestrator.experiments.estimating import Arm, Bounds, Effect, Sample, arms, effect, interval, planned_for_two

# A split that chance makes less often than this is broken (Fabijan et al., KDD 2019, use a tenth of it to the same).
BROKEN_SPLIT = 0.001
MOST_SEGMENTS = 50


class Guard(IntEnum):
    """What is known of a guardrail."""

    NONE = 0
    SAFE = 1
    OPEN = 2
    HARMED = 3


class Verdict(IntEnum):
    """The numbers are those of the contract."""

    TOO_FEW = 1
    BROKEN_SPLIT = 2
    NO_PROVEN_EFFECT = 3
    WINNER = 4
    CONTROL_IS_BEST = 5
    GUARDRAIL_OPEN = 6
    GUARDRAIL_HARMED = 7


@dataclass(frozen=True)
class Plan:
    """What was fixed beforehand. `always`: whether the sequence decides, or the fixed interval (looked at once, at the end)."""

    variants: tuple[Variant, ...]
    alpha: float
    planned_persons: int
    always: bool

    @property
    def comparisons(self) -> int:
        """How many variants are compared with the control; each gets its part of alpha (Bonferroni)."""
        return len(self.variants) - 1

    def deciding(self, effect: Effect) -> Bounds:
        """The bounds that decide."""
        return effect.always if self.always else effect.fixed


@dataclass(frozen=True)
class Measured:
    """A variant's mean of a metric with its fixed interval."""

    variant: str
    arm: Arm
    low: float
    high: float


@dataclass(frozen=True)
class Compared:
    """A variant against the control."""

    variant: str
    effect: Effect
    guard: Guard


@dataclass(frozen=True)
class MetricResult:
    """One metric over all variants; the control is measured and compared with nobody."""

    metric: Metric
    measured: tuple[Measured, ...]
    compared: tuple[Compared, ...]


@dataclass(frozen=True)
class SegmentResult:
    """The primary effect among those who had a value of a tag when they were exposed; `q` by Benjamini & Hochberg over all."""

    tag: str
    value: str
    variant: str
    persons: int
    effect: Effect
    q: float


@dataclass(frozen=True)
class Results:
    """Everything that is told of an experiment."""

    exposed: tuple[int, ...]
    chi_square: float
    ratio_p: float
    metrics: tuple[MetricResult, ...]
    segments: tuple[SegmentResult, ...]
    verdict: Verdict
    winner: str
    words: str


def measure(metric: Metric, sample: Sample, plan: Plan) -> MetricResult:
    """One metric's effects."""
    found = arms(sample, len(plan.variants), metric.kind)
    measured = [Measured(v.name, arm, *interval(arm, plan.alpha)) for v, arm in zip(plan.variants, found, strict=True)]
    compared = []
    for number in range(1, len(plan.variants)):
        each = _effect(metric, found[number], found[0], plan, number)
        compared.append(Compared(plan.variants[number].name, each, _guard(metric, each, plan)))
    return MetricResult(metric, tuple(measured), tuple(compared))


def _effect(metric: Metric, arm: Arm, control: Arm, plan: Plan, variant: int) -> Effect:
    planned = planned_for_two(plan.planned_persons, [v.weight for v in plan.variants], variant)
    return effect(arm, control, metric.kind, plan.alpha / plan.comparisons, planned)


def _guard(metric: Metric, found: Effect, plan: Plan) -> Guard:
    if metric.role is not Role.GUARDRAIL:
        return Guard.NONE
    bounds = plan.deciding(found)
    least, most = (bounds.low, bounds.high) if metric.lower_is_better else (-bounds.high, -bounds.low)
    if most <= metric.tolerated_harm:
        return Guard.SAFE
    return Guard.HARMED if least > metric.tolerated_harm else Guard.OPEN


def by_segment(
    metric: Metric, sample: Sample, tags: Mapping[str, tuple[NDArray[np.int64], Sequence[str]]], plan: Plan
) -> tuple[SegmentResult, ...]:
    """The metric by the values of tags (codes aligned with the sample, words); -1 is nobody's. The largest 50 of each tag."""
    found: list[tuple[str, str, str, int, Effect]] = []
    for tag, (codes, words) in tags.items():
        sizes = np.bincount(codes[codes >= 0], weights=sample.persons[codes >= 0], minlength=len(words))
        for code in np.argsort(-sizes, kind="stable")[:MOST_SEGMENTS]:
            inside = arms(sample.of(codes == code), len(plan.variants), metric.kind)
            for number in range(1, len(plan.variants)):
                each = _effect(metric, inside[number], inside[0], plan, number)
                persons = inside[number].persons + inside[0].persons
                found.append((tag, words[code], plan.variants[number].name, persons, each))
    # Too few to say anything is no test, and makes the others no stricter.
    tested = [number for number, each in enumerate(found) if each[4].enough]
    q = dict(zip(tested, sequences.discoveries([plan.deciding(found[i][4]).p for i in tested]), strict=True))
    return tuple(SegmentResult(*each, q=q.get(number, 1.0)) for number, each in enumerate(found))


def conclude(
    exposed: Sequence[int], metrics: Sequence[MetricResult], segments: tuple[SegmentResult, ...], plan: Plan
) -> Results:
    """Puts everything together and says what follows."""
    chi_square, p = sequences.sample_ratio(exposed, [variant.weight for variant in plan.variants])
    verdict, winner, words = _verdict(metrics, plan, exposed, p)
    return Results(tuple(exposed), chi_square, p, tuple(metrics), segments, verdict, winner, words)


def _verdict(metrics: Sequence[MetricResult], plan: Plan, exposed: Sequence[int], ratio_p: float) -> tuple[Verdict, str, str]:
    primary = next(result for result in metrics if result.metric.role is Role.PRIMARY)
    if ratio_p < BROKEN_SPLIT:
        counts = ", ".join(f"{v.name} {n}" for v, n in zip(plan.variants, exposed, strict=True))
        return (
            Verdict.BROKEN_SPLIT,
            "",
            f"The split is broken: {counts} is not what the weights would draw (p = {ratio_p:.2g}). Nothing below can be"
            " trusted, and no variant wins; find out who is missing.",
        )
    if not any(c.effect.enough for c in primary.compared):
        return Verdict.TOO_FEW, "", f"Too few persons yet to say anything of {primary.metric.name}."
    sign = -1 if primary.metric.lower_is_better else 1
    better = [c for c in primary.compared if _beyond(plan.deciding(c.effect), sign)]
    worse = [c for c in primary.compared if _beyond(plan.deciding(c.effect), -sign)]
    if better:
        return _better(max(better, key=lambda c: sign * c.effect.value), metrics, primary, plan)
    if len(worse) == plan.comparisons:
        told = "; ".join(_told(c, primary, plan) for c in worse)
        return Verdict.CONTROL_IS_BEST, plan.variants[0].name, f"Keep {plan.variants[0].name}: {told}."
    told = "; ".join(_told(c, primary, plan) for c in primary.compared)
    return Verdict.NO_PROVEN_EFFECT, "", f"No proven effect on {primary.metric.name}: {told}."


def _better(best: Compared, metrics: Sequence[MetricResult], primary: MetricResult, plan: Plan) -> tuple[Verdict, str, str]:
    guards = {
        result.metric.name: compared.guard
        for result in metrics
        for compared in result.compared
        if compared.variant == best.variant and compared.guard is not Guard.NONE
    }
    told = _told(best, primary, plan)
    if harmed := [name for name, guard in guards.items() if guard is Guard.HARMED]:
        return Verdict.GUARDRAIL_HARMED, "", f"No winner: {told}, but it harms {', '.join(harmed)} more than is tolerated."
    if unknown := [name for name, guard in guards.items() if guard is Guard.OPEN]:
        return Verdict.GUARDRAIL_OPEN, "", f"No winner yet: {told}, but harm to {', '.join(unknown)} is not ruled out."
    return Verdict.WINNER, best.variant, f"{best.variant} wins: {told}."


def _beyond(bounds: Bounds, sign: int) -> bool:
    return (bounds.low if sign > 0 else -bounds.high) > 0


def _told(compared: Compared, result: MetricResult, plan: Plan) -> str:
    """One comparison in words, with the interval that decides."""
    if not compared.effect.enough:
        return f"{compared.variant} has too few persons"
    bounds = plan.deciding(compared.effect)
    level = 1 - plan.alpha / plan.comparisons
    whole = math.isfinite(compared.effect.relative)
    relative = f", {compared.effect.relative:+.1%} of it" if whole else ""
    return (
        f"{compared.variant} changes {result.metric.name} against {plan.variants[0].name} by {compared.effect.value:+.4g}"
        f"{relative} ({level:.4g} {'always-valid' if plan.always else 'fixed-horizon'} interval {bounds.low:+.4g} to"
        f" {bounds.high:+.4g}, p = {bounds.p:.2g})"
    )
