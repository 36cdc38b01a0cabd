"""The values of a tag as sets that insights compare: each word, yes and no, or ranges of numbers between quantiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from services.tags.domain.catalogue import Kind, TagType
from services.tags.index.bitmaps import ids_of
from services.tags.index.columns import BooleanColumn, CategoryColumn, Floats, NumberColumn, SetColumn, belong
from services.tags.index.index import AudienceIndex

RANGES = 8
# Words of one tag that are looked at, the most frequent first: free text would otherwise drown everything else.
MAX_WORDS = 500
# Quantiles of more numbers than this are those of as many, evenly picked.
_SAMPLE = 100_000
_CHUNK = 1 << 15


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both of which occur, and a predicate that selects exactly them."""

    predicate: str
    low: float
    high: float


def sets_of(index: AudienceIndex, kind: Kind, tag: str, most: int = MAX_WORDS) -> Iterator[tuple[str, BitMap]]:
    """(predicate, who has the value) for each value of a tag whose values are words or yes and no; none for other tags."""
    column = index.column(kind, tag)
    match column:
        case BooleanColumn():
            yield tag, column.yes
            yield f"NOT {tag}", column.no
        case CategoryColumn() | SetColumn():
            form = "{} = '{}'" if isinstance(column, CategoryColumn) else "CONTAINS({}, '{}')"
            frequent = sorted(column.members.items(), key=lambda item: -len(item[1]))[:most]
            for word, members in frequent:
                if members:
                    yield form.format(tag, word.replace("'", "''")), members


def ranges_of(index: AudienceIndex, kind: Kind, tag: str, base: BitMap, most: int = RANGES) -> Sequence[Range]:
    """Ranges of about equal frequency in a base; none for tags that are not numbers or times."""
    column = index.column(kind, tag)
    if not isinstance(column, NumberColumn):
        return ()
    write = _moment if index.catalogue.of(kind)[tag].type is TagType.TIME else _number
    return list(_ranges(tag, _sample(index, kind, column, base), write, most))


def counts_of(column: NumberColumn, members: BitMap, ranges: Sequence[Range]) -> list[int]:
    """How many of some entities are in each range."""
    counts = [0] * len(ranges)
    values = _values(column, members)
    for low in range(0, len(values), _CHUNK):
        chunk = values[low : low + _CHUNK]
        for place, each in enumerate(ranges):
            counts[place] += int(np.count_nonzero((chunk >= each.low) & (chunk <= each.high)))
    return counts


def _values(column: NumberColumn, members: BitMap) -> Floats:
    known = column.known()
    # Of everyone who has a value nobody has to be looked up.
    return column.values if known.issubset(members) else column.take(ids_of(members & known))


def _sample(index: AudienceIndex, kind: Kind, column: NumberColumn, base: BitMap) -> Floats:
    if len(base) <= _SAMPLE:
        have = column.take(ids_of(base))
    else:
        picked = np.arange(0, len(column.values), max(1, len(column.values) * len(base) // len(index.present[kind]) // _SAMPLE))
        have = column.values[picked]
        if len(base) < len(index.present[kind]):
            have = have[belong(picked, base)]
    return np.sort(have[~np.isnan(have)])


def _ranges(tag: str, have: NDArray[np.float64], write: Callable[[float], str], most: int) -> Iterator[Range]:
    if not len(have):
        return
    edges = np.unique(np.quantile(have, np.linspace(0, 1, most + 1)[1:-1], method="lower"))
    start = float(have[0])
    for edge in (*edges.tolist(), float(have[-1])):
        if edge < start:
            continue
        text = f"{tag} = {write(start)}" if start == edge else f"{tag} BETWEEN {write(start)} AND {write(edge)}"
        yield Range(text, start, edge)
        above = int(np.searchsorted(have, edge, side="right"))
        if above == len(have):
            return
        start = float(have[above])


def _moment(value: float) -> str:
    return f"'{datetime.fromtimestamp(value, UTC).isoformat()}'"


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
