"""What a predicate would be if some tags were defined otherwise: their definitions are written into it in place of their names.

So the index, which has the values of the present definitions, can count what would be.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping

from services.tags.domain.catalogue import Kind, Value
from services.tags.domain.terms import (
    And,
    Arithmetic,
    Case,
    Compares,
    Constant,
    CountOf,
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
    Operator,
    Or,
    Related,
    Term,
    Through,
)

# Neither true nor false.
UNKNOWN = Measures(Arithmetic("/", Figure(1.0), Figure(0.0)), "=", Figure(1.0))

_OPERATORS: Mapping[Operator, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
}


class NotCountable(Exception):  # it is no error, only a limit
    """A number that is chosen by CASE stands in a calculation, which the index cannot do."""


class Inlining:
    """Writes definitions in place of names."""

    def __init__(self, expressions: Mapping[Kind, Mapping[str, Expression]]) -> None:
        """`expressions`: the tags to be replaced, by kind and name."""
        self._expressions = expressions

    def term(self, kind: Kind, term: Term) -> Term:  # noqa: C901, PLR0911, PLR0912  # one arm per form
        """A predicate over entities of a kind, with definitions for names. Raises NotCountable."""
        match term:
            case Holds(tag) if (meant := self._meant(kind, tag)) is not None:
                return _values(meant, {True}) if isinstance(meant, Case) else meant  # type: ignore[return-value]
            case Equals(tag, values) if (meant := self._meant(kind, tag)) is not None:
                if isinstance(meant, Case):
                    return _values(meant, set(values))
                return Or(tuple(Measures(meant, "=", Figure(float(value))) for value in values))  # type: ignore[arg-type]
            case Compares(tag, symbol, number) if (meant := self._meant(kind, tag)) is not None:
                if isinstance(meant, Case):
                    return _values(meant, {value for value in _results(meant) if _compare(value, symbol, number)})
                return Measures(meant, symbol, Figure(number))  # type: ignore[arg-type]
            case IsMissing(tag) if (meant := self._meant(kind, tag)) is not None:
                return _missing(meant)
            case IsTruth(inner, value):
                return IsTruth(self.term(kind, inner), value)
            case Not(inner):
                return Not(self.term(kind, inner))
            case And(terms):
                return And(tuple(self.term(kind, each) for each in terms))
            case Or(terms):
                return Or(tuple(self.term(kind, each) for each in terms))
            case Related(other, inner):
                return Related(other, self.term(other, inner))
            case Through(other, relation, inner):
                return Through(other, relation, self.term(other, inner))
            case Measures(left, symbol, right):
                return Measures(self._number(kind, left), symbol, self._number(kind, right))
            case _:
                return term

    def _number(self, kind: Kind, number: Number) -> Number:
        match number:
            case NumberOf(tag) if (meant := self._meant(kind, tag)) is not None:
                if isinstance(meant, Case):
                    raise NotCountable
                return meant  # type: ignore[return-value]
            case CountOf(other, inner):
                return CountOf(other, self.term(other, inner))
            case Arithmetic(sign, left, right):
                return Arithmetic(sign, self._number(kind, left), self._number(kind, right))
            case _:
                return number

    def _meant(self, kind: Kind, tag: str) -> Expression | None:
        """The definition of a tag that is replaced, with those that it is built on replaced, too."""
        expression = self._expressions[kind].get(tag)
        if expression is None:
            return None
        if isinstance(expression, Case):
            branches = tuple((self.term(kind, condition), value) for condition, value in expression.branches)
            return Case(branches, expression.default)
        if isinstance(expression, Number):
            return self._number(kind, expression)
        return self.term(kind, expression)


def _results(case: Case) -> set[Value]:
    return {value for value in (*(value for _, value in case.branches), case.default) if value is not None}


def _values(case: Case, wanted: Collection[object]) -> Term:
    """That a CASE gives one of these values; unknown where it gives none at all."""
    chosen = _chosen(case, lambda value: value is not None and value in wanted)
    return Or((chosen, And((_missing(case), UNKNOWN))))


def _missing(expression: Expression) -> Term:
    if isinstance(expression, Case):
        return _chosen(expression, lambda value: value is None)
    if isinstance(expression, Number):
        return Not(IsTruth(Measures(expression, "=", expression), True))
    return And((Not(IsTruth(expression, True)), Not(IsTruth(expression, False))))


def _chosen(case: Case, fits: Callable[[Value | None], bool]) -> Term:
    """That the first branch whose condition is true has a value that fits; else the default."""
    result: Term = Constant(fits(case.default))
    for condition, value in reversed(case.branches):
        true: Term = IsTruth(condition, True)
        result = Or((true, result)) if fits(value) else And((Not(true), result))
    return result


def _compare(value: Value, symbol: Operator, number: float) -> bool:
    return isinstance(value, float) and _OPERATORS[symbol](value, number)
