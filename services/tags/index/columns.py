"""Columns of the audience index: one per tag, addressed by dense entity id, each cell guarded by its version."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from services.tags.domain.catalogue import Value

Floats = NDArray[np.float64]
_FIRST_SIZE = 1024


def grown(array: NDArray[np.generic], size: int, fill: float) -> NDArray[np.generic]:
    """The array, at least `size` long; doubling keeps growth cheap on average."""
    if size <= len(array):
        return array
    longer = np.full(max(size, 2 * len(array), _FIRST_SIZE), fill, array.dtype)
    longer[: len(array)] = array
    return longer


class Versions:
    """The newest version applied per entity; 0 for none."""

    def __init__(self) -> None:
        self._applied: NDArray[np.generic] = np.zeros(0, np.int64)

    def advance(self, entity_id: int, version: int) -> bool:
        """True, and remembered, when the version is newer than what was applied."""
        if entity_id >= len(self._applied):
            self._applied = grown(self._applied, entity_id + 1, 0)
        if version <= self._applied[entity_id]:
            return False
        self._applied[entity_id] = version
        return True


class NumberColumn:
    """Numbers and times as float64, NaN where there is none."""

    def __init__(self) -> None:
        self.versions = Versions()
        self._cells: NDArray[np.generic] = np.zeros(0, np.float64)
        self._top = 0

    @property
    def values(self) -> Floats:
        """A view, as long as the highest id that was ever set."""
        return self._cells[: self._top]  # type: ignore[return-value]

    def set(self, entity_id: int, value: Value | None) -> None:
        """Puts a value, None for none."""
        if entity_id >= self._top:
            self._cells = grown(self._cells, entity_id + 1, np.nan)
            self._top = entity_id + 1
        self._cells[entity_id] = np.nan if value is None else value

    def known(self) -> BitMap:
        """Entities that have a value."""
        return bitmap(~np.isnan(self.values))

    def take(self, entity_ids: NDArray[np.int64]) -> Floats:
        """Values of some entities, NaN where there is none."""
        taken = np.full(len(entity_ids), np.nan)
        inside = entity_ids < self._top
        taken[inside] = self._cells[entity_ids[inside]]
        return taken


class BooleanColumn:
    """Yes and no as two bitmaps; in neither where there is none."""

    def __init__(self) -> None:
        self.versions = Versions()
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

    def take(self, entity_ids: NDArray[np.int64]) -> Floats:
        """1, 0, or NaN where there is none."""
        taken = np.full(len(entity_ids), np.nan)
        asked = BitMap(entity_ids.astype(np.uint32))
        for value, members in ((0.0, self.no), (1.0, self.yes)):
            taken[np.isin(entity_ids, np.asarray((asked & members).to_array()))] = value
        return taken


class CategoryColumn:
    """Words: a bitmap per word, and a code per entity (-1 where there is none)."""

    def __init__(self) -> None:
        self.versions = Versions()
        self.words: list[str] = []
        self.members: dict[str, BitMap] = {}
        self._codes_of: dict[str, int] = {}
        self._codes: NDArray[np.generic] = np.zeros(0, np.int32)

    def set(self, entity_id: int, value: Value | None) -> None:
        """Puts a word, None for none."""
        if entity_id >= len(self._codes):
            self._codes = grown(self._codes, entity_id + 1, -1)
        old = int(self._codes[entity_id])
        if old >= 0:
            self.members[self.words[old]].discard(entity_id)
        self._codes[entity_id] = -1 if value is None else self._code(str(value), entity_id)

    def _code(self, word: str, entity_id: int) -> int:
        code = self._codes_of.get(word)
        if code is None:
            code = self._codes_of[word] = len(self.words)
            self.words.append(word)
            self.members[word] = BitMap()
        self.members[word].add(entity_id)
        return code

    def known(self) -> BitMap:
        """Entities that have a word."""
        return bitmap(np.greater_equal(self._codes, 0))

    def union(self, words: Iterable[object]) -> BitMap:
        """Entities that have one of these words."""
        found = [members for word in words if isinstance(word, str) and (members := self.members.get(word)) is not None]
        return BitMap.union(*found) if found else BitMap()

    def take(self, entity_ids: NDArray[np.int64]) -> tuple[list[int], Sequence[str]]:
        """(index into words or -1 for each entity, the words that occur among them)."""
        codes = np.full(len(entity_ids), -1, np.int64)
        inside = entity_ids < len(self._codes)
        codes[inside] = self._codes[entity_ids[inside]]
        present = np.unique(codes[codes >= 0])
        local = np.where(codes >= 0, np.searchsorted(present, codes), -1)
        return local.tolist(), [self.words[code] for code in present.tolist()]


Column = NumberColumn | BooleanColumn | CategoryColumn


def bitmap(mask: NDArray[np.bool_]) -> BitMap:
    """Positions at which a mask is true, as a bitmap."""
    return BitMap(np.flatnonzero(mask).astype(np.uint32))
