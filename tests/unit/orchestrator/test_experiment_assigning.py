"""Assignment is stable, in proportion, exclusive within a layer, independent between layers, and moves only whom it must."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from services.orchestrator.arbiter.deciding import in_holdout
from services.orchestrator.experiments.assigning import OUTSIDE, assign, buckets, draw, in_global_holdout
from services.orchestrator.experiments.definitions import BUCKETS, Experiment, ExperimentId, State, Variant
from tests.unit.orchestrator.test_experiment_statistics import definition

PERSONS = np.arange(1, 50_001, dtype=np.int64)
SALTS = st.binary(min_size=16, max_size=16)
WEIGHTS = st.lists(st.floats(0.05, 20), min_size=2, max_size=6)


def variants(weights: list[float]) -> tuple[Variant, ...]:
    return tuple(Variant(f"v{number}", weight) for number, weight in enumerate(weights))


def experiment(salt: bytes, layer_salt: bytes, low: int = 0, high: int = BUCKETS) -> Experiment:
    stated = replace(definition(), bucket_from=low, bucket_to=high)
    now = datetime.now(UTC)
    return Experiment(ExperimentId(1), stated, State.RUNNING, 1, salt, layer_salt, "", now, now, None)


@given(SALTS, WEIGHTS, st.permutations(range(300)))
def test_a_person_gets_the_same_variant_whoever_else_is_asked_for(salt: bytes, weights: list[float], order: list[int]) -> None:
    persons, some = PERSONS[:300], np.array(order)
    whole = draw(persons, salt, variants(weights))
    assert whole[some].tolist() == draw(persons[some], salt, variants(weights)).tolist()


@settings(max_examples=25)
@given(SALTS, WEIGHTS)
def test_variants_have_their_weights(salt: bytes, weights: list[float]) -> None:
    found = np.bincount(draw(PERSONS, salt, variants(weights)), minlength=len(weights))
    expected = np.array(weights) / sum(weights) * len(PERSONS)
    # One in ten million, over some hundred examples.
    assert stats.chisquare(found, expected).pvalue > 1e-7


@given(SALTS, WEIGHTS, st.floats(1.01, 5), st.data())
def test_when_a_weight_grows_persons_move_to_that_variant_only(
    salt: bytes, weights: list[float], factor: float, data: st.DataObject
) -> None:
    grown = data.draw(st.integers(0, len(weights) - 1))
    more = [weight * factor if number == grown else weight for number, weight in enumerate(weights)]
    before, after = draw(PERSONS[:3000], salt, variants(weights)), draw(PERSONS[:3000], salt, variants(more))
    assert {grown} >= set(after[before != after].tolist())


@given(SALTS, WEIGHTS, st.randoms())
def test_the_order_of_variants_means_nothing(salt: bytes, weights: list[float], chance: Random) -> None:
    stated = list(variants(weights))
    names = [stated[number].name for number in draw(PERSONS[:500], salt, stated)]
    chance.shuffle(stated)
    assert names == [stated[number].name for number in draw(PERSONS[:500], salt, stated)]


@given(SALTS, SALTS, SALTS, st.integers(1, BUCKETS - 1), st.integers(0, 2000))
def test_nobody_is_in_two_experiments_of_a_layer(first: bytes, second: bytes, layer: bytes, border: int, gap: int) -> None:
    persons = PERSONS[:5000]
    one = assign(persons, experiment(first, layer, 0, border)) != OUTSIDE
    other = assign(persons, experiment(second, layer, min(border + gap, BUCKETS - 1), BUCKETS)) != OUTSIDE
    assert 0 == (one & other).sum()
    if not gap:
        assert (one | other).all()


def test_a_range_takes_its_part_of_the_persons() -> None:
    found = buckets(PERSONS, b"a layer's salt..")
    assert (0, BUCKETS - 1) == (found.min(), found.max())
    assert stats.kstest(found / BUCKETS, "uniform").pvalue > 1e-4


def test_layers_and_experiments_draw_independently() -> None:
    one = assign(PERSONS, experiment(b"a" * 16, b"x" * 16))
    other = assign(PERSONS, experiment(b"b" * 16, b"y" * 16))
    table = np.array([[((one == a) & (other == b)).sum() for b in (0, 1)] for a in (0, 1)])
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_a_later_experiment_on_the_same_buckets_mixes_the_persons_anew() -> None:
    one = assign(PERSONS, experiment(b"a" * 16, b"x" * 16, 0, 5000))
    other = assign(PERSONS, experiment(b"b" * 16, b"x" * 16, 0, 5000))
    inside = one != OUTSIDE
    assert (other != OUTSIDE).tolist() == inside.tolist()
    table = np.array([[((one == a) & (other == b)).sum() for b in (0, 1)] for a in (0, 1)])
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_a_larger_global_holdout_keeps_whom_it_had_and_another_word_draws_others() -> None:
    small, large = in_global_holdout(PERSONS, "2026", 0.02), in_global_holdout(PERSONS, "2026", 0.05)
    assert 0 == (small & ~large).sum()
    assert 0.02 * len(PERSONS) - 150 < small.sum() < 0.02 * len(PERSONS) + 150
    again = in_global_holdout(PERSONS, "2027", 0.02)
    assert (small & again).sum() < 0.1 * small.sum()
    assert 0 == in_global_holdout(PERSONS, "2026", 0.0).sum()


def test_holdouts_of_themes_are_drawn_as_before() -> None:
    # Frozen: persons must not change sides with a release.
    assert [6, 9, 11, 18, 20] == PERSONS[in_holdout(PERSONS, bytes(range(16)), 0.2)][:5].tolist()
