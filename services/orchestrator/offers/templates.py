"""Texts with typed variables: `{price: number}`, `{model: word}`, `{until: time}`; `{{` and `}}` write braces."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from chassis.errors import InvalidArgument

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_VARIABLE = re.compile(r"([a-z][a-z0-9_]{0,39}): ?(number|word|time)", re.ASCII)
WORD_LENGTH = 100
# Six decimals and fifteen digits before the point are what a double holds faithfully together.
_LARGEST = 1e15

Value = float | str | datetime


class Type(StrEnum):
    """What a variable is filled with."""

    NUMBER = "number"
    WORD = "word"
    TIME = "time"


@dataclass(frozen=True)
class Variable:
    """A place in a text."""

    name: str
    type: Type


Parts = tuple[str | Variable, ...]


def parse(text: str, field: str) -> Parts:
    """A template's literal texts and variables in order; raises InvalidArgument with the 1-based `position` at fault."""
    parts: list[str | Variable] = []
    literal, end = "", 0
    for token in _TOKEN.finditer(text):
        literal, end = literal + text[end : token.start()], token.end()
        if token[0] in ("{{", "}}"):
            literal += token[0][0]
            continue
        if token[1] is None or not (stated := _VARIABLE.fullmatch(token[1])):
            raise InvalidArgument(
                "write a variable as {name: number}, {name: word} or {name: time}, and a brace twice",
                reason="INVALID_TEMPLATE",
                field=field,
                metadata={"position": str(token.start() + 1)},
            )
        parts += [literal, Variable(stated[1], Type(stated[2]))]
        literal = ""
    parts.append(literal + text[end:])
    plain = "".join(part for part in parts if isinstance(part, str))
    if bad := next((c for c in plain if is_control(c) and c != "\n"), ""):
        raise InvalidArgument(f"the character U+{ord(bad):04X} cannot be shown", reason="INVALID_TEMPLATE", field=field)
    return tuple(part for part in parts if part)


def is_control(character: str) -> bool:
    """Control and surrogate characters; channels refuse them or show boxes."""
    return unicodedata.category(character) in ("Cc", "Cs")


def variables(texts: Mapping[str, str]) -> dict[str, Type]:
    """All variables of some texts by name, given as field to text; raises InvalidArgument when one has two types."""
    found: dict[str, Type] = {}
    for field, text in texts.items():
        for part in parse(text, field):
            if isinstance(part, Variable) and found.setdefault(part.name, part.type) is not part.type:
                raise InvalidArgument(
                    f"{part.name} is a {found[part.name]} elsewhere", reason="VARIABLE_OF_TWO_TYPES", field=field
                )
    return found


def check(values: Mapping[str, Value], wanted: Mapping[str, Type], field: str) -> None:
    """Raises InvalidArgument unless exactly the wanted variables are given, each of its type."""
    if unknown := sorted(set(values) - set(wanted)):
        raise InvalidArgument(f"there is no variable {unknown[0]}", reason="UNKNOWN_VARIABLE", field=f"{field}.{unknown[0]}")
    for name, wanted_type in sorted(wanted.items()):
        where = f"{field}.{name}"
        if name not in values:
            raise InvalidArgument(f"{name} ({wanted_type}) is missing", reason="MISSING_VARIABLE", field=where)
        if type_of(values[name]) is not wanted_type:
            raise InvalidArgument(f"{name} must be a {wanted_type}", reason="WRONG_VARIABLE_TYPE", field=where)
        if fault := _fault(values[name]):
            raise InvalidArgument(f"{name} {fault}", reason="INVALID_VARIABLE", field=where)


def type_of(value: Value) -> Type:
    """The type that a value is of."""
    if isinstance(value, str):
        return Type.WORD
    return Type.TIME if isinstance(value, datetime) else Type.NUMBER


def _fault(value: Value) -> str:
    if isinstance(value, str):
        if not value.strip() or len(value) > WORD_LENGTH or any(map(is_control, value)):
            return f"must have 1 to {WORD_LENGTH} characters that can be shown"
    elif isinstance(value, float) and not (math.isfinite(value) and abs(value) < _LARGEST):
        return "must be a number that can be written out"
    return ""


def fill(parts: Sequence[str | Variable], values: Mapping[str, Value], clock: timedelta) -> str:
    """The text with checked values; numbers as digits, times as `2026-05-01 09:00` on a clock so far ahead of UTC.

    Digits read the same in each language; grouping and month names would need a table of locales.
    """
    return "".join(part if isinstance(part, str) else _written(values[part.name], clock) for part in parts)


def _written(value: Value, clock: timedelta) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return (value + clock).strftime("%Y-%m-%d %H:%M")
    # The sum turns -0.0 into 0.0.
    return f"{round(value, 6) + 0.0:.6f}".rstrip("0").rstrip(".")
