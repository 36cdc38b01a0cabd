"""Feedback with data: typed, without persons in it, the same however often it is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.touchpoints.domain.feedback import ANYWHERE, DATA, MEANINGS, Feedback, parse
from services.touchpoints.domain.observed import Invalid

NOW_US = 1_800_000_000_000_000


def told(kind: str, **data: Any) -> dict[str, Any]:
    return {"type": kind, "timestamp": "2026-01-01T00:00:00Z", "data": {"lead_id": "l", **data}}


def test_what_a_dealer_tells_of_an_order_reaches_the_persons_history() -> None:
    said = {"model": "X5", "amount": 512_000, "payment": "loan", "revision": 3, "event_id": "o-1", "surplus": {}}
    read = parse(told("lead.ordered", **said, occurred_at="2025-12-31T00:00:00+08:00"), "", NOW_US)
    assert {"model": "X5", "amount": 512_000, "payment": "loan"} == read.properties
    assert {"model": "X5", "amount": 512_000, "payment": "loan", "revision": 3, "event_id": "o-1"} == read.data
    assert 1_767_110_400_000_000 == read.occurred_at_us
    again = parse(told("lead.ordered", event_id="o-1"), "", NOW_US)
    assert read.event_id == again.event_id != parse(told("lead.ordered", event_id="o-2"), "", NOW_US).event_id


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("lead.ordered", {"amount": "512000"}),
        ("lead.ordered", {"amount": -1}),
        ("lead.ordered", {"amount": True}),
        ("lead.ordered", {"amount": float("inf")}),
        ("lead.ordered", {"payment": "barter"}),
        ("lead.ordered", {"payment": []}),
        ("lead.ordered", {"revision": 1.5}),
        ("lead.ordered", {"revision": 0}),
        ("lead.ordered", {"event_id": ""}),
        ("lead.ordered", {"event_id": "a\nb"}),
        ("lead.ordered", {"occurred_at": "yesterday"}),
        ("lead.ordered", {"model": "call 13800138000"}),
        ("lead.test_driven", {"rating": 6}),
        ("lead.lost", {"reason_code": "Too dear"}),
        ("message.clicked", {"link": "a@b.example"}),
        ("message.replied", {"intent": "please call me"}),
        ("message.unsubscribed", {"purpose": "everything"}),
    ],
)
def test_data_of_the_wrong_kind_is_refused_by_its_name(kind: str, data: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        parse(told(kind, **data), "", NOW_US)
    assert f"data.{next(iter(data))}" == caught.value.field


def test_the_tables_fit_each_other() -> None:
    for kind, meaning in MEANINGS.items():
        assert set(meaning.requires) <= set(meaning.takes) <= set(DATA), kind
        assert meaning.state is not None or meaning.event
    assert set(DATA) == {name for meaning in MEANINGS.values() for name in meaning.takes} | set(ANYWHERE)


def test_each_time_somebody_takes_something_back_counts() -> None:
    first, again = (Feedback("message.unsubscribed", "d", "", at) for at in (1, 2))
    assert first.key != again.key
    assert [("marketing", "sms"), ("service", "sms")] == first.withdraws("sms")
    assert [("service", "sms")] == Feedback("lead.unsubscribed", "d", "", 1, data={"purpose": "service"}).withdraws("sms")
    assert [("personalisation", "all")] == Feedback("message.personalisation_off", "d", "", 1).withdraws("sms")
    assert [] == Feedback("message.opened", "d", "", 1).withdraws("sms")


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.lists(st.integers(), max_size=2)


@given(st.sampled_from(sorted(MEANINGS)), st.dictionaries(st.sampled_from(sorted(DATA)), values))
@settings(max_examples=200)
def test_any_data_are_read_or_refused(kind: str, data: dict[str, Any]) -> None:
    try:
        read = parse(told(kind, **data), "", NOW_US)
    except Invalid:
        return
    assert read.occurred_at_us <= NOW_US
    assert all(isinstance(value, (str, int, float)) for value in read.properties.values())
