"""CloudEvents 1.0 over HTTP: requests as envelopes, an envelope as an observed event. See CONVENTIONS 1c.

Written by hand: the library invents ids for events without one, reads no batches, and takes a structured event with one `ce-`
header for a binary one (CONVENTIONS trap 13).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson

from services.touchpoints.domain.observed import FUTURE_US, Invalid, Observed, Source, event_id, id_in, instant_us
from services.touchpoints.domain.screening import Found, screen

MAX_NAME = 200
_REQUIRED = ("id", "source", "type")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Kinds that `data.identifiers` may name, as in a record; openid needs the appid beside it.
_KINDS = ("mobile", "id_card", "email", "unionid", "device", "cookie")


class UnknownMode(ValueError):
    """The request is no CloudEvent in any of the three modes."""


def read(headers: Mapping[str, str], body: bytes) -> list[Any]:
    """The envelopes of a request, `data` decoded where it is JSON; raises UnknownMode, or Invalid for what cannot be read."""
    kind = headers.get("content-type", "").strip().lower()
    # The batch first: its name begins with the other one's. The body wins over `ce-` headers beside it.
    if kind.startswith("application/cloudevents-batch"):
        batch = _json(body)
        if not isinstance(batch, list):
            raise Invalid("body", "NOT_A_LIST", "a batch is a list")
        return batch
    if kind.startswith("application/cloudevents"):
        return [_json(body)]
    if "ce-specversion" in headers:
        return [_binary(headers, body, kind)]
    raise UnknownMode


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Invalid("body", "NOT_JSON", "is not valid JSON") from error


def _binary(headers: Mapping[str, str], body: bytes, kind: str) -> dict[str, Any]:
    envelope: dict[str, Any] = {
        name.removeprefix("ce-"): _header(name, value) for name, value in headers.items() if name.startswith("ce-")
    }
    if "datacontenttype" in envelope:
        raise Invalid("ce-datacontenttype", "FORBIDDEN", "belongs into Content-Type")
    if kind:
        envelope["datacontenttype"] = kind
    if body:
        envelope["data"] = _json(body) if _is_json(kind) else body.decode(errors="replace")
    return envelope


def _header(name: str, value: str) -> str:
    """A header's text: quotes undone, then exactly one percent-decoding."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        if _BAD_PERCENT.search(value):
            raise ValueError(value)
        return unquote_to_bytes(value).decode()
    except ValueError as error:
        raise Invalid(name, "INVALID_ENCODING", "is not percent-encoded UTF-8") from error


def _is_json(content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    return media in ("", "application/json", "text/json") or media.endswith("+json")


@dataclass(frozen=True)
class Arrival:
    """What holds for all events of one request."""

    source: Source
    received_us: int
    oldest_us: int


def observe(raw: Any, arrival: Arrival) -> Observed:
    """Normalises one envelope; raises Invalid naming the attribute.

    Whom it is about: the extension attributes `userid` and `anonymousid`, `data.identifiers` as in a record, or else the
    last part of `subject` as the user's id. The event's name is `type`.
    """
    if not isinstance(raw, dict):
        raise Invalid("", "NOT_AN_OBJECT", "must be an object")
    if raw.get("specversion") != "1.0":
        raise Invalid("specversion", "UNKNOWN_VERSION", "must be 1.0")
    number, origin, name = (_text(raw, attribute) for attribute in _REQUIRED)
    if len(name) > MAX_NAME:
        raise Invalid("type", "TOO_LONG", f"must have at most {MAX_NAME} characters")
    data = _data(raw)
    given, vehicle = _object(data, "identifiers"), _object(data, "vehicle")
    identifiers = _identifiers(raw, given, arrival.source)
    found: Found = []
    try:
        vehicle_properties = screen(vehicle, found)
        properties = screen({key: value for key, value in data.items() if key not in ("identifiers", "vehicle")}, found)
    except (TypeError, RecursionError) as error:
        raise Invalid("data", "UNWRITABLE", "is nested too deeply or holds a number out of range") from error
    occurred = instant_us(raw["time"], "time") if raw.get("time") else arrival.received_us
    return Observed(
        event_id(arrival.source.name, f"{origin}\0{number}"),
        arrival.source.name,
        name,
        min(max(occurred, arrival.oldest_us), arrival.received_us + FUTURE_US),
        identifiers + [one for one in found if one not in identifiers],
        _named(given),
        0,
        properties,
        vehicle_properties,
    )


def _data(raw: dict[str, Any]) -> dict[str, Any]:
    """Data that is an object; anything else says nothing about anybody, and is kept under its own name."""
    data = raw.get("data")
    if data is None and (encoded := raw.get("data_base64")) is not None:
        try:
            plain = base64.b64decode(encoded.encode(), validate=True) if isinstance(encoded, str) else b""
        except binascii.Error as error:
            raise Invalid("data_base64", "UNREADABLE", "is not base64") from error
        content_type = raw.get("datacontenttype")
        data = _json(plain) if _is_json(content_type if isinstance(content_type, str) else "") else None
    if data is None:
        return {}
    return dict(data) if isinstance(data, dict) else {"data": data}


def _identifiers(raw: dict[str, Any], given: dict[str, Any], source: Source) -> Found:
    found: Found = []
    if user := id_in(raw, "userid", "userid") or id_in(given, "user_id", "data.identifiers.user_id"):
        found.append((source.user_id_kind, source.user_scope, user))
    found += [(kind, "", value) for kind in _KINDS if (value := id_in(given, kind, f"data.identifiers.{kind}"))]
    if openid := id_in(given, "openid", "data.identifiers.openid"):
        if not (appid := id_in(given, "appid", "data.identifiers.appid")):
            raise Invalid("data.identifiers.appid", "REQUIRED", "is required beside openid")
        found.append(("openid", appid, openid))
    if anonymous := id_in(raw, "anonymousid", "anonymousid"):
        found.append(("cookie", "", anonymous))
    if not found and (subject := id_in(raw, "subject", "subject").rpartition("/")[2]):
        found.append((source.user_id_kind, source.user_scope, subject))
    if not found:
        raise Invalid("subject", "NO_ID", "subject, userid, anonymousid or data.identifiers is required")
    return found


def _named(given: dict[str, Any]) -> str:
    name = given.get("name")
    return name[:MAX_NAME] if isinstance(name, str) else ""


def _text(raw: dict[str, Any], attribute: str) -> str:
    value = raw.get(attribute)
    if not isinstance(value, str) or not value:
        raise Invalid(attribute, "REQUIRED", "must be a non-empty string")
    return value


def _object(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid(f"data.{key}", "WRONG_TYPE", "must be an object")
    return value
