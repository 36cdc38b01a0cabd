"""What an event must say: a compiled JSON Schema that explains what does not fit without repeating it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
from jsonschema_rs import Draft202012Validator, RegexOptions, ValidationError

from services.touchpoints.domain.screening import DROPPED_KEYS, IDENTIFIER_KEYS

MOST_BYTES: Final = 64 * 1024
_MOST_TEXT: Final = 300


class InvalidSchema(ValueError):
    """Not a schema that events can be held to."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with an event: where, in words without the event's own values, and which part of the schema says so."""

    field: str
    message: str
    schema_path: str


def is_moment(text: str) -> bool:
    """Format `moment`: a date or an instant in ISO 8601, with or without a zone; what tags of the type time can be made of."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


class Schema:
    """Draft 2020-12 over an event's properties, with what is said of the vehicle under `vehicle`."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        _check(raw)
        try:
            # Patterns in linear time, nothing fetched from anywhere, and `it` in place of every value.
            self._validator = Draft202012Validator(
                dict(raw),
                formats={"moment": is_moment},
                validate_formats=True,
                ignore_unknown_formats=False,
                pattern_options=RegexOptions(),
                offline=True,
                mask="it",
            )
        except ValueError as error:
            raise InvalidSchema(_first_line(error)) from error
        self._fits = self._validator.is_valid

    def fault(self, properties: bytes, vehicle: bytes) -> Fault | None:
        """The first thing that is wrong with serialised properties; null at the top or in the vehicle counts as absent."""
        given: dict[str, Any] = orjson.loads(properties) if properties else {}
        if vehicle:
            given["vehicle"] = _stated(orjson.loads(vehicle))
        given = _stated(given)
        try:
            return None if self._fits(given) else self._explained(given)
        except ValueError:
            # Deeper than the validator follows.
            return Fault("", "is nested too deeply", "")

    def _explained(self, given: dict[str, Any]) -> Fault | None:
        error = next(iter(self._validator.iter_errors(given)), None)
        if error is None:
            return None
        path = [str(part) for part in error.instance_path]
        if error.kind.name == "required":
            path.append(str(error.kind.value))
            message = "is required"
        else:
            message = error.message.removeprefix("it ")
        place = "/" + "/".join(str(part) for part in error.schema_path)
        return Fault(".".join(path)[:_MOST_TEXT], message[:_MOST_TEXT], place[:_MOST_TEXT])


def _stated(given: dict[str, Any]) -> dict[str, Any]:
    if None in given.values():
        return {key: value for key, value in given.items() if value is not None}
    return given


def _check(raw: Mapping[str, Any]) -> None:
    try:
        size = len(orjson.dumps(raw))
    except (TypeError, RecursionError) as error:
        raise InvalidSchema("is not JSON, or nested too deeply") from error
    if size > MOST_BYTES:
        raise InvalidSchema(f"has more than {MOST_BYTES} bytes")
    if raw.get("type", "object") != "object":
        raise InvalidSchema("must describe an object: the event's properties")
    required = raw.get("required")
    for name in required if isinstance(required, list) else ():
        plain = re.sub(r"[\s_-]", "", str(name)).lower()
        if plain in IDENTIFIER_KEYS or plain in DROPPED_KEYS:
            # Every single event would be held.
            raise InvalidSchema(f"requires {name}, which is personal: it travels sealed and never stands in properties")


def _first_line(error: ValueError) -> str:
    text = error.message if isinstance(error, ValidationError) else str(error)
    return text.splitlines()[0][:_MOST_TEXT] if text else "is not a JSON Schema"
