"""One linkage from records to clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from services.identity.linkage import clusters, keys
from services.identity.linkage.engines import Engine
from services.identity.linkage.keys import ROW
from services.identity.linkage.model import Model, Pairs
from services.identity.linkage.profile import Profile, Record

# Pairs less likely than this move no cluster by more than a rounding error.
FLOOR = 0.01
BATCH = 50_000

Progress = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Linked:
    """Positions are those of the records as they came. `cluster` is the position of the cluster's first record."""

    pairs: Pairs
    cluster: npt.NDArray[np.int64]
    parameters: list[dict[str, Any]]


def link(profile: Profile, records: Iterable[Record], engine: Engine, folder: Path, progress: Progress) -> Linked:
    """Prepares, blocks, trains, scores and clusters; tells `progress` the step and its figures, never a value."""
    clock = perf_counter()

    def done(step: str, **figures: Any) -> None:
        nonlocal clock
        now = perf_counter()
        progress(step, figures | {"seconds": round(now - clock, 2)})
        clock = now

    file = folder / "records.parquet"
    count = write_prepared(profile, records, file)
    done("prepared", records=count)
    engine.read("prepared", file)
    engine.create("keyed", keys.key_table(profile, "prepared"))
    engine.create("useful", keys.useful_keys(profile, "keyed"))
    engine.create("records", keys.keyed_records("prepared", "keyed", "useful"))
    tables = ["records"]
    if profile.two_files:
        for number in (0, 1):
            engine.create(f"file_{number}", f"select * from records where file = {number}")
        tables = ["file_0", "file_1"]
    done("keyed")
    model = Model(profile, engine, tables)
    model.train()
    done("trained")
    pairs = model.score(FLOOR)
    done("scored", pairs=len(pairs.weight), links=int((pairs.probability() >= profile.threshold).sum()))
    cluster = clustered(profile, pairs, count)
    done("clustered", clusters=len(np.unique(cluster)))
    return Linked(pairs, cluster, model.parameters())


def clustered(profile: Profile, pairs: Pairs, count: int) -> npt.NDArray[np.int64]:
    """Clusters as the profile wants them."""
    if profile.two_files:
        return clusters.one_to_one(count, pairs.left, pairs.right, pairs.probability(), profile.cluster_threshold)
    return clusters.average_linkage(count, pairs.left, pairs.right, pairs.probability(), profile.cluster_threshold)


def write_prepared(profile: Profile, records: Iterable[Record], file: Path) -> int:
    """Prepares batch by batch into a Parquet file that ends with the linkage; returns how many there were."""
    columns = {ROW: pa.int64(), **profile.columns} | ({"file": pa.int32()} if profile.two_files else {})
    schema = pa.schema(columns)
    count = 0
    with pq.ParquetWriter(file, schema) as writer:
        for batch in _batches(_prepared(profile, records)):
            writer.write_table(pa.Table.from_pylist(batch, schema))
            count += len(batch)
    return count


def _prepared(profile: Profile, records: Iterable[Record]) -> Iterator[dict[str, Any]]:
    files: dict[str, int] = {}
    for row, record in enumerate(records):
        values = {name: (None if value == [] else value) for name, value in profile.prepare(record).items()}
        values[ROW] = row
        if profile.two_files:
            values["file"] = files.setdefault(record["source"], len(files))
        yield values


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
