"""Sets of persons as one bit for each number: an eighth of a megabyte for a million."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_GROWTH: Final = 1 << 16


class Persons:
    """A set that persons are added to and asked for by the thousand."""

    def __init__(self) -> None:
        self._bits = np.zeros(0, np.uint8)

    def add(self, persons: Ints) -> None:
        """Adds persons; those who are in it stay."""
        if not len(persons):
            return
        if (top := int(persons.max()) >> 3) >= len(self._bits):
            more = np.zeros((top // _GROWTH + 1) * _GROWTH - len(self._bits), np.uint8)
            self._bits = np.concatenate([self._bits, more])
        np.bitwise_or.at(self._bits, persons >> 3, np.left_shift(1, persons & 7).astype(np.uint8))

    def __len__(self) -> int:
        return int(np.bitwise_count(self._bits).sum())

    def has(self, persons: Ints) -> Flags:
        """Which of some persons are in it."""
        inside = persons >> 3 < len(self._bits)
        found = np.zeros(len(persons), np.bool_)
        within = persons[inside]
        found[inside] = self._bits[within >> 3] >> (within & 7).astype(np.uint8) & 1 == 1
        return found
