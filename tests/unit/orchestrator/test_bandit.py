"""The bandit: exact chances, exact updates, a floor that holds, and offers that start where their likes stand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.orchestrator.offers.bandit import Bandit, Tuning, best_chances, draw, kinship, lift

EVERYBODY = np.ones(4, np.bool_)


def drawn(mean: np.ndarray, spread: np.ndarray, draws: int = 50_000) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(draws, len(mean))) * spread + mean
    return np.bincount(values.argmax(axis=1), minlength=len(mean)) / draws


@pytest.mark.parametrize("seed", range(4))
def test_chances_are_those_of_fifty_thousand_draws(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 200))
    mean, spread = rng.normal(0, 0.02, k), rng.uniform(0.0005, 0.03, k)
    found = best_chances(mean[None], spread[None], np.ones((1, k), np.bool_))[0]
    assert 1 == pytest.approx(found.sum())
    assert np.abs(drawn(mean, spread) - found).max() < 0.01


def test_two_equals_have_equal_chances_and_certainty_wins() -> None:
    equal = best_chances(np.zeros((1, 2)), np.ones((1, 2)), np.ones((1, 2), np.bool_))
    assert equal == pytest.approx(np.array([[0.5, 0.5]]))
    sure = best_chances(np.array([[0.0, 1.0]]), np.full((1, 2), 1e-6), np.ones((1, 2), np.bool_))
    assert sure == pytest.approx(np.array([[0.0, 1.0]]), abs=1e-9)
    # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2).
    one = best_chances(np.array([[0.0, 1.0]]), np.ones((1, 2)), np.ones((1, 2), np.bool_))
    assert one[0, 1] == pytest.approx(0.7602, abs=1e-3)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.floats(0, 0.2), st.floats(0, 1))
def test_every_eligible_offer_keeps_its_floor_and_no_other_is_shown(seed: int, k: int, floor: float, most: float) -> None:
    rng = np.random.default_rng(seed)
    eligible = rng.random((5, k)) < 0.5
    eligible[:, int(rng.integers(k))] = True
    chances = best_chances(rng.normal(size=(5, k)), rng.uniform(1e-9, 2, (5, k)), eligible)
    found = lift(chances, eligible, floor, most)
    assert found.sum(axis=1) == pytest.approx(np.ones(5))
    assert not found[~eligible].any()
    least = np.minimum(floor, most / eligible.sum(axis=1))
    assert (np.where(eligible, found, 1).min(axis=1) >= least * (1 - 1e-9)).all()
    shown = draw(found, rng.random(5))
    assert eligible[np.arange(5), shown].all()


def test_offers_are_drawn_as_often_as_the_propensity_says() -> None:
    propensity = np.array([0.002, 0.5, 0.0, 0.498])
    shown = draw(np.tile(propensity, (100_000, 1)), np.random.default_rng(1).random(100_000))
    assert np.bincount(shown, minlength=4) / 100_000 == pytest.approx(propensity, abs=0.005)
    assert 0 == (shown == 2).sum()


def outcomes(seed: int, n: int, k: int, features: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    contexts = np.column_stack([np.ones(n), rng.random((n, features - 1)) < 0.5]).astype(np.float64)
    offers = rng.integers(0, k, n)
    rate = 0.05 + 0.25 * (offers == contexts[:, 1])
    return offers, contexts, (rng.random(n) < rate).astype(np.float64)


def test_learning_in_any_order_and_in_any_parts_is_the_same() -> None:
    offers, contexts, rewards = outcomes(1, 500, 4, 3)
    whole, parts = (Bandit(3, [{"a"}, {"a", "b"}, set(), {"b"}]) for _ in range(2))
    whole.learn(offers, contexts, rewards)
    for rows in np.array_split(np.random.default_rng(2).permutation(500), 7):
        parts.learn(offers[rows], contexts[rows], rewards[rows])
        parts.weights()
    for one, other in zip(whole.weights(), parts.weights(), strict=True):
        assert one == pytest.approx(other)
    assert whole.seen.tolist() == np.bincount(offers, minlength=4).tolist()


def test_without_kin_the_posterior_is_that_of_bayesian_regression() -> None:
    offers, contexts, rewards = outcomes(3, 400, 1, 3)
    bandit = Bandit(3, [set()], Tuning(prior_weight=7, kin_weight=1e12, rate_weight=100, rate=0.01, caution=0.5))
    bandit.learn(offers, contexts, rewards)
    mean, covariance = bandit.weights()
    rate = (rewards.sum() + 1) / 500
    prior = np.linalg.solve(contexts.T @ contexts + 7 * np.eye(3), contexts.T @ rewards + 7 * np.array([rate, 0, 0]))
    precision = contexts.T @ contexts + 7 * np.eye(3)
    assert mean[0] == pytest.approx(np.linalg.solve(precision, contexts.T @ rewards + 7 * prior), rel=1e-6)
    assert covariance[0] == pytest.approx(0.25 * rate * (1 - rate) * np.linalg.inv(precision))


def test_a_context_is_answered_with_its_own_best_offer() -> None:
    offers, contexts, rewards = outcomes(4, 20_000, 2, 3)
    bandit = Bandit(3, [set(), set()])
    bandit.learn(offers, contexts, rewards)
    both = bandit.propensities(np.array([[1.0, 0, 0], [1.0, 1, 0]]), np.ones(2, np.bool_))
    assert both[0, 0] > 0.99
    assert both[1, 1] > 0.99
    assert both.min() == pytest.approx(0.002, rel=0.01)


def test_a_new_offer_starts_where_its_likes_stand() -> None:
    offers, contexts, rewards = outcomes(5, 4000, 2, 2)
    rewards = np.where(offers == 0, rewards, 0.0)
    bandit = Bandit(2, [{"suv", "family"}, {"coupe"}, {"suv"}, {"coupe", "red"}])
    bandit.learn(offers, contexts, rewards)
    mean, spread = bandit.believed(np.array([[1.0, 0.0]]))
    assert mean[0, 2] > 3 * mean[0, 3] > 0
    # It knows a mean, not more: its spread is that of nothing seen.
    assert spread[0, 2] == pytest.approx(spread[0, 3])
    assert spread[0, 2] > 3 * spread[0, 0]
    strangers = Bandit(2, [set()] * 4)
    strangers.learn(offers, contexts, rewards)
    assert strangers.believed(np.array([[1.0, 0.0]]))[0][0, 2:].std() == pytest.approx(0)


def test_before_any_outcome_all_eligible_offers_are_alike() -> None:
    found = Bandit(2, [{"a"}, {"b"}, {"a", "b"}, set()]).propensities(np.array([[1.0, 1.0]]), EVERYBODY)
    assert found == pytest.approx(np.full((1, 4), 0.25))
    some = np.array([True, False, True, False])
    assert Bandit(2, [set()] * 4).propensities(np.ones((1, 2)), some) == pytest.approx(np.array([[0.5, 0, 0.5, 0]]))


def test_a_context_without_an_eligible_offer_is_refused() -> None:
    with pytest.raises(ValueError, match="eligible"):
        Bandit(2, [set()] * 4).propensities(np.ones((2, 2)), np.array([EVERYBODY, ~EVERYBODY]))


def test_kinship_is_the_cosine_of_content_tags() -> None:
    expected = np.array([[0, 2**-0.5, 0, 0], [2**-0.5, 0, 0.5, 0], [0, 0.5, 0, 0], [0, 0, 0, 0]])
    assert kinship([{"a"}, {"a", "b"}, {"b", "c"}, set()]) == pytest.approx(expected)
    assert np.zeros((2, 2)) == pytest.approx(kinship([set(), set()]))
