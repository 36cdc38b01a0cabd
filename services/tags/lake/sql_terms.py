"""Terms and numbers of the language as SQL expressions over one row: an event's, or an entity's with its tags.

What is asked of related entities is not part of the row: each such question becomes a table of its own (entity, answer) that
`Crossings` makes and the row is joined to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from services.tags.domain.catalogue import Kind
from services.tags.domain.language import DAY
from services.tags.domain.terms import (
    And,
    Arithmetic,
    Case,
    Compares,
    Constant,
    Contains,
    CountOf,
    DaysSince,
    Equals,
    Expression,
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
from services.tags.lake.dialects import Dialect

NUMBERS = (Figure, NumberOf, DaysSince, CountOf, Arithmetic)
_BATCH = 64


class Row(Protocol):
    """How the row spells its values."""

    def value(self, name: str, wanted: type) -> str:
        """A value as it is compared: float, str, bool or list."""

    def missing(self, name: str) -> str:
        """Whether there is none of any type."""


class Crossings(Protocol):
    """Answers about related entities, as columns of tables that will be joined."""

    def count(self, kind: Kind, term: Term) -> str:
        """How many related entities make the term true, 0 for none."""

    def truth(self, kind: Kind, relation: str, term: Term) -> str:
        """The term's truth at the one in a relation."""


class Writer:
    """Writes expressions over one kind of row, as of a moment (seconds)."""

    def __init__(self, dialect: Dialect, row: Row, now: float, crossings: Crossings | None = None) -> None:
        self._dialect, self._row, self._now, self._crossings = dialect, row, now, crossings

    def expression(self, expression: Expression) -> str:
        """A business tag's definition."""
        if isinstance(expression, NUMBERS):
            return self.number(expression)
        if not isinstance(expression, Case):
            return self.term(expression)
        branches = " ".join(f"WHEN {self.term(term)} THEN {self._constant(value)}" for term, value in expression.branches)
        default = "NULL" if expression.default is None else self._constant(expression.default)
        return f"CASE {branches} ELSE {default} END"

    def term(self, term: Term) -> str:  # noqa: C901, PLR0911, PLR0912  # one arm per kind of term
        """A predicate: TRUE, FALSE or NULL."""
        match term:
            case Constant(value):
                return "TRUE" if value else "FALSE"
            case Holds(tag):
                return self._row.value(tag, bool)
            case Equals(tag, values):
                wanted = ", ".join(self._constant(value) for value in values)
                return f"({self._row.value(tag, type(values[0]))} IN ({wanted}))"
            case Compares(tag, symbol, number):
                return f"({self._row.value(tag, float)} {symbol} {self._dialect.number(number)})"
            case Since(tag, symbol, seconds):
                return f"({self._age(tag)} {symbol} {self._dialect.number(seconds)})"
            case Contains(tag, words):
                return self._dialect.overlaps(self._row.value(tag, list), words)
            case IsMissing(tag):
                return f"({self._row.missing(tag)})"
            case IsTruth(inner, value):
                return f"({self.term(inner)} IS {'TRUE' if value else 'FALSE'})"
            case Not(inner):
                return f"(NOT {self.term(inner)})"
            case And(terms):
                return _joined("AND", terms, self.term)
            case Or(terms):
                return _joined("OR", terms, self.term)
            case Related(kind, inner):
                return f"({self._across.count(kind, inner)} > 0)"
            case Through(kind, relation, inner):
                return self._across.truth(kind, relation, inner)
            case Measures(left, symbol, right):
                return f"({self.number(left)} {symbol} {self.number(right)})"

    def number(self, number: Number) -> str:
        """A double or NULL."""
        match number:
            case Figure(value):
                return self._dialect.number(value)
            case NumberOf(tag):
                return self._row.value(tag, float)
            case DaysSince(tag):
                return f"CAST(FLOOR({self._age(tag)} / {self._dialect.number(DAY)}) AS DOUBLE)"
            case CountOf(kind, term):
                return f"CAST({self._across.count(kind, term)} AS DOUBLE)"
            case Arithmetic(symbol, left, right):
                divisor = self.number(right)
                if symbol == "/":
                    divisor = f"NULLIF({divisor}, {self._dialect.number(0)})"
                return self._finite(f"({self.number(left)} {symbol} {divisor})")

    @property
    def _across(self) -> Crossings:
        if self._crossings is None:
            raise TypeError("an event has no relations")
        return self._crossings

    def _age(self, tag: str) -> str:
        return f"({self._dialect.number(self._now)} - {self._row.value(tag, float)})"

    def _finite(self, value: str) -> str:
        for name in ("Infinity", "-Infinity", "NaN"):
            value = f"NULLIF({value}, CAST('{name}' AS DOUBLE))"
        return value

    def _constant(self, value: object) -> str:
        if isinstance(value, bool):
            return "TRUE" if value else "FALSE"
        return self._dialect.word(value) if isinstance(value, str) else self._dialect.number(value)  # type: ignore[arg-type]


def _joined(word: str, terms: tuple[Term, ...], write: Callable[[Term], str]) -> str:
    """Operands of AND or OR, in groups of groups: parsers nest as deep as a chain is long."""
    parts = [write(term) for term in terms]
    while len(parts) > 1:
        groups = [parts[i : i + _BATCH] for i in range(0, len(parts), _BATCH)]
        parts = [f"({f' {word} '.join(group)})" for group in groups]
    return parts[0]
