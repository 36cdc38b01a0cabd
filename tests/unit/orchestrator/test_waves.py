"""Layers: whether a response holds, looked at after every push."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.waves.judging import OPENS, STOPS, Judgement, Verdict, bounds, judge


@given(st.integers(0, 5000), st.floats(0, 1), st.floats(0.001, 0.2))
def test_an_interval_holds_the_rate_that_was_seen_and_widens_with_the_care_taken(n: int, share: float, alpha: float) -> None:
    goals = round(share * n)
    low, high = bounds(n, goals, alpha)
    assert 0 <= low <= high <= 1
    if n:
        assert low <= goals / n <= high
        wider = bounds(n, goals, alpha / 2)
        assert wider[0] <= low and high <= wider[1]


def test_without_any_goal_the_upper_end_is_where_the_mixture_says() -> None:
    # All failures: the mixture's chance is B(1/2, n + 1/2) / pi, and (1 - p)^n must not fall below alpha times it.
    n, alpha = 100, 0.05
    chance = math.exp(math.lgamma(0.5) + math.lgamma(n + 0.5) - math.lgamma(n + 1)) / math.pi
    low, high = bounds(n, 0, alpha)
    assert 0.0 == low
    assert 1 - (alpha * chance) ** (1 / n) == pytest.approx(high, rel=1e-9)


@pytest.mark.parametrize(("rate", "wrong"), [(0.02, Verdict.PROVEN), (0.08, Verdict.BELOW_TARGET)])
def test_looked_at_after_every_push_it_is_wrong_one_time_in_twenty_at_most(rate: float, wrong: Verdict) -> None:
    draw = random.Random(6)
    erred = right = 0
    for _ in range(100):
        goals = 0
        for n in range(1, 1501):
            goals += draw.random() < rate
            if n % 10 == 0 and (seen := judge(n, goals, target=0.04, least=20, over=False)).verdict is not Verdict.WAIT:
                erred += seen.verdict is wrong
                right += seen.verdict is not wrong
                break
    # One in twenty of 100.
    assert 5 >= erred
    assert 75 <= right


@pytest.mark.parametrize(
    ("pushes", "goals", "over", "verdict"),
    [
        (0, 0, False, Verdict.WAIT),
        (0, 0, True, Verdict.TOO_FEW),
        (49, 49, True, Verdict.TOO_FEW),
        (1000, 200, False, Verdict.PROVEN),
        (1000, 40, False, Verdict.BELOW_TARGET),
        (1000, 105, False, Verdict.WAIT),
        (1000, 105, True, Verdict.HOLDS),
        (1000, 100, True, Verdict.HOLDS),
        (1000, 95, True, Verdict.NOT_HELD),
    ],
)
def test_a_verdict_needs_proof_or_that_all_have_had_their_time(pushes: int, goals: int, over: bool, verdict: Verdict) -> None:
    seen = judge(pushes, goals, target=0.1, least=50, over=over)
    assert verdict is seen.verdict
    assert f"{goals} of {pushes}" in seen.words(0.1, 50, last=False)


def test_every_verdict_but_waiting_opens_or_stops() -> None:
    assert set(Verdict) == OPENS | STOPS | {Verdict.WAIT}
    assert not OPENS & STOPS
    assert all(Judgement(verdict, 10, 1, 0.0, 1.0).words(0.1, 5, last=True) for verdict in Verdict)
