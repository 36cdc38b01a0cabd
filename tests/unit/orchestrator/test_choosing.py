"""Which offer somebody sees: rules before eligibility's rest, eligibility before the bandit, chances that are those drawn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.orchestrator.domain.hashing import units
from services.orchestrator.offers import choosing, contexts, shelf
from services.orchestrator.offers.arranging import Rules
from services.orchestrator.offers.bandit import Bandit, Tuning
from services.orchestrator.offers.choosing import Asked, Person, Posterior
from services.orchestrator.offers.contexts import FEATURES, SlotContext
from services.orchestrator.offers.definitions import Definition, Offer, OfferId, Variant
from services.orchestrator.offers.learning import added
from services.orchestrator.offers.offer_log import FAILED, WAITING
from services.orchestrator.offers.shelf import RunningTheme, Shelf

NOW = datetime(2026, 5, 2, 10, 0, tzinfo=UTC)
HERE = SlotContext("app", NOW, "home")
ACTIVE = HERE.active(timedelta(hours=8))
WORDS = ("family", "suv", "red")


def offer(number: int, **changes: Any) -> Offer:
    stated: dict[str, Any] = {
        "title": f"Offer {number}",
        "kind": "service",
        "purpose": "service",
        "content_tags": (),
        "valid_from": NOW - timedelta(days=1),
        "valid_to": None,
        "audience": "",
        "stock": None,
        "variants": (Variant("app", "en", "Title", "Body"),),
    }
    reserved = changes.pop("reserved", 0)
    return Offer(OfferId(number), 1, Definition(**(stated | changes)), reserved, 0, NOW, NOW, None)


def shelved(offers: list[Offer], rules: Rules | None = None, themes: tuple[RunningTheme, ...] = ()) -> Shelf:
    rows = np.array([0 if each.definition.audience else -1 for each in offers], np.int64)
    return shelf.build(1, offers, {"home": rules or Rules()}, themes, rows, WORDS, np.arange(len(WORDS)), 100)


def posterior(seed: int, k: int) -> Posterior:
    rng = np.random.default_rng(seed)
    bandit = Bandit(len(FEATURES), [{f"tag {n % 3}"} for n in range(k)])
    n = 400
    match = rng.integers(0, 3, n) / 2
    rows = contexts.rows([ACTIVE] * n, match)
    bandit.learn(rng.integers(0, k, n), rows, (rng.random(n) < 0.1 + 0.2 * match).astype(float))
    return Posterior(*bandit.weights(), Tuning(), n)


def person(k: int, **changes: Any) -> Person:
    stated: dict[str, Any] = {
        "person_id": 7,
        "personal": True,
        "closed": False,
        "kept_out": False,
        "shown": {},
        "known_audiences": np.ones(k, np.bool_),
        "member": np.ones(k, np.bool_),
        "true_words": np.zeros(len(WORDS), np.bool_),
    }
    return Person(**(stated | changes))


ASKED = Asked("home", "app", "en", NOW.timestamp(), ACTIVE)


def test_every_reason_is_told_and_the_first_one_counts() -> None:
    offers = [
        offer(1),
        offer(2),
        offer(3, valid_from=NOW + timedelta(hours=1)),
        offer(4, valid_to=NOW),
        offer(5, stock=3, reserved=3),
        offer(6, variants=(Variant("app", "zh-CN", "T", "B"),)),
        offer(7, purpose="marketing"),
        offer(8),
        offer(9, audience="suv_owner"),
        offer(10),
    ]
    theme = RunningTheme((OfferId(8),), bytes(16), 1.0, 0)
    display = shelved(offers, Rules(excluded=(OfferId(2), OfferId(4))), (theme,))
    somebody = person(10, closed=True, member=np.zeros(10, np.bool_), shown={10: 20})
    found = [choosing.REASONS[code] for code in choosing.judge(display, ASKED, somebody, 20)]
    expected = ["", "EXCLUDED", "NOT_VALID_YET", "EXCLUDED", "OUT_OF_STOCK", "NO_VARIANT", "NO_CONSENT", "HOLDOUT"]
    assert [*expected, "NOT_ELIGIBLE", "CAPPED"] == found
    off = person(10, personal=False)
    assert "PERSONAL" == choosing.REASONS[choosing.judge(display, ASKED, off, 20)[8]]
    unread = person(10, known_audiences=np.zeros(10, np.bool_))
    assert "AUDIENCE_UNKNOWN" == choosing.REASONS[choosing.judge(display, ASKED, unread, 20)[8]]
    held = person(10, kept_out=True)
    assert "HOLDOUT" == choosing.REASONS[choosing.judge(display, ASKED, held, 20)[6]]
    assert "" == choosing.REASONS[choosing.judge(display, ASKED, held, 20)[0]]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.floats(0, 1, exclude_max=True))
def test_rules_come_before_the_bandit_and_eligibility_before_both(seed: int, k: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    offers = [
        offer(n + 1, audience="x" if rng.random() < 0.5 else "", stock=0 if rng.random() < 0.2 else None) for n in range(k)
    ]
    ids = [OfferId(int(n) + 1) for n in rng.permutation(k)]
    cuts = sorted(rng.integers(0, k + 1, 3).tolist())
    rules = Rules(tuple(ids[: cuts[0]]), tuple(ids[cuts[0] : cuts[1]]), tuple(ids[cuts[1] : cuts[2]]))
    display = shelved(offers, rules)
    somebody = person(k, member=rng.random(k) < 0.5, personal=bool(rng.random() < 0.8))
    choice = choosing.choose(display, posterior(seed, k), ASKED, somebody, 20, unit)
    can = [
        each.offer_id not in rules.excluded
        and each.definition.stock is None
        and (not each.definition.audience or (somebody.personal and bool(somebody.member[n])))
        for n, each in enumerate(offers)
    ]
    assert can == (choice.codes == 0).tolist()
    free = {each.offer_id for n, each in enumerate(offers) if can[n]}
    pinned, ordered = ([i for i in told if i in free] for told in (rules.pinned, rules.ordered))
    shown = offers[choice.place].offer_id if choice.place >= 0 else None
    if not free:
        assert (None, "none") == (shown, choice.why)
    elif pinned or ordered:
        assert ((pinned or ordered)[0], "pinned" if pinned else "ordered", 1.0) == (shown, choice.why, choice.propensity)
    else:
        assert shown in free
        assert ("drawn" if somebody.personal else "neutral") == choice.why
        assert 0 < choice.propensity <= 1


@pytest.mark.parametrize("personal", [True, False])
def test_what_is_logged_is_the_frequency_of_what_is_drawn(personal: bool) -> None:
    k = 6
    display, learnt = shelved([offer(n + 1, content_tags=("suv",) if n < 2 else ()) for n in range(k)]), posterior(3, k)
    somebody = person(k, personal=personal, true_words=np.array([False, True, False]))
    eligible = np.array([True, True, False, True, True, True])
    found, _, _, _ = choosing.chances(display, learnt, ASKED, somebody, eligible)
    assert 1 == pytest.approx(found.sum())
    assert 0 == found[2]
    excluded = shelved(list(display.offers), Rules(excluded=(OfferId(3),)))
    drawn: dict[int, list[float]] = {}
    for unit in np.random.default_rng(1).random(4000).tolist():
        choice = choosing.choose(excluded, learnt, ASKED, somebody, 20, unit)
        drawn.setdefault(choice.place, []).append(choice.propensity)
    assert {0, 1, 3, 4, 5} == set(drawn)
    for place, told in drawn.items():
        assert {found[place]} == set(told)
        assert len(told) / 4000 == pytest.approx(found[place], abs=0.03)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 1, exclude_max=True))
def test_who_has_switched_personalisation_off_is_told_apart_by_nothing(seed: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    offers = [offer(n + 1, content_tags=("suv",), audience="x" if n % 3 == 0 else "") for n in range(7)]
    display, learnt = shelved(offers), posterior(seed, 7)
    one, other = (person(7, personal=False, member=rng.random(7) < 0.5, true_words=rng.random(3) < 0.5) for _ in range(2))
    first, second = (choosing.choose(display, learnt, ASKED, each, 20, unit) for each in (one, other))
    assert (first.place, first.propensity, first.words) == (second.place, second.propensity, ())
    assert first.propensity == pytest.approx(1 / 4)
    assert "" == offers[first.place].definition.audience


def test_a_holdout_is_the_one_of_its_theme() -> None:
    salts = [bytes([n]) * 16 for n in range(1, 4)]
    themes = tuple(RunningTheme((OfferId(n + 1),), salt, 0.3, 0) for n, salt in enumerate(salts))
    display = shelved([offer(1), offer(2), offer(3)], themes=themes)
    for who in range(1, 300):
        expected = [bool(units(np.array([who], np.int64), salt)[0] < 0.3) for salt in salts]
        assert expected == display.held_out(who).tolist()
    assert not display.held_out(0).any()


def test_what_a_theme_says_a_success_is_worth_moves_its_offers_up() -> None:
    learnt = posterior(5, 2)
    even = choosing.chances(shelved([offer(1), offer(2)]), learnt, ASKED, person(2), np.ones(2, np.bool_))[0]
    dear = shelved([offer(1), offer(2)], themes=(RunningTheme((OfferId(2),), bytes(16), 0.0, 1000),))
    assert [100.0, 1000.0] == dear.values.tolist()
    assert choosing.chances(dear, learnt, ASKED, person(2), np.ones(2, np.bool_))[0][1] > even[1]


def test_one_context_is_believed_as_the_bandit_believes_it() -> None:
    bandit = Bandit(len(FEATURES), [{"a"}, {"b"}, set()])
    rng = np.random.default_rng(2)
    rows = contexts.rows([ACTIVE] * 90, rng.integers(0, 65, 90) / 64)
    bandit.learn(np.arange(90) % 3, rows, (rng.random(90) < 0.3).astype(float))
    match = np.array([0.0, 0.5, 1.0])
    expected = bandit.believed(contexts.rows([ACTIVE], match[None]))
    found = contexts.believed(*bandit.weights(), ACTIVE, match)
    assert expected[0][0] == pytest.approx(found[0])
    assert expected[1][0] == pytest.approx(found[1])
    one = bandit.believed(contexts.rows([ACTIVE], np.array([0.5])))
    assert one[0][0, 1] == pytest.approx(found[0][1])


def test_a_context_is_what_the_contract_names() -> None:
    at = datetime(2026, 5, 2, 2, 30, tzinfo=UTC)
    told = SlotContext("car", at, "charging", "service_due", "rain").active(timedelta(hours=8))
    expected = ["always", "hour:morning", "weekend", "channel:car", "place:charging", "vehicle:service_due", "weather:rain"]
    assert expected == [FEATURES[n] for n in told]
    assert ["always"] == [
        FEATURES[n] for n in SlotContext("app", datetime(2026, 5, 4, 16, tzinfo=UTC)).active(timedelta(hours=8))
    ]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_feedback_in_any_order_and_in_any_batches_gives_the_same_sums(seed: int, n: int) -> None:
    """A success may be known when a decision is counted, or be told afterwards: to the last bit the same."""
    rng = np.random.default_rng(seed)
    shown = [
        {"offer_id": int(rng.integers(1, 4)), "active": bytes(ACTIVE), "matched": int(rng.integers(0, 65)) / 64,
         "won": bool(rng.random() < 0.5)} for _ in range(n)
    ]  # fmt: skip

    def summed(late: np.ndarray, order: np.ndarray) -> dict[int, tuple[Any, Any]]:
        told = [row | {"state": WAITING, "success": row["won"] and not late[n]} for n, row in enumerate(shown)]
        after = [row | {"state": FAILED, "success": True} for n, row in enumerate(shown) if row["won"] and late[n]]
        everything = [told[n] for n in order.tolist()] + after
        total: dict[int, tuple[Any, Any]] = {}
        for part in np.array_split(np.arange(len(everything)), int(rng.integers(1, 5))):
            if len(part):
                for offer_id, (outer, rewarded) in added([everything[row] for row in part]).items():
                    before = total.get(offer_id, (0.0, 0.0))
                    total[offer_id] = before[0] + outer, before[1] + rewarded
        return total

    one = summed(np.zeros(n, np.bool_), np.arange(n))
    other = summed(rng.random(n) < 0.5, rng.permutation(n))
    assert one.keys() == other.keys()
    for offer_id, sums in one.items():
        assert all((a == b).all() for a, b in zip(sums, other[offer_id], strict=True))
