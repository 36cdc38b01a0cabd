"""The second execution: a term as bitmap and column algebra over the whole base, or over a few entities of it.

The logic has three values: `_Evaluation.where` gives where a term is true or where it is false; unknown is in neither, and
neither is computed unless asked for. Every bitmap inside has only entities that exist. Some are columns' own and are never
changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, assert_never

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from services.tags.domain.catalogue import Kind
from services.tags.domain.terms import (
    And,
    Compares,
    Constant,
    Contains,
    Equals,
    Holds,
    IsMissing,
    IsTruth,
    Measures,
    Not,
    Operator,
    Or,
    Related,
    Since,
    Term,
    Through,
)
from services.tags.index import measures
from services.tags.index.bitmaps import bitmap, from_ids, ids_of
from services.tags.index.columns import BooleanColumn, CategoryColumn, Floats, NumberColumn, SetColumn, belong
from services.tags.index.index import AudienceIndex

# One entity by id costs about as much as so many in a scan of all, and as so many in a gather over all edges.
_NARROW: Final = 16
_NARROW_ACROSS: Final = 128
_FALSE: dict[Operator, tuple[Operator, ...]] = {"<": (">=",), "<=": (">",), ">": ("<=",), ">=": ("<",), "=": ("<", ">")}


def audience(index: AudienceIndex, kind: Kind, term: Term, now: float, within: BitMap | None = None) -> BitMap:
    """Entities of a kind that exist and for which a term is true at a moment (seconds); the bitmap is the caller's own.

    `within` asks for these entities only; few of them cost little, however many there are in all.
    """
    return _Evaluation(index, kind, now, within).where(term, True).copy()


def count(index: AudienceIndex, kind: Kind, term: Term, now: float) -> int:
    """How many entities of a kind exist and make a term true; the bitmap of them is not made where it can be helped."""
    return _Evaluation(index, kind, now, None).size(term, True)


class _Evaluation:
    """Questions about one kind at one moment."""

    def __init__(self, index: AudienceIndex, kind: Kind, now: float, within: BitMap | None) -> None:
        self.index, self.kind, self.now = index, kind, now
        present = index.present[kind]
        self.all = present if within is None else present & within
        # Those that are worth being asked one by one.
        self._few = ids_of(self.all) if within is not None and len(self.all) * _NARROW < len(present) else None
        # Those whose edges are worth being followed one by one.
        self._fewer = self._few if len(self.all) * _NARROW_ACROSS < len(present) else None
        self._narrowed = within is not None

    def where(self, term: Term, wanted: bool) -> BitMap:  # noqa: C901, PLR0911, PLR0912  # one arm per kind of term
        """Entities for which a term is true, or false."""
        match term:
            case Constant(value):
                return self.all if value is wanted else BitMap()
            case Holds(tag):
                boolean = self._boolean(tag)
                return self._clip(boolean.yes if wanted else boolean.no)
            case Equals(tag, values):
                return self._equal(tag, values, wanted)
            case Contains(tag, words):
                column = self.index.column(self.kind, tag)
                if not isinstance(column, SetColumn):
                    raise TypeError(f"{tag} is not a set")
                return self._clip(column.union(words) if wanted else column.known() - column.union(words))
            case Compares(tag, operator, number):
                return self._compared(tag, operator, number, wanted, since=False)
            case Since(tag, operator, seconds):
                return self._compared(tag, operator, seconds, wanted, since=True)
            case Not(inner):
                return self.where(inner, not wanted)
            case And(terms):
                return self._intersection(terms, True) if wanted else self._union(terms, False)
            case Or(terms):
                return self._union(terms, True) if wanted else self._intersection(terms, False)
            case Through(other, relation, inner):
                return self._through(other, relation, inner, wanted)
            case Measures():
                return self._measured(term, wanted)
            case IsMissing() | IsTruth() | Related():
                # Never unknown: false wherever not true.
                found = self._certain(term)
                return found if wanted else self.all - found
            case _:
                assert_never(term)

    def size(self, term: Term, wanted: bool) -> int:
        """How many a term is true, or false, for."""
        match term:
            case Not(inner):
                return self.size(inner, not wanted)
            case IsTruth(inner, value) if wanted:
                return self.size(inner, value)
            case And(terms) if wanted:
                return self._intersection_size(terms, True)
            case Or(terms) if not wanted:
                return self._intersection_size(terms, False)
            case IsMissing() | IsTruth() | Related() if not wanted:
                return len(self.all) - self.size(term, True)
            case _:
                return len(self.where(term, wanted))

    def related(self, other: Kind, inner: Term) -> BitMap:
        """Entities related to at least one of another kind for which a term is true."""
        relations = self.index.relations
        pairs = None if self._fewer is None else relations.of(self.kind, other, self._fewer)
        if pairs is None:
            members = _Evaluation(self.index, other, self.now, None).where(inner, True)
            return relations.reached(self.kind, other, members) & self.all
        members = _Evaluation(self.index, other, self.now, pairs.neighbours()).where(inner, True)
        return self._of_few(pairs.positions[belong(pairs.targets, members)])

    def _certain(self, term: IsMissing | IsTruth | Related) -> BitMap:
        match term:
            case IsMissing(tag):
                return self.all - self.index.column(self.kind, tag).known()
            case IsTruth(inner, value):
                return self.where(inner, value)
            case Related(other, inner):
                return self.related(other, inner)

    def _clip(self, members: BitMap) -> BitMap:
        return members & self.all if self._narrowed else members

    def _boolean(self, tag: str) -> BooleanColumn:
        column = self.index.column(self.kind, tag)
        if not isinstance(column, BooleanColumn):
            raise TypeError(f"{tag} is not boolean")
        return column

    def _number(self, tag: str) -> NumberColumn:
        column = self.index.column(self.kind, tag)
        if not isinstance(column, NumberColumn):
            raise TypeError(f"{tag} has no order")
        return column

    def _equal(self, tag: str, values: tuple[float | str, ...], wanted: bool) -> BitMap:
        column = self.index.column(self.kind, tag)
        if isinstance(column, CategoryColumn):
            found = column.union(values)
        elif isinstance(column, NumberColumn):
            found = bitmap(np.isin(column.values, np.array(values, np.float64)))
        else:
            raise TypeError(f"{tag} is not compared with =")
        return self._clip(found if wanted else column.known() - found)

    def _compared(self, tag: str, operator: Operator, number: float, wanted: bool, since: bool) -> BitMap:
        column = self._number(tag)
        operators = (operator,) if wanted else _FALSE[operator]

        def mask(values: Floats) -> measures.Mask:
            return measures.any_of(operators, self.now - values if since else values, number)

        return self._chosen(mask(column.values if self._few is None else column.take(self._few)))

    def _measured(self, term: Measures, wanted: bool) -> BitMap:
        size = self._top() if self._few is None else len(self._few)
        vectors = measures.Vectors(self.index, self.kind, self.now, self._few, size, self._count_of)
        operators = (term.operator,) if wanted else _FALSE[term.operator]
        return self._chosen(vectors.compared(term.left, operators, term.right)) & self.all

    def _top(self) -> int:
        """One more than the highest id."""
        return self.all.max() + 1 if self.all else 0

    def _chosen(self, mask: measures.Mask) -> BitMap:
        """Those of the few, or of all ids, at which a mask is true."""
        return self._clip(bitmap(mask)) if self._few is None else from_ids(self._few[mask])

    def _of_few(self, positions: NDArray[np.int64]) -> BitMap:
        return BitMap() if self._few is None else from_ids(self._few[positions])

    def _count_of(self, other: Kind, inner: Term) -> Floats:
        """To how many each of the few, or of all ids, is related for which a term is true."""
        relations = self.index.relations
        pairs = None if self._few is None else relations.of(self.kind, other, self._few)
        if pairs is not None and self._few is not None:
            members = _Evaluation(self.index, other, self.now, pairs.neighbours()).where(inner, True)
            hits = pairs.positions[belong(pairs.targets, members)]
            return np.bincount(hits, minlength=len(self._few)).astype(np.float64)
        members = _Evaluation(self.index, other, self.now, None).where(inner, True)
        counts = relations.counted(self.kind, other, members)
        return counts if self._few is None else measures.fitted(counts, self._top(), 0.0)[self._few]

    def _through(self, other: Kind, relation: str, inner: Term, wanted: bool) -> BitMap:
        relations = self.index.relations
        pairs = None if self._fewer is None else relations.of(self.kind, other, self._fewer, relation)
        if pairs is None:
            members = _Evaluation(self.index, other, self.now, None).where(inner, wanted)
            return relations.single(self.kind, other, relation, members) & self.all
        members = _Evaluation(self.index, other, self.now, pairs.neighbours()).where(inner, wanted)
        return self._of_few(pairs.positions[belong(pairs.targets, members)])

    def _union(self, terms: Sequence[Term], wanted: bool) -> BitMap:
        return BitMap.union(*(self.where(term, wanted) for term in terms))

    def _intersection(self, terms: Sequence[Term], wanted: bool) -> BitMap:
        found = self._factors(terms, wanted)
        return found[0] if len(found) == 1 else BitMap.intersection(*found)

    def _intersection_size(self, terms: Sequence[Term], wanted: bool) -> int:
        found = self._factors(terms, wanted)
        if len(found) == 1:
            return len(found[0])
        first = found[0] if len(found) == 2 else BitMap.intersection(*found[:-1])
        return int(first.intersection_cardinality(found[-1]))

    def _factors(self, terms: Sequence[Term], wanted: bool) -> list[BitMap]:
        """Bitmaps whose intersection is asked for, the smallest first; scans and gathers see only who is left by then."""
        found = [self.where(term, wanted) for term in terms if not _is_slow(term)]
        found.sort(key=len)
        if found and not found[0]:
            return found[:1]
        slow = sorted((term for term in terms if _is_slow(term)), key=_crosses)
        for term in slow:
            if not found:
                found = [self.where(term, wanted)]
            elif len(found[0]) * (_NARROW_ACROSS if _crosses(term) else _NARROW) < len(self.all):
                left = found[0] if len(found) == 1 else BitMap.intersection(*found)
                found = [_Evaluation(self.index, self.kind, self.now, left).where(term, wanted)]
            else:
                found.append(self.where(term, wanted))
                found.sort(key=len)
        return found


def _is_slow(term: Term) -> bool:
    """True when a term looks at more than bitmaps."""
    match term:
        case Compares() | Since() | Measures() | Related() | Through():
            return True
        case Not(inner) | IsTruth(inner):
            return _is_slow(inner)
        case And(terms) | Or(terms):
            return any(map(_is_slow, terms))
        case _:
            return False


def _crosses(term: Term) -> bool:
    return not isinstance(term, (Compares, Since))
