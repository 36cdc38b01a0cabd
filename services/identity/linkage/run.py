"""One linkage from records to clusters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from services.identity.linkage import clusters, keys
from services.identity.linkage.engines import Engine
from services.identity.linkage.keys import ROW
from services.identity.linkage.model import Model, Pairs, TooLittleToLearn
from services.identity.linkage.profile import Profile, Record

# Pairs less likely than this move no cluster by more than a rounding error.
FLOOR = 0.01
Progress = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Linked:
    """Positions are those of the records as they came. `cluster` is the position of the cluster's first record."""

    pairs: Pairs
    cluster: npt.NDArray[np.int64]
    parameters: list[dict[str, Any]]


class PreparedFile:
    """Records as the profile prepares them, written batch by batch into a Parquet file that ends with the linkage."""

    def __init__(self, profile: Profile, file: Path) -> None:
        self.profile, self.file, self.count = profile, file, 0
        columns = {ROW: pa.int64(), **profile.columns} | ({"file": pa.int32()} if profile.two_files else {})
        self._schema = pa.schema(columns)
        self._writer = pq.ParquetWriter(file, self._schema)
        self._files: dict[str, int] = {}

    def __enter__(self) -> PreparedFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self._writer.close()

    def add(self, records: Sequence[Record]) -> None:
        """Appends records; their positions go on from those before."""
        rows = []
        for row, record in enumerate(records, self.count):
            values = {name: (None if value == [] else value) for name, value in self.profile.prepare(record).items()}
            values[ROW] = row
            if self.profile.two_files:
                values["file"] = self._files.setdefault(record["source"], len(self._files))
            rows.append(values)
        self._writer.write_table(pa.Table.from_pylist(rows, self._schema))
        self.count += len(rows)


def link(prepared: PreparedFile, engine: Engine, progress: Progress) -> Linked:
    """Blocks, trains, scores and clusters; tells `progress` the step and its figures, never a value.

    Raises TooLittleToLearn.
    """
    clock = perf_counter()

    def done(step: str, **figures: Any) -> None:
        nonlocal clock
        now = perf_counter()
        progress(step, figures | {"seconds": round(now - clock, 2)})
        clock = now

    if prepared.count < 2:
        raise TooLittleToLearn(f"{prepared.count} records")
    engine.read("prepared", prepared.file)
    profile = prepared.profile.restricted_to(filled_columns(prepared.profile, engine))
    if not profile.keys or not profile.comparisons:
        raise TooLittleToLearn("no column is filled that records could be compared by")
    engine.create("keyed", keys.key_table(profile, "prepared"))
    engine.create("records", keys.keyed_records(profile, "prepared", "keyed"))
    tables = ["records"]
    if profile.two_files:
        tables = ["file_0", "file_1"]
        for number, table in enumerate(tables):
            engine.create(table, f"select * from records where file = {number}")
    done("keyed", records=prepared.count)
    model = Model(profile, engine, tables)
    model.train()
    done("trained", comparisons=len(profile.comparisons))
    pairs = model.score(FLOOR)
    done("scored", pairs=len(pairs.weight), links=int((pairs.probability() >= profile.threshold).sum()))
    cluster = clustered(profile, pairs, prepared.count)
    done("clustered", clusters=len(np.unique(cluster)))
    return Linked(pairs, cluster, model.parameters())


def filled_columns(profile: Profile, engine: Engine) -> set[str]:
    """Columns that any record has."""
    counts = engine.fetch(f"select {', '.join(f'count({name}) as {name}' for name in profile.columns)} from prepared")
    return {name for name in profile.columns if counts.column(name)[0].as_py()}


def clustered(profile: Profile, pairs: Pairs, count: int) -> npt.NDArray[np.int64]:
    """Clusters as the profile wants them."""
    if profile.two_files:
        return clusters.one_to_one(count, pairs.left, pairs.right, pairs.probability(), profile.cluster_threshold)
    return clusters.average_linkage(count, pairs.left, pairs.right, pairs.probability(), profile.cluster_threshold)


def told(as_json: bool) -> Progress:
    """Progress for a terminal or a machine: one line per step."""

    def tell(step: str, figures: dict[str, Any]) -> None:
        line = orjson.dumps({"step": step, **figures}).decode()
        if not as_json:
            line = f"{step:10} " + "  ".join(f"{name} {value:,}" for name, value in figures.items())
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    return tell
