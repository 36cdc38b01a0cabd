"""Who is in which audience, as bits: one row for each predicate, read whole from tags every few seconds.

Looking up one person in all rows is one step, and no question to tags is asked while somebody waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Bits = NDArray[np.uint8]

_NEVER: Final = float("-inf")
# Persons' ids are dense; room is made for so many at a time.
_GROWTH: Final = 1 << 17


class Members:
    """Members of some predicates. `read` gives the ids of one; a predicate that it refuses has no members."""

    def __init__(self, read: Callable[[str], Awaitable[Ints]]) -> None:
        self._read = read
        self._row: dict[str, int] = {}
        self._bits: Bits = np.zeros((0, 0), np.uint8)
        self._read_at: NDArray[np.float64] = np.zeros(0)

    def rows(self, predicates: Sequence[str]) -> Ints:
        """The row of each predicate; new ones get one, without members until they are read."""
        for predicate in predicates:
            if predicate not in self._row:
                self._row[predicate] = len(self._row)
        if len(self._row) > len(self._bits):
            self._read_at = np.append(self._read_at, np.full(len(self._row) - len(self._bits) + 16, _NEVER))
            more = np.zeros((len(self._row) - len(self._bits) + 16, self._bits.shape[1]), np.uint8)
            self._bits = np.concatenate([self._bits, more])
        return np.array([self._row[predicate] for predicate in predicates], np.int64)

    def forget_all_but(self, wanted: Collection[str]) -> None:
        """Frees the rows of predicates that nobody asks for any more; all rows get new numbers."""
        kept = [predicate for predicate in self._row if predicate in wanted]
        if len(kept) == len(self._row):
            return
        places = [self._row[predicate] for predicate in kept]
        self._bits, self._read_at = self._bits[places], self._read_at[places]
        self._row = {predicate: number for number, predicate in enumerate(kept)}

    def has(self, person: int, rows: Ints) -> Flags:
        """For which rows a person is a member."""
        if person >> 3 >= self._bits.shape[1]:
            return np.zeros(len(rows), np.bool_)
        found: Flags = (self._bits[rows, person >> 3] >> np.uint8(person & 7) & np.uint8(1)).astype(np.bool_)
        return found

    def ages(self, rows: Ints) -> NDArray[np.float64]:
        """Seconds since each row was read; infinite for those that never were."""
        ages: NDArray[np.float64] = time.monotonic() - self._read_at[rows]
        return ages

    async def refresh(self, keep_s: float, limit: int) -> int:
        """Reads up to `limit` of the rows older than `keep_s` anew, the oldest first; returns how many."""
        now = time.monotonic()
        due = sorted((at, predicate) for predicate, row in self._row.items() if now - (at := self._read_at[row]) >= keep_s)
        for _, predicate in due[:limit]:
            began = time.monotonic()
            ids = await self._read(predicate)
            bits = await asyncio.to_thread(_packed, ids)
            # Rows may have been forgotten, or got new numbers, meanwhile.
            if (row := self._row.get(predicate)) is not None:
                self._keep(row, bits)
                self._read_at[row] = began
        return len(due[:limit])

    def _keep(self, row: int, bits: Bits) -> None:
        if len(bits) > self._bits.shape[1]:
            wider = np.zeros((len(self._bits), -(-len(bits) // _GROWTH) * _GROWTH), np.uint8)
            wider[:, : self._bits.shape[1]] = self._bits
            self._bits = wider
        self._bits[row, : len(bits)] = bits
        self._bits[row, len(bits) :] = 0


def _packed(ids: Ints) -> Bits:
    """Ids as bits, the lowest first."""
    flags = np.zeros(int(ids[-1]) + 1 if len(ids) else 0, np.bool_)
    flags[ids] = True
    return np.packbits(flags, bitorder="little")
