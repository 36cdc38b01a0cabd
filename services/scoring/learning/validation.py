"""Which rows judge a learner that others trained: by time where the cut has several moments, by folds of persons otherwise.

A model is used on the days after its training. Where the cut says when its rows were cut, a learner is therefore judged
on the rows that come next, never on its own past; random folds would let it read the day off its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from services.scoring.domain import Floats, TrainingRefused
from services.scoring.frame import Ids
from services.scoring.learning.cut import Cut, Labels

FOLDS = 5
# Fewer of either class on either side say nothing of a learner.
FEWEST = 20

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Plan:
    """Rows to train on and rows to judge on, fold by fold; `by_time`: the judged rows of each fold are the later ones."""

    folds: tuple[Fold, ...]
    by_time: bool

    @property
    def numbers(self) -> Ids:
        """The fold in which each row is judged; rows that none judges are of the first."""
        found = np.zeros(sum(map(len, self.folds[-1])), np.int64)
        for number, (_, judged) in enumerate(self.folds):
            found[judged] = number
        return found


def plan(cut: Cut) -> Plan:
    """Five blocks in time of about equal size, each but the first judged once; without moments, stratified folds.

    Rows of one moment never stand on both sides of a fold in time, rows of one person never on both sides of the others.
    """
    folds = tuple(_forward(cut.moments, cut.labels)) if len(cut.moments) else ()
    return Plan(folds, True) if folds else Plan(tuple(_random(cut.frame.persons, cut.labels)), False)


def _forward(moments: Ids, labels: Labels) -> list[Fold]:
    distinct, sizes = np.unique(moments, return_counts=True)
    if len(distinct) < 2:
        return []
    # Each moment belongs to the block in which its middle row lies.
    middle = np.cumsum(sizes) - sizes / 2
    block = np.minimum((FOLDS * middle / len(moments)).astype(np.int64), FOLDS - 1)[np.searchsorted(distinct, moments)]
    folds = []
    for number in range(1, FOLDS):
        before, now = np.flatnonzero(block < number), np.flatnonzero(block == number)
        if all(np.bincount(labels[side], minlength=2).min() >= FEWEST for side in (before, now)):
            folds.append((before, now))
    return folds


def _random(persons: Ids, labels: Labels) -> list[Fold]:
    rows = np.zeros((len(labels), 1))
    distinct = len(np.unique(persons))
    if distinct < FOLDS:
        raise TrainingRefused("TOO_FEW_POSITIVES", f"all rows are of {distinct} persons")
    if distinct < len(persons):
        return list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(rows, labels, persons))
    return list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(rows, labels))


def movement(earlier: Floats, later: Floats) -> float:
    """How much of a column's mass moved between two times: total variation distance of its twentieths and of unknown.

    0: the same distribution; 1: no value of the one time occurs in the other.
    """
    unknown = np.isnan(earlier), np.isnan(later)
    known = np.concatenate([earlier[~unknown[0]], later[~unknown[1]]])
    edges = np.unique(np.quantile(known, np.arange(1, 20) / 20)) if len(known) else np.empty(0)

    def shares(values: Floats, missing: NDArray[np.bool_]) -> Floats:
        counts = np.bincount(np.searchsorted(edges, values[~missing]), minlength=len(edges) + 1)
        return np.append(counts, missing.sum()) / max(len(values), 1)

    return float(np.abs(shares(earlier, unknown[0]) - shares(later, unknown[1])).sum() / 2)


def moving_columns(matrix: NDArray[np.floating], folds: Sequence[Fold], most: float = 0.5) -> list[int]:
    """Columns of which, on average over the folds, more than `most` of the mass lies elsewhere in the judged rows.

    At more than a half, most persons of the next period have values that (almost) nobody of the past had: a learner can
    only guess what they mean. Such columns tell the date (prices, rates, calendars) rather than the person.
    """
    if not folds:
        return []
    moved = [[movement(column[before], column[now]) for before, now in folds] for column in matrix.T.astype(np.float64)]
    return [place for place, shares in enumerate(moved) if float(np.mean(shares)) > most]
