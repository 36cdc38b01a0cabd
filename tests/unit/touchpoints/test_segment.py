"""Segment's messages become observed events."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.moments import from_us
from services.touchpoints.domain.observed import FUTURE_US, Invalid, Observed, Source, event_id
from services.touchpoints.domain.segment import Arrival, observe

NOW = 1_800_000_000_000_000
APP = Source("app", "crm_id", "")
MINI = Source("wechat:wx1", "openid", "wx1")


def taken(raw: Any, source: Source = APP, sent_at: Any = None, implied: str = "", index: int = 0) -> Observed:
    return observe(raw, index, Arrival(source, implied, sent_at, NOW, NOW - 10**15))


def test_a_track_keeps_its_name_and_its_properties() -> None:
    event = taken({"type": "track", "event": "Model Viewed", "userId": 7, "messageId": "m", "properties": {"model": "X5"}})
    assert ("Model Viewed", {"model": "X5"}, [("crm_id", "app", "7")], event_id("app", "m")) == (
        event.name,
        json.loads(event.properties),
        event.identifiers,
        event.event_id,
    )


def test_what_a_track_says_of_the_vehicle_is_kept_for_the_vehicle() -> None:
    properties = {"amount": 900, "vehicle": {"vin": "LSVAA4182E2184847", "mileage_km": 41_000}}
    seen = taken({"type": "track", "event": "Service Completed", "userId": "u", "properties": properties})
    assert b'{"amount":900}' == seen.properties
    assert b'{"mileage_km":41000}' == seen.vehicle_properties
    assert ("vin", "", "LSVAA4182E2184847") in seen.identifiers
    plain = taken({"type": "track", "event": "e", "userId": "u", "properties": {"vehicle": "a van"}})
    assert (b'{"vehicle":"a van"}', b"") == (plain.properties, plain.vehicle_properties)


def test_the_user_id_is_what_the_source_says_it_is() -> None:
    assert [("openid", "wx1", "o1")] == taken({"type": "track", "event": "x", "userId": "o1"}, MINI).identifiers


def test_identify_takes_traits_from_the_context_when_there_are_no_others() -> None:
    traits = {"name": "张三", "phone": "13800138000", "unionid": "un", "city": "深圳"}
    event = taken({"type": "identify", "userId": "u", "context": {"traits": traits}})
    assert ("张三", {"city": "深圳"}) == (event.person_name, json.loads(event.properties))
    assert [("crm_id", "app", "u"), ("mobile", "", "13800138000"), ("unionid", "", "un")] == event.identifiers


def test_a_name_among_the_properties_of_a_track_is_a_thing_and_stays() -> None:
    event = taken({"type": "track", "event": "x", "userId": "u", "properties": {"name": "X5"}})
    assert ("", {"name": "X5"}) == (event.person_name, json.loads(event.properties))


def test_page_group_and_alias_say_what_they_are() -> None:
    page = taken({"type": "page", "anonymousId": "a", "name": "Home", "category": "docs"})
    group = taken({"type": "group", "userId": "u", "groupId": "dealer-9", "traits": {}})
    alias = taken({"type": "alias", "userId": "u", "previousId": "a"})
    assert ("Page Viewed", {"name": "Home", "category": "docs"}) == (page.name, json.loads(page.properties))
    assert ("Group Joined", {"group_id": "dealer-9"}) == (group.name, json.loads(group.properties))
    assert [("crm_id", "app", "u"), ("cookie", "", "a")] == alias.identifiers


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"type": "nonsense"}, "type"),
        ({"type": ["track"]}, "type"),
        ({"event": ""}, "event"),
        ({"event": "x" * 201}, "event"),
        ({"userId": None}, "userId"),
        ({"userId": True}, "userId"),
        ({"userId": {}}, "userId"),
        ({"userId": "u" * 256}, "userId"),
        ({"anonymousId": 1.5}, "anonymousId"),
        ({"context": "x"}, "context"),
        ({"context": {"device": {"id": []}}}, "context.device.id"),
        ({"properties": "x"}, "properties"),
        ({"timestamp": 5}, "timestamp"),
        ({"timestamp": "soon"}, "timestamp"),
        ({"timestamp": "2026-01-01T00:00:00Z", "sentAt": "later"}, "sentAt"),
        ({"type": "alias"}, "previousId"),
    ],
)
def test_what_cannot_be_taken_names_the_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        taken({"type": "track", "event": "x", "userId": "u"} | change)
    assert field == caught.value.field


def test_depth_beyond_what_can_be_written_is_refused_wherever_it_is() -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    for change in ({"properties": {"x": deep}}, {"context": {"x": deep}}):
        with pytest.raises(Invalid):
            taken({"type": "track", "event": "x", "userId": "u"} | change)


def test_a_single_call_need_not_say_its_type() -> None:
    assert "Identified" == taken({"userId": "u"}, implied="identify").name


def test_rudderstacks_original_timestamp_is_understood() -> None:
    event = {"type": "track", "event": "x", "userId": "u", "originalTimestamp": "2026-01-01T00:00:00Z"}
    sent = {"sentAt": "2026-01-01T00:00:02Z"}
    assert NOW - 2_000_000 == taken(event | sent).occurred_at_us


@given(st.integers(-(10**17), 10**17), st.integers(-(10**17), 10**17))
def test_a_moment_is_never_far_in_the_future_or_too_old(occurred: int, sent: int) -> None:
    stamps = {"timestamp": from_us(occurred // 1000).isoformat(), "sentAt": from_us(sent // 1000).isoformat()}
    event = taken({"type": "track", "event": "x", "userId": "u"} | stamps)
    assert NOW - 10**15 <= event.occurred_at_us <= NOW + FUTURE_US


@given(st.integers(0, 10**9), st.integers(-(10**12), 10**12))
def test_a_wrong_clock_of_the_client_cancels_out(age_us: int, skew_us: int) -> None:
    base = 1_700_000_000_000_000 + skew_us
    stamps = {"timestamp": from_us(base - age_us).isoformat(), "sentAt": from_us(base).isoformat()}
    assert NOW - age_us == taken({"type": "track", "event": "x", "userId": "u"} | stamps).occurred_at_us


def test_the_same_event_without_an_id_gets_the_same_id_again_and_another_place_another() -> None:
    raw = {"type": "track", "event": "x", "userId": "u"}
    assert taken(raw).event_id == taken(dict(raw)).event_id
    assert taken(raw).event_id != taken(raw, index=1).event_id
    assert taken(raw).event_id != taken(raw, sent_at="2026-01-01T00:00:00Z").event_id


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
KEYS = ["type", "event", "userId", "anonymousId", "previousId", "groupId", "properties", "traits", "context", "timestamp"]


@given(st.dictionaries(st.sampled_from([*KEYS, "sentAt", "messageId", "name"]), JSON | st.sampled_from(["track", "identify"])))
def test_any_json_is_either_taken_or_refused_by_field(raw: dict[str, Any]) -> None:
    with contextlib.suppress(Invalid):
        assert 16 == len(taken(raw).event_id)
