"""Offline judgement: the estimators find what a policy would have earned, and their intervals hold it as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.orchestrator.offers.evaluation import Log, difference, doubly_robust, ips, snips

K = 4
RATES = np.array([[0.1, 0.3, 0.2, 0.05], [0.4, 0.1, 0.1, 0.3]])
LOGGING = np.array([[0.4, 0.2, 0.3, 0.1], [0.1, 0.4, 0.4, 0.1]])
POLICY = np.array([[0.0, 0.9, 0.1, 0.0], [0.7, 0.0, 0.0, 0.3]])
TRUTH = float((POLICY * RATES).sum(axis=1).mean())


def logged(seed: int, n: int = 2000) -> tuple[Log, np.ndarray]:
    """A log of the logging policy, and which of two contexts each row has."""
    rng = np.random.default_rng(seed)
    context = rng.integers(0, 2, n)
    offer = (rng.random(n)[:, None] > LOGGING[context].cumsum(axis=1)[:, :-1]).sum(axis=1)
    reward = (rng.random(n) < RATES[context, offer]).astype(np.float64)
    return Log(offer, reward, LOGGING[context, offer]), context


def test_estimates_by_hand() -> None:
    log = Log(np.array([0, 1, 0]), np.array([1.0, 0.0, 0.0]), np.array([0.5, 0.5, 0.25]))
    policy = np.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])
    # Ratios 2, 1, 1.
    assert 2 / 3 == pytest.approx(ips(log, policy).mean)
    assert 2 / 4 == pytest.approx(snips(log, policy).mean)
    expected = np.array([[0.5, 0.1], [0.4, 0.2], [0.4, 0.4]])
    # 0.5 + 2 * 0.5, 0.3 - 0.2, 0.4 - 0.4.
    assert 1.6 / 3 == pytest.approx(doubly_robust(log, policy, expected).mean)
    assert 16 / 6 == pytest.approx(ips(log, policy).effective_rows)
    # Terms 2, 0, 0: standard deviation sqrt(4/3).
    assert 2 / 3 + 1.959964 * (4 / 3) ** 0.5 / 3**0.5 == pytest.approx(ips(log, policy).high)


@pytest.mark.parametrize("name", ["ips", "snips", "right model", "wrong model"])
def test_nineteen_of_twenty_intervals_hold_the_truth(name: str) -> None:
    held, means = 0, []
    for seed in range(400):
        log, context = logged(seed)
        policy = POLICY[context]
        if name == "ips":
            value = ips(log, policy)
        elif name == "snips":
            value = snips(log, policy)
        else:
            value = doubly_robust(log, policy, RATES[context] if name == "right model" else np.full((len(context), K), 0.8))
        held += value.low <= TRUTH <= value.high
        means.append(value.mean)
    assert pytest.approx(TRUTH, abs=0.004) == np.mean(means)
    assert 0.92 <= held / 400 <= 0.98


def test_a_model_that_sees_something_narrows_the_interval() -> None:
    log, context = logged(1)
    policy = POLICY[context]
    plain, robust = ips(log, policy), doubly_robust(log, policy, RATES[context])
    assert robust.high - robust.low < 0.9 * (plain.high - plain.low)


def test_a_model_that_is_right_mends_wrong_propensities() -> None:
    log, context = logged(2, 40_000)
    wrong = Log(log.offer, log.reward, np.minimum(1, log.propensity * np.array([0.5, 2, 1, 1.5])[log.offer]))
    policy = POLICY[context]
    assert pytest.approx(TRUTH, abs=0.01) == doubly_robust(wrong, policy, RATES[context]).mean
    assert abs(ips(wrong, policy).mean - TRUTH) > 0.02


@settings(max_examples=50)
@given(st.integers(0, 10_000))
def test_judging_the_logging_policy_gives_the_logs_own_mean(seed: int) -> None:
    log, context = logged(seed, 300)
    own = LOGGING[context]
    assert log.reward.mean() == pytest.approx(ips(log, own).mean)
    assert log.reward.mean() == pytest.approx(snips(log, own).mean)
    assert 300 == pytest.approx(ips(log, own).effective_rows)


def test_a_difference_is_narrower_than_two_values_apart() -> None:
    log, context = logged(3)
    one, other = POLICY[context], 0.9 * POLICY[context] + 0.1 * LOGGING[context]
    expected = np.full((len(context), K), 0.2)
    between = difference(log, one, other, expected)
    values = [doubly_robust(log, policy, expected) for policy in (one, other)]
    assert values[0].mean - values[1].mean == pytest.approx(between.mean)
    assert between.high - between.low < 0.3 * (values[0].high - values[0].low)


def test_a_log_that_cannot_be_is_refused() -> None:
    for offers, rewards, chances in (([0], [1.0], [0.0]), ([0], [1.0], [1.5]), ([], [], []), ([0, 1], [1.0], [0.5])):
        with pytest.raises(ValueError, match="propensit"):
            Log(np.array(offers, np.int64), np.array(rewards), np.array(chances))
    log = Log(np.array([0]), np.array([1.0]), np.array([0.5]))
    with pytest.raises(ValueError, match="never"):
        snips(log, np.array([[0.0, 1.0]]))
