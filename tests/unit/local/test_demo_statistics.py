"""The statistics of the report against published values and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.demo.people import People, judge
from local.demo.statistics import ranking, rate


def test_wilson_interval_is_the_published_one() -> None:
    # Newcombe 1998, table I, method 3: 81 of 263 and 15 of 148.
    assert (0.2553, 0.3662) == pytest.approx((rate(81, 263).low, rate(81, 263).high), abs=5e-5)
    assert (0.0624, 0.1605) == pytest.approx((rate(15, 148).low, rate(15, 148).high), abs=5e-5)


def test_a_rate_of_nobody_knows_nothing() -> None:
    assert (0.0, 0.0, 1.0) == (rate(0, 0).value, rate(0, 0).low, rate(0, 0).high)


def test_a_perfect_score_keeps_every_sale_and_lifts_as_far_as_can_be() -> None:
    answers = np.array([True] * 10 + [False] * 90)
    worth = ranking(np.linspace(1000, 0, 100), answers)
    assert (1.0, 10.0, 0.1) == (worth.sales_kept_at_65_percent, worth.top_decile_lift, worth.base_rate)
    assert pytest.approx(1 / 0.65) == worth.sales_per_call_vs_all


def test_a_score_that_is_upside_down_keeps_the_fewest() -> None:
    answers = np.array([True] * 10 + [False] * 90)
    assert 0.0 == ranking(np.linspace(0, 1000, 100), answers).sales_kept_at_65_percent


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=20))
def test_identity_is_judged_as_by_comparing_every_pair(rows: list[tuple[int, int, int]]) -> None:
    person, entity, phone = (np.array(column) for column in zip(*rows, strict=True))
    people = People(person, entity, phone, entity, np.zeros(5, bool), np.zeros(5, bool))
    pairs = [(a, b) for a in range(len(rows)) for b in range(a)]
    together = {(a, b) for a, b in pairs if entity[a] == entity[b] > 0}
    same = {(a, b) for a, b in pairs if person[a] == person[b]}
    glued = {(entity[a], phone[a]) for a, b in together - same if phone[a] == phone[b] > 0}
    quality = judge(people)
    assert len(together & same) / max(1, len(together)) == pytest.approx(quality.precision)
    assert len(together & same) / max(1, len(same)) == pytest.approx(quality.recall)
    assert len(glued) == quality.glued_by_staff_phone
