"""`python -m services.identity.linkage PROFILE FILE… --out FOLDER`: links the records of Parquet files, outside of any service.

Each file has a column `record_id`, any type, and the columns that the profile reads; others are ignored.
Writes pairs.parquet (record_id_l, record_id_r, probability, weight, weight_<comparison>, level_<comparison>),
clusters.parquet (record_id, cluster) and model.parquet (comparison, level, m, u).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from services.identity.linkage import engines
from services.identity.linkage.model import TooLittleToLearn
from services.identity.linkage.profile import Profile
from services.identity.linkage.profiles import PROFILES
from services.identity.linkage.run import Linked, PreparedFile, link, told

ID = "record_id"


def prepare(profile: Profile, files: list[Path], into: Path) -> PreparedFile:
    """Rows of all files; `source` is the number of the file."""
    with PreparedFile(profile, into) as prepared:
        for number, path in enumerate(files):
            for batch in pq.ParquetFile(path).iter_batches(columns=list(profile.inputs)):
                prepared.add([{**row, "source": str(number)} for row in batch.to_pylist()])
    return prepared


def write(linked: Linked, ids: pa.Array, folder: Path) -> None:
    """The three tables that the module describes."""
    pairs = linked.pairs
    columns: dict[str, Any] = {
        f"{ID}_l": ids.take(pa.array(pairs.left)),
        f"{ID}_r": ids.take(pa.array(pairs.right)),
        "probability": pairs.probability(),
        "weight": pairs.weight,
    }
    columns |= {f"weight_{name}": values for name, values in pairs.evidence.items()}
    columns |= {f"level_{name}": values for name, values in pairs.level.items()}
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "pairs.parquet")
    pq.write_table(pa.table({ID: ids, "cluster": ids.take(pa.array(linked.cluster))}), folder / "clusters.parquet")
    pq.write_table(pa.Table.from_pylist(linked.parameters), folder / "model.parquet")


def main() -> None:
    """Reads the flags, links, writes."""
    parser = argparse.ArgumentParser(prog="python -m services.identity.linkage", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("profile", choices=sorted(PROFILES))
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--engine", choices=engines.ENGINES, default="duckdb", help="where the SQL runs (default duckdb)")
    parser.add_argument("--master", default=engines.LOCAL_CLUSTER, help="Spark master (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="progress as JSON lines")
    flags = parser.parse_args()
    profile: Profile = PROFILES[flags.profile]
    if profile.two_files and len(flags.files) != 2:
        parser.error(f"{profile.name} links two files, not {len(flags.files)}")
    for path in flags.files:
        names = pq.read_schema(path).names if path.is_file() else None
        if names is None:
            parser.error(f"{path}: no such file")
        if missing := [name for name in (ID, *profile.inputs) if name not in names]:
            parser.error(f"{path}: no column {', '.join(missing)}")
    ids = pa.concat_arrays([chunk for path in flags.files for chunk in pq.read_table(path, columns=[ID])[ID].chunks])
    with engines.private_folder() as folder, engines.opened(flags.engine, flags.master, folder) as engine:
        prepared = prepare(profile, flags.files, folder / "records.parquet")
        try:
            linked = link(prepared, engine, told(flags.json))
        except TooLittleToLearn as error:
            sys.exit(f"too little to learn from: {error}")
    write(linked, ids, flags.out)


if __name__ == "__main__":
    main()
