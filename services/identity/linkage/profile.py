"""What linkage must know of a data set: how to prepare, which pairs to compare, how to compare, where to cut. Data only.

SQL here is DuckDB's; an engine of another dialect translates it. In a comparison `x_l` and `x_r` are column x of both records.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Level:
    """One answer of a comparison, tried in order. `frequency_of`: agreeing on a rare value of that column weighs more."""

    label: str
    sql: str
    frequency_of: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Levels from most to least alike, then the implied "different". A pair that lacks a column of `needs` says nothing."""

    name: str
    needs: tuple[str, ...]
    levels: tuple[Level, ...]

    @property
    def missing(self) -> str:
        """SQL: either record lacks one of the columns."""
        return " or ".join(f"{column}_{side} is null" for column in self.needs for side in "lr")


@dataclass(frozen=True)
class Training:
    """How parameters are estimated without labels.

    `certain`: columns whose joint equality proves a match, finding about `certain_recall` of all matches (the prior).
    `blocks`: EM runs over the pairs that agree on these columns; each run leaves out comparisons of the same columns.
    u (agreement by chance) comes from `sampled_pairs` random pairs.
    """

    certain: tuple[tuple[str, ...], ...]
    certain_recall: float
    blocks: tuple[tuple[str, ...], ...]
    sampled_pairs: int = 5_000_000
    seed: int = 1


@dataclass(frozen=True)
class Profile:
    """A kind of data set.

    `inputs` are the columns read, `prepare` makes the `columns` from one record; None and empty lists become NULL.
    `keys`: two records are compared when they share a value of one key (a column or several; of a list column, any element)
    and no more than `key_limit` records have that value: so pairs grow with records, not with their square.
    `threshold`: probability from which a pair is a link. `cluster_threshold`: mean probability between two groups from which
    they are one cluster, pairs never compared counting as 0.
    """

    name: str
    inputs: tuple[str, ...]
    columns: Mapping[str, pa.DataType]
    prepare: Callable[[Record], dict[str, Any]]
    keys: tuple[tuple[str, ...], ...]
    key_limit: int
    comparisons: tuple[Comparison, ...]
    training: Training
    threshold: float
    cluster_threshold: float
    # Two files without duplicates inside: `source` says which file, and a record links to one other at most.
    two_files: bool = False

    def restricted_to(self, present: Container[str]) -> Profile:
        """The profile for records of which all other columns are empty: no key, comparison or training asks for them."""

        def whole(groups: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
            return tuple(group for group in groups if all(column in present for column in group))

        training = replace(self.training, certain=whole(self.training.certain), blocks=whole(self.training.blocks))
        comparisons = tuple(c for c in self.comparisons if all(column in present for column in c.needs))
        return replace(self, keys=whole(self.keys), comparisons=comparisons, training=training)
