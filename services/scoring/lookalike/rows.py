"""Rows of a frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.scoring.frame import Column, Frame, Ids, Numbers, Words


def part(frame: Frame, rows: Ids | NDArray[np.bool_] | slice) -> Frame:
    """These rows, in this order; a slice copies nothing."""
    return Frame(frame.persons[rows], {tag: _of(column, rows) for tag, column in frame.columns.items()})


def _of(column: Column, rows: Ids | NDArray[np.bool_] | slice) -> Column:
    if isinstance(column, Numbers):
        return Numbers(column.values[rows])
    return Words(column.indexes[rows], column.words)
