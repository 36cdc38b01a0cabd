"""Records: what a source's database says about one customer, one JSON object per line."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

from services.touchpoints.domain.observed import FUTURE_US, Invalid, Observed, Source, event_id, instant_us
from services.touchpoints.domain.screening import Found, screen

EVENT = "Record Updated"
RELATIONS = {"owns": 1, "drives": 2, "pays_for": 3}
# Kinds a record may carry beside its own id; openid needs the appid beside it.
_KINDS = ("mobile", "id_card", "email", "unionid", "device")
VEHICLE_IDENTIFIERS = ("vin", "plate")
# All that `identifiers` may name.
IDENTIFIERS = (*_KINDS, "openid", "appid", "name", "address", "birth_date")
MAX_VALUE = 255
_OLDEST_BIRTH = date(1900, 1, 1)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def observe(raw: Any, source: Source, received_us: int, oldest_us: int) -> Observed:
    """Normalises one record; raises Invalid naming the field."""
    if not isinstance(raw, dict):
        raise Invalid("", "NOT_AN_OBJECT", "must be a JSON object")
    record_id = _value(raw, "record_id", "record_id")
    if not record_id:
        raise Invalid("record_id", "REQUIRED", "is required")
    if "updated_at" not in raw:
        raise Invalid("updated_at", "REQUIRED", "is required")
    updated = instant_us(raw["updated_at"], "updated_at")
    if not oldest_us <= updated <= received_us + FUTURE_US:
        raise Invalid("updated_at", "OUT_OF_RANGE", "lies in the future or too far in the past")
    given, vehicle = _object(raw, "identifiers"), _object(raw, "vehicle")
    # The anchor is first: the record's own number within its source.
    identifiers = [("crm_id", source.name, record_id), *_identifiers(given, vehicle, source)]
    relation = vehicle.get("relation")
    if relation is not None and (not isinstance(relation, str) or relation not in RELATIONS):
        raise Invalid("vehicle.relation", "UNKNOWN_RELATION", "must be owns, drives or pays_for")
    found: Found = []
    properties = _screened(raw, "attributes", "attributes", found)
    vehicle_properties = _screened(vehicle, "attributes", "vehicle.attributes", found)
    return Observed(
        event_id(source.name, f"{record_id}\0{updated}"),
        source.name,
        EVENT,
        updated,
        identifiers + [one for one in found if one not in identifiers],
        _value(given, "name", "identifiers.name"),
        RELATIONS.get(relation or "", 0),
        properties,
        vehicle_properties,
        _value(given, "address", "identifiers.address"),
        _birth_date(given, received_us),
    )


def _birth_date(given: dict[str, Any], received_us: int) -> str:
    """YYYY-MM-DD, as systems hold it; what nobody alive can bear is refused rather than guessed at."""
    value = _value(given, "birth_date", "identifiers.birth_date")
    if not value:
        return ""
    try:
        born = date.fromisoformat(value) if _DATE.fullmatch(value) else None
    except ValueError:
        born = None
    if born is None:
        raise Invalid("identifiers.birth_date", "INVALID_DATE", "must be a date as YYYY-MM-DD")
    # Where it is already tomorrow, somebody may be born today.
    if not _OLDEST_BIRTH <= born <= datetime.fromtimestamp(received_us / 1_000_000, UTC).date() + timedelta(days=1):
        raise Invalid("identifiers.birth_date", "OUT_OF_RANGE", "lies in the future or before 1900")
    return value


def _identifiers(given: dict[str, Any], vehicle: dict[str, Any], source: Source) -> Found:
    found: Found = []
    for kind in _KINDS:
        if value := _value(given, kind, f"identifiers.{kind}"):
            found.append((kind, "", value))
    if openid := _value(given, "openid", "identifiers.openid"):
        appid = _value(given, "appid", "identifiers.appid") or source.appid
        if not appid:
            raise Invalid("identifiers.appid", "REQUIRED", "an openid is unique only with its appid")
        found.append(("openid", appid, openid))
    for kind in VEHICLE_IDENTIFIERS:
        if value := _value(vehicle, kind, f"vehicle.{kind}"):
            found.append((kind, "", value))
    return found


def _screened(raw: dict[str, Any], key: str, field: str, found: Found) -> bytes:
    try:
        return screen(_object(raw, key, field), found)
    except (TypeError, RecursionError) as error:
        raise Invalid(field, "UNWRITABLE", "is nested too deeply or holds a number out of range") from error


def _object(raw: dict[str, Any], key: str, field: str = "") -> dict[str, Any]:
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid(field or key, "WRONG_TYPE", "must be an object")
    return value


def _value(raw: dict[str, Any], key: str, field: str) -> str:
    value = raw.get(key)
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise Invalid(field, "WRONG_TYPE", "must be a string")
    if len(value) > MAX_VALUE:
        raise Invalid(field, "TOO_LONG", f"must have at most {MAX_VALUE} characters")
    return value
