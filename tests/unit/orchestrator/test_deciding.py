"""The one decision point, checked rule by rule against people of every shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.orchestrator.domain.deciding import (
    ALL_BITS,
    APP,
    APP_BIT,
    BUDGET,
    CHANNELS,
    DEALER,
    DEALER_BIT,
    FREQUENCY_CAP,
    HOLDOUT,
    NO_CHANNEL,
    NO_CHANNEL_CODE,
    NO_SCORE,
    OPTED_OUT,
    PUSH,
    WECHAT,
    WECHAT_BIT,
    Candidates,
    Plan,
    Rules,
    decide,
    delivery_id,
    fallbacks,
    in_holdout,
)

SALT = bytes(range(16))
CALLS_FROM_800 = ((0.0, (APP, WECHAT, DEALER)), (800.0, (DEALER, APP, WECHAT)))
ANYBODY = Rules(10**9, 10**9, CALLS_FROM_800, "service", 0.0, 3, SALT)


def score(probability: float) -> float:
    odds = probability / (1 - probability)
    return 1000 * odds / (odds + 1 / 12)


def people(*rows: tuple[int, float, int, int, int, int]) -> Candidates:
    """Rows of (person, probability or -1, channels, dealer, opted out, recent pushes)."""
    ids, probability, channels, dealer, out, recent = zip(*rows, strict=True) if rows else ((),) * 6
    return Candidates(
        np.array(ids, np.int64),
        np.array([score(p) if p >= 0 else -1 for p in probability]),
        np.array(probability, np.float64),
        np.array(channels, np.uint8),
        np.array(dealer, np.int32),
        np.array(out, np.uint8),
        np.array(recent, np.int32),
    )


@st.composite
def crowds(draw: st.DrawFn) -> Candidates:
    ids = draw(st.lists(st.integers(1, 2**40), unique=True, max_size=60))
    rows = []
    for person in ids:
        dealer = draw(st.sampled_from([-1, 0, 1, 2]))
        channels = draw(st.integers(0, 3)) | (DEALER_BIT if dealer >= 0 else 0)
        probability = draw(st.one_of(st.just(-1.0), st.sampled_from([0.01, 0.2, 0.3]), st.floats(0.0, 0.99)))
        out = draw(st.sampled_from([0, 0, 0, 1, 2, 4, 3, 7]))
        rows.append((person, probability, channels, dealer, out, draw(st.integers(0, 4))))
    return people(*rows)


@st.composite
def bands(draw: st.DrawFn) -> tuple[tuple[float, tuple[int, ...]], ...]:
    limits = [0.0, *sorted(draw(st.sets(st.sampled_from([0.5, 500.0, 800.0, 1000.0]), max_size=3)))]
    orders = st.lists(st.sampled_from([APP, WECHAT, DEALER]), unique=True).map(tuple)
    return tuple((limit, draw(orders)) for limit in limits)


rules = st.builds(
    Rules,
    max_contacts=st.integers(1, 8),
    max_calls=st.integers(0, 3),
    bands=bands(),
    purpose=st.sampled_from(["marketing", "service"]),
    holdout_share=st.sampled_from([0.0, 0.1, 0.5]),
    frequency_cap=st.integers(1, 4),
    salt=st.binary(min_size=16, max_size=16),
)


def allowed(crowd: Candidates, at: int, given: Rules) -> int:
    mask = int(crowd.channels[at]) & ~int(crowd.opted_out[at])
    return mask & ~WECHAT_BIT if given.purpose == "marketing" else mask


@given(crowds(), rules)
@settings(max_examples=120)
def test_no_budget_is_ever_exceeded(crowd: Candidates, given: Rules) -> None:
    plan = decide(crowd, given)
    assert given.max_contacts >= np.isin(plan.outcome, [PUSH, HOLDOUT]).sum()
    assert given.max_calls >= (plan.channel == DEALER).sum()


@given(crowds(), rules)
@settings(max_examples=120)
def test_a_push_goes_only_where_person_provider_and_rules_allow(crowd: Candidates, given: Rules) -> None:
    plan = decide(crowd, given)
    for at in np.flatnonzero(plan.outcome == PUSH):
        assert allowed(crowd, at, given) >> int(plan.channel[at]) & 1
        assert crowd.score[at] >= 0
        assert crowd.recent_pushes[at] < given.frequency_cap
    assert ((plan.channel != NO_CHANNEL_CODE) == (plan.outcome == PUSH)).all()


@given(crowds(), rules)
@settings(max_examples=120)
def test_nobody_chosen_is_worse_than_somebody_left_out_for_the_budget(crowd: Candidates, given: Rules) -> None:
    plan = decide(crowd, given)
    chosen = crowd.probability[np.isin(plan.outcome, [PUSH, HOLDOUT])]
    left = crowd.probability[plan.outcome == BUDGET]
    if len(chosen) and len(left):
        assert chosen.min() >= left.max()
        assert given.max_contacts == len(chosen)


@given(crowds(), rules, st.randoms(use_true_random=False))
@settings(max_examples=80)
def test_the_order_of_the_people_changes_nothing(crowd: Candidates, given: Rules, draw: object) -> None:
    order = np.arange(len(crowd.person_id))
    draw.shuffle(order)  # type: ignore[attr-defined]
    shuffled = Candidates(*(getattr(crowd, name)[order] for name in Candidates.__dataclass_fields__))
    straight, mixed = decide(crowd, given), decide(shuffled, given)
    for name in Plan.__dataclass_fields__:
        assert getattr(straight, name)[order].tolist() == getattr(mixed, name).tolist()


@given(crowds(), rules)
@settings(max_examples=80)
def test_dealer_lists_are_numbered_without_gaps_best_first(crowd: Candidates, given: Rules) -> None:
    plan = decide(crowd, given)
    for dealer in (0, 1, 2):
        called = np.flatnonzero((plan.channel == DEALER) & (crowd.dealer == dealer))
        by_rank = called[np.argsort(plan.call_rank[called])]
        assert list(range(1, len(called) + 1)) == plan.call_rank[by_rank].tolist()
        assert sorted(crowd.probability[by_rank], reverse=True) == crowd.probability[by_rank].tolist()
    assert (plan.call_rank[plan.channel != DEALER] == 0).all()


@given(crowds(), rules)
@settings(max_examples=80)
def test_taking_the_holdout_away_pushes_whom_it_kept(crowd: Candidates, given: Rules) -> None:
    given = replace(given, max_calls=10**6)
    with_holdout, without = decide(crowd, given), decide(crowd, replace(given, holdout_share=0.0))
    chosen = np.isin(with_holdout.outcome, [PUSH, HOLDOUT])
    assert chosen.tolist() == (without.outcome == PUSH).tolist()


@pytest.mark.parametrize(
    ("row", "given", "outcome", "channel"),
    [
        ((1, 0.5, ALL_BITS, 0, 0, 0), ANYBODY, PUSH, DEALER),
        ((1, 0.2, ALL_BITS, 0, 0, 0), ANYBODY, PUSH, APP),
        ((1, 0.5, ALL_BITS, 0, 0, 0), replace(ANYBODY, max_calls=0), PUSH, APP),
        ((1, 0.5, ALL_BITS, 0, DEALER_BIT, 0), ANYBODY, PUSH, APP),
        ((1, 0.2, WECHAT_BIT, -1, 0, 0), ANYBODY, PUSH, WECHAT),
        ((1, 0.2, WECHAT_BIT, -1, 0, 0), replace(ANYBODY, purpose="marketing"), NO_CHANNEL, NO_CHANNEL_CODE),
        ((1, 0.2, DEALER_BIT, 0, 0, 0), ANYBODY, PUSH, DEALER),
        ((1, 0.2, DEALER_BIT, 0, 0, 0), replace(ANYBODY, max_calls=0), NO_CHANNEL, NO_CHANNEL_CODE),
        ((1, 0.2, APP_BIT, -1, APP_BIT, 0), ANYBODY, OPTED_OUT, NO_CHANNEL_CODE),
        ((1, 0.2, 0, -1, ALL_BITS, 0), ANYBODY, OPTED_OUT, NO_CHANNEL_CODE),
        ((1, 0.2, 0, -1, 0, 0), ANYBODY, NO_CHANNEL, NO_CHANNEL_CODE),
        ((1, 0.2, APP_BIT, -1, 0, 3), ANYBODY, FREQUENCY_CAP, NO_CHANNEL_CODE),
        ((1, -1, APP_BIT, -1, 0, 0), ANYBODY, NO_SCORE, NO_CHANNEL_CODE),
    ],
)
def test_each_rule_decides_its_own_case(
    row: tuple[int, float, int, int, int, int], given: Rules, outcome: int, channel: int
) -> None:
    plan = decide(people(row), given)
    assert (outcome, channel) == (plan.outcome[0], plan.channel[0])


@given(crowds(), rules)
@settings(max_examples=120)
def test_everybody_gets_the_first_channel_of_their_band_that_is_open(crowd: Candidates, given: Rules) -> None:
    given = replace(given, max_calls=10**6)
    plan = decide(crowd, given)
    for at in np.flatnonzero(plan.outcome == PUSH):
        preferred = [order for limit, order in given.bands if limit <= crowd.score[at]][-1]
        assert next(channel for channel in preferred if allowed(crowd, at, given) >> channel & 1) == plan.channel[at]


def test_budgets_are_used_up_to_the_last_contact() -> None:
    crowd = people(*((person, 0.5, APP_BIT | DEALER_BIT, 0, 0, 0) for person in range(1, 101)))
    plan = decide(crowd, replace(ANYBODY, max_contacts=30, max_calls=7, holdout_share=0.2))
    assert 30 == np.isin(plan.outcome, [PUSH, HOLDOUT]).sum()
    assert 7 == (plan.channel == DEALER).sum()
    assert 70 == (plan.outcome == BUDGET).sum()


def test_a_person_kept_out_spends_no_call() -> None:
    crowd = people(*((person, 0.5, DEALER_BIT, 0, 0, 0) for person in range(1, 1001)))
    plan = decide(crowd, replace(ANYBODY, max_calls=100, holdout_share=0.3))
    assert 100 == (plan.channel == DEALER).sum()


def test_the_holdout_has_the_share_asked_for_and_differs_between_themes() -> None:
    ids = np.arange(1, 100_001)
    first, second = in_holdout(ids, SALT, 0.1), in_holdout(ids, bytes(16), 0.1)
    # Four standard deviations of a fair draw: 379 of 100,000.
    assert 380 > abs(first.sum() - 10_000)
    assert 380 > abs(second.sum() - 10_000)
    # Independent draws agree on about one in a hundred.
    assert 800 < (first & second).sum() < 1200
    assert first.tolist() == in_holdout(ids, SALT, 0.1).tolist()


def test_delivery_ids_are_stable_unlike_and_tell_nothing() -> None:
    assert delivery_id(SALT, 17) == delivery_id(SALT, 17)
    assert 2000 == len({delivery_id(salt, person) for salt in (SALT, bytes(16)) for person in range(1000)})
    assert 32 == len(delivery_id(SALT, 2**60))


def test_fallbacks_are_open_channels_other_than_the_first_and_never_a_call() -> None:
    order = (DEALER, APP, WECHAT)
    assert ["wechat"] == fallbacks(APP, order, ALL_BITS, 0, "service")
    assert [] == fallbacks(APP, order, ALL_BITS, 0, "marketing")
    assert [] == fallbacks(APP, order, ALL_BITS, WECHAT_BIT, "service")
    assert [] == fallbacks(APP, (APP,), ALL_BITS, 0, "service")
    assert ["app", "wechat"] == fallbacks(DEALER, order, ALL_BITS, 0, "service")
    assert ["wechat", "app"] == fallbacks(DEALER, order[::-1], ALL_BITS, 0, "service")
    assert ("app", "wechat", "dealer") == CHANNELS


def test_nobody_at_all_is_no_trouble() -> None:
    assert 0 == len(decide(people(), ANYBODY).outcome)
