"""Gaps are closed by exact sums, forecasts are held against what came true, and orders are compared by their areas."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.leads.chain import Stage
from services.orchestrator.targets.actions import RULES, next_action
from services.orchestrator.targets.closing import DRAWS, Metric, Track, closing, within, words
from services.orchestrator.targets.listing import arrange, eligible
from services.orchestrator.targets.measuring import DayList, compare
from services.orchestrator.targets.scoring_door import probability
from services.orchestrator.targets.store import Known, Target


@given(st.lists(st.floats(0.01, 0.6), min_size=1, max_size=7), st.integers(1, 4))
def test_the_chance_to_close_a_gap_is_that_of_all_ways_to_do_it(chances: list[float], gap: int) -> None:
    track = Track(10**7, 10**7)
    found = closing(np.array(chances), gap, track)
    exact = sum(
        np.prod([p if done else 1 - p for p, done in zip(chances, ways, strict=True)])
        for ways in itertools.product([True, False], repeat=len(chances))
        if sum(ways) >= gap
    )
    assert found.chance == pytest.approx(exact, abs=2e-3)
    assert found.expected == pytest.approx(sum(chances), rel=2e-3)


def test_how_many_it_takes_has_an_interval_that_widens_when_little_is_known() -> None:
    chances = np.full(400, 0.1)
    sure, unsure = closing(chances, 10, Track(5000, 5000)), closing(chances, 10, Track())
    assert sure.needed is not None and 95 <= sure.needed <= 101
    assert sure.low is not None and sure.high is not None and sure.low < sure.needed < sure.high
    assert unsure.low is not None and unsure.high is not None
    assert unsure.high - unsure.low > sure.high - sure.low
    # Forecasts of which half came true: it takes twice as many.
    half = closing(chances, 10, Track(5000, 2500))
    assert half.needed == pytest.approx(2 * sure.needed, abs=6)
    assert (DRAWS,) == Track().draws().shape


def test_a_list_that_cannot_close_the_gap_says_so() -> None:
    short = closing(np.full(20, 0.1), 10, Track(1000, 1000))
    assert (None, None) == (short.needed, short.high)
    assert "does not close the gap" in words(Metric.ORDERS, 10, 20, short)
    none = closing(np.empty(0), 3, Track())
    assert (0.0, 0.0, None) == (none.expected, none.chance, none.needed)
    reached = closing(np.full(20, 0.1), 0, Track())
    assert (1.0, 0, 0, 0) == (reached.chance, reached.needed, reached.low, reached.high)
    assert "speak to about" in words(Metric.TEST_DRIVES, 1, 20, closing(np.full(20, 0.2), 1, Track(1000, 1000)))


def test_fewer_days_bring_less() -> None:
    chances = np.array([0.0, 0.2, 0.5, 1.0])
    assert chances[:3].tolist() == pytest.approx(within(chances, 30, 30)[:3].tolist())
    assert within(chances, 45, 30).tolist() == within(chances, 30, 30).tolist()
    assert (within(chances, 10, 30) <= within(chances, 20, 30)).all()
    assert [0.0] * 4 == within(chances, 0, 30).tolist()


def test_scores_are_odds() -> None:
    assert [-1.0, 0.0, 1 / 13, 0.25] == pytest.approx(probability(np.array([-1.0, 0.0, 500.0, 800.0])).tolist())


def test_every_stage_has_something_to_do_next() -> None:
    stages = [None, *Stage]
    for stage, days, score in itertools.product(stages, [None, 0.0, 5.0, 40.0], [-1.0, 0.0, 700.0]):
        assert next_action(stage, days, score).action in {rule.action for rule in RULES}
    assert "call_now" == next_action(Stage.LEAD, None, 100).action
    assert "make_offer" == next_action(Stage.TEST_DRIVE, 4, 100).action
    assert "ask_impression" == next_action(Stage.TEST_DRIVE, 1, 100).action
    assert ["invite_test_drive", "call_to_ask"] == [next_action(None, None, score).action for score in (700, 100)]


def known(person: int, stage: Stage | None = None, interest: str = "", dealer: str = "D1", **more: object) -> Known:
    stated: dict[str, object] = {"opened_at": None, "spoken_at": None, "lately": frozenset(), "erased": False}
    return Known(person, person if stage else None, interest, stage, dealer if stage else "", "", **(stated | more))  # type: ignore[arg-type]


def test_customers_stand_by_expected_value_and_whoever_forbade_it_is_not_told_apart() -> None:
    target = Target("", Metric.ORDERS, 10, 100, {"X7": 500})
    people = [known(1), known(2, Stage.LEAD, "X7"), known(3), known(4, Stage.LEAD, "X7"), known(5), known(6)]
    chances = np.array([0.30, 0.10, 0.20, 0.30, 0.01, 0.90])
    found = arrange(people, np.zeros(6), chances, {4, 6}, target, 30, 30, "D1")
    ordered = [each.known.person_id for each in found]
    assert [2, 1, 3, 5] == [person for person in ordered if person not in (4, 6)]
    hidden = [each for each in found if each.neutral]
    assert 1 == len({(each.probability, each.value_fen, each.score) for each in hidden})
    # Their own chances and interests move nothing.
    other = arrange(people, np.zeros(6), np.array([0.3, 0.1, 0.2, 0.01, 0.01, 0.5]), {4, 6}, target, 30, 30, "D1")
    assert ordered == [each.known.person_id for each in other]
    assert [1, 2, 3, 4, 5, 6] == [each.rank for each in found]


def test_oldest_first_is_the_dealers_own_order() -> None:
    opened = [datetime(2026, 1, day, tzinfo=UTC) for day in (3, 1, 2)]
    people = [known(n, Stage.LEAD, opened_at=at) for n, at in enumerate(opened, 1)]
    found = arrange(people, np.zeros(3), np.full(3, 0.1), set(), Target("", Metric.ORDERS, 1, 0, {}), 30, 30, "D1")
    assert {1: 3, 2: 1, 3: 2} == {each.known.person_id: each.own_rank for each in found}


def test_only_who_can_bring_one_more_is_listed() -> None:
    ordered = known(1, Stage.ORDER, lately=frozenset({Metric.ORDERS, Metric.TEST_DRIVES}))
    assert [False, False, True] == [eligible(ordered, "D1", metric) for metric in Metric]
    driven = known(1, Stage.TEST_DRIVE, lately=frozenset({Metric.TEST_DRIVES}))
    assert [False, True, False] == [eligible(driven, "D1", metric) for metric in Metric]
    assert [True, True, False] == [eligible(known(1), "D1", metric) for metric in Metric]
    assert not eligible(known(1, Stage.LEAD, dealer="D2"), "D1", Metric.ORDERS)
    assert not eligible(known(1, erased=True), "D1", Metric.ORDERS)
    bought = known(1, Stage.DELIVERED, lately=frozenset({Metric.DELIVERIES}))
    assert [False, False, False] == [eligible(bought, "D1", metric) for metric in Metric]


def day(seed: int, skill: float, people: int = 300) -> DayList:
    draw = np.random.default_rng(seed)
    chance = draw.beta(1, 6, people)
    converted = draw.random(people) < chance
    rank = np.argsort(np.argsort(-(skill * chance + (1 - skill) * draw.random(people)))).astype(float)
    return DayList(np.arange(people), converted, rank, np.argsort(np.argsort(draw.random(people))).astype(float))


def test_a_list_that_knows_something_is_better_and_one_that_knows_nothing_is_not_proven() -> None:
    good = compare([day(seed, 0.9) for seed in range(5)])
    assert "better" == good.verdict
    assert 0.55 < good.area < 1 and 0.45 < good.other < 0.55
    assert good.low <= good.difference <= good.high
    blind = [compare([day(seed, 0.0)]) for seed in range(40)]
    assert sum(each.verdict != "not_proven" for each in blind) <= 6
    same = DayList(np.arange(9), np.arange(9) < 3, np.arange(9.0), np.arange(9.0))
    assert 0.0 == compare([same]).difference
    assert 7.5 / 9 == pytest.approx(compare([same]).area)


def test_without_anybody_who_did_it_there_is_no_verdict() -> None:
    nobody = DayList(np.arange(9), np.zeros(9, bool), np.arange(9.0), np.arange(9.0))
    assert "no_data" == compare([nobody]).verdict == compare([]).verdict
