"""A typed tree back as text that parses to the same tree: what explanations and portraits quote."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import assert_never

from services.tags.domain.catalogue import SINGLE, Catalogue, Kind, TagType
from services.tags.domain.language import DAY
from services.tags.domain.terms import (
    And,
    Arithmetic,
    Compares,
    Constant,
    Contains,
    CountOf,
    DaysSince,
    Equals,
    Figure,
    Holds,
    IsMissing,
    IsTruth,
    Measures,
    Not,
    Number,
    NumberOf,
    Or,
    Related,
    Since,
    Term,
    Through,
)

_COMPOUND = (And, Or)
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "="}


class Writer:
    """Writes terms about entities of one kind."""

    def __init__(self, catalogue: Catalogue, kind: Kind) -> None:
        self._catalogue, self._kind = catalogue, kind

    def term(self, term: Term) -> str:  # noqa: C901, PLR0911, PLR0912  # one arm per kind of term
        """The term as a predicate."""
        match term:
            case Constant(value):
                return "TRUE" if value else "FALSE"
            case Holds(tag):
                return tag
            case Equals(tag, (value,)):
                return f"{tag} = {self._literal(tag, value)}"
            case Equals(tag, values):
                return f"{tag} IN ({', '.join(self._literal(tag, value) for value in values)})"
            case Compares(tag, operator, number):
                return f"{tag} {operator} {self._literal(tag, number)}"
            case Since(tag, operator, seconds):
                return f"NOW() - {tag} {operator} {interval(seconds)}"
            case Contains(tag, words):
                asked = " OR ".join(f"CONTAINS({tag}, {quoted(word)})" for word in words)
                return asked if len(words) == 1 else f"({asked})"
            case IsMissing(tag):
                return f"{tag} IS NULL"
            case IsTruth(inner, value):
                return f"({self.term(inner)}) IS {'TRUE' if value else 'FALSE'}"
            case Not(IsMissing(tag)):
                return f"{tag} IS NOT NULL"
            case Not(Related(kind, Not(IsTruth(inner, True)))):
                return f"ALL({kind.name.lower()}, {self._of(kind).term(inner)})"
            case Not(inner):
                return f"NOT ({self.term(inner)})" if not isinstance(inner, Holds) else f"NOT {inner.tag}"
            case And(terms):
                return " AND ".join(self._part(each) for each in terms)
            case Or(terms):
                return " OR ".join(self._part(each) for each in terms)
            case Related(kind, inner):
                return f"ANY({kind.name.lower()}, {self._of(kind).term(inner)})"
            case Through(kind, relation, inner):
                return self._through(kind, relation, inner)
            case Measures(left, operator, right):
                return f"{self._number(left)} {operator} {self._number(right)}"
            case _:
                assert_never(term)

    def _part(self, term: Term) -> str:
        return f"({self.term(term)})" if isinstance(term, _COMPOUND) else self.term(term)

    def _of(self, kind: Kind) -> Writer:
        return Writer(self._catalogue, kind)

    def _through(self, kind: Kind, relation: str, inner: Term) -> str:
        name = next((name for name, led in SINGLE[self._kind].items() if led == (kind, relation)), relation)
        text = self._of(kind).term(inner)
        # One comparison of one tag reads as people write it; nothing else can be inside.
        if isinstance(inner, (Holds, Equals, Compares, IsMissing)):
            return f"{name}.{text}"
        if isinstance(inner, Since):
            return f"{name}.{inner.tag} {_MIRRORED[inner.operator]} NOW() - {interval(inner.seconds)}"
        return f"{name}.({text})"

    def _number(self, number: Number) -> str:
        match number:
            case Figure(value):
                return figure(value)
            case NumberOf(tag):
                return tag
            case DaysSince(tag):
                return f"DAYS_SINCE({tag})"
            case CountOf(kind, Constant(True)):
                return f"COUNT({kind.name.lower()})"
            case CountOf(kind, term):
                return f"COUNT({kind.name.lower()}, {self._of(kind).term(term)})"
            case Arithmetic(operator, left, right):
                return f"({self._number(left)} {operator} {self._number(right)})"
            case _:
                assert_never(number)

    def _literal(self, tag: str, value: float | str) -> str:
        if isinstance(value, str):
            return quoted(value)
        definition = self._catalogue.of(self._kind).get(tag)
        return moment(value) if definition is not None and definition.type is TagType.TIME else figure(value)


def quoted(word: str) -> str:
    """A word as a SQL literal."""
    return "'" + word.replace("'", "''") + "'"


def figure(value: float) -> str:
    """A number as a literal that reads back as the same number."""
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e15 else repr(float(value))


def moment(seconds: float) -> str:
    """Seconds since the epoch as an ISO 8601 literal; past the calendar's ends the number itself."""
    try:
        return quoted(datetime.fromtimestamp(seconds, UTC).isoformat())
    except (ValueError, OverflowError, OSError):
        return figure(seconds)


def interval(seconds: float) -> str:
    """A length of time in the largest unit that divides it."""
    for unit, length in (("days", DAY), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds and seconds % length == 0:
            return f"INTERVAL '{figure(seconds / length)} {unit}'"
    return f"INTERVAL '{figure(seconds)} seconds'"
