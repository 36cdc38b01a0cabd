"""The areas are those of scikit-uplift, and mean what they say."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scoring.domain import Floats, effect_of, uplift_score
from services.scoring.learning.uplift_metrics import Flags, auuc, gain, interval, irr, nir, qini, qini_area, resampled


def campaign(seed: int, count: int = 2000, planted: float = 0.2) -> tuple[Flags, Flags, Floats]:
    """Labels, who was pushed, and the true effect: `planted` for half of them, nothing for the rest."""
    random = np.random.default_rng(seed)
    effect = np.where(random.random(count) < 0.5, planted, 0.0)
    treated = random.random(count) < 0.5
    return random.random(count) < 0.2 + effect * treated, treated, effect


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_qini_and_auuc_are_those_of_scikit_uplift(seed: int, share: float) -> None:
    sklift = pytest.importorskip("sklift.metrics")
    random = np.random.default_rng(seed)
    labels, treated = random.random(500) < 0.3, random.random(500) < share
    # Ties among them.
    effect = np.round(random.normal(size=500), 1)
    with warnings.catch_warnings():
        # It uses what scikit-learn will drop.
        warnings.simplefilter("ignore")
        expected = [
            figure(labels.astype(int), effect, treated.astype(int))
            for figure in (sklift.qini_auc_score, sklift.uplift_auc_score)
        ]
    assert expected == pytest.approx([qini(labels, treated, effect), auuc(labels, treated, effect)], abs=1e-9)


def test_no_difference_between_persons_is_no_ranking() -> None:
    labels, treated, _ = campaign(0)
    same = np.full(len(labels), 0.1)
    assert 0.0 == pytest.approx(qini(labels, treated, same), abs=1e-12)
    assert 0.0 == pytest.approx(auuc(labels, treated, same), abs=1e-12)
    assert (0.0, 0.0) == pytest.approx(gain(labels.astype(float), same), abs=1e-12)


def test_the_best_ranking_has_one_and_its_reverse_is_negative() -> None:
    labels, treated, _ = campaign(1)
    best = np.where(labels, np.where(treated, 1.0, -1.0), 0.0)
    assert 1.0 == pytest.approx(qini(labels, treated, best))
    assert qini(labels, treated, -best) < -0.4


def test_the_true_effects_rank_well_and_the_interval_holds_the_figure() -> None:
    labels, treated, effect = campaign(2, 20_000)
    noise = np.random.default_rng(0).normal(size=len(effect))
    samples = resampled(qini, labels, treated, [effect, noise], seed=0, rounds=100)
    low, high = interval(samples[:, 0])
    assert low < qini(labels, treated, effect) < high
    assert low > 0
    low, high = interval(samples[:, 1])
    assert low < 0 < high


def test_the_area_is_covariance_of_place_and_effect() -> None:
    labels, treated, effect = campaign(3, 200_000)
    share = treated.mean()
    pseudo = (treated - share) * labels / (share * (1 - share))
    value, error = gain(pseudo, effect)
    # Half of them gain 0.2 and stand, on average, half the list above the others: 0.25 * 0.2 * 0.5.
    assert 0.025 == pytest.approx(value, abs=4 * error)
    assert value == pytest.approx(qini_area(labels, treated, effect), abs=0.002)


def test_revenue_counts_pushes_and_sales_of_the_chosen_only() -> None:
    treated = np.array([True, True, True, False, False, False])
    labels = np.array([True, True, False, True, False, True])
    chosen = np.array([True, True, True, True, True, False])
    assert 20 - 0.45 - 10 == pytest.approx(nir(labels, treated, chosen))
    assert 2 / 3 - 1 / 2 == pytest.approx(irr(labels, treated, chosen))
    assert 0.0 == nir(labels, treated, np.zeros(6, bool)) == irr(labels, treated, np.zeros(6, bool))


def test_the_scale_of_effects_is_the_published_one() -> None:
    effects = np.array([-1, -0.02, 0.0, 0.005, 0.02, 0.03, 1])
    assert [9.8, 250, 500, 600, 750, 800, 990.2] == pytest.approx(uplift_score(effects).tolist(), abs=0.01)


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_effects_keep_their_order_and_come_back(one: float, other: float) -> None:
    low, high = sorted((one, other))
    scores = uplift_score(np.array([low, high, -low]))
    assert scores[0] <= scores[1]
    assert 1000 == pytest.approx(scores[0] + scores[2])
    assert [low, high] == pytest.approx(effect_of(scores[:2]).tolist(), abs=1e-9)
