"""What speaks for persons: the values of tags, how much each weighs on average, and the three that weigh most for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.scoring.domain import Floats
from services.scoring.frame import Ids
from services.scoring.lookalike.bits import Codes, Labels, Splitting

MOST_REASONS = 3
UNKNOWN = "unknown"
# Less than this, in log-odds, is no reason.
LEAST = 0.01


@dataclass(frozen=True)
class Likeness:
    """A value or range of a tag: what it adds to the log-odds of those who have it, beside the base's mean, and who has it."""

    tag: str
    value: str
    weight: float
    seed_share: float
    base_share: float


@dataclass(frozen=True)
class Table:
    """What seeds have more often and what speaks for a person, by falling weight; per tag and code its mean
    contribution and its place among them, -1 where it is none; the base's mean per tag.
    """

    likenesses: tuple[Likeness, ...]
    weights: tuple[Floats, ...]
    places: tuple[Ids, ...]
    base: Floats

    def mean_contributions(self, codes: Sequence[Codes]) -> Floats:
        """Persons by tags: what a value moves on average."""
        return np.column_stack([weights.take(column) for weights, column in zip(self.weights, codes, strict=True)])


def table_of(
    splittings: Sequence[Splitting], codes: Sequence[Codes], labels: Labels, rows: Ids, contributions: Floats
) -> Table:
    """From the contributions of some rows (both kinds); shares are of all. A value that none of the rows has weighs nothing."""
    base = contributions[~labels[rows]].mean(axis=0)
    weights, found = [], []
    for tag, (splitting, column) in enumerate(zip(splittings, codes, strict=True)):
        here = column[rows]
        counts = np.bincount(here, minlength=splitting.size)
        sums = np.bincount(here, weights=contributions[:, tag] - base[tag], minlength=splitting.size)
        means = sums / np.maximum(counts, 1)
        weights.append(means)
        inside = np.bincount(column[labels], minlength=splitting.size) / labels.sum()
        outside = np.bincount(column[~labels], minlength=splitting.size) / (~labels).sum()
        for code, name in enumerate((UNKNOWN, *splitting.names)):
            likeness = Likeness(splitting.tag, name, float(means[code]), float(inside[code]), float(outside[code]))
            if likeness.weight > 0 and likeness.seed_share > likeness.base_share:
                found.append((likeness, tag, code))
    found.sort(key=lambda each: (-each[0].weight, each[0].tag, each[0].value))
    places = tuple(np.full(splitting.size, -1, np.int64) for splitting in splittings)
    for place, (_, tag, code) in enumerate(found):
        places[tag][code] = place
    return Table(tuple(likeness for likeness, _, _ in found), tuple(weights), places, base)


def strongest(contributions: Floats, codes: Sequence[Codes], table: Table) -> Ids:
    """Persons by at most three places in the table's likenesses: the largest contributions, the largest first."""
    most = min(MOST_REASONS, contributions.shape[1])
    places = np.column_stack([places.take(column) for places, column in zip(table.places, codes, strict=True)])
    # What the seeds do not have more often than others is no likeness, wherever a path led.
    heights = np.where(places >= 0, contributions, -np.inf)
    tags = np.argpartition(-heights, most - 1, axis=1)[:, :most]
    tags = np.take_along_axis(tags, np.argsort(-np.take_along_axis(heights, tags, axis=1), axis=1, kind="stable"), axis=1)
    found = np.full((len(contributions), MOST_REASONS), -1, np.int64)
    enough = np.take_along_axis(heights, tags, axis=1) >= LEAST
    found[:, :most] = np.where(enough, np.take_along_axis(places, tags, axis=1), -1)
    return found
