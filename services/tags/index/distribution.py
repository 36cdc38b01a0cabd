"""Insights: how the values of one tag spread over an audience, beside a base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pyroaring import BitMap

from services.tags.domain.catalogue import Kind
from services.tags.index.bitmaps import ids_of
from services.tags.index.columns import NumberColumn
from services.tags.index.index import AudienceIndex
from services.tags.index.values import counts_of, ranges_of, sets_of

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_WORDS = 50


@dataclass(frozen=True)
class Share:
    """A predicate that selects a value or range, and how many of audience and base have it."""

    predicate: str
    count: int
    base_count: int


@dataclass(frozen=True)
class Distribution:
    """Words by falling frequency in the audience, ranges ascending; `quantiles` of numbers and times, at QUANTILES."""

    tag: str
    shares: Sequence[Share]
    missing: int
    base_missing: int
    quantiles: Sequence[float] = ()


def distribution(
    index: AudienceIndex, kind: Kind, tag: str, audience: BitMap, base: BitMap, most: int = _WORDS
) -> Distribution:
    """How a tag spreads; of many words the `most` frequent ones. Ranges are those of the base."""
    column = index.column(kind, tag)
    known = column.known()
    missing = len(audience) - audience.intersection_cardinality(known)
    base_missing = len(base) - base.intersection_cardinality(known)
    if isinstance(column, NumberColumn):
        ranges = ranges_of(index, kind, tag, base | audience)
        counts, base_counts = counts_of(column, audience, ranges), counts_of(column, base, ranges)
        shares = [Share(each.predicate, *both) for each, *both in zip(ranges, counts, base_counts, strict=True)]
        values = column.take(ids_of(audience & known))
        quantiles = np.quantile(values, QUANTILES, method="lower").tolist() if len(values) else ()
        return Distribution(tag, shares, missing, base_missing, quantiles)
    found = [
        Share(predicate, audience.intersection_cardinality(members), base.intersection_cardinality(members))
        for predicate, members in sets_of(index, kind, tag)
    ]
    found = [share for share in found if share.count or share.base_count]
    return Distribution(tag, sorted(found, key=lambda s: (-s.count, s.predicate))[:most], missing, base_missing)
