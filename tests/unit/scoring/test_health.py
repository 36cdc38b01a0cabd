"""Drift, and what follows from it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scoring.distributions import SCORE, Distribution, Sampler, noise, of_numbers, of_words, stability
from services.scoring.frame import Encoding, Feature, Kind
from services.scoring.health import Drift, Health
from services.scoring.watching import due_evaluation


def test_bins_hold_a_tenth_each_and_whoever_is_unknown_has_a_bin_of_her_own() -> None:
    picture = of_numbers(np.append(np.arange(1000.0), [np.nan, np.inf]))
    assert [100] * 10 + [2] == picture.counts.tolist()
    assert [99.9, 899.1] == pytest.approx([picture.edges[0], picture.edges[-1]])


def test_a_number_that_has_few_values_has_few_bins() -> None:
    picture = of_numbers(np.array([0.0] * 95 + [1.0] * 5))
    assert ([0.0], [0, 100, 0]) == (list(picture.edges), picture.counts.tolist())
    assert [7] == of_numbers(np.full(7, np.nan)).counts.tolist()[-1:]


def test_words_are_counted_by_name_whatever_their_places_are() -> None:
    then = of_words(np.array([0, 0, 1, np.nan]), ("blue", "red"))
    assert (["blue", "red"], [2, 1, 0, 1]) == (list(then.edges), then.counts.tolist())
    now = of_words(np.array([0.0, 1.0, 1.0, 2.0]), ("red", "blue", "green"), then.edges)
    assert [2, 1, 1, 0] == now.counts.tolist()


def test_of_many_words_the_commonest_twenty_have_bins() -> None:
    codes = np.repeat(np.arange(30.0), np.arange(1, 31))
    picture = of_words(codes, tuple(f"w{place}" for place in range(30)))
    assert "w29" == picture.edges[0]
    assert (20, sum(range(1, 11)), 0) == (len(picture.edges), picture.counts[-2], picture.counts[-1])


counts = st.lists(st.integers(0, 10_000), min_size=4, max_size=4).map(lambda c: Distribution([1.0, 2.0], np.array(c)))


@given(counts, counts)
def test_the_index_is_symmetric_never_negative_and_zero_for_the_same(then: Distribution, now: Distribution) -> None:
    assert 0 <= stability(then, now) == pytest.approx(stability(now, then))
    assert 0 == stability(then, then)


def test_two_samples_of_one_base_are_calm_and_a_shift_of_a_standard_deviation_has_moved() -> None:
    draws = np.random.default_rng(0)
    then = of_numbers(draws.normal(size=5000))
    calm = of_numbers(draws.normal(size=5000), then.edges)
    moved = of_numbers(draws.normal(1, size=5000), then.edges)
    assert stability(then, calm) < 0.01 < 0.25 < stability(then, moved)


def test_the_noise_of_small_samples_is_what_is_said_of_it() -> None:
    draws = np.random.default_rng(1)
    edges = of_numbers(draws.normal(size=100_000)).edges
    pairs = [[of_numbers(draws.normal(size=300), edges) for _ in range(2)] for _ in range(200)]
    assert np.mean([noise(*pair) for pair in pairs]) == pytest.approx(np.mean([stability(*pair) for pair in pairs]), rel=0.1)


def test_the_sample_is_the_same_in_each_run_and_about_as_large_as_promised() -> None:
    encodings = (Encoding(Feature("age", Kind.NUMBER)),)
    persons = np.arange(1, 1_000_001)
    seen = []
    for chunk in (10_000, 250_000):
        sampler = Sampler(encodings, len(persons))
        for start in range(0, len(persons), chunk):
            part = persons[start : start + chunk]
            sampler.see(part, part[:, None].astype(np.float32), part / 2)
        seen.append(sampler.pictures({}))
    assert seen[0]["age"].counts.tolist() == seen[1]["age"].counts.tolist()
    assert 100_000 == pytest.approx(seen[0][SCORE].counts.sum(), rel=0.02)
    # Evenly from old and new persons.
    assert np.arange(100_000, 1_000_000, 100_000) == pytest.approx(np.array(seen[0]["age"].edges, float), rel=0.03)


def test_a_small_base_is_seen_whole() -> None:
    sampler = Sampler((Encoding(Feature("age", Kind.NUMBER)),), 500)
    sampler.see(np.arange(1, 501), np.zeros((500, 1), np.float32), np.zeros(500))
    assert 500 == sampler.pictures({})["age"].counts.sum()
    assert {} == Sampler((), 500).pictures({})


def health(*drifts: Drift, **evaluation: float) -> Health:
    return Health(1, drifts, evaluation, None)


def test_reasons_to_train_again_are_a_moved_score_three_moved_features_or_promises_that_are_off() -> None:
    assert [] == health(Drift("score", 0.2, False), Drift("age", 0.9, True), Drift("job", 0.4, True)).reasons
    assert ["the scores have moved: PSI 0.31"] == health(Drift("score", 0.31, True)).reasons
    three = [Drift(name, 0.5, True) for name in ("age", "job", "pdays")]
    assert ["3 features have moved, PSI: age 0.50, job 0.50, pdays 0.50"] == health(*three).reasons
    off = {"calibration_intercept": 0.4, "calibration_intercept_error": 0.1}
    assert ["it happened more often than promised: odds differ by a factor of 1.49"] == health(**off).reasons
    less = off | {"calibration_intercept": -0.4}
    assert ["it happened less often than promised: odds differ by a factor of 1.49"] == health(**less).reasons


def test_promises_that_are_off_by_chance_or_by_little_are_no_reason() -> None:
    assert [] == health(calibration_intercept=0.4, calibration_intercept_error=0.2).reasons
    assert [] == health(calibration_intercept=0.15, calibration_intercept_error=0.01).reasons


def test_what_is_evaluated_unasked_are_outcomes_that_the_version_has_not_learnt_from() -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    day = 86_400.0
    past = now.timestamp() - 90 * day
    wanted = {"cut_predicate": "c", "goal_predicate": "g", "horizon_s": 30 * day}
    asked = due_evaluation({"wanted": wanted | {"as_of_s": [past - day, past]}}, now)
    assert asked is not None
    assert now.timestamp() - 30 * day == asked.as_of_s
    assert due_evaluation({"wanted": wanted | {"as_of_s": [now.timestamp() - 30 * day]}}, now) is None
    assert due_evaluation({"wanted": wanted | {"horizon_s": 0.0, "as_of_s": []}}, now) is None
