"""What every ingestion door makes of its input: an event with its identifying part kept apart."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

FUTURE_US = 5 * 60 * 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Observed(NamedTuple):
    """One event. A tuple, not a dataclass: the hot door makes thousands per second."""

    event_id: bytes
    source: str
    name: str
    occurred_at_us: int
    # (kind, scope, raw value), anchor first. With the name, relation, address and birth date the part that travels sealed.
    identifiers: list[tuple[str, str, str]]
    person_name: str
    # VehicleRelation: 0 not stated, 1 owns, 2 drives, 3 pays for.
    relation: int
    # Serialised JSON objects without personal data; empty means {}.
    properties: bytes
    vehicle_properties: bytes
    # Postal address as given, and date of birth as YYYY-MM-DD; empty when unknown.
    address: str = ""
    birth_date: str = ""


@dataclass(frozen=True)
class Source:
    """A system that may write in."""

    name: str
    # What a user id of this source is: "crm_id" or "openid".
    user_id_kind: str
    appid: str
    # Whether its server key was shown, and not one that anybody can read out of a page or an app.
    server_side: bool = False

    @property
    def user_scope(self) -> str:
        """What its user ids are unique within."""
        return self.appid if self.user_id_kind == "openid" else self.name


class Invalid(ValueError):
    """One event or record that cannot be taken; `field` names the part at fault, `reason` is UPPER_SNAKE.

    `schema_path`: the part of the tracking plan's schema that says so, as a JSON pointer; empty when it is not the plan.
    """

    def __init__(self, field: str, reason: str, message: str, schema_path: str = "") -> None:
        super().__init__(message)
        self.field, self.reason, self.message, self.schema_path = field, reason, message, schema_path


MAX_ID = 255


def id_in(raw: dict[str, Any], key: str, field: str = "") -> str:
    """An identifier among the keys of an object, empty without one; whole numbers become text. `field`: what to call it."""
    value = raw.get(key)
    if value is None or value == "":
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise Invalid(field or key, "WRONG_TYPE", "must be a string")
    if len(value) > MAX_ID:
        raise Invalid(field or key, "TOO_LONG", f"must have at most {MAX_ID} characters")
    return value


def event_id(source: str, message_id: str) -> bytes:
    """16 bytes, the same for each retry of one message of one source."""
    return hashlib.sha256(f"{source}\0{message_id}".encode()).digest()[:16]


def instant_us(value: Any, field: str) -> int:
    """ISO 8601 text as microseconds since the epoch; without a zone it is UTC."""
    if not isinstance(value, str):
        raise Invalid(field, "INVALID_TIME", "must be an ISO 8601 string")
    try:
        return _us(value)
    except (ValueError, OverflowError) as error:
        raise Invalid(field, "INVALID_TIME", "is not an ISO 8601 instant") from error


@lru_cache(1024)
def _us(text: str) -> int:
    """The moments of one batch are often the same."""
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return (instant - _EPOCH) // _MICROSECOND
