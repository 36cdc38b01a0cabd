"""The arbiter's rules, one by one and all together, against people of every shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.orchestrator.arbiter.deciding import (
    DEFERRED,
    HOLDOUT,
    NO_OFFER_YET,
    OUTCOMES,
    PUSH,
    UNLIMITED,
    YIELD_US,
    Candidates,
    Purse,
    Rules,
    Verdicts,
    decide,
    delivery_id,
    fallbacks,
)
from services.orchestrator.arbiter.drawing import Learnt
from services.orchestrator.domain.channels import (
    ADVISORS,
    ALL_BITS,
    APP,
    APP_BIT,
    CALL_CENTER,
    CALL_LIST,
    CHANNELS,
    DEALER,
    DEALER_BIT,
    NOTIFICATION,
    PERSONAL,
    SMS,
    WECHAT,
    WECHAT_BIT,
    WECHAT_MINI,
    WECOM,
    desk,
)
from services.orchestrator.domain.hashing import units
from services.orchestrator.experiments.assigning import in_global_holdout
from services.orchestrator.offers.bandit import Tuning
from services.orchestrator.offers.contexts import FEATURES, MATCH

SALT = bytes(range(16))
LATER = [0] * (len(CHANNELS) - 3)
DESKS = ("D1", "D2", CALL_CENTER, ADVISORS)
NOW, TOMORROW, END = 1_000_000_000, 2_000_000_000, 9_000_000_000
COSTS = (1, 2, 500, 2, 300, 5, 1, 400)
RULES = Rules("service", ((0.0, (APP, WECHAT, DEALER)),), True, 0, COSTS, (ALL_BITS,), 0.0, SALT, 0.0, "first")


def purse(**changes: Any) -> Purse:
    many = 10**9
    stated: dict[str, Any] = {
        "contacts": many, "contacts_today": many, "calls": many, "calls_today": many, "cost": UNLIMITED,
        "cost_today": UNLIMITED, "tomorrow_us": TOMORROW, "dealers": dict.fromkeys(DESKS, many),
        "ranks": dict.fromkeys(DESKS, 0), "stock": [UNLIMITED] * 3,
    }  # fmt: skip
    return Purse(**(stated | changes))


def people(size: int, **changes: Any) -> Candidates:
    """Persons 1 to `size` whom nothing keeps back, the likelier the smaller their number."""
    probability = np.linspace(0.9, 0.1, size) if size else np.empty(0)
    columns: dict[str, Any] = {
        "person_id": np.arange(1, size + 1), "human_id": np.arange(1, size + 1), "score": probability * 1000,
        "probability": probability, "channels": np.full(size, ALL_BITS, np.uint8), "opted_out": np.zeros(size, np.uint8),
        "opens_us": np.zeros((size, len(CHANNELS)), np.int64), "pushes": np.zeros(size, np.int32),
        "excluded_us": np.zeros(size, np.int64),
        "quiet_us": np.zeros(size, np.int64), "dealer": ["D1"] * size, "offers": np.ones(size, np.int64),
        "wanted": np.full(size, NO_OFFER_YET, np.int8), "side": np.full(size, -1, np.int8), "merged": np.zeros(size, np.bool_),
        "left": np.zeros(size, np.bool_), "outranked": np.zeros(size, np.bool_), "ends_us": np.full(size, END),
        "words": np.zeros(size, np.int64), "personal": np.ones(size, np.bool_),
    }  # fmt: skip
    return Candidates(**(columns | changes))


def outcome(crowd: Candidates, rules: Rules = RULES, of: Purse | None = None) -> list[str]:
    said = decide(crowd, rules, of or purse(), NOW)
    return [reason or outcome for outcome, reason in zip(said.outcome, said.reason, strict=True)]


def test_nothing_keeps_nobody_back() -> None:
    said = decide(people(3), RULES, purse(), NOW)
    assert ([PUSH] * 3, [APP] * 3, [1, 2, 3]) == (said.outcome, said.channel, said.position)
    assert [] == decide(people(0), RULES, purse(), NOW).outcome


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        ("merged", {"merged": [True]}),
        ("left_audience", {"left": [True]}),
        ("opted_out", {"opted_out": [ALL_BITS]}),
        ("opted_out", {"channels": [APP_BIT], "opted_out": [APP_BIT]}),
        ("no_score", {"score": [-1.0], "probability": [-1.0]}),
        ("no_channel", {"channels": [0]}),
        ("no_offer", {"offers": [0]}),
        ("no_offer", {"wanted": [1]}),
        ("exclusion", {"excluded_us": [NOW + 1]}),
        ("frequency_cap", {"opens_us": [[NOW + 1, NOW + 5, NOW + 9, *LATER]]}),
        ("quiet_hours", {"quiet_us": [NOW + 1]}),
        ("priority", {"outranked": [True]}),
        (PUSH, {"excluded_us": [NOW], "quiet_us": [NOW], "opens_us": [[NOW] * len(CHANNELS)]}),
    ],
)
def test_each_rule_keeps_back_whom_it_is_about(expected: str, changes: dict[str, Any]) -> None:
    typed = {name: np.array(value, getattr(people(1), name).dtype) for name, value in changes.items()}
    assert [expected] == outcome(people(1, **typed))


def test_what_may_be_otherwise_later_is_put_off_until_then() -> None:
    for changes, until in (
        ({"excluded_us": np.array([NOW + 7])}, NOW + 7),
        ({"quiet_us": np.array([NOW + 8])}, NOW + 8),
        ({"opens_us": np.array([[NOW + 9, NOW + 4, NOW + 6, *LATER]])}, NOW + 4),
        ({"outranked": np.array([True])}, NOW + YIELD_US),
    ):
        said = decide(people(1, **changes), RULES, purse(), NOW)
        assert ([DEFERRED], [until]) == (said.outcome, said.due_us)
        late = decide(people(1, ends_us=np.array([until]), **changes), RULES, purse(), NOW)
        assert (said.reason, [0], [""]) == (late.outcome, late.due_us, late.reason)


def test_a_closed_channel_gives_way_to_the_next_one() -> None:
    said = decide(people(1, opens_us=np.array([[NOW + 1, 0, 0, *LATER]])), RULES, purse(), NOW)
    assert ([PUSH], [WECHAT]) == (said.outcome, said.channel)
    said = decide(people(1, opted_out=np.array([APP_BIT | WECHAT_BIT], np.uint8)), RULES, purse(), NOW)
    assert ([PUSH], [DEALER], [1]) == (said.outcome, said.channel, said.call_rank)


def test_a_channel_opens_for_the_purpose_and_the_words_that_it_can_carry() -> None:
    advert = replace(RULES, purpose="marketing", bands=((0.0, (WECHAT, DEALER)),))
    assert [DEALER] == decide(people(1), advert, purse(), NOW).channel
    assert ["no_channel"] == outcome(people(1, channels=np.array([WECHAT_BIT], np.uint8)), advert)
    spoken = replace(RULES, words=(DEALER_BIT, APP_BIT | WECHAT_BIT))
    said = decide(people(1, offers=np.array([0b11])), spoken, purse(), NOW)
    assert ([APP], [1]) == (said.channel, said.offer)
    assert ["no_offer"] == outcome(people(1, channels=np.array([APP_BIT], np.uint8)), spoken)
    said = decide(people(1, offers=np.array([0b11]), wanted=np.array([0], np.int8)), spoken, purse(), NOW)
    assert ([DEALER], [0]) == (said.channel, said.offer)


def test_the_score_chooses_the_band() -> None:
    banded = replace(RULES, bands=((0.0, ()), (300.0, (APP,)), (800.0, (DEALER, APP))))
    crowd = people(3, score=np.array([900.0, 300.0, 299.0]))
    assert [PUSH, PUSH, "no_channel"] == outcome(crowd, banded)
    assert [DEALER, APP, -1] == decide(crowd, banded, purse(), NOW).channel


def test_the_budget_goes_to_the_most_valuable() -> None:
    said = decide(people(5), RULES, purse(contacts=2, contacts_today=2), NOW)
    assert [PUSH, PUSH, "budget", "budget", "budget"] == said.outcome
    assert [PUSH, PUSH, "pacing", "pacing", "pacing"] == outcome(people(5), of=purse(contacts_today=2))
    calling = replace(RULES, bands=((0.0, (DEALER, APP)),))
    assert [DEALER, APP, APP] == decide(people(3), calling, purse(calls=1, calls_today=1), NOW).channel
    assert [PUSH, "pacing", "pacing"] == outcome(people(3), calling, purse(calls_today=1))
    assert [DEALER, APP, APP] == decide(people(3), calling, purse(cost=600, cost_today=600), NOW).channel
    said = decide(people(3), calling, purse(cost=501, cost_today=501), NOW)
    assert ([PUSH, PUSH, "budget"], [500, 1, 0]) == (said.outcome, said.cost_fen)


def test_a_full_dealer_is_worth_waiting_for() -> None:
    calling = replace(RULES, bands=((0.0, (DEALER, APP)),))
    crowd = people(4, dealer=["D1", "D2", "D1", "D2"])
    said = decide(crowd, calling, purse(dealers={"D1": 1, "D2": 5}, ranks={"D1": 7, "D2": 0}), NOW)
    assert ([PUSH, PUSH, DEFERRED, PUSH], [8, 1, 0, 2]) == (said.outcome, said.call_rank)
    assert ("capacity", TOMORROW) == (said.reason[2], said.due_us[2])


def test_whoever_speaks_to_people_has_so_much_time_and_no_more() -> None:
    spoken = replace(RULES, bands=((0.0, (WECOM, CALL_LIST)),))
    crowd = people(4, dealer=["D1", "", "D1", ""])
    said = decide(crowd, spoken, purse(), NOW)
    assert ([WECOM] * 4, [1, 1, 2, 2]) == (said.channel, said.call_rank)
    free = {"D1": 1, CALL_CENTER: 1, ADVISORS: 0}
    said = decide(crowd, spoken, purse(dealers=free), NOW)
    assert [PUSH, "capacity", "capacity", "capacity"] == [
        reason or word for word, reason in zip(said.outcome, said.reason, strict=True)
    ]
    said = decide(crowd, replace(RULES, bands=((0.0, (CALL_LIST, SMS)),)), purse(dealers=free, calls=1, calls_today=1), NOW)
    assert [CALL_LIST, SMS, SMS, SMS] == said.channel


def test_a_channel_without_quota_gives_way_and_then_waits() -> None:
    told = replace(RULES, bands=((0.0, (NOTIFICATION, SMS)),))
    said = decide(people(3), told, purse(quotas=[*[UNLIMITED] * SMS, 1, 1, UNLIMITED]), NOW)
    assert [NOTIFICATION, SMS, -1] == said.channel
    assert ("quota", TOMORROW) == (said.reason[2], said.due_us[2])


def learnt(*rates: float) -> Learnt:
    """What makes of each offer one with a rate, surely; the second one is better for whom the word is true of."""
    size = len(FEATURES)
    mean, covariance = np.zeros((len(rates), size)), np.zeros((len(rates), size, size))
    mean[:, 0], covariance[:, 0, 0] = rates, 0.0001
    mean[1, MATCH] = 0.5
    return Learnt(mean, covariance, Tuning(), np.eye(len(rates))[:, 1:2], ("sporty",), {APP: (0,), SMS: (0,)}, 7, 12)


def test_what_was_learnt_chooses_with_the_chances_it_tells() -> None:
    drawing = replace(RULES, bands=((0.0, (APP, SMS)),), words=(APP_BIT, ALL_BITS, ALL_BITS), learnt=learnt(0.10, 0.10, 0.08))
    crowd = people(6000, offers=np.full(6000, 0b111))
    crowd.words[3000:4000], crowd.personal[4000:] = 1, False
    crowd.wanted[5900:] = 2
    said = decide(crowd, drawing, purse(), NOW)
    assert ({PUSH}, {APP}) == (set(said.outcome), set(said.channel))
    offers, chance = np.array(said.offer), np.array(said.chance)
    told, true, neutral, asked = slice(0, 3000), slice(3000, 4000), slice(4000, 5900), slice(5900, 6000)
    for place in range(3):
        [known] = set(chance[told][offers[told] == place].tolist())
        assert np.mean(offers[told] == place) == pytest.approx(known, abs=0.03)
    # Two that are alike share; the word decides where it is true; who is told apart by nothing draws evenly.
    assert chance[told][offers[told] == 0][0] == pytest.approx(chance[told][offers[told] == 1][0], abs=0.01)
    assert np.mean(offers[true] == 1) > 0.98
    assert {1 / 3} == set(chance[neutral].tolist())
    assert (({2}, {1.0}), 0b100) == ((set(said.offer[asked]), set(said.chance[asked])), said.competed[-1])
    # Deciding again draws the same, whoever else is there; what is sold out or cannot be told does not compete.
    again = decide(people(6000, offers=np.full(6000, 0b111)), drawing, purse(), NOW)
    assert said.offer[:3000] == again.offer[:3000]
    few = decide(people(3, offers=np.full(3, 0b111)), drawing, purse(stock=[0, 0, 9]), NOW)
    assert ([2] * 3, [1.0] * 3) == (few.offer, few.chance)
    by_text = replace(drawing, bands=((0.0, (SMS,)),))
    assert 0 not in decide(people(500, offers=np.full(500, 0b111)), by_text, purse(), NOW).offer
    none = decide(people(2, offers=np.full(2, 0b111)), drawing, purse(stock=[0, 0, 0]), NOW)
    assert ["stock", "stock"] == none.reason


def test_what_is_out_of_stock_gives_way_and_then_waits() -> None:
    two = replace(RULES, words=(ALL_BITS, ALL_BITS))
    crowd = people(4, offers=np.full(4, 0b11))
    said = decide(crowd, two, purse(stock=[1, 2]), NOW)
    assert [0, 1, 1, NO_OFFER_YET] == said.offer
    assert ("stock", TOMORROW) == (said.reason[3], said.due_us[3])


def test_a_push_must_bring_more_than_it_costs() -> None:
    priced = replace(RULES, value_fen=1000, unit_cost_fen=(300, 0, 500, 0, 0, 0, 0, 0), bands=((0.0, (DEALER, APP)),))
    crowd = people(3, probability=np.array([0.5, 0.3, 0.29]))
    said = decide(crowd, priced, purse(), NOW)
    assert ([PUSH, PUSH, "no_value"], [DEALER, APP, -1]) == (said.outcome, said.channel)
    assert [0.0, 0.0, 290.0] == pytest.approx(said.value)
    assert [PUSH] == outcome(people(1, probability=np.array([0.0001])))


def test_without_scores_chance_decides_who_comes_first() -> None:
    nothing = {"score": np.full(100, -1.0), "probability": np.full(100, -1.0)}
    said = decide(people(100, **nothing), replace(RULES, needs_score=False), purse(contacts=50, contacts_today=50), NOW)
    chosen = [row for row, word in enumerate(said.outcome) if word == PUSH]
    assert 50 == len(chosen)
    assert 10 < sum(row < 50 for row in chosen) < 40


def test_a_person_stays_on_her_side_whatever_she_is_called() -> None:
    halved = replace(RULES, holdout_share=0.5)
    crowd = people(1000)
    held = units(crowd.human_id, SALT) < 0.5
    assert np.where(held, HOLDOUT, PUSH).tolist() == decide(crowd, halved, purse(), NOW).outcome
    swapped = people(1000, side=np.where(held, 0, 1).astype(np.int8))
    assert np.where(held, PUSH, HOLDOUT).tolist() == decide(swapped, halved, purse(), NOW).outcome
    renamed = people(1000, person_id=np.arange(5001, 6001))
    assert np.where(held, HOLDOUT, PUSH).tolist() == decide(renamed, halved, purse(), NOW).outcome


def test_who_is_kept_out_spends_a_contact_and_nothing_else() -> None:
    spent = purse(contacts=600, contacts_today=600, cost=10**6, cost_today=10**6)
    said = decide(people(1000), replace(RULES, holdout_share=0.5), spent, NOW)
    pushed = said.outcome.count(PUSH)
    assert (600, 10**6 - pushed) == (pushed + said.outcome.count(HOLDOUT), spent.cost)
    assert 0 == spent.contacts == spent.contacts_today


def test_the_global_holdout_is_kept_out_of_marketing_only() -> None:
    crowd = people(1000)
    outside = in_global_holdout(crowd.human_id, "first", 0.2)
    held = replace(RULES, global_holdout_share=0.2)
    assert outside.tolist() == [word == "global_holdout" for word in outcome(crowd, replace(held, purpose="marketing"))]
    assert {PUSH} == set(outcome(crowd, held))


@st.composite
def crowds(draw: st.DrawFn) -> Candidates:
    size = draw(st.integers(0, 40))

    def column(values: st.SearchStrategy[Any], dtype: Any) -> Any:
        return np.array(draw(st.lists(values, min_size=size, max_size=size)), dtype)

    probability = column(st.sampled_from([-1.0, 0.01, 0.2, 0.2, 0.9]), np.float64)
    moments = st.sampled_from([0, 0, 0, NOW, NOW + 5])
    channels = column(st.integers(0, ALL_BITS), np.uint8)
    dealers = draw(st.lists(st.sampled_from(["D1", "D2"]), min_size=size, max_size=size))
    return people(
        size,
        person_id=np.array(draw(st.lists(st.integers(1, 10**6), unique=True, min_size=size, max_size=size)), np.int64),
        score=probability * 1000,
        probability=probability,
        channels=channels,
        opted_out=column(st.sampled_from([0, 0, 1, 4, 0b10011010, ALL_BITS]), np.uint8),
        opens_us=column(st.tuples(*[moments] * len(CHANNELS)), np.int64).reshape(size, len(CHANNELS)),
        excluded_us=column(moments, np.int64),
        quiet_us=column(moments, np.int64),
        dealer=[dealer if mask & DEALER_BIT else "" for dealer, mask in zip(dealers, channels.tolist(), strict=True)],
        offers=column(st.integers(0, 3), np.int64),
        wanted=column(st.sampled_from([-1, -1, 0, 1]), np.int8),
        side=column(st.sampled_from([-1, -1, 0, 1]), np.int8),
        merged=column(st.sampled_from([False] * 9 + [True]), np.bool_),
        outranked=column(st.sampled_from([False] * 9 + [True]), np.bool_),
        ends_us=column(st.sampled_from([END, NOW + 5, NOW + 1]), np.int64),
    )


rules = st.builds(
    Rules,
    purpose=st.sampled_from(["marketing", "service"]),
    bands=st.sampled_from(
        [
            ((0.0, (APP, WECHAT, DEALER)),),
            ((0.0, (APP,)), (150.0, (DEALER, APP)), (800.0, ())),
            ((0.0, (WECHAT_MINI, SMS, NOTIFICATION)), (150.0, (WECOM, CALL_LIST, DEALER, SMS))),
        ]
    ),
    needs_score=st.booleans(),
    value_fen=st.sampled_from([0, 1000]),
    unit_cost_fen=st.just(COSTS),
    words=st.sampled_from([(ALL_BITS, ALL_BITS), (1, 4), (0, ALL_BITS), (0b10010000, 0b11100000)]),
    holdout_share=st.sampled_from([0.0, 0.3]),
    salt=st.just(SALT),
    global_holdout_share=st.sampled_from([0.0, 0.2]),
    global_holdout_salt=st.just("first"),
)
few = st.integers(0, 6)
purses = st.builds(
    lambda contacts, today, calls, calls_today, cost, full, left, quota: purse(
        contacts=contacts, contacts_today=min(today, contacts), calls=calls, calls_today=min(calls_today, calls), cost=cost,
        cost_today=cost, dealers={"D1": full, "D2": 2, CALL_CENTER: full, ADVISORS: 1}, stock=[left, 3],
        quotas=[UNLIMITED, *[quota] * 7],
    ),
    st.integers(0, 20), few, few, few, st.sampled_from([0, 3, 600, UNLIMITED]), st.integers(-1, 3), few, st.integers(-1, 9),
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(crowds(), rules, purses)
def test_whatever_comes_every_bound_holds(crowd: Candidates, stated: Rules, given_purse: Purse) -> None:
    before = _copy(given_purse)
    said = decide(crowd, stated, given_purse, NOW)
    assert set(said.outcome) <= set(OUTCOMES)
    pushed = [row for row, word in enumerate(said.outcome) if word == PUSH]
    chosen = [row for row, word in enumerate(said.outcome) if word in (PUSH, HOLDOUT)]
    assert len(chosen) <= min(before.contacts, before.contacts_today)
    assert list(range(1, len(chosen) + 1)) == sorted(said.position[row] for row in chosen)
    calls = [row for row in pushed if said.channel[row] in PERSONAL]
    assert len(calls) <= max(0, min(before.calls, before.calls_today))
    assert sum(said.cost_fen) <= min(before.cost, before.cost_today)
    for dealer, free in before.dealers.items():
        mine = [row for row in calls if desk(said.channel[row], crowd.dealer[row]) == dealer]
        assert len(mine) <= max(0, free)
        assert list(range(1, len(mine) + 1)) == sorted(said.call_rank[row] for row in mine)
    for channel, most in enumerate(before.quotas):
        assert sum(said.channel[row] == channel for row in pushed) <= max(0, most)
    for place, pieces in enumerate(before.stock):
        assert sum(said.offer[row] == place for row in pushed) <= max(0, pieces)
    for row in chosen:
        assert (
            not crowd.merged[row] and not crowd.outranked[row] and crowd.side[row] != (0 if said.outcome[row] == HOLDOUT else 1)
        )
        assert crowd.quiet_us[row] <= NOW >= crowd.excluded_us[row]
        assert not stated.needs_score or crowd.score[row] >= 0
    for row in pushed:
        bit = 1 << said.channel[row]
        assert bit & crowd.channels[row] & ~crowd.opted_out[row]
        assert crowd.opens_us[row, said.channel[row]] <= NOW
        assert crowd.offers[row] >> said.offer[row] & 1 and stated.words[said.offer[row]] & bit
        assert crowd.wanted[row] in (-1, said.offer[row])
        assert not (stated.purpose == "marketing" and said.channel[row] in (WECHAT, WECHAT_MINI))
    for row, word in enumerate(said.outcome):
        assert (word == DEFERRED) == bool(said.due_us[row]) == bool(said.reason[row])
        assert not said.due_us[row] or NOW < said.due_us[row] < crowd.ends_us[row]


@settings(max_examples=40, deadline=None)
@given(crowds(), rules, purses, st.randoms())
def test_the_order_of_persons_means_nothing(crowd: Candidates, stated: Rules, given_purse: Purse, draw: Any) -> None:
    order = list(range(len(crowd.person_id)))
    draw.shuffle(order)
    again = Candidates(
        **{name: [column[row] for row in order] if name == "dealer" else column[order] for name, column in vars(crowd).items()}
    )
    other = _copy(given_purse)
    said, shuffled = decide(crowd, stated, given_purse, NOW), decide(again, stated, other, NOW)
    assert _by_row(said, order) == _by_row(shuffled, list(range(len(order))))


def _copy(of: Purse) -> Purse:
    return replace(of, dealers=dict(of.dealers), ranks=dict(of.ranks), stock=list(of.stock), quotas=list(of.quotas))


def _by_row(said: Verdicts, order: list[int]) -> list[tuple[Any, ...]]:
    return [tuple(column[row] for column in vars(said).values()) for row in order]


def test_delivery_ids_tell_nothing_and_never_meet() -> None:
    ids = {delivery_id(salt, person, occasion) for salt in (SALT, SALT[::-1]) for person in range(50) for occasion in range(5)}
    assert 500 == len(ids)
    assert {32} == {len(each) for each in ids}
    assert delivery_id(SALT, 7, 1) == delivery_id(SALT, 7, 1)


def test_fallbacks_carry_the_same_words_and_are_never_calls() -> None:
    assert [WECHAT] == fallbacks(APP, ALL_BITS, {APP: "a", WECHAT: "a", DEALER: "a"})
    assert [] == fallbacks(APP, ALL_BITS, {APP: "a", WECHAT: "b", DEALER: "a"})
    assert [] == fallbacks(APP, APP_BIT, {APP: "a", WECHAT: "a"})
    assert [APP, WECHAT] == fallbacks(DEALER, ALL_BITS, {APP: "a", WECHAT: "a", DEALER: "a"})
    alike = dict.fromkeys(range(len(CHANNELS)), "a") | {WECHAT: "b", WECHAT_MINI: "b"}
    assert [SMS, NOTIFICATION] == fallbacks(APP, ALL_BITS, alike)
