"""The names that humans have: a person, whom she went into, and all who went into that one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Members:
    """All names of the humans of a chunk: persons ascending, the row each belongs to; `extended`: rows with several names."""

    person_id: Ints
    row: Ints
    extended: Flags

    @classmethod
    def of(cls, person_id: Ints, families: Ints, twice: Flags) -> Members:
        """Rows of humans who are there twice have no names but in their first row."""
        first = np.flatnonzero(~twice)
        order = first[np.argsort(person_id[first])]
        extended = np.zeros(len(person_id), np.bool_)
        if not len(families):
            return cls(person_id[order], order, extended)
        at = np.searchsorted(person_id[order], families[:, 0])
        inside = (at < len(order)) & (person_id[order[np.minimum(at, len(order) - 1)]] == families[:, 0])
        rows = order[at[inside]]
        extended[rows] = True
        persons = np.concatenate([person_id[order], families[inside, 2]])
        all_rows = np.concatenate([order, rows])
        # A name that was asked for itself, and is another one's as well, is in the first row of its human only.
        persons, kept = np.unique(persons, return_index=True)
        return cls(persons, all_rows[kept], extended)

    def rows_of(self, persons: Sequence[int]) -> Ints:
        """The rows of some of these persons."""
        found: Ints = self.row[np.searchsorted(self.person_id, np.array(persons, np.int64))]
        return found


def humans(person_id: Ints, families: Ints) -> tuple[Ints, Flags]:
    """(who each person is now, whether an earlier row is the same human)."""
    human = person_id.copy()
    if len(families):
        asked, first = np.unique(families[:, 0], return_index=True)
        place = np.searchsorted(asked, person_id)
        known = (place < len(asked)) & (asked[np.minimum(place, len(asked) - 1)] == person_id)
        human[known] = families[first, 1][place[known]]
    _, first = np.unique(human, return_index=True)
    twice = np.ones(len(human), np.bool_)
    twice[first] = False
    return human, twice


def lookup(persons: Ints, keys: Ints, values: Ints, missing: int) -> Ints:
    """Values by key (ascending) for each person, `missing` where there is none."""
    if not len(keys):
        return np.full(len(persons), missing, np.int64)
    at = np.minimum(np.searchsorted(keys, persons), len(keys) - 1)
    found: Ints = np.where(keys[at] == persons, values[at], missing)
    return found
