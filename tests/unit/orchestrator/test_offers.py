"""Offers: their texts, what they must keep to, and who stands where in a slot."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import NotFound, TroikaError
from services.orchestrator.offers.arranging import Rules, arrange
from services.orchestrator.offers.arranging import checked as checked_rules
from services.orchestrator.offers.definitions import LENGTHS, Definition, Offer, OfferId, Variant, checked, render
from services.orchestrator.offers.templates import Type, Variable, fill, parse

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
CLOCK = timedelta(hours=8)


def variant(**changes: str) -> Variant:
    return Variant(**({"channel": "app", "language": "en", "title": "Spring", "body": "Come by"} | changes))


def definition(*variants: Variant, **changes: Any) -> Definition:
    stated: dict[str, Any] = {
        "title": "Spring check",
        "kind": "service",
        "purpose": "service",
        "content_tags": ("family", "suv"),
        "valid_from": NOW - timedelta(days=1),
        "valid_to": NOW + timedelta(days=1),
        "audience": "",
        "stock": None,
        "variants": variants or (variant(),),
    }
    return Definition(**(stated | changes))


def offer(number: int, *, reserved: int = 0, taken: int = 0, retired: bool = False, **changes: Any) -> Offer:
    return Offer(OfferId(number), 1, definition(**changes), reserved, taken, NOW, NOW, NOW if retired else None)


def refused(stated: Definition) -> tuple[str, str | None]:
    with pytest.raises(TroikaError) as caught:
        checked(stated)
    return caught.value.reason, caught.value.field


def test_a_template_is_filled_with_digits_words_and_times_of_the_houses_clock() -> None:
    text = "{model: word} from {price:number} until {until: time} {{sic}}"
    values = {"model": "X5", "price": 399000.5, "until": datetime(2026, 5, 1, 1, 0, tzinfo=UTC)}
    assert "X5 from 399000.5 until 2026-05-01 09:00 {sic}" == fill(parse(text, "body"), values, CLOCK)


@given(st.lists(st.one_of(st.text(st.characters(exclude_categories=("Cc", "Cs"))), st.sampled_from(list(Type)))))
def test_what_is_written_as_a_template_is_read_as_it_was_meant(parts: list[str | Type]) -> None:
    written = "".join(
        f"{{v{n}: {part}}}" if isinstance(part, Type) else part.replace("{", "{{").replace("}", "}}")
        for n, part in enumerate(parts)
    )
    meant: list[str | Variable] = []
    for n, part in enumerate(parts):
        if isinstance(part, Type):
            meant.append(Variable(f"v{n}", part))
        elif part and meant and isinstance(meant[-1], str):
            meant[-1] += part
        elif part:
            meant.append(part)
    assert tuple(meant) == parse(written, "body")


@pytest.mark.parametrize(
    ("text", "position"), [("a {b", 3), ("}", 1), ("{x}", 1), ("{x: text}", 1), ("{X: word}", 1), ("ab{}", 3), ("{{}", 3)]
)
def test_a_wrong_template_says_where(text: str, position: int) -> None:
    with pytest.raises(TroikaError) as caught:
        parse(text, "body")
    assert ("INVALID_TEMPLATE", str(position)) == (caught.value.reason, caught.value.metadata["position"])


@pytest.mark.parametrize(
    ("values", "reason", "field"),
    [
        ({}, "MISSING_VARIABLE", "values.price"),
        ({"price": 1.0, "color": "red"}, "UNKNOWN_VARIABLE", "values.color"),
        ({"price": "1"}, "WRONG_VARIABLE_TYPE", "values.price"),
        ({"price": NOW}, "WRONG_VARIABLE_TYPE", "values.price"),
        ({"price": float("nan")}, "INVALID_VARIABLE", "values.price"),
        ({"price": 1e15}, "INVALID_VARIABLE", "values.price"),
    ],
)
def test_values_must_be_those_the_text_asks_for(values: dict[str, Any], reason: str, field: str) -> None:
    with pytest.raises(TroikaError) as caught:
        render(variant(body="for {price: number}"), values, CLOCK)
    assert (reason, field) == (caught.value.reason, caught.value.field)


def test_words_must_be_such_as_can_be_shown() -> None:
    for word in (" ", "a\nb", "x" * 101):
        with pytest.raises(TroikaError, match="1 to 100"):
            render(variant(body="{name: word}"), {"name": word}, CLOCK)


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e14, max_value=1e14))
def test_numbers_are_written_so_that_they_read_back(number: float) -> None:
    text = fill(parse("{n: number}", "body"), {"n": number}, CLOCK)
    assert "e" not in text
    assert not text.startswith("-0") or text.startswith("-0.")
    assert float(text) == pytest.approx(number, abs=1e-6)


@pytest.mark.parametrize(("channel", "title", "body"), [(name, *most) for name, most in LENGTHS.items()])
def test_what_fits_a_channel_is_taken_and_one_character_more_is_not(channel: str, title: int, body: int) -> None:
    checked(definition(variant(channel=channel, title="字" * title, body="字" * body)))
    for field, words in (("title", ("字" * (title + 1), "字")), ("body", ("字", "字" * (body + 1)))):
        long = variant(channel=channel, title=words[0], body=words[1])
        assert ("TEXT_TOO_LONG", f"offer.variants[0].{field}") == refused(definition(long))


@pytest.mark.parametrize(
    ("channel", "word", "most"), [("sms", "🚗", 150), ("push", "🚗", 25), ("wecom", "🚗", 127), ("wecom", "x", 510)]
)
def test_words_are_measured_as_the_channel_counts_them(channel: str, word: str, most: int) -> None:
    checked(definition(variant(channel=channel, title="字", body=word * most)))
    assert ("TEXT_TOO_LONG", "offer.variants[0].body") == refused(
        definition(variant(channel=channel, title="字", body=word * (most + 1)))
    )


def test_each_channel_has_its_lengths_before_and_after_filling() -> None:
    long = variant(channel="wechat", body="x" * 21)
    assert ("TEXT_TOO_LONG", "offer.variants[0].body") == refused(definition(long))
    fits = variant(channel="wechat", body="{model: word}" + "x" * 19)
    assert definition(fits) == checked(definition(fits))
    assert "X" + "x" * 19 == render(fits, {"model": "X"}, CLOCK).body
    with pytest.raises(TroikaError) as caught:
        render(fits, {"model": "X5"}, CLOCK)
    assert ("TEXT_TOO_LONG", "body", "20", "21") == (
        caught.value.reason,
        caught.value.field,
        caught.value.metadata["limit"],
        caught.value.metadata["length"],
    )


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"title": " "}, "INVALID_ARGUMENT", "offer.title"),
        ({"valid_to": NOW - timedelta(days=1)}, "EMPTY_VALIDITY", "offer.valid_to"),
        ({"content_tags": ("suv", " family")}, "INVALID_ARGUMENT", "offer.content_tags[1]"),
        ({"variants": (variant(), variant())}, "TWO_VARIANTS", "offer.variants[1]"),
        ({"variants": (variant(title="{x: word}", body="{x: time}"),)}, "VARIABLE_OF_TWO_TYPES", "offer.variants[0].body"),
        ({"variants": (variant(body="a\x00"),)}, "INVALID_TEMPLATE", "offer.variants[0].body"),
        ({"variants": (variant(channel="wechat", body="a\nb"),)}, "INVALID_TEMPLATE", "offer.variants[0].body"),
    ],
)
def test_what_can_never_be_shown_is_refused(changes: dict[str, Any], reason: str, field: str) -> None:
    assert (reason, field) == refused(definition(**changes))


def test_channels_that_forbid_marketing_or_parts_of_it_are_obeyed() -> None:
    for channel in ("wechat", "wechat_mini"):
        silent = definition(variant(channel=channel), purpose="marketing")
        assert ("CHANNEL_FORBIDS_MARKETING", "offer.variants[0].channel") == refused(silent)
    for body in ("Come by", "【Troika】Come by", "【Troika】{x: word}拒收请回复R"):
        sms = definition(variant(channel="sms", body=body), purpose="marketing")
        assert ("SMS_MARKETING", "offer.variants[0].body") == refused(sms)
    checked(definition(variant(channel="sms", body="【Troika】Come by拒收请回复R"), purpose="marketing"))
    checked(definition(variant(channel="sms", body="Your car is ready at {at: time}")))


def test_words_for_another_channel_or_language_are_never_used_instead() -> None:
    stated = definition(variant(), variant(language="zh-CN"))
    assert "zh-CN" == stated.variant("app", "zh-CN").language
    for channel, language, field in (("app", "de", "language"), ("web", "en", "channel")):
        with pytest.raises(NotFound) as caught:
            stated.variant(channel, language)
        assert ("NO_VARIANT", field) == (caught.value.reason, caught.value.field)


def arranged(offers: list[Offer], rules: Rules, words: tuple[str, ...] = (), **changes: Any) -> tuple[list[Any], list[Any]]:
    asked = {"at": NOW, "channel": "app", "language": "en"} | changes
    found = arrange(offers, rules, words=words, **asked)
    return (
        [(place.offer.offer_id, place.why, place.words) for place in found.places],
        [(offer.offer_id, reason) for offer, reason in found.left_out],
    )


def test_pins_come_first_then_the_order_then_who_shares_most_words_then_the_newest() -> None:
    offers = [offer(n, content_tags=("family", "suv")[: n % 3]) for n in range(1, 8)]
    rules = Rules(pinned=(OfferId(4), OfferId(1)), excluded=(OfferId(7),), ordered=(OfferId(6), OfferId(3)))
    places, left_out = arranged(offers, rules, ("suv", "family", "red"))
    assert [(4, "pinned"), (1, "pinned"), (6, "ordered"), (3, "ordered"), (5, "matched"), (2, "matched")] == [
        place[:2] for place in places
    ]
    assert ("family", "suv") == places[-1][2]
    assert [(7, "EXCLUDED")] == left_out
    assert [(5, "rest"), (2, "rest")] == [place[:2] for place in arranged(offers, rules)[0][4:]]


def test_what_cannot_be_proposed_is_left_out_with_its_reason_pinned_or_not() -> None:
    offers = [
        offer(1, valid_from=NOW + timedelta(seconds=1)),
        offer(2, valid_to=NOW),
        offer(3, stock=5, reserved=3, taken=2),
        offer(4, variants=(variant(language="zh-CN"),)),
        offer(5, retired=True),
        offer(6, stock=5, reserved=3, taken=1, valid_from=NOW),
    ]
    places, left_out = arranged(offers, Rules(pinned=tuple(o.offer_id for o in offers)))
    assert [(6, "pinned", ())] == places
    assert [(1, "NOT_VALID_YET"), (2, "EXPIRED"), (3, "OUT_OF_STOCK"), (4, "NO_VARIANT"), (5, "RETIRED")] == left_out


ids = st.lists(st.integers(1, 12).map(OfferId), unique=True, max_size=4)


@given(ids, ids, ids, st.sets(st.integers(1, 12)), st.lists(st.sampled_from(["family", "suv"])))
def test_rules_hold_whatever_they_say(
    pinned: list[OfferId], excluded: list[OfferId], ordered: list[OfferId], gone: set[int], words: list[str]
) -> None:
    rules = Rules(tuple(pinned), tuple(excluded), tuple(ordered))
    if len({*pinned, *excluded, *ordered}) < len(pinned) + len(excluded) + len(ordered):
        with pytest.raises(TroikaError, match="already"):
            checked_rules(rules)
        return
    assert rules == checked_rules(rules)
    offers = [offer(n, stock=0 if n in gone else None) for n in range(1, 13)]
    places, left_out = arranged(offers, rules, tuple(words))
    shown = [place[0] for place in places]
    assert set(range(1, 13)) == {*shown, *(number for number, _ in left_out)}
    assert set(range(1, 13)) - set(excluded) - gone == set(shown)
    assert [n for n in [*pinned, *ordered] if n not in gone] == shown[
        : len([*pinned, *ordered]) - len({*pinned, *ordered} & gone)
    ]
