"""Segment's protocol (also RudderStack's): one message of a batch as an observed event. See CONVENTIONS 1a."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import orjson

from services.touchpoints.domain.observed import FUTURE_US, MAX_ID, Invalid, Observed, Source, event_id, id_in, instant_us
from services.touchpoints.domain.screening import Found, screen

# What happened, for the types that carry no name of their own.
_NAMES = {
    "identify": "Identified",
    "page": "Page Viewed",
    "screen": "Screen Viewed",
    "group": "Group Joined",
    "alias": "Aliased",
}
_EMPTY: dict[str, Any] = {}
MAX_NAME = 200


@dataclass(frozen=True)
class Arrival:
    """What holds for all messages of one request."""

    source: Source
    # The type of a message that does not say its own: set for the single calls.
    implied_type: str
    sent_at: Any
    received_us: int
    oldest_us: int


def observe(raw: Any, index: int, arrival: Arrival) -> Observed:
    """Normalises one message; raises Invalid naming the field. `index` is its place in the batch."""
    if not isinstance(raw, dict):
        raise Invalid("", "NOT_AN_OBJECT", "must be an object")
    kind = raw.get("type") or arrival.implied_type
    if not isinstance(kind, str) or (kind != "track" and kind not in _NAMES):
        raise Invalid("type", "UNKNOWN_TYPE", "must be track, identify, page, screen, group or alias")
    context = _object(raw, "context")
    traits = _object(raw, "traits") or _object(context, "traits", "context.traits")
    found: Found = []
    name = _NAMES[kind] if kind != "track" else _text(raw, "event", MAX_NAME)
    person_name = ""
    if kind in {"identify", "group"}:
        given = traits
    else:
        given = _object(raw, "properties")
        if kind in {"page", "screen"} and (page := {k: raw[k] for k in ("name", "category") if raw.get(k)}):
            given = {**given, **page}
    if kind == "group" and raw.get("groupId"):
        given = {**given, "group_id": _text(raw, "groupId", MAX_ID)}
    elif kind == "identify" and "name" in given:
        given = dict(given)
        person_name = _person_name(given.pop("name"))
    try:
        # As in a record: what is said of the vehicle is the vehicle's, under whomever it is.
        vehicle = given.get("vehicle") if kind == "track" else None
        vehicle_properties = b""
        if isinstance(vehicle, dict):
            vehicle_properties = screen(vehicle, found)
            given = {key: value for key, value in given.items() if key != "vehicle"}
        properties = screen(given, found)
    except (TypeError, RecursionError) as error:
        raise Invalid("properties", "UNWRITABLE", "is nested too deeply or holds a number out of range") from error
    source = arrival.source
    identifiers = _identifiers(raw, context, source, kind)
    occurred = _occurred(raw, arrival)
    return Observed(
        _event_id(raw, index, arrival),
        source.name,
        name,
        occurred,
        identifiers + found,
        person_name,
        0,
        properties,
        vehicle_properties,
    )


def _identifiers(raw: dict[str, Any], context: dict[str, Any], source: Source, kind: str) -> Found:
    found: Found = []
    if user := id_in(raw, "userId"):
        found.append((source.user_id_kind, source.user_scope, user))
    if anonymous := id_in(raw, "anonymousId"):
        found.append(("cookie", "", anonymous))
    if not found:
        raise Invalid("userId", "NO_ID", "userId or anonymousId is required")
    if kind == "alias":
        if not user or not (previous := id_in(raw, "previousId")):
            raise Invalid("previousId", "NO_ID", "alias needs userId and previousId")
        found.append(("cookie", "", previous))
    device = context.get("device")
    if isinstance(device, dict) and (device_id := id_in(device, "id", "context.device.id")):
        found.append(("device", "", device_id))
    return found


def _occurred(raw: dict[str, Any], arrival: Arrival) -> int:
    """Segment's correction: how long before sending it happened, counted back from when it came in."""
    stamp = raw.get("timestamp") or raw.get("originalTimestamp")
    if not stamp:
        return arrival.received_us
    occurred = instant_us(stamp, "timestamp")
    if sent_at := raw.get("sentAt") or arrival.sent_at:
        occurred = arrival.received_us - (instant_us(sent_at, "sentAt") - occurred)
    return min(max(occurred, arrival.oldest_us), arrival.received_us + FUTURE_US)


def _event_id(raw: dict[str, Any], index: int, arrival: Arrival) -> bytes:
    message_id = raw.get("messageId")
    if isinstance(message_id, str) and message_id:
        return event_id(arrival.source.name, message_id)
    # Never rejected for a missing id; the same bytes sent again are the same event.
    try:
        content = orjson.dumps([raw, arrival.sent_at, index])
    except (TypeError, RecursionError) as error:
        raise Invalid("", "UNWRITABLE", "is nested too deeply or holds a number out of range") from error
    return event_id(arrival.source.name, hashlib.sha256(content).hexdigest())


def _text(raw: dict[str, Any], key: str, longest: int) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not value:
        raise Invalid(key, "WRONG_TYPE", "must be a non-empty string")
    if len(value) > longest:
        raise Invalid(key, "TOO_LONG", f"must have at most {longest} characters")
    return value


def _object(raw: dict[str, Any], key: str, field: str = "") -> dict[str, Any]:
    value = raw.get(key)
    if value is None:
        return _EMPTY
    if not isinstance(value, dict):
        raise Invalid(field or key, "WRONG_TYPE", "must be an object")
    return value


def _person_name(value: Any) -> str:
    return value[:MAX_NAME] if isinstance(value, str) else ""
