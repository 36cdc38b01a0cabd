"""Leads follow from the set of their steps, and work goes to whom it suits best as long as there is room."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, time, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from chassis.quiet_hours import QuietHours
from services.orchestrator.leads.assigning import due
from services.orchestrator.leads.chain import LOST_REASONS, Chain, Stage, Step, fold, is_open
from services.orchestrator.leads.distributing import DEFAULT_WEIGHTS, Desk, Waiting, Why, distribute, rate
from services.orchestrator.leads.tasks import RESULTS, TRY_AGAIN, after

START = datetime(2026, 3, 1, 9, tzinfo=UTC)


def step(number: int, stage: Stage, day: float, interest: str = "X5", **more: str) -> Step:
    return Step(number, number.to_bytes(16, "big"), stage, interest, START + timedelta(days=day), **more)


steps = st.lists(
    st.builds(
        step,
        st.integers(1, 40),
        st.sampled_from(list(Stage)),
        st.integers(0, 900).map(float),
        st.sampled_from(["", "X5", "X3"]),
    ),
    max_size=14,
    unique_by=lambda s: s.key,
)


def told(chains: list[Chain]) -> list[tuple[object, ...]]:
    return [(c.interest, c.steps, c.stage, c.since, c.furthest, c.lost_reason, c.reached) for c in chains]


@given(steps, st.randoms(use_true_random=False))
def test_order_and_repeats_of_steps_change_nothing(given_steps: list[Step], draw: random.Random) -> None:
    mixed = [*given_steps, *draw.sample(given_steps, len(given_steps) // 2)]
    draw.shuffle(mixed)
    assert told(fold(given_steps)) == told(fold(mixed))


@given(steps)
def test_every_step_is_of_exactly_one_lead_and_each_lead_has_a_state(given_steps: list[Step]) -> None:
    chains = fold(given_steps)
    assert sorted(s.step_id for s in given_steps) == sorted(s.step_id for c in chains for s in c.steps)
    for chain in chains:
        assert (chain.stage is Stage.LOST) == (chain.lost_reason != "")
        assert chain.opened_at <= chain.since <= chain.last_at
        assert chain.reached <= {s.step_id for s in chain.steps}
        assert chain.furthest >= chain.stage or chain.stage is Stage.LOST


def test_a_lead_stands_where_it_came_furthest_since_it_was_last_lost() -> None:
    way = [step(1, Stage.LEAD, 0), step(2, Stage.VISIT, 3), step(3, Stage.CONTACTED, 5)]
    [chain] = fold(way)
    assert (Stage.VISIT, START + timedelta(days=3), {1, 2, 3}) == (chain.stage, chain.since, chain.reached)
    [chain] = fold([*way, step(4, Stage.LOST, 6, reason="price"), step(5, Stage.LOST, 7, reason="timing")])
    assert (Stage.LOST, "price", START + timedelta(days=6)) == (chain.stage, chain.lost_reason, chain.since)
    [chain] = fold([*way, step(4, Stage.LOST, 6, reason="price"), step(5, Stage.CONTACTED, 9), step(6, Stage.TEST_DRIVE, 10)])
    assert (Stage.TEST_DRIVE, "", Stage.TEST_DRIVE) == (chain.stage, chain.lost_reason, chain.furthest)


def test_after_delivery_what_opens_anew_is_another_lead_and_calls_are_not() -> None:
    way = [step(1, Stage.ORDER, 0), step(2, Stage.DELIVERED, 30), step(3, Stage.CONTACTED, 33), step(4, Stage.LOST, 34)]
    [only] = fold(way)
    assert (Stage.DELIVERED, "") == (only.stage, only.lost_reason)
    first, second = fold([*way, step(5, Stage.LEAD, 200), step(6, Stage.TEST_DRIVE, 210)])
    assert ([1, 2, 3, 4], [5, 6]) == tuple([s.step_id for s in c.steps] for c in (first, second))
    late = step(7, Stage.LEAD, 400 + 210)
    assert [Stage.DELIVERED, Stage.TEST_DRIVE, Stage.LEAD] == [
        c.stage for c in fold([*way, step(5, Stage.LEAD, 200), step(6, Stage.TEST_DRIVE, 210), late])
    ]


def test_what_names_no_interest_belongs_to_the_last_one_named() -> None:
    chains = fold(
        [
            step(1, Stage.VISIT, 0, ""),
            step(2, Stage.LEAD, 1, "X5"),
            step(3, Stage.CONTACTED, 2, ""),
            step(4, Stage.LEAD, 3, "X3"),
            step(5, Stage.ORDER, 4, ""),
        ]
    )
    assert {"X5": [1, 2, 3], "X3": [4, 5]} == {c.interest: [s.step_id for s in c.steps] for c in chains}


def test_of_one_moment_loss_is_the_last() -> None:
    [chain] = fold([step(9, Stage.LOST, 1, reason="price"), step(2, Stage.CONTACTED, 1), step(1, Stage.LEAD, 0)])
    assert Stage.LOST is chain.stage
    assert not is_open(chain.stage)


def test_results_move_the_chain_and_vain_attempts_end_in_loss() -> None:
    assert {o.reason for o in map(RESULTS.get, RESULTS) if o and o.stage is Stage.LOST} <= LOST_REASONS
    attempts = [after("not_reached", n) for n in range(1, len(TRY_AGAIN) + 2)]
    assert [None] * len(TRY_AGAIN) + [Stage.LOST] == [outcome.stage for outcome, _ in attempts]
    assert [*TRY_AGAIN, None] == [again for _, again in attempts]


def desk(dealer: str, advisor: str = "1", **more: object) -> Desk:
    stated: dict[str, object] = {"areas": frozenset(), "brands": frozenset(), "capacity": 10, "left": 10, "dealer_left": 100}
    return Desk(dealer, advisor, **(stated | more))  # type: ignore[arg-type]


desks_drawn = st.lists(
    st.builds(
        desk,
        st.sampled_from(["D1", "D2", "D3"]),
        st.sampled_from(["1", "2", "3"]),
        areas=st.frozensets(st.sampled_from(["north", "south"]), max_size=2),
        brands=st.frozensets(st.sampled_from(["blue", "red"]), max_size=2),
        left=st.integers(0, 4),
        dealer_left=st.just(5),
        judged=st.integers(10, 50),
        won=st.integers(0, 10),
    ),
    min_size=1,
    max_size=7,
    unique_by=lambda d: (d.dealer_code, d.advisor),
)
leads_drawn = st.lists(
    st.builds(
        Waiting,
        st.integers(1, 10**6),
        st.sampled_from(["", "blue", "red"]),
        st.sampled_from(["", "north", "south", "west"]),
        st.sampled_from(["", "D1", "D9"]),
        st.just(value=False),
        st.frozensets(st.tuples(st.sampled_from(["D1", "D2"]), st.sampled_from(["1", "2"])), max_size=3),
    ),
    max_size=20,
    unique_by=lambda lead: lead.lead_id,
)


@given(leads_drawn, desks_drawn)
def test_nobody_gets_more_than_there_is_room_and_no_lead_stays_behind_while_there_is(
    leads: list[Waiting], desks: list[Desk]
) -> None:
    given_out, left = distribute(leads, desks)
    assert {lead.lead_id for lead in leads} == {g.lead_id for g in given_out} | set(left)
    assert len(given_out) + len(left) == len(leads)
    by_desk = Counter((g.desk.dealer_code, g.desk.advisor) for g in given_out)
    by_dealer = Counter(g.desk.dealer_code for g in given_out)
    assert all(by_desk[d.dealer_code, d.advisor] <= d.left for d in desks)
    assert all(n <= 5 for n in by_dealer.values())
    free = {
        (d.dealer_code, d.advisor) for d in desks if by_desk[d.dealer_code, d.advisor] < d.left and by_dealer[d.dealer_code] < 5
    }
    known = {lead.lead_id: lead for lead in leads}
    for g in given_out:
        lead = known[g.lead_id]
        assert not lead.brand or not g.desk.brands or lead.brand in g.desk.brands
        assert g.again == ((g.desk.dealer_code, g.desk.advisor) in lead.tried)
        assert g.score == pytest.approx(sum(g.parts.values()), abs=1e-3)
    serves = {(d.dealer_code, d.advisor): d for d in desks}
    for lead_id, why in left.items():
        lead = known[lead_id]
        possible = [w for w, d in serves.items() if not (lead.brand and d.brands and lead.brand not in d.brands)]
        near = [w for w in possible if not lead.area or not serves[w].areas or lead.area in serves[w].areas]
        possible = near or possible
        if why is Why.NO_ROOM:
            assert free.isdisjoint(set(possible) - lead.tried)
        elif why is Why.ALL_TRIED:
            assert set(possible) <= lead.tried
    assert (given_out, left) == distribute(leads, desks)


def test_rounds_come_close_to_the_best_there_is() -> None:
    draw = np.random.default_rng(5)
    shares = []
    for _ in range(15):
        desks = [
            desk(
                f"D{n}",
                areas=frozenset(draw.choice(["n", "s", "w"], 2)),
                capacity=8,
                left=8,
                judged=200,
                won=int(draw.integers(0, 60)),
            )
            for n in range(6)
        ]
        leads = [Waiting(n, "", str(draw.choice(["n", "s", "w"])), f"D{draw.integers(0, 6)}") for n in range(40)]
        given_out, left = distribute(leads, desks, DEFAULT_WEIGHTS | {"load": 0.0})
        score = np.full((40, 6), -1e6)
        for row, lead in enumerate(leads):
            for column, one in enumerate(desks):
                if lead.area in one.areas:
                    # Success is drawn towards everybody's, which one desk alone does not know: here all are scored alone.
                    [alone], _ = distribute([lead], [one], DEFAULT_WEIGHTS | {"load": 0.0})
                    score[row, column] = alone.score
        score = np.repeat(score, 8, axis=1)
        rows, columns = linear_sum_assignment(score, maximize=True)
        by_lead = {g.lead_id: g.desk.dealer_code for g in given_out}
        ours = sum(score[n, int(code[1:]) * 8] for n, code in by_lead.items())
        assert len(left) == (score[rows, columns] < 0).sum()
        shares.append(ours / score[rows, columns][score[rows, columns] > 0].sum())
    assert np.mean(shares) > 0.93


def test_work_spreads_over_equals_and_success_and_area_decide_between_others() -> None:
    alike = [desk("D1"), desk("D2"), desk("D3")]
    given_out, _ = distribute([Waiting(n, "", "") for n in range(9)], alike)
    assert {"D1": 3, "D2": 3, "D3": 3} == Counter(g.desk.dealer_code for g in given_out)
    far = [desk("D1", areas=frozenset({"south"})), desk("D2", areas=frozenset({"north"}), judged=100, won=50)]
    given_out, _ = distribute([Waiting(1, "", "south"), Waiting(2, "", "")], far)
    assert {1: "D1", 2: "D2"} == {g.lead_id: g.desk.dealer_code for g in given_out}
    nobody_serves, _ = distribute([Waiting(1, "", "moon")], far)
    assert 0.0 == nobody_serves[0].parts["area"]


def test_few_cases_say_little() -> None:
    assert rate(0, 0, 0.1) == pytest.approx(0.1)
    assert 0.1 < rate(1, 1, 0.1) < 0.2 < rate(100, 200, 0.1)


def test_quiet_hours_do_not_count_toward_the_deadline() -> None:
    quiet = QuietHours(time(21), time(9), timezone(timedelta(hours=8)))
    evening = datetime(2026, 3, 1, 12, 50, tzinfo=UTC)  # 20:50 in China
    assert datetime(2026, 3, 2, 1, 5, tzinfo=UTC) == due(evening, timedelta(minutes=15), quiet)
    assert datetime(2026, 3, 2, 1, 15, tzinfo=UTC) == due(datetime(2026, 3, 1, 20, tzinfo=UTC), timedelta(minutes=15), quiet)
    assert evening + timedelta(minutes=15) == due(evening, timedelta(minutes=15), None)
    assert datetime(2026, 3, 3, 2, 50, tzinfo=UTC) == due(evening, timedelta(hours=14), quiet)
