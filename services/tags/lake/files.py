"""The lake's Parquet files: how they are written and read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from services.tags.lake.rows import SCHEMA, conformed, merged
from services.tags.lake.storage import Storage

# Few values repeated often; the others would only make dictionaries that are given up.
_REPEATING: Final = [
    "source",
    "event",
    *(f"{column}.key_value.key" for column in ("numbers", "words", "flags", "moments", "other")),
    "words.key_value.value",
    "numbers.key_value.value",
]
# Small enough that who looks for one anchor reads little.
ROWS_PER_GROUP: Final = 65_536
# Below, what zstd needs to begin costs more than it saves.
_FEW_ROWS: Final = 1_000
_OPTIONS: Final[dict[str, Any]] = {
    "use_dictionary": _REPEATING,
    "write_statistics": [field.name for field in SCHEMA if not pa.types.is_map(field.type)],
    "store_schema": False,
}


def encoded(table: pa.Table) -> pa.Buffer:
    """Rows as the bytes of a file; the same rows are the same bytes."""
    sink = pa.BufferOutputStream()
    compression = "snappy" if len(table) < _FEW_ROWS else "zstd"
    pq.write_table(table, sink, row_group_size=ROWS_PER_GROUP, compression=compression, **_OPTIONS)
    return sink.getvalue()


def add(storage: Storage, path: str, table: pa.Table) -> None:
    """Puts rows into a file that may be there; those that it has already change nothing. Only the one writer may."""
    before = read(storage, path)
    storage.publish(path, encoded(merged([table] if before is None else [before, table])))


def write(sink: Any, tables: Iterable[pa.Table]) -> None:
    """Writes rows as they come; each table is a row group."""
    with pq.ParquetWriter(sink, SCHEMA, compression="zstd", **_OPTIONS) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)


def read(storage: Storage, path: str) -> pa.Table | None:
    """All rows of a file as it is at one moment; None when there is none."""
    content = storage.read(path)
    return None if content is None else conformed(pq.ParquetFile(pa.BufferReader(content)).read())
