"""What is usual in a training cut, for its card: what is said of those of whom nothing personal may be said, and values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.scoring.frame import Column, Words
from services.scoring.learning.cut import Cut
from services.scoring.models.specification import Foretells

# A value that one in fifty has is common; of a tag with more of them the most frequent are kept.
COMMON = 0.02
MOST_VALUES = 12
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def of_cut(cut: Cut, foretells: Foretells) -> dict[str, Any]:
    """Entries of a card.

    `usual`: the share that did it, the average effect of a push, or the share of the most frequent class. `class_shares`: by
    class, of models of classes. `values`: by tag, values that many of the cut have, the most frequent first.
    """
    card: dict[str, Any] = {"values": {tag: common_values(column) for tag, column in cut.frame.columns.items()}}
    did = cut.labels == 1
    if foretells is Foretells.CLASS:
        counts = np.bincount(cut.labels, minlength=len(cut.classes))
        shares = dict(zip(cut.classes, (counts / max(counts.sum(), 1)).tolist(), strict=True))
        return card | {"class_shares": shares, "usual": max(shares.values(), default=0.0)}
    if foretells is Foretells.EFFECT and cut.treated is not None and 0 < cut.treated.sum() < len(did):
        return card | {"usual": float(did[cut.treated].mean() - did[~cut.treated].mean())}
    return card | {"usual": float(did.mean())}


def common_values(column: Column) -> list[float] | list[str]:
    """Words and numbers that at least one in fifty of those who have any has; of numbers that rarely repeat quantiles."""
    if isinstance(column, Words):
        known = column.indexes[column.indexes >= 0]
        return [column.words[place] for place in _frequent(known).tolist()]
    values = column.values[~np.isnan(column.values)]
    if not len(values):
        return []
    if len(np.unique(values)) <= MOST_VALUES:
        return [float(value) for value in _frequent(values)]
    return sorted({float(value) for value in np.quantile(values, QUANTILES, method="inverted_cdf")})


def _frequent(values: NDArray[Any]) -> NDArray[Any]:
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_VALUES]
    kept: NDArray[Any] = found[order[counts[order] >= COMMON * len(values)]]
    return kept
