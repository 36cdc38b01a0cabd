"""The language as a typed tree: what a predicate means, free of how it is written or run.

Three-valued as SQL: a comparison with a missing tag is neither true nor false. ANY is EXISTS, hence true or false.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.tags.domain.catalogue import Kind, Value

Operator = Literal["<", "<=", ">", ">="]


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


Term = Constant | Holds | Equals | Compares | IsMissing | IsTruth | Not | And | Or | Related


@dataclass(frozen=True)
class Case:
    """CASE WHEN … THEN constant … ELSE constant END; `default` None is a missing value."""

    branches: tuple[tuple[Term, Value], ...]
    default: Value | None


def tags_of(term: Term | Case) -> frozenset[str]:
    """Names of the tags of the entity itself that a term reads; those inside ANY belong to others."""
    match term:
        case Holds(tag) | Equals(tag) | Compares(tag) | IsMissing(tag):
            return frozenset((tag,))
        case IsTruth(inner) | Not(inner):
            return tags_of(inner)
        case And(terms) | Or(terms):
            return frozenset().union(*map(tags_of, terms))
        case Case(branches):
            return frozenset().union(*(tags_of(condition) for condition, _ in branches))
        case _:
            return frozenset()
