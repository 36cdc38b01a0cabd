"""Insights: which tag values an audience has more often than a base, and which of that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pyroaring import BitMap

from services.tags.domain.catalogue import Kind
from services.tags.index.columns import NumberColumn
from services.tags.index.index import AudienceIndex
from services.tags.index.values import counts_of, ranges_of, sets_of


@dataclass(frozen=True)
class DescribedTerm:
    """A predicate that selects one value or range, and how often audience and base have it.

    `p_value` is of one look (one-sided); `q_value` is the share of false discoveries (Benjamini and Hochberg) among all that
    look at least as good, over all that were compared.
    """

    tag: str
    predicate: str
    audience_count: int
    base_count: int
    lift: float
    z_score: float
    p_value: float
    q_value: float = 1.0


@dataclass(frozen=True)
class Description:
    """Over-represented values by falling z-score, and how many values and ranges were compared."""

    terms: Sequence[DescribedTerm]
    compared: int


def describe(index: AudienceIndex, kind: Kind, audience: BitMap, base: BitMap, skipping: frozenset[str]) -> Description:
    """All at once. `skipping` are tags that define the audience and say nothing new."""
    comparison = Comparison(index, kind, audience, base)
    return conclude([term for tag in index.columns(kind) if tag not in skipping for term in comparison.of(tag)])


def conclude(looked: Sequence[DescribedTerm]) -> Description:
    """Corrects for the number of looks and leaves what is over-represented."""
    ordered = sorted(looked, key=lambda term: (term.p_value, term.predicate))
    terms: list[DescribedTerm] = []
    least = 1.0
    for rank in range(len(ordered), 0, -1):
        term = ordered[rank - 1]
        least = min(least, term.p_value * len(ordered) / rank)
        if term.z_score > 0 and term.audience_count:
            terms.append(replace(term, q_value=least))
    return Description(sorted(terms, key=lambda term: (-term.z_score, term.predicate)), len(ordered))


class Comparison:
    """An audience beside a base, tag by tag."""

    def __init__(self, index: AudienceIndex, kind: Kind, audience: BitMap, base: BitMap) -> None:
        self._index, self._kind, self._audience, self._base = index, kind, audience, base
        self._whole = len(base) == len(index.present[kind])
        self._nested = self._whole or audience.issubset(base)
        # Those of the audience that are in the base.
        self._both = audience if self._nested else audience & base
        self._sizes = len(audience), len(self._both), len(base)

    def of(self, tag: str) -> Iterator[DescribedTerm]:
        """Each value of one tag that anyone of the base has, over- or under-represented, not corrected yet."""
        size, both, base = self._sizes
        for predicate, inside, common, base_count in self._counted(tag):
            if not base_count or not size:
                continue
            z_score = _z(common, both, base_count - common, base - both)
            lift = (inside / size) / (base_count / base)
            yield DescribedTerm(tag, predicate, inside, base_count, lift, z_score, math.erfc(z_score / math.sqrt(2)) / 2)

    def _counted(self, tag: str) -> Iterator[tuple[str, int, int, int]]:
        """(predicate, how many of the audience, of those of it that are in the base, and of the base) for each value."""
        audience, both, base = self._audience, self._both, self._base
        for predicate, members in sets_of(self._index, self._kind, tag):
            inside = audience.intersection_cardinality(members)
            common = inside if self._nested else both.intersection_cardinality(members)
            yield predicate, inside, common, len(members) if self._whole else base.intersection_cardinality(members)
        column = self._index.column(self._kind, tag)
        if isinstance(column, NumberColumn) and (ranges := ranges_of(self._index, self._kind, tag, base)):
            insides = counts_of(column, audience, ranges)
            commons = insides if self._nested else counts_of(column, both, ranges)
            bases = counts_of(column, base, ranges)
            for each, inside, common, base_count in zip(ranges, insides, commons, bases, strict=True):
                yield each.predicate, inside, common, base_count


def _z(inside: int, audience: int, outside: int, rest: int) -> float:
    """Two-proportion z with pooled variance; 0 when there is nothing to compare with."""
    if not audience or not rest:
        return 0.0
    pooled = (inside + outside) / (audience + rest)
    variance = pooled * (1 - pooled) * (1 / audience + 1 / rest)
    return (inside / audience - outside / rest) / math.sqrt(variance) if variance > 0 else 0.0
