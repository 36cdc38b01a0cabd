"""Sensors Analytics' messages become observed events."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.touchpoints.domain.observed import FUTURE_US, Invalid, Observed, Source
from services.touchpoints.domain.sensors import Arrival, decode, form, observe

NOW = 1_800_000_000_000_000
NOW_MS = NOW // 1000
APP = Source("app", "crm_id", "")


def taken(raw: Any, source: Source = APP, project: str = "production") -> Observed:
    return observe(raw, Arrival(source, project, NOW, NOW - 10**15))


def track(**more: Any) -> dict[str, Any]:
    return {"type": "track", "event": "ModelViewed", "distinct_id": "anon", "time": NOW_MS, "properties": {}} | more


def packed(events: Any, *, squeeze: bool) -> str:
    raw = json.dumps(events).encode()
    return base64.b64encode(gzip.compress(raw) if squeeze else raw).decode()


def test_a_track_keeps_its_name_its_moment_and_its_properties() -> None:
    event = taken(track(properties={"model": "X5", "$lib": "js", "$ip": "1.2.3.4", "$url": "https://a.example/x"}))
    assert ("ModelViewed", NOW, {"model": "X5", "$url": "https://a.example/x"}) == (
        event.name,
        event.occurred_at_us,
        json.loads(event.properties),
    )
    assert [("cookie", "", "anon")] == event.identifiers


@pytest.mark.parametrize(
    ("raw", "identifiers"),
    [
        (track(properties={"$is_login_id": True}), [("crm_id", "app", "anon")]),
        (track(login_id="u", anonymous_id="a"), [("crm_id", "app", "u"), ("cookie", "", "anon"), ("cookie", "", "a")]),
        ({"type": "track_signup", "event": "$SignUp", "distinct_id": "u", "original_id": "a", "time": NOW_MS},
         [("crm_id", "app", "u"), ("cookie", "", "a")]),
        (track(distinct_id="$identity_mobile+13800138000"), [("mobile", "", "13800138000")]),
        (track(distinct_id="a+b"), [("cookie", "", "a+b")]),
        (track(distinct_id="", identities={"$identity_mp_wx12_openid": "o1", "$identity_mp_unionid": "un", "$identity_x": "?"}),
         [("openid", "wx12", "o1"), ("unionid", "", "un")]),
        (track(distinct_id="a", identities={"$identity_anonymous_id": "a", "$identity_android_id": "d"}),
         [("cookie", "", "a"), ("device", "", "d")]),
    ],
)  # fmt: skip
def test_who_it_was_is_told_in_many_ways(raw: dict[str, Any], identifiers: list[tuple[str, str, str]]) -> None:
    assert identifiers == taken(raw).identifiers


def test_a_users_id_of_a_mini_program_is_an_openid() -> None:
    mini = Source("wechat:wx1", "openid", "wx1")
    assert [("openid", "wx1", "o")] == taken(track(distinct_id="o", login_id="o"), mini).identifiers


def test_a_profile_tells_who_somebody_is_and_never_in_the_open() -> None:
    raw = {"type": "profile_set", "distinct_id": "u", "time": NOW_MS}
    event = taken(raw | {"properties": {"$name": "张三", "phone": "13800138000", "city": "深圳", "$is_login_id": True}})
    assert ("Identified", "张三", {"city": "深圳"}) == (event.name, event.person_name, json.loads(event.properties))
    assert ("mobile", "", "13800138000") in event.identifiers


def test_moments_in_the_sdks_notation_are_read_in_the_phones_zone() -> None:
    stated = {"booked_for": "2026-11-21 08:00:00.5", "model": "2026-11-21"}
    shanghai = json.loads(taken(track(properties=dict(stated))).properties)
    assert {"booked_for": "2026-11-21T00:00:00.005+00:00", "model": "2026-11-21"} == shanghai
    berlin = json.loads(taken(track(properties=stated | {"$timezone_offset": -60})).properties)
    assert "2026-11-21T07:00:00.005+00:00" == berlin["booked_for"]


def test_a_wrong_clock_is_set_right_by_its_own_moment_of_sending() -> None:
    assert NOW - 5_000_000 == taken(track(time=1_000_000_005_000, _flush_time=1_000_000_010_000)).occurred_at_us
    assert NOW + FUTURE_US == taken(track(time=NOW_MS * 2)).occurred_at_us
    assert NOW == taken(track(time=NOW_MS // 1000)).occurred_at_us


def test_the_same_message_sent_again_is_the_same_event() -> None:
    first = track(_track_id=7, lib={"$lib": "js"}, _flush_time=NOW_MS)
    assert taken(first).event_id == taken(first | {"lib": {}, "_flush_time": NOW_MS + 9}).event_id
    assert taken(first).event_id != taken(first | {"_track_id": 8}).event_id
    bare = track(lib={"$lib": "js"})
    assert taken(bare).event_id == taken(dict(reversed((bare | {"lib": {}}).items()))).event_id
    assert taken(bare).event_id != taken(bare, project="test").event_id


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"type": "nonsense"}, "type", "UNKNOWN_TYPE"),
        ({"type": ["track"]}, "type", "UNKNOWN_TYPE"),
        ({"type": "track_id_unbind"}, "type", "UNBIND_NOT_TAKEN"),
        ({"type": "item_set"}, "type", "ITEMS_NOT_TAKEN"),
        ({"event": "with blank"}, "event", "INVALID_NAME"),
        ({"event": "Distinct_Id"}, "event", "INVALID_NAME"),
        ({"distinct_id": ""}, "distinct_id", "NO_ID"),
        ({"distinct_id": "x" * 256}, "distinct_id", "TOO_LONG"),
        ({"identities": [1]}, "identities", "WRONG_TYPE"),
        ({"identities": {"$identity_mobile": {}}}, "identities.$identity_mobile", "WRONG_TYPE"),
        ({"properties": 1}, "properties", "WRONG_TYPE"),
        ({"time": "yesterday"}, "time", "INVALID_TIME"),
        ({"time": 2**53}, "time", "INVALID_TIME"),
        ({"time": float("nan")}, "time", "INVALID_TIME"),
    ],
)
def test_what_cannot_be_taken_is_named(change: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(Invalid) as refused:
        taken(track(**change))
    assert (field, reason) == (refused.value.field, refused.value.reason)


@pytest.mark.parametrize("squeeze", [False, True])
def test_a_form_gives_back_what_was_packed_into_it(squeeze: bool) -> None:
    data = packed([track(), track(event="b")], squeeze=squeeze)
    read = form("project=p&token=k", urlencode({"data_list": data, "gzip": "1"}).encode())
    assert ("p", "k", data, "", "") == (read.project, read.token, read.data, read.checksum, read.encryption)
    assert ["ModelViewed", "b"] == [event["event"] for event in decode(read.data, "", 10**6)]


def test_a_plus_that_nobody_escaped_survives_the_form() -> None:
    data = base64.b64encode(b'{"a":"xx>"}').decode()
    assert "+" in data
    assert [{"a": "xx>"}] == decode(form("", f"data={data}".encode()).data, "", 10**6)


def test_an_image_carries_it_all_in_the_address_with_its_checksum() -> None:
    query = (
        "project=production&data=eyJkaXN0aW5jdF9pZCI6ImFub24td2ViLTEiLCJ0eXBlIjoidHJhY2siLCJldmVudCI6IlBhZ2VTaG93IiwidGltZSI6"
        "MTc5NTI0ODAwMDAwMCwicHJvcGVydGllcyI6eyJtb2RlbCI6Ilg1In19&ext=crc%3D1128596961"
    )
    read = form(query, b"")
    assert [{"model": "X5"}] == [event["properties"] for event in decode(read.data, read.checksum, 10**6)]
    with pytest.raises(Invalid, match="changed on the way"):
        decode(read.data, "1128596962", 10**6)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "###",
        "aGVsbG8=",
        base64.b64encode(b"\x1f\x8bxx").decode(),
        base64.b64encode(gzip.compress(b"[1]" * 99, mtime=0)[:-9]).decode(),
    ],
)
def test_unreadable_data_is_invalid_and_nothing_else(data: str) -> None:
    with pytest.raises(Invalid):
        decode(data, "", 10**6)


def test_a_bomb_stops_at_the_limit() -> None:
    bomb = base64.b64encode(gzip.compress(b"[" + b" " * 10**7 + b"]")).decode()
    with pytest.raises(Invalid):
        decode(bomb, "", 10**6)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["type", "event", "time", "distinct_id", "properties", "identities", "login_id"]), json_values
    )
)
def test_rubbish_is_invalid_and_nothing_else(raw: dict[str, Any]) -> None:
    for message in (raw, track() | raw, {"type": "profile_set"} | raw):
        with contextlib.suppress(Invalid):
            taken(message)


@given(st.binary(max_size=200))
def test_any_body_is_a_form_or_invalid(body: bytes) -> None:
    with contextlib.suppress(Invalid):
        read = form("", body)
        decode(read.data, read.checksum, 10**5)
