"""Numbers over many entities at once, compared: vectors with NaN for what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from services.tags.domain.catalogue import Kind
from services.tags.domain.language import DAY
from services.tags.domain.terms import Arithmetic, CountOf, DaysSince, Figure, Number, NumberOf, Operator, Term
from services.tags.index.bitmaps import Ids
from services.tags.index.columns import Floats, NumberColumn
from services.tags.index.index import AudienceIndex

Mask = NDArray[np.bool_]
# So many numbers at once stay in a processor's cache from one operation to the next.
_CHUNK = 1 << 15
_COMPARE = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "=": np.equal}
_OPERATIONS = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}


class Vectors:
    """Values for the few, or for every id below `size`."""

    def __init__(
        self,
        index: AudienceIndex,
        kind: Kind,
        now: float,
        few: Ids | None,
        size: int,
        count_of: Callable[[Kind, Term], Floats],
    ) -> None:
        self._index, self._kind, self._now, self._few, self._size, self._count_of = index, kind, now, few, size, count_of
        self._found: dict[Number, Floats] = {}

    def compared(self, left: Number, operators: Sequence[Operator], right: Number) -> Mask:
        """Where one of the operators holds between two numbers; never where one of them is missing."""
        mask = np.empty(self._size, np.bool_)
        for low in range(0, self._size, _CHUNK):
            part = slice(low, min(low + _CHUNK, self._size))
            mask[part] = any_of(operators, self._of(left, part), self._of(right, part))
        return mask

    def _of(self, number: Number, part: slice) -> Floats | float:
        match number:
            case Figure(value):
                return value
            case NumberOf():
                return self._whole(number)[part]
            case DaysSince():
                return np.floor((self._now - self._whole(number)[part]) / DAY)
            case CountOf():
                return self._whole(number)[part]
            case Arithmetic(operator, left, right):
                with np.errstate(all="ignore"):
                    result: Floats = np.asarray(_OPERATIONS[operator](self._of(left, part), self._of(right, part)))
                return np.where(np.isfinite(result), result, np.nan)
            case _:
                assert_never(number)

    def _whole(self, number: NumberOf | DaysSince | CountOf) -> Floats:
        """The values that a number is made from, looked up once."""
        found = self._found.get(number)
        if found is None:
            if isinstance(number, CountOf):
                counts = self._count_of(number.kind, number.term)
                found = fitted(counts, self._size, 0.0) if self._few is None else counts
            else:
                found = self._column(number.tag)
            self._found[number] = found
        return found

    def _column(self, tag: str) -> Floats:
        column = self._index.column(self._kind, tag)
        if not isinstance(column, NumberColumn):
            raise TypeError(f"{tag} is not a number")
        return fitted(column.values, self._size, np.nan) if self._few is None else column.take(self._few)


def any_of(operators: Sequence[Operator], left: Floats | float, right: Floats | float) -> Mask:
    """Comparisons with NaN are false, as they must be here for missing values."""
    found: Mask = np.asarray(_COMPARE[operators[0]](left, right))
    for operator in operators[1:]:
        found |= _COMPARE[operator](left, right)
    return found


def fitted(vector: Floats, size: int, fill: float) -> Floats:
    """A vector of this length: cut, or filled up."""
    if len(vector) >= size:
        return vector[:size]
    longer = np.full(size, fill)
    longer[: len(vector)] = vector
    return longer
