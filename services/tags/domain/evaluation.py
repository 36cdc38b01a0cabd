"""The first execution: a term as a function of one entity's tags, for real time."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

from services.tags.domain.catalogue import Value
from services.tags.domain.terms import (
    And,
    Case,
    Compares,
    Constant,
    Equals,
    Holds,
    IsMissing,
    IsTruth,
    Not,
    Or,
    Related,
    Term,
)

Tags = Mapping[str, Value]
# (tags of the entity, tags of each related entity) -> True, False or None for unknown.
Truth = Callable[[Tags, Sequence[Tags]], bool | None]
_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def compile_term(term: Term) -> Truth:  # noqa: C901, PLR0911  # one arm per kind of term
    """A term as a closure; a tag that is not in the mapping is missing."""
    match term:
        case Constant(value):
            return lambda tags, related: value
        case Holds(tag):
            return lambda tags, related: tags.get(tag)  # type: ignore[return-value]  # the parser checked the type
        case Equals(tag, values):
            wanted = frozenset(values)
            return lambda tags, related: None if (have := tags.get(tag)) is None else have in wanted
        case Compares(tag, symbol, number):
            compare = _OPERATORS[symbol]
            return lambda tags, related: None if (have := tags.get(tag)) is None else compare(have, number)
        case IsMissing(tag):
            return lambda tags, related: tag not in tags
        case IsTruth(inner, value):
            wrapped = compile_term(inner)
            return lambda tags, related: wrapped(tags, related) is value
        case Not(inner):
            negated = compile_term(inner)
            return lambda tags, related: None if (truth := negated(tags, related)) is None else not truth
        case And(terms):
            return _all(tuple(map(compile_term, terms)))
        case Or(terms):
            return _some(tuple(map(compile_term, terms)))
        case Related(_, inner):
            other = compile_term(inner)
            return lambda tags, related: any(other(each, ()) is True for each in related)


def _all(parts: Sequence[Truth]) -> Truth:
    def conjunction(tags: Tags, related: Sequence[Tags]) -> bool | None:
        result: bool | None = True
        for part in parts:
            truth = part(tags, related)
            if truth is False:
                return False
            if truth is None:
                result = None
        return result

    return conjunction


def _some(parts: Sequence[Truth]) -> Truth:
    def disjunction(tags: Tags, related: Sequence[Tags]) -> bool | None:
        result: bool | None = False
        for part in parts:
            truth = part(tags, related)
            if truth is True:
                return True
            if truth is None:
                result = None
        return result

    return disjunction


def compile_expression(expression: Term | Case) -> Callable[[Tags], Value | None]:
    """A business tag's definition as a function of its entity's tags; None means that the entity has no such tag."""
    if not isinstance(expression, Case):
        truth = compile_term(expression)
        return lambda tags: truth(tags, ())
    branches = [(compile_term(condition), value) for condition, value in expression.branches]
    default = expression.default

    def choose(tags: Tags) -> Value | None:
        for condition, value in branches:
            if condition(tags, ()):
                return value
        return default

    return choose
