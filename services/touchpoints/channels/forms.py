"""What an endpoint of a channel consists of: each channel declares it beside its code, one function fills it in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from chassis.errors import InvalidArgument
from services.touchpoints.endpoints import Endpoint

PRINTABLE = r"[^\x00-\x1f\x7f]{1,200}"
CODE = r"[A-Za-z0-9_-]{1,64}"
PREVIOUS = "previous_"


def _sound(_value: str) -> str:
    return ""


@dataclass(frozen=True)
class Field:
    """One value of an endpoint."""

    name: str
    meaning: str
    required: bool = True
    # What the whole value must match.
    pattern: str = PRINTABLE
    # What is wrong with a value that matches; empty when nothing is.
    check: Callable[[str], str] = _sound
    # The old value stays good beside a new one, as `previous_<name>`, until that is given empty.
    rotates: bool = False


_NUMBER = r"[1-9][0-9]{0,8}"
# What the engine asks of every endpoint, whatever its channel.
COMMON = (
    Field(
        "order", "parallel, or ordered: one push at a time, the next when the one before has ended", False, "parallel|ordered"
    ),
    Field(
        "rate_per_s",
        "pushes a second that it takes in the long run, over all replicas",
        False,
        r"(?!0*\.?0*$)[0-9]{1,6}(\.[0-9]{1,3})?",
    ),
    Field("burst", "pushes that it takes at once; without it as many as in a second", False, _NUMBER),
    Field("daily_quota", "pushes that it takes a day", False, _NUMBER),
)


@dataclass(frozen=True)
class Form:
    """All values of the endpoints of one channel."""

    # What tells its endpoints apart; None where there is one only.
    scope: Field | None = None
    settings: tuple[Field, ...] = ()
    secrets: tuple[Field, ...] = ()
    # Where it pushes to when no address is given.
    default_url: str = ""
    # Whether it has a Standard Webhooks secret, made here: what is sent carries it, and feedback comes under it.
    signed: bool = False


def filled(form: Form, given: Endpoint, known: Endpoint | None) -> Endpoint:
    """The endpoint as it shall be: what was known with what is given; an empty value takes one away.

    Raises InvalidArgument naming the field, for example endpoint.secrets.app_secret.
    """
    url = given.url or (known.url if known else "") or form.default_url
    if not url:
        raise _wrong("url", "is required")
    if form.scope is None and given.scope:
        raise _wrong("scope", "this channel has no scope")
    if form.scope is not None and not re.fullmatch(form.scope.pattern, given.scope):
        raise _wrong("scope", f"must be {form.scope.meaning}")
    before = known or replace(given, settings={}, secrets={})
    return replace(
        given,
        url=url,
        settings=_merged("settings", (*form.settings, *COMMON), given.settings, before.settings),
        secrets=_merged("secrets", form.secrets, given.secrets, before.secrets),
    )


def values(secrets: Mapping[str, str], name: str) -> tuple[str, ...]:
    """The values of a field that rotates, the present one first."""
    return tuple(value for key in (name, PREVIOUS + name) if (value := secrets.get(key, "")))


def _merged(part: str, fields: Sequence[Field], given: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    declared = dict(_named(fields))
    for name, value in given.items():
        path = f"{part}.{name}"
        if name not in declared:
            raise _wrong(path, f"is not among the {part} of this channel: {', '.join(declared) or 'it has none'}")
        field = declared[name]
        if value and not re.fullmatch(field.pattern, value, re.DOTALL):
            raise _wrong(path, f"does not look like {field.meaning}")
        if value and (wrong := field.check(value)):
            raise _wrong(path, wrong)
    after = {**known, **given}
    for field in fields:
        old, new = known.get(field.name, ""), after.get(field.name, "")
        if field.rotates and old and new != old and PREVIOUS + field.name not in given:
            after[PREVIOUS + field.name] = old
        if field.required and not new:
            raise _wrong(f"{part}.{field.name}", f"is required: {field.meaning}")
    return {name: value for name, value in sorted(after.items()) if value and name in declared}


def _named(fields: Sequence[Field]) -> Iterator[tuple[str, Field]]:
    for field in fields:
        yield field.name, field
        if field.rotates:
            yield PREVIOUS + field.name, field


def _wrong(path: str, message: str) -> InvalidArgument:
    return InvalidArgument(message, field=f"endpoint.{path}")
