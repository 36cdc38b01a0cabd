"""Where the SQL runs: DuckDB in this process, or Spark where one machine is not enough. Both read the same files."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa

from services.tags.domain.catalogue import Catalogue, Kind
from services.tags.domain.terms import Term
from services.tags.lake import sql
from services.tags.lake.dialects import DUCKDB, SPARK, Dialect
from services.tags.lake.reading import Lake
from services.tags.lake.rows import SCHEMA

OWNERS = pa.schema([("anchor_id", pa.int64()), ("entity_id", pa.int64()), ("entity_kind", pa.int16())])
RELATIONS = pa.schema(
    [
        ("subject_kind", pa.int16()),
        ("subject_id", pa.int64()),
        ("object_kind", pa.int16()),
        ("object_id", pa.int64()),
        ("kind", pa.string()),
        ("valid_from_us", pa.int64()),
        ("valid_to_us", pa.int64()),
    ]
)
GIVEN = pa.schema(
    [
        ("entity_kind", pa.int16()),
        ("entity_id", pa.int64()),
        ("tag", pa.string()),
        ("number", pa.float64()),
        ("word", pa.string()),
        ("flag", pa.bool_()),
        ("words", pa.list_(pa.string())),
        ("at_us", pa.int64()),
    ]
)


class Engine(Protocol):
    """What answers the queries of `sql`."""

    @property
    def dialect(self) -> Dialect:
        """How it spells."""

    def register(self, name: str, table: pa.Table) -> None:
        """Names a table."""

    def read(self, lake: Lake, since_us: int, until_us: int) -> None:
        """Names the lake's rows of some days `events`."""

    def fetch(self, query: str) -> pa.Table:
        """Runs a query."""


class DuckDb:
    """DuckDB over a connection of its own; close the connection when done."""

    def __init__(self, connection: Any | None = None) -> None:
        self._connection = connection or duckdb.connect(":memory:")
        self.dialect = DUCKDB

    def register(self, name: str, table: pa.Table) -> None:
        """A view of it, without a copy."""
        self._connection.register(name, table)

    def read(self, lake: Lake, since_us: int = 0, until_us: int = 2**62) -> None:
        """Scans the files through Arrow, so that no extension is needed for S3; filters and columns reach the files."""
        self._connection.register("events", lake.dataset(since_us, until_us))

    def fetch(self, query: str) -> pa.Table:
        """Runs it here."""
        return self._connection.sql(query).to_arrow_table()

    def stream(self, query: str, rows: int) -> pa.RecordBatchReader:
        """Runs it here, so many rows at a time."""
        return self._connection.sql(query).to_arrow_reader(rows)

    def interrupt(self) -> None:
        """Ends, from another thread, what runs here: it raises duckdb.InterruptException."""
        self._connection.interrupt()


class Spark:
    """A Spark session. It reads the files itself: on S3 its own s3a connector must know the bucket."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.dialect = SPARK
        session.conf.set("spark.sql.session.timeZone", "UTC")
        # Ids are bytes to us, and so they are to Spark.
        session.conf.set("spark.sql.parquet.binaryAsString", "false")

    def register(self, name: str, table: pa.Table) -> None:
        """A view of rows that the driver ships."""
        self._frame(table).createOrReplaceTempView(name)

    def read(self, lake: Lake, since_us: int = 0, until_us: int = 2**62) -> None:
        """Settled files where they lie, the few that may still change as rows."""
        from pyspark.sql.pandas.types import from_arrow_schema

        paths, rest = lake.paths_and_rest(since_us, until_us)
        frame = self._frame(rest)
        if paths:
            schema = from_arrow_schema(_spark_schema(SCHEMA))
            frame = self._session.read.schema(schema).parquet(*paths).unionByName(frame)
        frame.createOrReplaceTempView("events")

    def fetch(self, query: str) -> pa.Table:
        """Collects to this process."""
        return self._session.sql(query).toArrow()

    def _frame(self, table: pa.Table) -> Any:
        return self._session.createDataFrame(table.cast(_spark_schema(table.schema)))


def _spark_schema(schema: pa.Schema) -> pa.Schema:
    # Spark has no bytes of fixed length.
    return pa.schema([(f.name, pa.binary() if pa.types.is_fixed_size_binary(f.type) else f.type) for f in schema])


@contextmanager
def duckdb_engine(memory_mb: int = 512, threads: int = 1) -> Iterator[DuckDb]:
    """DuckDB that spills into a folder of its own beyond its memory."""
    with tempfile.TemporaryDirectory(prefix="troika-lake-") as folder:
        settings: dict[str, Any] = {
            "memory_limit": f"{memory_mb}MB",
            "threads": threads,
            "temp_directory": str(Path(folder) / "spill"),
        }
        with duckdb.connect(":memory:", config=settings) as connection:
            yield DuckDb(connection)


@contextmanager
def spark_engine(master: str = "local[2]", options: Mapping[str, str] | None = None) -> Iterator[Spark]:
    """A Spark application on `master`; `options` are its own, such as spark.hadoop.fs.s3a.endpoint."""
    from pyspark.sql import SparkSession

    with tempfile.TemporaryDirectory(prefix="troika-lake-") as folder:
        here = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"} if master.startswith("local") else {}
        session = (
            SparkSession.builder.master(master)
            .appName("troika-lake")
            .config("spark.local.dir", folder)
            .config("spark.sql.warehouse.dir", (Path(folder) / "warehouse").as_uri())
            .config("spark.ui.enabled", "false")
            .config("spark.ui.showConsoleProgress", "false")
            .config("spark.log.level", "ERROR")
            .config(map={**here, **(options or {})})
            .getOrCreate()
        )
        if master.startswith("local"):
            session.sparkContext.pythonExec = sys.executable
        try:
            yield Spark(session)
        finally:
            session.stop()


def tags_as_of(
    engine: Engine, catalogue: Catalogue, kind: Kind, at_us: int, tags: list[str] | None = None, given: bool = False
) -> pa.Table:
    """entity_id and a column per tag, as they were at a moment, one row per entity that there was."""
    return engine.fetch(sql.tags_query(engine.dialect, catalogue, kind, at_us, tags, given).text)


def audience_as_of(
    engine: Engine, catalogue: Catalogue, kind: Kind, term: Term, at_us: int, given: bool = False
) -> pa.ChunkedArray:
    """The ids for which a predicate was true at a moment, ascending."""
    return engine.fetch(sql.audience_query(engine.dialect, catalogue, kind, term, at_us, given).text).column("entity_id")
