"""The language as a typed tree: what a predicate means, free of how it is written or run.

Three-valued as SQL: a comparison with a missing tag is neither true nor false. ANY is EXISTS, hence true or false.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from services.tags.domain.catalogue import Kind, Value

Operator = Literal["<", "<=", ">", ">=", "="]


@dataclass(frozen=True)
class Constant:
    """TRUE or FALSE."""

    value: bool


@dataclass(frozen=True)
class Holds:
    """A boolean tag standing alone."""

    tag: str


@dataclass(frozen=True)
class Equals:
    """A tag equals one of these values: =, IN, and under Not also <> and NOT IN. Never for boolean tags."""

    tag: str
    values: tuple[float | str, ...]


@dataclass(frozen=True)
class Compares:
    """A number or time tag against a number (times as seconds since the epoch). BETWEEN is two of these."""

    tag: str
    operator: Operator
    number: float


@dataclass(frozen=True)
class Since:
    """How many seconds ago a time tag's moment was, against a number: turns true or false by itself."""

    tag: str
    operator: Operator
    seconds: float


@dataclass(frozen=True)
class Contains:
    """A set has at least one of these words."""

    tag: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class IsMissing:
    """IS NULL."""

    tag: str


@dataclass(frozen=True)
class IsTruth:
    """IS TRUE or IS FALSE: turns unknown into false."""

    term: Term
    value: bool


@dataclass(frozen=True)
class Not:
    """NOT."""

    term: Term


@dataclass(frozen=True)
class And:
    """AND over two or more terms."""

    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Or:
    """OR over two or more terms."""

    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Related:
    """ANY(kind, term): at least one related entity of that kind makes the term true."""

    kind: Kind
    term: Term


@dataclass(frozen=True)
class Through:
    """owner.x: the truth of a term at the one entity that stands in a relation, the lowest id of several; else unknown."""

    kind: Kind
    relation: str
    term: Term


@dataclass(frozen=True)
class Measures:
    """Two numbers compared; unknown where one of them is missing."""

    left: Number
    operator: Operator
    right: Number


Term = (
    Constant
    | Holds
    | Equals
    | Compares
    | Since
    | Contains
    | IsMissing
    | IsTruth
    | Not
    | And
    | Or
    | Related
    | Through
    | Measures
)


@dataclass(frozen=True)
class Figure:
    """A number."""

    number: float


@dataclass(frozen=True)
class NumberOf:
    """The value of a number tag."""

    tag: str


@dataclass(frozen=True)
class DaysSince:
    """Whole days since a time tag's moment, rounded down."""

    tag: str


@dataclass(frozen=True)
class CountOf:
    """COUNT(kind, term): how many related entities of that kind make the term true; never missing."""

    kind: Kind
    term: Term


@dataclass(frozen=True)
class Arithmetic:
    """Of two numbers; missing where one of them is, and x / 0 is missing, too."""

    operator: Literal["+", "-", "*", "/"]
    left: Number
    right: Number


Number = Figure | NumberOf | DaysSince | CountOf | Arithmetic


@dataclass(frozen=True)
class Case:
    """CASE WHEN … THEN constant … ELSE constant END; `default` None is a missing value."""

    branches: tuple[tuple[Term, Value], ...]
    default: Value | None


# What may define a business tag.
Expression = Term | Number | Case


def parts_of(expression: Expression) -> tuple[Expression, ...]:
    """What an expression is directly made of, on its own entity and on others."""
    match expression:
        case IsTruth(inner) | Not(inner) | Related(_, inner) | CountOf(_, inner) | Through(_, _, inner):
            return (inner,)
        case And(terms) | Or(terms):
            return terms
        case Measures(left, _, right) | Arithmetic(_, left, right):
            return (left, right)
        case Case(branches):
            return tuple(condition for condition, _ in branches)
        case _:
            return ()


def own_parts(expression: Expression) -> Iterator[Expression]:
    """An expression and all that it is made of, without what is asked of related entities."""
    yield expression
    if not isinstance(expression, (Related, CountOf, Through)):
        for part in parts_of(expression):
            yield from own_parts(part)


def tags_of(expression: Expression) -> frozenset[str]:
    """Names of the tags of the entity itself that an expression reads; those of related entities belong to others."""
    return frozenset(tag for part in own_parts(expression) if (tag := getattr(part, "tag", None)) is not None)


def crosses(expression: Expression) -> bool:
    """True when it asks related entities anything."""
    return any(isinstance(part, (Related, CountOf, Through)) for part in own_parts(expression))


def is_clocked(expression: Expression) -> bool:
    """True when its value may change with time alone, its own tags unchanged."""
    return any(isinstance(part, (Since, DaysSince)) for part in own_parts(expression))
