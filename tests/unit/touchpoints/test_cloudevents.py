"""CloudEvents become observed events, in each of the three modes."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.touchpoints.domain.cloudevents import Arrival, UnknownMode, observe, read
from services.touchpoints.domain.observed import Invalid, Observed, Source

NOW = 1_800_000_000_000_000
CRM = Source("crm", "crm_id", "")
STRUCTURED = {"content-type": "application/cloudevents+json; charset=UTF-8"}


def taken(raw: Any) -> Observed:
    return observe(raw, Arrival(CRM, NOW, NOW - 10**15))


def event(**more: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "1", "source": "/s", "type": "Test Drive Booked", "subject": "customers/7"} | more


def test_the_subjects_last_part_is_the_user_unless_somebody_is_named() -> None:
    assert [("crm_id", "crm", "7")] == taken(event()).identifiers
    assert [("crm_id", "crm", "9"), ("cookie", "", "c")] == taken(event(userid="9", anonymousid="c")).identifiers
    named = taken(event(data={"identifiers": {"openid": "o", "appid": "wx1", "mobile": "13800138000", "name": "张三"}, "a": 1}))
    assert [("mobile", "", "13800138000"), ("openid", "wx1", "o")] == named.identifiers
    assert ("张三", b'{"a":1}') == (named.person_name, named.properties)


def test_vehicle_and_moment_are_kept() -> None:
    seen = taken(event(time="2026-11-21T08:00:00Z", data={"vehicle": {"vin": "LSVAA4182E2184847", "mileage_km": 9}}))
    assert (b'{"mileage_km":9}', 1_795_248_000_000_000) == (seen.vehicle_properties, seen.occurred_at_us)
    assert ("vin", "", "LSVAA4182E2184847") in seen.identifiers


def test_source_and_id_make_it_unique() -> None:
    assert taken(event()).event_id == taken(event(type="other")).event_id
    assert taken(event()).event_id != taken(event(source="/t")).event_id


def test_a_header_is_decoded_exactly_once_and_quotes_go() -> None:
    headers = {
        "ce-specversion": "1.0",
        "ce-id": '"a\\"b"',
        "ce-subject": "customers/%E5%BC%A0%2525",
        "content-type": "application/json",
    }
    assert [
        {
            "specversion": "1.0",
            "id": 'a"b',
            "subject": "customers/张%25",
            "datacontenttype": "application/json",
            "data": {"model": "X5"},
        }
    ] == read(headers, b'{"model": "X5"}')


@pytest.mark.parametrize("value", ["%C0%A0", "%zz", "%"])
def test_a_header_that_is_no_utf8_is_refused(value: str) -> None:
    with pytest.raises(Invalid) as refused:
        read({"ce-specversion": "1.0", "ce-subject": value}, b"")
    assert "ce-subject" == refused.value.field


def test_the_modes_are_told_apart() -> None:
    assert [event()] == read({**STRUCTURED, "ce-id": "other"}, json.dumps(event()).encode())
    batch = {"content-type": "application/CloudEvents-batch+json"}
    assert [event(), 1] == read(batch, json.dumps([event(), 1]).encode())
    with pytest.raises(Invalid):
        read(batch, b"{}")
    with pytest.raises(UnknownMode):
        read({"content-type": "application/json"}, b"{}")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"id": ""}, "id"),
        ({"source": None}, "source"),
        ({"type": 1}, "type"),
        ({"type": "x" * 201}, "type"),
        ({"subject": ""}, "subject"),
        ({"time": "yesterday"}, "time"),
        ({"data": {"identifiers": []}}, "data.identifiers"),
        ({"data": {"vehicle": "a van"}}, "data.vehicle"),
        ({"data": {"identifiers": {"openid": "o"}}}, "data.identifiers.appid"),
        ({"data_base64": "###"}, "data_base64"),
        ({"data_base64": "Ä"}, "data_base64"),
    ],
)
def test_what_cannot_be_taken_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        taken(event(**change))
    assert field == refused.value.field


def test_data_in_base64_is_read_when_it_is_json_and_kept_out_when_it_is_bytes() -> None:
    assert b'{"a":1}' == taken(event(data_base64="eyJhIjoxfQ==")).properties
    assert b"" == taken(event(data_base64="/9j/", datacontenttype="image/jpeg")).properties
    assert b'{"data":[1]}' == taken(event(data=[1])).properties


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("specversion", "id", "source", "type", "subject", "time", "data", "data_base64", "datacontenttype", "userid")


@given(st.dictionaries(st.sampled_from(KEYS), json_values))
def test_rubbish_is_invalid_and_nothing_else(raw: dict[str, Any]) -> None:
    for envelope in (raw, event() | raw):
        with contextlib.suppress(Invalid):
            taken(envelope)


@given(
    st.dictionaries(st.sampled_from(["ce-specversion", "ce-id", "ce-subject", "content-type"]), st.text(max_size=20)),
    st.binary(max_size=50),
)
def test_any_request_is_read_or_refused(headers: dict[str, str], body: bytes) -> None:
    with contextlib.suppress(Invalid, UnknownMode):
        read(headers, body)
