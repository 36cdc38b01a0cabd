"""Sensors Analytics' protocol (神策): one message as an observed event. See CONVENTIONS 1b."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl

import orjson

from services.touchpoints.domain.observed import FUTURE_US, Invalid, Observed, Source, event_id, id_in
from services.touchpoints.domain.screening import Found, screen

# What happened, for the types that carry no name of their own.
_NAMES = {
    "track_signup": "Identified",
    "track_id_bind": "Identified",
    "profile_set": "Identified",
    "profile_set_once": "Profile Set Once",
    "profile_increment": "Profile Incremented",
    "profile_append": "Profile Appended",
    "profile_unset": "Profile Unset",
    "profile_delete": "Profile Deleted",
}
# The SDKs' own names for what everybody's tags call otherwise.
_USUAL = {
    "$pageview": "Page Viewed",
    "$AppViewScreen": "Screen Viewed",
    "$MPViewScreen": "Screen Viewed",
    "$AppStart": "App Opened",
    "$MPLaunch": "App Opened",
}
# Understood, and not for us; kept, so that it can be replayed should we ever know what to do with it.
_NOT_TAKEN = {
    "track_id_unbind": ("UNBIND_NOT_TAKEN", "identities are parted by identity's own evidence, not by a message"),
    "item_set": ("ITEMS_NOT_TAKEN", "items belong to nobody; state them in the catalogue of offers"),
    "item_delete": ("ITEMS_NOT_TAKEN", "items belong to nobody; state them in the catalogue of offers"),
}
_NAME = re.compile(r"[a-zA-Z_$][a-zA-Z\d_$]{0,99}")
_RESERVED = frozenset(
    [
        *("distinct_id", "original_id", "time", "properties", "id", "first_id", "second_id", "users", "events", "event"),
        *("event_id", "device_id", "user_id", "date", "datetime"),
    ]
)
# About the SDK and the network, not about what happened.
_DROPPED = frozenset(
    [
        "$lib",
        "$lib_version",
        "$lib_method",
        "$lib_detail",
        "$ip",
        "$is_login_id",
        "$timezone_offset",
        "$time",
        "$token",
        "$project",
    ]
)
_KINDS = {
    "$identity_mobile": "mobile",
    "$identity_email": "email",
    "$identity_mp_unionid": "unionid",
    "$identity_anonymous_id": "cookie",
    "$identity_cookie_id": "cookie",
    "$identity_mp_id": "cookie",
    "$identity_android_id": "device",
    "$identity_android_uuid": "device",
    "$identity_ios_idfv": "device",
    "$identity_ios_uuid": "device",
}
_LOGIN = "$identity_login_id"
_OPENID = re.compile(r"\$identity_mp_(wx[0-9a-zA-Z]+)_openid")
# Python writes the fraction of a second without leading zeros: five milliseconds are ".5".
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,3}))?")
# An offset: China has had no daylight saving since 1991, and slim images carry no zone database.
_USUAL_ZONE = timezone(timedelta(hours=8))
# Of ten digits and fewer are seconds.
_SECONDS_BELOW = 10**11
# Values of `gzip` that mean a payload under a key of the vendor's.
_ENCRYPTED = frozenset(["9", "13"])


@dataclass(frozen=True)
class Arrival:
    """What holds for all messages of one request."""

    source: Source
    project: str
    received_us: int
    oldest_us: int


@dataclass(frozen=True)
class Form:
    """What a request said, still encoded; `checksum` empty where the SDK sends none."""

    project: str
    token: str
    data: str
    checksum: str
    encryption: str


def form(query: str, body: bytes) -> Form:
    """The fields of a form, whatever Content-Type it came under; the address may carry them all (images). Raises Invalid."""
    try:
        fields = dict(parse_qsl(query, max_num_fields=20)) | dict(
            parse_qsl(body.decode("ascii"), max_num_fields=20) if body else ()
        )
    except (ValueError, UnicodeDecodeError) as error:
        raise Invalid("body", "NOT_A_FORM", "is no form") from error
    checksum = fields.get("crc") or fields.get("ext", "").removeprefix("crc=")
    return Form(
        fields.get("project", ""),
        fields.get("token", ""),
        # A plus that was not escaped has become a blank.
        (fields.get("data_list") or fields.get("data") or "").replace(" ", "+"),
        checksum,
        fields.get("gzip", "") if fields.get("gzip") in _ENCRYPTED else "",
    )


def decode(data: str, checksum: str, most_bytes: int) -> list[Any]:
    """The messages behind base64 and perhaps gzip, at most `most_bytes` of them; raises Invalid."""
    if not data:
        raise Invalid("data", "REQUIRED", "data or data_list is required")
    if checksum and checksum != str(_hash(data)):
        raise Invalid("crc", "CRC_MISMATCH", "does not fit the data: it was cut or changed on the way")
    try:
        raw = base64.b64decode(data.encode(), validate=True)
        # SDKs say gzip=1 of what is not and forget it of what is: the magic number is right.
        if raw[:2] == b"\x1f\x8b":
            inflater = zlib.decompressobj(31)
            raw = inflater.decompress(raw, most_bytes)
            if not inflater.eof:
                raise Invalid("data", "UNREADABLE", f"ends too early or has more than {most_bytes} bytes")
        events = orjson.loads(raw)
    except (binascii.Error, zlib.error, orjson.JSONDecodeError) as error:
        raise Invalid("data", "UNREADABLE", "must be JSON, perhaps compressed, in base64") from error
    return events if isinstance(events, list) else [events]


def _hash(text: str) -> int:
    """Java's String.hashCode, which the SDKs call a crc."""
    value = 0
    for byte in text.encode():
        value = (value * 31 + byte) & 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


def observe(raw: Any, arrival: Arrival) -> Observed:
    """Normalises one message; raises Invalid naming the field."""
    if not isinstance(raw, dict):
        raise Invalid("", "NOT_AN_OBJECT", "must be an object")
    kind = raw.get("type")
    if isinstance(kind, str) and kind in _NOT_TAKEN:
        reason, message = _NOT_TAKEN[kind]
        raise Invalid("type", reason, message)
    if not isinstance(kind, str) or (kind != "track" and kind not in _NAMES):
        raise Invalid("type", "UNKNOWN_TYPE", "must be track, track_signup, track_id_bind or profile_*")
    given = raw.get("properties")
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise Invalid("properties", "WRONG_TYPE", "must be an object")
    name = _NAMES[kind] if kind != "track" else _event(raw)
    identifiers = _identifiers(raw, given, kind, arrival.source)
    zone = _zone(given.get("$timezone_offset"))
    stated = {key: _dated(value, zone) for key, value in given.items() if key not in _DROPPED}
    person_name = ""
    if kind.startswith("profile_"):
        for key in ("$name", "name"):
            if isinstance(value := stated.pop(key, ""), str) and value:
                person_name = value[:200]
    found: Found = []
    try:
        vehicle = stated.pop("vehicle") if kind == "track" and isinstance(stated.get("vehicle"), dict) else None
        vehicle_properties = screen(vehicle, found) if vehicle else b""
        properties = screen(stated, found)
        number = _number(raw, given, arrival)
    except (TypeError, RecursionError) as error:
        raise Invalid("properties", "UNWRITABLE", "is nested too deeply or holds a number out of range") from error
    return Observed(
        number,
        arrival.source.name,
        name,
        _occurred(raw, given, arrival),
        identifiers + [one for one in found if one not in identifiers],
        person_name,
        0,
        properties,
        vehicle_properties,
    )


def _event(raw: dict[str, Any]) -> str:
    name = raw.get("event")
    if not isinstance(name, str) or not name:
        raise Invalid("event", "WRONG_TYPE", "must be a non-empty string")
    if usual := _USUAL.get(name):
        return usual
    if not _NAME.fullmatch(name) or name.lower() in _RESERVED or name.lower().startswith(("user_group", "user_tag")):
        raise Invalid("event", "INVALID_NAME", "must have up to 100 letters, digits, _ and $, and not be a reserved word")
    return name


def _identifiers(raw: dict[str, Any], properties: dict[str, Any], kind: str, source: Source) -> Found:
    """The anchor first: who is logged in, else the device or browser that wrote."""
    found: Found = []

    def add(one: str, scope: str, value: str) -> None:
        if value and (one, scope, value) not in found:
            found.append((one, scope, value))

    distinct = id_in(raw, "distinct_id")
    logged_in = kind == "track_signup" or properties.get("$is_login_id") is True
    login = id_in(raw, "login_id") or (distinct if logged_in else "")
    add(source.user_id_kind, source.user_scope, login)
    identities = raw.get("identities") or {}
    if not isinstance(identities, dict):
        raise Invalid("identities", "WRONG_TYPE", "must be an object")
    for key in identities:
        add(*_identity(str(key), id_in(identities, key, f"identities.{key}"), source))
    key, plus, value = distinct.partition("+")
    if plus and key.startswith("$identity_"):
        # Without a login the SDK writes the kind before the value.
        add(*_identity(key, value, source))
    elif distinct != login:
        add("cookie", "", distinct)
    add("cookie", "", id_in(raw, "anonymous_id"))
    if kind == "track_signup":
        add("cookie", "", id_in(raw, "original_id"))
    if not found:
        raise Invalid("distinct_id", "NO_ID", "distinct_id, login_id, anonymous_id or identities is required")
    return found


def _identity(key: str, value: str, source: Source) -> tuple[str, str, str]:
    """(kind, scope, value) of one of the identities; those of a kind that nobody knows say nothing."""
    if key == _LOGIN:
        return source.user_id_kind, source.user_scope, value
    if match := _OPENID.fullmatch(key):
        return "openid", match[1], value
    return _KINDS.get(key, ""), "", value if key in _KINDS else ""


def _occurred(raw: dict[str, Any], properties: dict[str, Any], arrival: Arrival) -> int:
    """When it happened; a wrong clock shows in `_flush_time`, the same clock's moment of sending."""
    occurred = _instant_us(raw.get("time", properties.get("$time", arrival.received_us // 1000)), "time")
    if (flushed := raw.get("_flush_time")) is not None:
        occurred = arrival.received_us - (_instant_us(flushed, "_flush_time") - occurred)
    return min(max(occurred, arrival.oldest_us), arrival.received_us + FUTURE_US)


def _instant_us(value: Any, field: str) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 16:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**53:
        raise Invalid(field, "INVALID_TIME", "must be milliseconds since the epoch")
    return int(value) * (1_000_000 if value < _SECONDS_BELOW else 1000)


def _zone(minutes: Any) -> timezone:
    """Of a JavaScript offset, minutes west of UTC."""
    if isinstance(minutes, int) and not isinstance(minutes, bool) and abs(minutes) < 24 * 60:
        return timezone(timedelta(minutes=-minutes))
    return _USUAL_ZONE


def _dated(value: Any, zone: timezone) -> Any:
    """Moments in the SDKs' own notation as RFC 3339 in UTC, all else as it is."""
    if not isinstance(value, str) or not (match := _MOMENT.fullmatch(value)):
        return value
    try:
        moment = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=zone) + timedelta(
            milliseconds=int(match[2] or 0)
        )
        return moment.astimezone(UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError):
        return value


def _number(raw: dict[str, Any], properties: dict[str, Any], arrival: Arrival) -> bytes:
    """The same for each repeat: `_track_id` is short and not everywhere, so what it belongs to stands beside it."""
    project = raw.get("project") or properties.get("$project") or arrival.project
    if (track := raw.get("_track_id")) is not None:
        told: Any = [project, raw.get("type"), raw.get("distinct_id"), raw.get("event"), raw.get("time"), track]
    else:
        told = [project, {key: value for key, value in raw.items() if key not in ("lib", "_flush_time")}]
    content = orjson.dumps(told, option=orjson.OPT_SORT_KEYS)
    return event_id(arrival.source.name, hashlib.sha256(content).hexdigest())
