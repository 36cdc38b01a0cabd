"""Insights: which tag values an audience has more often than a base."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from pyroaring import BitMap

from services.tags.domain.catalogue import Kind, TagType
from services.tags.index.columns import BooleanColumn, CategoryColumn, NumberColumn, bitmap
from services.tags.index.index import AudienceIndex

RANGES = 8
# Words of one tag that are looked at, the most frequent first: free text would otherwise drown everything else.
MAX_WORDS = 500


@dataclass(frozen=True)
class DescribedTerm:
    """A predicate that selects one value or range, and how often audience and base have it."""

    tag: str
    predicate: str
    audience_count: int
    base_count: int
    lift: float
    z_score: float


def describe(index: AudienceIndex, kind: Kind, audience: BitMap, base: BitMap, skipping: frozenset[str]) -> list[DescribedTerm]:
    """Over-represented values, by falling z-score. `skipping` are tags that define the audience and say nothing new."""
    rest = base - audience
    described = []
    for tag, column in index.columns(kind).items():
        if tag in skipping:
            continue
        match column:
            case CategoryColumn():
                candidates = _words(tag, column)
            case BooleanColumn():
                candidates = iter(((tag, column.yes), (f"NOT {tag}", column.no)))
            case NumberColumn():
                is_time = index.catalogue.of(kind)[tag].type is TagType.TIME
                candidates = _ranges(tag, column, base, _moment if is_time else _number)
        for predicate, members in candidates:
            inside, outside = audience.intersection_cardinality(members), rest.intersection_cardinality(members)
            base_count = base.intersection_cardinality(members)
            if not inside or not base_count:
                continue
            lift = (inside / len(audience)) / (base_count / len(base))
            z_score = _z(inside, len(audience), outside, len(rest))
            if z_score > 0:
                described.append(DescribedTerm(tag, predicate, inside, base_count, lift, z_score))
    return sorted(described, key=lambda term: (-term.z_score, term.predicate))


def _words(tag: str, column: CategoryColumn) -> Iterator[tuple[str, BitMap]]:
    frequent = sorted(column.members.items(), key=lambda item: -len(item[1]))[:MAX_WORDS]
    for word, members in frequent:
        quoted = word.replace("'", "''")
        yield f"{tag} = '{quoted}'", members


def _ranges(tag: str, column: NumberColumn, base: BitMap, write: Callable[[float], str]) -> Iterator[tuple[str, BitMap]]:
    """Ranges between quantiles of the base, written with values that occur in it, so that the text selects exactly them."""
    ids = np.asarray(base.to_array(), np.int64)
    have = column.take(ids)
    have = np.sort(have[~np.isnan(have)])
    if not len(have):
        return
    edges = np.unique(np.quantile(have, np.linspace(0, 1, RANGES + 1)[1:-1], method="lower"))
    start = have[0]
    for edge in (*edges, have[-1]):
        if edge < start:
            continue
        low, high = write(start), write(edge)
        text = f"{tag} = {low}" if start == edge else f"{tag} BETWEEN {low} AND {high}"
        yield text, bitmap((column.values >= start) & (column.values <= edge))
        above = np.searchsorted(have, edge, side="right")
        if above == len(have):
            return
        start = have[above]


def _moment(value: float) -> str:
    return f"'{datetime.fromtimestamp(value, UTC).isoformat()}'"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def _z(inside: int, audience: int, outside: int, rest: int) -> float:
    """Two-proportion z with pooled variance; 0 when there is nothing to compare with."""
    if not audience or not rest:
        return 0.0
    pooled = (inside + outside) / (audience + rest)
    variance = pooled * (1 - pooled) * (1 / audience + 1 / rest)
    return (inside / audience - outside / rest) / math.sqrt(variance) if variance > 0 else 0.0
