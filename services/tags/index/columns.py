"""Columns of the audience index: one per tag, addressed by dense entity id. What was applied is the index's business.

Bitmaps that a column hands out are its own: they are read, never changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from services.tags.domain.catalogue import Value
from services.tags.index.bitmaps import bits_of, ids_of

Floats = NDArray[np.float64]
Numpy = TypeVar("Numpy", bound=np.generic)
_FIRST_SIZE = 1024
_CODES = (np.int8, np.int16, np.int32)


def grown(array: NDArray[Numpy], size: int, fill: float) -> NDArray[Numpy]:
    """The array, at least `size` long; doubling keeps growth cheap on average."""
    if size <= len(array):
        return array
    longer = np.full(max(size, 2 * len(array), _FIRST_SIZE), fill, array.dtype)
    longer[: len(array)] = array
    return longer


class NumberColumn:
    """Numbers and times as float64, NaN where there is none."""

    def __init__(self) -> None:
        self._known = BitMap()
        self._cells: Floats = np.zeros(0, np.float64)
        self._top = 0

    @property
    def values(self) -> Floats:
        """A view, as long as the highest id that was ever set."""
        return self._cells[: self._top]

    def set(self, entity_id: int, value: Value | None) -> None:
        """Puts a value, None for none."""
        if entity_id >= self._top:
            self._cells = grown(self._cells, entity_id + 1, np.nan)
            self._top = entity_id + 1
        if value is None:
            self._cells[entity_id] = np.nan
            self._known.discard(entity_id)
        else:
            self._cells[entity_id] = value
            self._known.add(entity_id)

    def known(self) -> BitMap:
        """Entities that have a value."""
        return self._known

    def take(self, entity_ids: NDArray[np.integer]) -> Floats:
        """Values of some entities, NaN where there is none."""
        if not len(entity_ids) or int(entity_ids.max()) < self._top:
            return np.take(self._cells, entity_ids)
        taken = np.full(len(entity_ids), np.nan)
        inside = entity_ids < self._top
        taken[inside] = self._cells[entity_ids[inside]]
        return taken

    def fill(self, values: Floats, known: BitMap) -> None:
        """Takes over a whole column, from id 0, with the ids that are not NaN in it."""
        self._cells, self._top, self._known = values, len(values), known


class BooleanColumn:
    """Yes and no as two bitmaps; in neither where there is none."""

    def __init__(self) -> None:
        self.yes, self.no = BitMap(), BitMap()

    def set(self, entity_id: int, value: Value | None) -> None:
        """Puts a value, None for none."""
        self.yes.discard(entity_id)
        self.no.discard(entity_id)
        if value is not None:
            (self.yes if value else self.no).add(entity_id)

    def known(self) -> BitMap:
        """Entities that have a value."""
        return self.yes | self.no

    def take(self, entity_ids: NDArray[np.integer]) -> Floats:
        """1, 0, or NaN where there is none."""
        taken = np.full(len(entity_ids), np.nan)
        for value, members in ((0.0, self.no), (1.0, self.yes)):
            taken[belong(entity_ids, members)] = value
        return taken

    def fill(self, yes: BitMap, no: BitMap) -> None:
        """Takes over a whole column."""
        self.yes, self.no = yes, no


class CategoryColumn:
    """Words: a bitmap per word, and a code per entity (-1 where there is none) as wide as the number of words needs."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.members: dict[str, BitMap] = {}
        self._known = BitMap()
        self._codes_of: dict[str, int] = {}
        self._codes: NDArray[np.signedinteger] = np.zeros(0, _CODES[0])

    def set(self, entity_id: int, value: Value | None) -> None:
        """Puts a word, None for none."""
        if entity_id >= len(self._codes):
            self._codes = grown(self._codes, entity_id + 1, -1)
        old = int(self._codes[entity_id])
        if old >= 0:
            self.members[self.words[old]].discard(entity_id)
        if value is None:
            self._codes[entity_id] = -1
            self._known.discard(entity_id)
            return
        code = self._code(str(value))
        self._codes[entity_id] = code
        self.members[self.words[code]].add(entity_id)
        self._known.add(entity_id)

    def _code(self, word: str) -> int:
        code = self._codes_of.get(word)
        if code is None:
            code = self._codes_of[word] = len(self.words)
            self.words.append(word)
            self.members[word] = BitMap()
            if code > np.iinfo(self._codes.dtype).max:
                self._codes = self._codes.astype(_CODES[_CODES.index(self._codes.dtype.type) + 1])
        return code

    def known(self) -> BitMap:
        """Entities that have a word."""
        return self._known

    def union(self, words: Iterable[object]) -> BitMap:
        """Entities that have one of these words."""
        return union_of(self.members, words)

    def take(self, entity_ids: NDArray[np.integer]) -> tuple[list[int], Sequence[str]]:
        """(index into words or -1 for each entity, the words that occur among them)."""
        codes = np.full(len(entity_ids), -1, np.int64)
        inside = entity_ids < len(self._codes)
        codes[inside] = self._codes[entity_ids[inside]]
        present = np.unique(codes[codes >= 0])
        local = np.where(codes >= 0, np.searchsorted(present, codes), -1)
        return local.tolist(), [self.words[code] for code in present.tolist()]

    def fill(self, members: dict[str, BitMap]) -> None:
        """Takes over a whole column: entities by word, no entity at two words."""
        self._known = BitMap.union(*members.values()) if members else BitMap()
        self.words, self.members = list(members), members
        self._codes_of = {word: code for code, word in enumerate(self.words)}
        width = next(width for width in _CODES if len(members) <= np.iinfo(width).max)
        size = self._known.max() + 1 if self._known else 0
        self._codes = np.full(size, -1, width)
        for code, entities in enumerate(members.values()):
            self._codes[ids_of(entities)] = code


class SetColumn:
    """Several words each: a bitmap per word, and who has any, be it an empty set."""

    def __init__(self) -> None:
        self.members: dict[str, BitMap] = {}
        self._known = BitMap()

    def set(self, entity_id: int, value: Value | None) -> None:
        """Puts a list of words, None for none."""
        words = value if isinstance(value, list) else ()
        if entity_id in self._known:
            for word, members in self.members.items():
                if word not in words:
                    members.discard(entity_id)
        for word in words:
            self.members.setdefault(word, BitMap()).add(entity_id)
        (self._known.discard if value is None else self._known.add)(entity_id)

    def known(self) -> BitMap:
        """Entities that have a set."""
        return self._known

    def union(self, words: Iterable[object]) -> BitMap:
        """Entities that have at least one of these words."""
        return union_of(self.members, words)

    def take(self, entity_ids: NDArray[np.integer]) -> list[list[str] | None]:
        """The words of each entity, sorted; None where there is no set."""
        asked = BitMap(entity_ids.tolist())
        taken: dict[int, list[str]] = {entity_id: [] for entity_id in asked & self._known}
        for word in sorted(self.members):
            for entity_id in self.members[word] & asked:
                taken[entity_id].append(word)
        return [taken.get(entity_id) for entity_id in entity_ids.tolist()]

    def fill(self, members: dict[str, BitMap], known: BitMap) -> None:
        """Takes over a whole column: entities by word, and who has a set at all."""
        self.members, self._known = members, known


class TextColumn:
    """Who has a text; what it says is in the database only."""

    def __init__(self) -> None:
        self._known = BitMap()

    def set(self, entity_id: int, value: Value | None) -> None:
        """Puts a text, None for none."""
        (self._known.discard if value is None else self._known.add)(entity_id)

    def known(self) -> BitMap:
        """Entities that have a text."""
        return self._known

    def fill(self, known: BitMap) -> None:
        """Takes over a whole column."""
        self._known = known


Column = NumberColumn | BooleanColumn | CategoryColumn | SetColumn | TextColumn


def union_of(members: dict[str, BitMap], words: Iterable[object]) -> BitMap:
    """Entities at one of these words."""
    found = [entities for word in words if isinstance(word, str) and (entities := members.get(word)) is not None]
    if len(found) == 1:
        return found[0]
    return BitMap.union(*found) if found else BitMap()


def belong(entity_ids: NDArray[np.integer], members: BitMap) -> NDArray[np.bool_]:
    """Which of these ids, in any order, a bitmap has."""
    if len(entity_ids) < 64:
        return np.fromiter((entity_id in members for entity_id in entity_ids.tolist()), np.bool_, len(entity_ids))
    if len(members) > 4 * len(entity_ids):
        bits = bits_of(members, int(entity_ids.max()) + 1)
        set_: NDArray[np.bool_] = (bits[entity_ids >> 3] >> (entity_ids & 7) & 1).astype(np.bool_)
        return set_
    inside = ids_of(members)
    places = np.searchsorted(inside, entity_ids)
    places[places == len(inside)] = 0
    return np.equal(inside[places], entity_ids) if len(inside) else np.zeros(len(entity_ids), np.bool_)
