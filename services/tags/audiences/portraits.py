"""A group in a few words, Chinese and English: the most telling of what sets it apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from services.tags.audiences.wording import Writer, figure, moment
from services.tags.domain.catalogue import Catalogue, Kind, TagType
from services.tags.domain.terms import And, Compares, Contains, Equals, Holds, Not, Term
from services.tags.index.describe import DescribedTerm

MOST_LINES: Final = 5
# Below that a difference is real, perhaps, but nothing to tell of.
_TELLING_LIFT: Final = 1.2


class Line(NamedTuple):
    """One thing that sets a group apart."""

    predicate: str
    english: str
    chinese: str


def portrait(
    catalogue: Catalogue,
    kind: Kind,
    terms: Iterable[DescribedTerm],
    sizes: tuple[int, int],
    rate: float,
    read: Callable[[str], Term],
) -> list[Line]:
    """Of terms by falling z-score the first of each tag that is significant and telling. `sizes`: audience and base."""
    lines: list[Line] = []
    told: set[str] = set()
    for term in terms:
        if term.tag in told or term.q_value > rate or term.lift < _TELLING_LIFT:
            continue
        told.add(term.tag)
        here, there = term.audience_count / sizes[0], term.base_count / sizes[1]
        english, chinese = _named(catalogue, kind, term.tag, read(term.predicate))
        lines.append(
            Line(
                term.predicate,
                f"{english}: {here:.0%} of the group, {there:.0%} of the base ({term.lift:.1f} times as many)",
                f"{chinese}：占该人群{here:.0%}，基准{there:.0%}（{term.lift:.1f}倍）",
            )
        )
        if len(lines) == MOST_LINES:
            break
    return lines


def _named(catalogue: Catalogue, kind: Kind, tag: str, term: Term) -> tuple[str, str]:
    definition = catalogue.of(kind)[tag]
    english, chinese = tag.replace("_", " "), definition.title or tag
    match term:
        case Holds():
            return english, chinese
        case Not(Holds()):
            return f"not {english}", f"非{chinese}"
        case Equals(_, (value,)) | Contains(_, (value,)):
            word = _written(value, definition.type)
            joined = "has" if definition.type is TagType.SET else "is"
            return f"{english} {joined} {word}", f"{chinese}{'含' if joined == 'has' else '为'}{word}"
        case And((Compares(_, ">=", low), Compares(_, "<=", high))):
            first, last = _written(low, definition.type), _written(high, definition.type)
            return f"{english} from {first} to {last}", f"{chinese}{first}至{last}"
        case _:
            text = Writer(catalogue, kind).term(term)
            return text, text


def _written(value: float | str, type_: TagType) -> str:
    if isinstance(value, str):
        return value
    return moment(value).strip("'")[:10] if type_ is TagType.TIME else figure(round(value, 2))
