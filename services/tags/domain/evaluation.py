"""The first execution: an expression as a function of one entity's tags, for real time and for explanations."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from services.tags.domain.catalogue import Kind, Value
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
    own_parts,
)

Tags = Mapping[str, Any]


class Seen(NamedTuple):
    """What an expression is asked of: an entity's tags, the present moment (seconds), and who is around it."""

    tags: Tags
    now: float
    around: Around | None = None


class Around(Protocol):
    """The entities related to one; those of expressions that cross no relation are never asked for."""

    def related(self, kind: Kind) -> Sequence[Seen]:
        """Those of a kind, each once however often related."""

    def single(self, kind: Kind, relation: str) -> Seen | None:
        """The one in a relation, the lowest id of several."""


# None is unknown.
Truth = Callable[[Seen], bool | None]
Measure = Callable[[Seen], float | None]
Getter = Callable[[Seen], Any]
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
}


def tag_getter(tag: str, _type: type) -> Getter:
    """Tags have their declared type."""
    return lambda seen: seen.tags.get(tag)


def property_getter(name: str, wanted: type) -> Getter:
    """A property of another type than it is compared as says nothing."""

    def get(seen: Seen) -> Any:
        value = seen.tags.get(name)
        if wanted is float:
            return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
        return value if isinstance(value, wanted) else None

    return get


def compile_term(term: Term, getter: Callable[[str, type], Getter] = tag_getter) -> Truth:  # noqa: C901, PLR0911, PLR0912
    """A predicate as a closure; a tag that is not in the mapping is missing."""
    match term:
        case Constant(value):
            return lambda seen: value
        case Holds(tag):
            return getter(tag, bool)
        case Equals(tag, values):
            wanted = frozenset(values)
            have_of = getter(tag, type(values[0]))
            return lambda seen: None if (have := have_of(seen)) is None else have in wanted
        case Compares(tag, symbol, number):
            compare, value_of = _OPERATORS[symbol], getter(tag, float)
            return lambda seen: None if (have := value_of(seen)) is None else compare(have, number)
        case Since(tag, symbol, length):
            compares, moment_of = _OPERATORS[symbol], getter(tag, float)
            return lambda seen: None if (have := moment_of(seen)) is None else compares(seen.now - have, length)
        case Contains(tag, words):
            sought, words_of = frozenset(words), getter(tag, list)
            return lambda seen: None if (have := words_of(seen)) is None else not sought.isdisjoint(have)
        case IsMissing(tag):
            return lambda seen: seen.tags.get(tag) is None
        case IsTruth(inner, value):
            wrapped = compile_term(inner, getter)
            return lambda seen: wrapped(seen) is value
        case Not(inner):
            negated = compile_term(inner, getter)
            return lambda seen: None if (truth := negated(seen)) is None else not truth
        case And(terms):
            return _all([compile_term(each, getter) for each in terms])
        case Or(terms):
            return _some([compile_term(each, getter) for each in terms])
        case Related(kind, inner):
            other = compile_term(inner)
            return lambda seen: any(other(each) is True for each in _around(seen).related(kind))
        case Through(kind, relation, inner):
            there = compile_term(inner)
            return lambda seen: None if (one := _around(seen).single(kind, relation)) is None else there(one)
        case Measures(left, symbol, right):
            return _measured(compile_number(left, getter), _OPERATORS[symbol], compile_number(right, getter))


def _around(seen: Seen) -> Around:
    if seen.around is None:
        raise TypeError("this expression crosses relations, and nobody said who is around")
    return seen.around


def _all(parts: Sequence[Truth]) -> Truth:
    def conjunction(seen: Seen) -> bool | None:
        result: bool | None = True
        for part in parts:
            truth = part(seen)
            if truth is False:
                return False
            if truth is None:
                result = None
        return result

    return conjunction


def _some(parts: Sequence[Truth]) -> Truth:
    def disjunction(seen: Seen) -> bool | None:
        result: bool | None = False
        for part in parts:
            truth = part(seen)
            if truth is True:
                return True
            if truth is None:
                result = None
        return result

    return disjunction


def _measured(left: Measure, compare: Callable[[Any, Any], bool], right: Measure) -> Truth:
    def measured(seen: Seen) -> bool | None:
        one, other = left(seen), right(seen)
        return None if one is None or other is None else compare(one, other)

    return measured


def compile_number(number: Number, getter: Callable[[str, type], Getter] = tag_getter) -> Measure:
    """A number as a closure; None is missing. What is not finite is missing, too."""
    match number:
        case Figure(value):
            return lambda seen: value
        case NumberOf(tag):
            return getter(tag, float)
        case DaysSince(tag):
            moment_of = getter(tag, float)
            return lambda seen: None if (have := moment_of(seen)) is None else float(math.floor((seen.now - have) / DAY))
        case CountOf(kind, term):
            truth = compile_term(term)
            return lambda seen: float(sum(truth(each) is True for each in _around(seen).related(kind)))
        case Arithmetic(symbol, left, right):
            return _calculated(symbol, compile_number(left, getter), compile_number(right, getter))


def _calculated(symbol: str, left: Measure, right: Measure) -> Measure:
    calculate = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}[symbol]

    def calculated(seen: Seen) -> float | None:
        one, other = left(seen), right(seen)
        if one is None or other is None or (symbol == "/" and other == 0):
            return None
        value = calculate(one, other)
        return value if math.isfinite(value) else None

    return calculated


def compile_expression(expression: Expression) -> Callable[[Seen], Value | None]:
    """A business tag's definition as a function; None means that the entity has no such tag."""
    if isinstance(expression, (Figure, NumberOf, DaysSince, CountOf, Arithmetic)):
        return compile_number(expression)
    if not isinstance(expression, Case):
        return compile_term(expression)
    branches = [(compile_term(condition), value) for condition, value in expression.branches]
    default = expression.default

    def choose(seen: Seen) -> Value | None:
        for condition, value in branches:
            if condition(seen):
                return value
        return default

    return choose


_TICK = 1e-6


class Clocks:
    """When an expression changes by itself: at a tag's moment plus one of some lengths, or at each whole day since it."""

    def __init__(self, expressions: Sequence[Expression]) -> None:
        parts = [part for expression in expressions for part in own_parts(expression)]
        # "Longer ago than" comes true a microsecond after "as long ago as".
        self._ages = sorted(
            {(part.tag, part.seconds + _TICK * (part.operator in (">", "<="))) for part in parts if isinstance(part, Since)}
        )
        self._days = sorted({part.tag for part in parts if isinstance(part, DaysSince)})

    def next(self, tags: Tags, now: float) -> float:
        """The next moment after `now`, in seconds; infinity when there is none."""
        due = math.inf
        for tag, length in self._ages:
            if (have := tags.get(tag)) is not None and now < have + length < due:
                due = have + length
        for tag in self._days:
            if (have := tags.get(tag)) is not None:
                due = min(due, have + (math.floor((now - have) / DAY) + 1) * DAY)
        return due
