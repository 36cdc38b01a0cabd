"""Who judges whom: the future the past, and nobody herself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from services.scoring.domain import TrainingRefused
from services.scoring.frame import Frame
from services.scoring.learning.cut import Cut
from services.scoring.learning.metrics import Z95, auc_gain, auc_with_error, kept_by_best
from services.scoring.learning.validation import movement, plan


def cut(persons: list[int], moments: list[int] | None = None) -> Cut:
    rows = len(persons)
    labels = (np.arange(rows) % 3 == 0).astype(np.int32)
    return Cut(Frame(np.array(persons, np.int64), {}), labels, moments=np.array(moments or [], np.int64))


@given(st.lists(st.integers(0, 30), min_size=300, max_size=400))
def test_in_time_everybody_is_judged_by_the_past_alone(moments: list[int]) -> None:
    plan_ = plan(cut(list(range(len(moments))), moments))
    judged = [row for _, now in plan_.folds for row in now]
    assert len(set(judged)) == len(judged)
    if plan_.by_time:
        at = np.array(moments)
        assert all(at[before].max() < at[now].min() for before, now in plan_.folds)


def test_of_one_moment_there_is_no_past() -> None:
    assert not plan(cut(list(range(300)), [7] * 300)).by_time


@given(st.lists(st.integers(0, 60), min_size=300, max_size=400))
def test_without_time_nobody_is_judged_by_her_own_rows(persons: list[int]) -> None:
    if len(set(persons)) < 5:
        with pytest.raises(TrainingRefused):
            plan(cut(persons))
        return
    plan_ = plan(cut(persons))
    number = np.array(persons)
    assert all(not set(number[seen]) & set(number[unseen]) for seen, unseen in plan_.folds)
    assert sorted(row for _, unseen in plan_.folds for row in unseen) == list(range(len(persons)))


def test_movement_is_nothing_for_the_same_and_everything_for_the_disjoint() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    assert 0.0 == movement(values, values)
    assert 1.0 == pytest.approx(movement(values, values + 100))
    assert 1.0 == pytest.approx(movement(values, np.full(10, np.nan)))
    assert 0.5 == pytest.approx(movement(values, np.concatenate([values, np.full(1000, np.nan)])), abs=0.01)


def test_the_area_is_that_of_scikit_learn_and_its_interval_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        labels = random.random(300) < 0.2
        # Two normals one standard deviation apart.
        area, error = auc_with_error(random.normal(size=300) + labels, labels)
        held += abs(area - 0.7602) < Z95 * error
    assert 0.90 < held / 200 < 0.99
    scores = random.integers(0, 5, 300).astype(float)
    assert roc_auc_score(labels, scores) == pytest.approx(auc_with_error(scores, labels)[0])


def test_a_better_ranking_of_the_same_rows_is_proven_sooner_than_two_intervals_apart() -> None:
    random = np.random.default_rng(0)
    labels = random.random(2000) < 0.2
    noise = random.normal(size=2000)
    gain, error = auc_gain(noise + labels, noise + 1.2 * labels, labels)
    assert gain > Z95 * error
    assert error < auc_with_error(noise + labels, labels)[1]


def test_what_the_best_of_a_list_keep() -> None:
    assert 1.0 == kept_by_best(np.array([4.0, 3.0, 2.0, 1.0]), np.array([1, 1, 0, 0]), 0.5)
    assert 0.5 == kept_by_best(np.array([4.0, 3.0, 2.0, 1.0]), np.array([0, 1, 0, 1]), 0.5)
