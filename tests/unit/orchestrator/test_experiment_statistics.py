"""What intervals promise, by simulation: who peeks errs with alpha at most all the same, a covariate narrows without bias."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.special import lambertw

from chassis.errors import InvalidArgument
from services.orchestrator.experiments import power, sequences
from services.orchestrator.experiments.definitions import Definition, Kind, Metric, Role, Variant
from services.orchestrator.experiments.estimating import LEAST_PERSONS, Sample, arms, effect

Floats = NDArray[np.float64]


def metric(name: str = "ordered", role: Role = Role.PRIMARY, kind: Kind = Kind.SHARE, **more: object) -> Metric:
    stated = {"event": "Order Placed", "field": "", "value": "", "window_hours": 24, "lower_is_better": False}
    return Metric(**({"name": name, "role": role, "kind": kind, "tolerated_harm": 0.0} | stated | more))  # type: ignore[arg-type]


def definition() -> Definition:
    two = (Variant("control", 1.0), Variant("new", 1.0))
    return Definition("A title", "offers", 0, 10_000, "", two, (metric(),), "", False, (), 0.05, 10_000)


def sample(variant: NDArray[np.int64], outcome: Floats, covariate: Floats | None = None) -> Sample:
    count = len(variant)
    unknown = np.full(count, np.nan) if covariate is None else covariate
    return Sample(variant, np.ones(count, np.int64), outcome, np.ones(count), unknown)


@given(st.floats(0.001, 200), st.integers(1, 30))
def test_the_tail_of_chi_square_is_scipys(x: float, degrees: int) -> None:
    assert float(stats.chi2.sf(x, degrees)) == pytest.approx(sequences.chi_square_tail(x, degrees), rel=1e-9, abs=1e-300)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_q_values_are_scipys(chances: list[float]) -> None:
    assert stats.false_discovery_control(chances) == pytest.approx(sequences.discoveries(chances))


@given(st.floats(0.001, 0.2), st.integers(100, 10**7))
def test_the_sequence_is_narrowest_where_it_was_planned(alpha: float, planned: int) -> None:
    exact = float(-lambertw(-(alpha**2) / math.e, -1).real - 1) / planned
    best = sequences.reach(planned, alpha, exact)
    assert best <= sequences.reach(planned, alpha, sequences.tuning(alpha, planned)) <= 1.002 * best
    assert best <= sequences.reach(planned, alpha, exact * 1.5)


@given(st.floats(-8, 8), st.integers(10, 10**6), st.floats(0.001, 0.2))
def test_the_p_value_is_where_the_sequence_first_leaves_zero_out(z: float, persons: int, alpha: float) -> None:
    mixture = sequences.tuning(0.05, 10_000)
    p = sequences.always_valid_p(z, persons, mixture)
    outside = abs(z) > sequences.reach(persons, alpha, mixture)
    if abs(p - alpha) > 1e-9:
        assert outside == (p < alpha)


def _peeked(outcome: Floats, planned: int, alpha: float = 0.05) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Floats]:
    """(left 0 out at some look by the sequence, by the fixed interval, effect at the end); a row of outcomes per experiment.

    Persons come in turns; looked at after every pair of persons from LEAST_PERSONS in each group on.
    """
    moments = []
    for part in (outcome[:, 0::2], outcome[:, 1::2]):
        n = np.arange(1, part.shape[1] + 1)
        total, squares = np.cumsum(part, axis=1), np.cumsum(part**2, axis=1)
        mean = total / n
        if ((part == 0) | (part == 1)).all():
            share = (total + 1) / (n + 2)
            moments.append((mean, share * (1 - share) / n, total))
        else:
            moments.append((mean, (squares - n * mean**2) / np.maximum(n - 1, 1) / n, np.full_like(mean, np.inf)))
    (control, spread_0, did_0), (new, spread_1, did_1) = moments
    persons = 2 * np.arange(1, control.shape[1] + 1)
    enough = (persons >= 2 * LEAST_PERSONS) & (did_0 + did_1 >= 10)
    with np.errstate(divide="ignore", invalid="ignore"):  # the first pair has no spread, and is not looked at
        z = np.abs(new - control) / np.sqrt(spread_0 + spread_1)
    mixture = sequences.tuning(alpha, planned)
    bound = np.array([sequences.reach(int(n), alpha, mixture) for n in persons])
    always = ((z > bound) & enough).any(axis=1)
    fixed = ((z > sequences.quantile(1 - alpha / 2)) & enough).any(axis=1)
    return always, fixed, (new - control)[:, -1]


@pytest.mark.parametrize(
    ("kind", "planned"),
    [("share 0.02", 6000), ("share 0.3", 6000), ("share 0.3", 600), ("normal", 6000), ("spending", 3000)],
)
def test_who_looks_after_every_person_errs_with_alpha_at_most(kind: str, planned: int) -> None:
    chance, experiments, persons = np.random.default_rng(7), 1000, 6000
    if kind.startswith("share"):
        outcome = (chance.random((experiments, persons)) < float(kind.split()[1])).astype(np.float64)
    elif kind == "normal":
        outcome = chance.normal(3.0, 2.0, (experiments, persons))
    else:
        # One in ten buys, for amounts that spread over orders of magnitude.
        outcome = np.where(chance.random((experiments, persons)) < 0.1, chance.lognormal(3, 1, (experiments, persons)), 0.0)
    always, fixed, _ = _peeked(outcome, planned)
    # 5 % of 1,000, and three standard errors.
    assert always.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / experiments)
    # What the promise is worth: the interval of one look errs several times as often when it is looked at all the time.
    assert fixed.mean() > 0.2


def test_the_simulation_counts_as_the_product_does() -> None:
    chance = np.random.default_rng(1)
    for outcome in ((chance.random(4000) < 0.1).astype(np.float64), chance.normal(1, 2, 4000)):
        kind = Kind.SHARE if set(np.unique(outcome)) <= {0.0, 1.0} else Kind.SUM
        variant = np.arange(4000) % 2
        control, new = arms(sample(variant, outcome), 2, kind)
        found = effect(new, control, kind, 0.05, 4000)
        always, _, value = _peeked(outcome[None, :], 4000)
        assert value[0] == pytest.approx(found.value)
        if found.always.p < 0.05:
            assert always[0]


def test_a_real_effect_is_found_and_both_intervals_cover_it() -> None:
    chance, experiments, true = np.random.default_rng(3), 600, 0.04
    covered_fixed, covered_always, found = 0, 0, 0
    for _ in range(experiments):
        variant = chance.integers(0, 2, 6000)
        outcome = (chance.random(6000) < 0.2 + true * variant).astype(np.float64)
        control, new = arms(sample(variant, outcome), 2, Kind.SHARE)
        each = effect(new, control, Kind.SHARE, 0.05, 6000)
        covered_fixed += each.fixed.low <= true <= each.fixed.high
        covered_always += each.always.low <= true <= each.always.high
        found += each.always.low > 0
    assert 0.95 == pytest.approx(covered_fixed / experiments, abs=3 * math.sqrt(0.05 * 0.95 / experiments))
    assert covered_always / experiments > 0.98
    assert found / experiments > 0.7


@pytest.mark.parametrize("kind", [Kind.SUM, Kind.SHARE])
def test_a_covariate_narrows_the_interval_without_bias(kind: Kind) -> None:
    chance, experiments, true = np.random.default_rng(11), 500, 0.1
    plain, adjusted, widths, covered = [], [], [], 0
    for _ in range(experiments):
        variant, past = chance.integers(0, 2, 2000), chance.normal(0, 1, 2000)
        if kind is Kind.SUM:
            outcome = past + chance.normal(0, 0.75, 2000) + true * variant
        else:
            outcome = (chance.random(2000) < np.clip(0.4 + 0.3 * past + true * variant, 0, 1)).astype(np.float64)
        # A third of the pasts is not known.
        known = np.where(chance.random(2000) < 2 / 3, past, np.nan)
        without = effect(*reversed(arms(sample(variant, outcome), 2, kind)), kind, 0.05, 2000)
        narrowed = effect(*reversed(arms(sample(variant, outcome, known), 2, kind)), kind, 0.05, 2000)
        plain.append(without.value)
        adjusted.append(narrowed.value)
        widths.append((narrowed.fixed.high - narrowed.fixed.low) / (without.fixed.high - without.fixed.low))
        target = true if kind is Kind.SUM else float(np.mean(plain))
        covered += narrowed.fixed.low <= target <= narrowed.fixed.high
        assert narrowed.reduction == pytest.approx(1 - widths[-1] ** 2, abs=0.01)
    assert max(widths) < 0.95
    assert np.std(adjusted) < 0.95 * np.std(plain)
    assert np.mean(plain) == pytest.approx(np.mean(adjusted), abs=4 * np.std(plain) / math.sqrt(experiments))
    assert 0.95 == pytest.approx(covered / experiments, abs=0.035)


def test_a_covariate_that_says_nothing_does_no_harm() -> None:
    chance = np.random.default_rng(5)
    variant, outcome = chance.integers(0, 2, 3000), chance.normal(0, 1, 3000)
    without = effect(*reversed(arms(sample(variant, outcome), 2, Kind.SUM)), Kind.SUM, 0.05, 3000)
    for noise in (chance.normal(0, 1, 3000), np.full(3000, 4.0), np.full(3000, np.nan)):
        found = effect(*reversed(arms(sample(variant, outcome, noise), 2, Kind.SUM)), Kind.SUM, 0.05, 3000)
        assert without.value == pytest.approx(found.value, abs=0.01)
        assert without.fixed.high - without.fixed.low == pytest.approx(found.fixed.high - found.fixed.low, rel=0.01)


def test_a_mean_per_event_has_the_spread_of_its_persons() -> None:
    chance, experiments = np.random.default_rng(9), 500
    values, covered = [], 0
    for _ in range(experiments):
        variant, events = chance.integers(0, 2, 3000), chance.poisson(1.5, 3000).astype(np.float64)
        # Persons differ, so that their events are not independent of each other.
        total = events * chance.normal(10, 4, 3000)
        rows = Sample(variant, np.ones(3000, np.int64), total, events, np.full(3000, np.nan))
        found = effect(*reversed(arms(rows, 2, Kind.MEAN)), Kind.MEAN, 0.05, 3000)
        values.append(found.value)
        covered += found.fixed.low <= 0 <= found.fixed.high
    assert 0.0 == pytest.approx(np.mean(values), abs=4 * np.std(values) / math.sqrt(experiments))
    assert 0.95 == pytest.approx(covered / experiments, abs=0.03)


def test_persons_who_are_alike_may_stand_in_one_row() -> None:
    chance = np.random.default_rng(2)
    variant, outcome = chance.integers(0, 2, 2000), chance.integers(0, 3, 2000).astype(np.float64)
    past = outcome + chance.integers(0, 2, 2000)
    rows, count = np.unique(np.stack([variant, outcome, past], axis=1), axis=0, return_counts=True)
    folded = Sample(rows[:, 0].astype(np.int64), count.astype(np.int64), rows[:, 1], np.ones(len(rows)), rows[:, 2])
    for one, other in zip(arms(folded, 2, Kind.SUM), arms(sample(variant, outcome, past), 2, Kind.SUM), strict=True):
        assert other.adjusted_mean == pytest.approx(one.adjusted_mean)
        assert other.adjusted_variance == pytest.approx(one.adjusted_variance)


def test_nothing_is_said_of_too_few() -> None:
    for persons, did in ((150, 75), (2000, 3), (0, 0)):
        variant, outcome = np.arange(persons) % 2, (np.arange(persons) < did).astype(np.float64)
        control, new = arms(sample(variant, outcome), 2, Kind.SHARE)
        found = effect(new, control, Kind.SHARE, 0.05, 1000)
        assert (False, -math.inf, math.inf, 1.0) == (found.enough, found.always.low, found.fixed.high, found.always.p)


def test_a_power_preview_needs_what_the_textbook_says_and_its_promise_holds() -> None:
    stated = power.preview(
        *power.variances(0.1, 0.0, 0.02), minimal_effect=0.02, weights=[1, 1], alpha=0.05, power=0.8, persons_per_day=1000
    )
    # Fleiss, Levin & Paik: 3,839 in each group with unpooled variances.
    assert 2 * 3839 == pytest.approx(stated.fixed.persons, rel=0.01)
    assert stated.fixed.persons < stated.sequential.persons < 3 * stated.fixed.persons
    assert stated.fixed.persons / 1000 == stated.fixed.days
    chance, size = np.random.default_rng(4), stated.sequential.persons // 2 * 2
    variant = np.arange(size) % 2
    outcome = (chance.random((300, size)) < 0.1 + 0.02 * variant).astype(np.float64)
    always, _, _ = _peeked(outcome, size)
    assert always.mean() >= 0.8


def test_more_variants_and_uneven_weights_need_more() -> None:
    def persons(*weights: float) -> int:
        variances = power.variances(10.0, 4.0, 0.5)
        return power.preview(
            *variances, minimal_effect=0.5, weights=weights, alpha=0.05, power=0.8, persons_per_day=0
        ).fixed.persons

    assert persons(1, 1) < persons(9, 1)
    assert persons(1, 1) < persons(1, 1, 1)


@pytest.mark.parametrize(("baseline", "least"), [(0.0, 0.1), (1.2, 0.1), (0.5, 0.6)])
def test_a_share_that_cannot_be_is_refused(baseline: float, least: float) -> None:
    with pytest.raises(InvalidArgument):
        power.variances(baseline, 0.0, least)
