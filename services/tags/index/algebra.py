"""The second execution: a term as bitmap and column algebra over the whole base.

Two mutual functions, because the logic has three values: `holds` gives where a term is true, `fails` where it is false;
unknown is in neither, and neither is computed unless asked for.
"""

from __future__ import annotations

from typing import assert_never

import numpy as np
from pyroaring import BitMap

from services.tags.domain.catalogue import Kind
from services.tags.domain.terms import (
    And,
    Compares,
    Constant,
    Equals,
    Holds,
    IsMissing,
    IsTruth,
    Not,
    Operator,
    Or,
    Related,
    Term,
)
from services.tags.index.columns import BooleanColumn, CategoryColumn, NumberColumn, bitmap
from services.tags.index.index import AudienceIndex

_COMPARE = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}
_OPPOSITE: dict[Operator, Operator] = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def audience(index: AudienceIndex, kind: Kind, term: Term) -> BitMap:
    """Entities of a kind that exist and for which a term is true; the bitmap is the caller's own."""
    return index.present[kind] & _holds(index, kind, term)


def _holds(index: AudienceIndex, kind: Kind, term: Term) -> BitMap:  # noqa: C901, PLR0911  # one arm per kind of term
    match term:
        case Constant(value):
            return index.present[kind] if value else BitMap()
        case Holds(tag):
            return _boolean(index, kind, tag).yes
        case Equals(tag, values):
            return _equal(index, kind, tag, values)
        case Compares(tag, operator, number):
            return _compared(index, kind, tag, operator, number)
        case IsMissing(tag):
            return index.present[kind] - index.column(kind, tag).known()
        case IsTruth(inner, value):
            return _holds(index, kind, inner) if value else _fails(index, kind, inner)
        case Not(inner):
            return _fails(index, kind, inner)
        case And(terms):
            return BitMap.intersection(*(_holds(index, kind, each) for each in terms))
        case Or(terms):
            return BitMap.union(*(_holds(index, kind, each) for each in terms))
        case Related(other, inner):
            return index.edges.across(audience(index, other, inner), other)
        case _:
            assert_never(term)


def _fails(index: AudienceIndex, kind: Kind, term: Term) -> BitMap:  # noqa: PLR0911  # one arm per kind of term
    match term:
        case Constant(value):
            return BitMap() if value else index.present[kind]
        case Holds(tag):
            return _boolean(index, kind, tag).no
        case Equals(tag, values):
            return index.column(kind, tag).known() - _equal(index, kind, tag, values)
        case Compares(tag, operator, number):
            return _compared(index, kind, tag, _OPPOSITE[operator], number)
        case Not(inner):
            return _holds(index, kind, inner)
        case And(terms):
            return BitMap.union(*(_fails(index, kind, each) for each in terms))
        case Or(terms):
            return BitMap.intersection(*(_fails(index, kind, each) for each in terms))
        case IsMissing() | IsTruth() | Related():
            # Never unknown: false wherever not true.
            return index.present[kind] - _holds(index, kind, term)
        case _:
            assert_never(term)


def _boolean(index: AudienceIndex, kind: Kind, tag: str) -> BooleanColumn:
    column = index.column(kind, tag)
    if not isinstance(column, BooleanColumn):
        raise TypeError(f"{tag} is not boolean")
    return column


def _equal(index: AudienceIndex, kind: Kind, tag: str, values: tuple[float | str, ...]) -> BitMap:
    column = index.column(kind, tag)
    if isinstance(column, CategoryColumn):
        return column.union(values)
    if isinstance(column, NumberColumn):
        return bitmap(np.isin(column.values, np.array(values, np.float64)))
    raise TypeError(f"{tag} is boolean")


def _compared(index: AudienceIndex, kind: Kind, tag: str, operator: Operator, number: float) -> BitMap:
    column = index.column(kind, tag)
    if not isinstance(column, NumberColumn):
        raise TypeError(f"{tag} has no order")
    # Comparisons with NaN are false, as they must be here for missing values.
    return bitmap(_COMPARE[operator](column.values, number))
