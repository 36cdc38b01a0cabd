"""The tracking plan: what it says of an event, in words that repeat nothing of it."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from troika.touchpoints.v1.quarantine_pb2 import QuarantinedBatch

from services.touchpoints.domain import adf, segment
from services.touchpoints.domain.observed import Invalid, Observed, Source
from services.touchpoints.ingest import Ingest
from services.touchpoints.plan.gate import Gate
from services.touchpoints.plan.held import ADF, CLOUDEVENTS, SEGMENT, Held, Holder, Kept, shown, unreadable
from services.touchpoints.plan.judging import EventType, Judge, Plan, Unplanned
from services.touchpoints.plan.replaying import Rereader
from services.touchpoints.plan.schemas import InvalidSchema, Schema
from services.touchpoints.plan.shipped import shipped

SCHEMA: dict[str, Any] = {
    "required": ["model"],
    "properties": {
        "model": {"type": "string", "maxLength": 20},
        "price": {"type": "number", "minimum": 0},
        "day": {"type": "string", "format": "moment"},
        "colour": {"enum": ["red", "blue"]},
        "vehicle": {"type": "object", "required": ["km"], "properties": {"km": {"type": "number"}}},
    },
}


def event(name: str = "Car Seen", properties: Any = None, vehicle: Any = None, source: str = "app") -> Observed:
    def written(given: Any) -> bytes:
        return json.dumps(given).encode() if given is not None else b""

    return Observed(b"0" * 16, source, name, 0, [("crm_id", "app", "u")], "", 0, written(properties), written(vehicle))


def planned(**changes: Any) -> Judge:
    return Judge(EventType(**({"name": "Car Seen", "version": 1, "title": "", "description": "", "schema": SCHEMA} | changes)))


@pytest.mark.parametrize(
    ("properties", "vehicle", "expected"),
    [
        ({"model": "X5"}, None, None),
        ({"model": "X5", "more": [1], "price": None, "vehicle": None}, None, None),
        ({"model": "X5", "day": "2026-03-01"}, {"km": 1.5, "more": 1}, None),
        ({"model": "X5", "day": "2026-03-01T08:00:00+08:00"}, None, None),
        (None, None, ("model", "is required", "/required")),
        ({"model": None}, None, ("model", "is required", "/required")),
        ({"model": "X5", "price": "13800138000"}, None, ("price", 'is not of type "number"', "/properties/price/type")),
        ({"model": "X5", "price": -5}, None, ("price", "is less than the minimum of 0", "/properties/price/minimum")),
        ({"model": "secret" * 9}, None, ("model", "is longer than 20 characters", "/properties/model/maxLength")),
        ({"model": "X5", "day": "soon"}, None, ("day", 'is not a "moment"', "/properties/day/format")),
        ({"model": "X5", "colour": "z"}, None, ("colour", 'is not one of "red" or "blue"', "/properties/colour/enum")),
        ({"model": "X5"}, {"km": "7"}, ("vehicle.km", 'is not of type "number"', "/properties/vehicle/properties/km/type")),
        ({"model": "X5"}, {"km": None}, ("vehicle.km", "is required", "/properties/vehicle/required")),
    ],
)
def test_what_does_not_fit_is_explained_by_field_reason_and_schema_path(properties: Any, vehicle: Any, expected: Any) -> None:
    fault = planned().fault(event(properties=properties, vehicle=vehicle))
    assert expected == (fault and (fault.field, fault.message, fault.schema_path))
    assert "PLAN_MISMATCH" == fault.reason if fault else True


def test_only_allowed_sources_may_send_an_event() -> None:
    judge = planned(sources=("app", "dealer:*"))
    faults = [judge.fault(event(properties={"model": "X5"}, source=s)) for s in ("app", "dealer:D001", "app2", "dealer")]
    assert [None, None, "SOURCE_NOT_ALLOWED", "SOURCE_NOT_ALLOWED"] == [fault and fault.reason for fault in faults]


def test_an_event_under_another_name_is_the_planned_one() -> None:
    plan = Plan(
        [planned(aliases=("看车", "car.seen")), planned(name="CarLost", schema={}), planned(name="Car Lost", schema={})],
        Unplanned.HOLD,
    )
    names = {name: plan.named(event(name)).name for name in ("Car Seen", "CarSeen", "看车", "car.seen", "carSeen", "CarLost")}
    assert {
        "Car Seen": "Car Seen",
        "CarSeen": "Car Seen",
        "看车": "Car Seen",
        "car.seen": "Car Seen",
        "carSeen": "carSeen",
        "CarLost": "CarLost",
    } == names
    taken = {alias: plan.taken(planned(name="New", aliases=(alias,)).planned) for alias in ("看车", "CarSeen", "Car Seen", "x")}
    assert {"看车": "看车", "CarSeen": "CarSeen", "Car Seen": "Car Seen", "x": ""} == taken
    assert ("看车", "", "") == (
        plan.taken(planned(name="看车").planned), plan.taken(planned(aliases=("看车",)).planned), plan.taken(planned().planned)
    )  # fmt: skip
    retired = Plan([planned(aliases=("看车",), retired=True)], Unplanned.PASS)
    assert "看车" == retired.named(event("看车")).name


def test_unplanned_events_pass_and_are_counted_or_are_held() -> None:
    passed: Counter[tuple[str, str]] = Counter()
    for mode, retired in ((Unplanned.PASS, False), (Unplanned.HOLD, False), (Unplanned.PASS, True), (Unplanned.HOLD, True)):
        plan = Plan([planned(retired=retired)], mode)
        known, other = plan.fault(event(properties={"model": "X"}), passed), plan.fault(event("Other"), passed)
        held = mode is Unplanned.HOLD
        assert ("EVENT_UNPLANNED" if held else None) == (other and other.reason)
        assert ("EVENT_UNPLANNED" if held and retired else None) == (known and known.reason)
    assert {("app", "Other"): 2, ("app", "Car Seen"): 1} == passed


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"type": "nonsense"},
        {"properties": {"a": {"pattern": "(?=a)"}}},
        {"properties": {"a": {"pattern": "("}}},
        {"properties": {"a": {"format": "telepathy"}}},
        {"$ref": "http://127.0.0.1:1/schema.json"},
        {"$ref": "file:///etc/hostname"},
        {"$ref": "#/$defs/missing"},
        {"required": ["Phone Number"]},
        {"required": ["birth-date"]},
        {"enum": ["x" * 70_000]},
    ],
)
def test_schemas_that_could_do_harm_or_hold_everything_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidSchema):
        Schema(schema)


def test_a_pattern_that_backtracks_elsewhere_takes_no_time() -> None:
    schema = Schema({"properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}})
    assert schema.fault(json.dumps({"a": "a" * 5000 + "!"}).encode(), b"") is not None


def test_the_shipped_plan_compiles_and_explains_every_event_in_both_languages() -> None:
    types = shipped()
    assert len(types) > 60
    assert [] == [t.name for t in types if not t.title or not t.description or not Judge(t)]
    families = ["Lead Created", "Test Drive Booked", "Order Placed", "Vehicle Delivered", "Service Completed", "Trip Completed"]
    families += ["App Opened", "Content Viewed", "Call Completed", "Ad Impression", "Ad Clicked", "Ad Spend Reported"]
    assert set() == set(families) - {t.name for t in types}


HOLDER = Holder(b"k" * 32)
JUDGE = planned()
MESSAGE = {"type": "track", "event": "Car Seen", "userId": "u1", "properties": {"model": 5, "phone": "13800138000"}}


def opened(held: Held) -> Kept:
    [message] = HOLDER.messages([held], 7)
    [fact] = QuarantinedBatch.FromString(message.payload).events
    assert b"13800138000" not in message.payload
    with pytest.raises(Invalid):
        HOLDER.open(b"another" + bytes(9), fact.sealed_message)
    return HOLDER.open(fact.event_id, fact.sealed_message)


def test_a_held_event_travels_sealed_and_is_shown_without_whom_it_is_about() -> None:
    held = unreadable(
        "app", SEGMENT, MESSAGE | {"traits": {"name": "张三", "city": "深圳"}}, (0, "", None), Invalid("f", "R", "m")
    )
    kept = opened(held)
    assert (MESSAGE | {"traits": {"name": "张三", "city": "深圳"}}, [0, "", None]) == (kept.message, kept.context)
    assert {
        "type": "track",
        "event": "Car Seen",
        "properties": {"model": 5},
        "traits": {"name": "[redacted]", "city": "深圳"},
    } == (json.loads(shown(kept)))


def test_a_held_lead_in_xml_is_read_again_and_cannot_be_patched() -> None:
    document = b"<adf><prospect><customer><id>7</id><contact><phone>13800138000</phone></contact></customer></prospect></adf>"
    [lead] = adf.leads(document)
    kept = opened(unreadable("app", ADF, adf.written(lead), (), Invalid("", "R", "m")))
    again = kept.observe(Source("app", "crm_id", ""), 10**15, 0)
    assert adf.observe(lead, adf.Arrival(Source("app", "crm_id", ""), 10**15, 0)) == again
    with pytest.raises(Invalid, match="no JSON"):
        kept.patched({})
    for what in (document.replace(b"<customer>", b"<prospect/><customer>"), document + document):
        with pytest.raises(Invalid):
            Kept(ADF, (), what, False).observe(Source("app", "crm_id", ""), 10**15, 0)


async def test_only_leads_that_are_set_aside_are_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []

    def note(lead: Any) -> bytes:
        written.append(lead)
        return b"<prospect/>"

    monkeypatch.setattr(adf, "written", note)
    found = adf.leads(b"<adf><prospect><id>1</id><customer><id>7</id></customer></prospect><prospect/></adf>")
    live: Any = SimpleNamespace(now=lambda: Plan([], Unplanned.PASS), passed=Counter())

    async def publish(*_: Any) -> None:
        return None

    sealer, publisher = SimpleNamespace(key=lambda: None), SimpleNamespace(publish=publish)
    ingest: Any = Ingest
    wrong = await ingest(sealer, publisher, Gate(live, HOLDER), 3650).leads(found, Source("app", "crm_id", ""))
    assert (["NO_ID"], [found[1]]) == ([error.reason for error in wrong], written)


def test_an_event_that_a_bug_cannot_read_stays_held_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    held = unreadable("app", SEGMENT, MESSAGE, (0, "", None), Invalid("f", "R", "m"))
    [message] = HOLDER.messages([held], 7)
    sealed = QuarantinedBatch.FromString(message.payload).events[0].sealed_message
    row = {"event_id": held.event_id, "sealed": sealed, "source": "app", "received_at": datetime(2026, 3, 1, tzinfo=UTC)}
    rereader: Any = Rereader
    reader = rereader(HOLDER, SimpleNamespace(named=lambda name: Source(name, "crm_id", "")), 3650)
    errors = [KeyError("a bug"), ConnectionError("the world")]

    def failing(*_: Any) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(segment, "observe", failing)
    with pytest.raises(Invalid) as internal:
        reader.observe(row, Plan([], Unplanned.PASS))
    assert "INTERNAL" == internal.value.reason
    with pytest.raises(ConnectionError):
        reader.observe(row, Plan([], Unplanned.PASS))


@given(st.dictionaries(st.sampled_from(["model", "price", "day", "colour", "vehicle", "x"]), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
), max_size=5))  # fmt: skip
@settings(max_examples=100)
def test_whatever_is_said_is_judged_and_what_is_wrong_names_a_place(properties: dict[str, Any]) -> None:
    try:
        written = orjson.dumps(properties)
    except TypeError:
        return
    fault = JUDGE.fault(Observed(b"0" * 16, "app", "Car Seen", 0, [], "", 0, written, b""))
    assert fault is None or (fault.schema_path.startswith("/") and fault.message)


def test_what_is_too_large_or_too_deep_is_kept_to_look_at_only() -> None:
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    for message in ({"event": "x" * 300_000}, {"a": deep}):
        kept = opened(unreadable("app", CLOUDEVENTS, message, (), Invalid("", "R", "m")))
        assert kept.is_cut
        assert "" == shown(kept)


def test_a_repeated_request_holds_the_same_event() -> None:
    ids = {unreadable("app", SEGMENT, MESSAGE, (0, "", None), Invalid("", "R", "m")).event_id for _ in range(2)}
    other = unreadable("app", SEGMENT, MESSAGE, (1, "", None), Invalid("", "R", "m")).event_id
    assert (1, False) == (len(ids), other in ids)


def test_names_that_look_personal_are_not_shown() -> None:
    held = Held(b"1" * 16, "app", "Called 13800138000", Invalid("properties.13800138000", "R", "m"), SEGMENT, {}, ())
    [message] = HOLDER.messages([held], 0)
    assert b"13800138000" not in message.payload


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from("abc"), JSON, max_size=3), st.dictionaries(st.sampled_from("abc"), JSON, max_size=3))
@settings(max_examples=60)
def test_a_patch_applied_twice_is_the_patch(message: dict[str, Any], patch: dict[str, Any]) -> None:
    once = Kept(SEGMENT, (), message, False).patched(patch)
    assert once == once.patched(patch)
    for key, value in patch.items():
        if not isinstance(value, dict):
            assert (value is not None) == (key in once.message)
            assert once.message.get(key) == value
    assert {k: v for k, v in message.items() if k not in patch} == {k: v for k, v in once.message.items() if k not in patch}
