"""What linkage must know of a data set: how to prepare, which pairs to compare, how to compare, where to cut. Data only.

SQL here is DuckDB's; an engine of another dialect translates it. In a comparison `x_l` and `x_r` are column x of both records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    """Levels from most to least alike; the last, "different", is implied. `missing`: when the pair says nothing about it."""

    name: str
    missing: str
    levels: tuple[Level, ...]


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
