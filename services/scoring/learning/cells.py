"""What those have answered who share values: a further column per group of columns, for the trees to read.

Trees find edges, but not the hundreds of small groups that a list of words or a common circumstance makes (the day of a
campaign, told by five prices of that day): each alone is too small to be split for. Here a group's answers, pulled towards
the usual rate, become one number. Learners read that number from other rows than their own, or they would read their
answer in it (target encoding; Micci-Barreca 2001, "A preprocessing scheme for high-cardinality categorical attributes").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.scoring.domain import Floats
from services.scoring.frame import Encoding, Ids, Kind, Matrix
from services.scoring.learning.cut import Labels

# Words that are fewer, trees tell apart by themselves.
FEW_WORDS = 7
# Circumstances are shared: so many persons in a cell, or there is nothing to be read of it.
PERSONS = 50
# A column that the circumstances tell to this share is one of them.
TOLD = 0.6
# Circumstances show in as many rows.
MOST_ROWS = 30_000
# Answers at the usual rate that each cell begins with; of 5, 20 and 50 the best on bank_marketing's training part, by little.
USUAL = 20.0
# Everything that is known is at most this; unknown (NaN) is not.
_KNOWN = float(np.finfo(np.float32).max)
_NODE = np.dtype(
    [
        ("is_leaf", "?"),
        ("is_categorical", "?"),
        ("feature_idx", "i8"),
        ("num_threshold", "f8"),
        ("left", "i8"),
        ("right", "i8"),
        ("missing_go_to_left", "?"),
        ("value", "f8"),
    ]
)

Columns = tuple[int, ...]


@dataclass(frozen=True)
class Cells:
    """One tree that tells every combination of values from every other: log-odds of a row's cell.

    Nodes are laid out as scikit-learn's. A value between two known ones is taken for the upper; one that is unknown where it
    never was, for all persons who share what was asked before it.
    """

    nodes: NDArray[Any]

    def __call__(self, matrix: Matrix) -> Matrix:
        """A number per row."""
        at = np.zeros(len(matrix), np.int64)
        on = np.flatnonzero(~self.nodes["is_leaf"][at])
        while len(on):
            here = self.nodes[at[on]]
            low = matrix[on, here["feature_idx"]] <= here["num_threshold"]
            at[on] = np.where(low, here["left"], here["right"])
            on = on[~self.nodes["is_leaf"][at[on]]]
        return np.asarray(self.nodes["value"][at], np.float32)


def columns_to_tell(matrix: Matrix, encodings: Sequence[Encoding]) -> tuple[Columns, ...]:
    """Groups of columns: the circumstances, if there are any; every other column of more than a few words."""
    found = circumstances(matrix)
    # One column alone is a number like any other.
    shared = (found,) if len(found) > 1 else ()
    worded = (
        (place,)
        for place, encoding in enumerate(encodings)
        if encoding.feature.kind is Kind.CATEGORY and len(encoding.words) > FEW_WORDS and place not in found
    )
    return (*shared, *worded)


def circumstances(matrix: Matrix) -> Columns:
    """Columns that many persons share together, as all who are called on one day share its prices; found without labels.

    Begins with the column that divides persons most finely into groups that are large enough, and adds the columns that those
    groups (nearly) tell already, by the uncertainty coefficient.
    """
    if len(matrix) > MOST_ROWS:
        matrix = matrix[np.sort(np.random.default_rng(0).permutation(len(matrix))[:MOST_ROWS])]
    codes = [_codes(column) for column in matrix.T]
    alone = [_entropy(column) for column in codes]
    # As many equal cells as there are persons for.
    most = np.log(max(len(matrix) / PERSONS, 1))
    open_ = [place for place in range(len(codes)) if 0 < alone[place] <= most]
    chosen: list[int] = []
    cell, now = np.zeros(len(matrix), np.int64), 0.0
    while open_:
        joint = {place: _codes(cell * (codes[place].max() + 1) + codes[place]) for place in open_}
        entropy = {place: _entropy(cells) for place, cells in joint.items()}
        if chosen:
            open_ = [p for p in open_ if entropy[p] <= most and entropy[p] - now < (1 - TOLD) * alone[p]]
        if not open_:
            break
        place = min(open_, key=lambda each: entropy[each]) if chosen else max(open_, key=lambda each: entropy[each])
        cell, now = joint[place], entropy[place]
        chosen.append(place)
        open_.remove(place)
    return tuple(chosen)


def _codes(column: NDArray[Any]) -> Ids:
    return np.asarray(np.unique(column, return_inverse=True)[1], np.int64)


def _entropy(codes: Ids) -> float:
    shares = np.unique(codes, return_counts=True)[1] / len(codes)
    return float(-(shares * np.log(shares)).sum())


def fit_cells(matrix: Matrix, labels: Labels, columns: Columns) -> Cells:
    """The cells of a training matrix."""
    return Cells(_Growing(matrix, labels, columns).nodes())


def told(matrix: Matrix, labels: Labels, columns: Sequence[Columns], fold: Ids) -> Matrix:
    """Rows by groups of columns: each row by the answers of other folds than its own."""
    found = np.empty((len(matrix), len(columns)), np.float32)
    for number in np.unique(fold):
        inside = fold == number
        for place, group in enumerate(columns):
            found[inside, place] = fit_cells(matrix[~inside], labels[~inside], group)(matrix[inside])
    return found


class _Growing:
    """Grows the tree of `Cells` column by column: unknown to the right, the rest halved down to each value."""

    def __init__(self, matrix: Matrix, labels: Labels, columns: Columns) -> None:
        self._matrix, self._labels, self._columns = matrix, labels, columns
        self._rate = float(labels.mean())
        self._nodes: list[tuple[Any, ...]] = []
        self._cell(np.arange(len(labels)), 0)

    def nodes(self) -> NDArray[Any]:
        return np.array(self._nodes, _NODE)

    def _leaf(self, rows: Ids) -> int:
        share = (float(self._labels[rows].sum()) + USUAL * self._rate) / (len(rows) + USUAL)
        self._nodes.append((True, False, 0, 0.0, 0, 0, False, float(np.log(share / (1 - share)))))
        return len(self._nodes) - 1

    def _split(self, column: int, threshold: float) -> int:
        self._nodes.append((False, False, column, threshold, 0, 0, False, 0.0))
        return len(self._nodes) - 1

    def _join(self, place: int, left: int, right: int) -> int:
        node = self._nodes[place]
        self._nodes[place] = (*node[:4], left, right, *node[6:])
        return place

    def _cell(self, rows: Ids, depth: int) -> int:
        if depth == len(self._columns):
            return self._leaf(rows)
        values = self._matrix[rows, self._columns[depth]]
        order = np.argsort(values, kind="stable")
        rows, values = rows[order], values[order]
        known = int(len(values) - np.isnan(values).sum())
        starts = np.flatnonzero(np.diff(values[:known], prepend=np.nan) != 0)
        if not known or (len(starts) == 1 and known == len(values)):
            # All have the same: nothing to ask.
            return self._cell(rows, depth + 1)
        place = self._split(self._columns[depth], _KNOWN)
        left = self._between(np.split(rows[:known], starts[1:]), values[starts], depth)
        return self._join(place, left, self._cell(rows[known:], depth + 1) if known < len(rows) else self._leaf(rows))

    def _between(self, parts: list[Ids], values: Floats, depth: int) -> int:
        if len(parts) == 1:
            return self._cell(parts[0], depth + 1)
        half = len(parts) // 2
        place = self._split(self._columns[depth], float(values[half - 1]))
        left = self._between(parts[:half], values[:half], depth)
        return self._join(place, left, self._between(parts[half:], values[half:], depth))
