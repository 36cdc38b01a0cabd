"""Where the SQL of a linkage runs: DuckDB in this process, or Spark. Both keep all they write inside one private folder."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import sqlglot
from splink.internals.database_api import DatabaseAPISubClass

ENGINES = ("duckdb", "spark")
# Two executors of one core and 1 GiB each, as processes of this machine.
LOCAL_CLUSTER = "local-cluster[2,1,1024]"
_PREFIX = "troika-linkage-"


class Engine(Protocol):
    """A database that holds the records of one linkage."""

    @property
    def splink(self) -> DatabaseAPISubClass:
        """What Splink runs its own SQL on."""

    def read(self, name: str, file: Path) -> None:
        """Names a Parquet file as a table."""

    def create(self, name: str, sql: str) -> None:
        """Makes a table from DuckDB SQL."""

    def fetch(self, sql: str) -> pa.Table:
        """Result of DuckDB SQL."""


@dataclass(frozen=True)
class DuckDbEngine:
    """One process, all its cores; spills to the folder when memory does not do."""

    connection: Any
    splink: DatabaseAPISubClass

    def read(self, name: str, file: Path) -> None:
        """Reads the file once."""
        self.connection.execute(f"create table {name} as select * from read_parquet('{file}')")

    def create(self, name: str, sql: str) -> None:
        """Makes the table."""
        self.connection.execute(f"create table {name} as {sql}")

    def fetch(self, sql: str) -> pa.Table:
        """Runs it here."""
        return self.connection.sql(sql).to_arrow_table()


@dataclass(frozen=True)
class SparkEngine:
    """A Spark session; tables are Parquet files in the folder, which all executors must reach."""

    session: Any
    splink: DatabaseAPISubClass
    folder: Path

    def _run(self, sql: str) -> Any:
        return self.session.sql(sqlglot.transpile(sql, read="duckdb", write="spark")[0])

    def read(self, name: str, file: Path) -> None:
        """A view of the file."""
        self.session.read.parquet(file.as_uri()).createOrReplaceTempView(name)

    def create(self, name: str, sql: str) -> None:
        """Writes and reads back, so that it is computed once."""
        target = (self.folder / name).as_uri()
        self._run(sql).write.parquet(target)
        self.session.read.parquet(target).createOrReplaceTempView(name)

    def fetch(self, sql: str) -> pa.Table:
        """Collects to this process."""
        return self._run(sql).toArrow()


@contextmanager
def private_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder that only this user can enter, and that is gone afterwards: it holds personal data.

    What a killed run left goes when the next one begins.
    """
    home = parent or Path(tempfile.gettempdir())
    for left in home.glob(f"{_PREFIX}*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        if left.stat().st_uid == os.getuid() and pid.isdigit() and not _runs(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", dir=home) as name:  # 0700 by itself
        yield Path(name)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def opened(name: str, master: str, folder: Path) -> AbstractContextManager[Engine]:
    """The engine of that name; `master` matters to Spark only."""
    return spark_engine(folder, master) if name == "spark" else duckdb_engine(folder)


@contextmanager
def duckdb_engine(folder: Path, threads: int | None = None) -> Iterator[DuckDbEngine]:
    """DuckDB on a file in the folder."""
    import duckdb
    from splink import DuckDBAPI

    settings: dict[str, Any] = {"temp_directory": str(folder / "spill")} | ({"threads": threads} if threads else {})
    with duckdb.connect(str(folder / "linkage.duckdb"), config=settings) as connection:
        # Spark's name for it, which sqlglot leaves as it is.
        connection.execute("create macro arrays_overlap(a, b) as list_has_any(a, b)")
        yield DuckDbEngine(connection, DuckDBAPI(connection))


@contextmanager
def spark_engine(folder: Path, master: str) -> Iterator[SparkEngine]:
    """A Spark application on `master`, such as local-cluster[2,1,1024] or spark://host:7077."""
    from pyspark.sql import SparkSession
    from pyspark.sql.types import DoubleType
    from splink import SparkAPI
    from splink.backends.spark import similarity_jar_location

    here: dict[str, bool | float | int | str | None] = {}
    if master.startswith("local"):
        here = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    partitions = _partitions(master)
    home = _spark_home(folder)
    before = os.environ.get("SPARK_HOME")
    os.environ["SPARK_HOME"] = str(home)
    try:
        session = (
            SparkSession.builder.master(master)
            .appName("troika-linkage")
            .config("spark.jars", similarity_jar_location())
            .config("spark.sql.shuffle.partitions", partitions)
            .config("spark.default.parallelism", partitions)
            .config("spark.local.dir", str(folder))
            .config("spark.sql.warehouse.dir", (folder / "warehouse").as_uri())
            .config("spark.ui.enabled", "false")
            .config("spark.ui.showConsoleProgress", "false")
            .config("spark.log.level", "ERROR")
            .config(map=here)
            .getOrCreate()
        )
    finally:
        os.environ.pop("SPARK_HOME")
        if before is not None:
            os.environ["SPARK_HOME"] = before
    try:
        session.sparkContext.setCheckpointDir((folder / "checkpoints").as_uri())
        splink = SparkAPI(spark_session=session, num_partitions_on_repartition=partitions)  # type: ignore[no-untyped-call]
        # DuckDB's name for it, as sqlglot writes it.
        session.udf.registerJavaFunction(
            "jarowinkler_similarity", "uk.gov.moj.dash.linkage.JaroWinklerSimilarity", DoubleType()
        )
        yield SparkEngine(session, splink, folder)
    finally:
        session.stop()


def _partitions(master: str) -> int:
    """As many as a local master has cores; elsewhere Spark's own default, which it coalesces where data are few."""
    match = re.match(r"local(?:-cluster)?\[(\d+)(?:,\s*(\d+))?", master)
    return int(match[1]) * int(match[2] or 1) if match else 200


def _spark_home(folder: Path) -> Path:
    """Spark as installed, with the `work` folder of local-cluster's executors in ours instead of among the packages."""
    import pyspark

    home = folder / "spark"
    home.mkdir()
    for part in Path(pyspark.__file__).parent.iterdir():
        if part.name != "work":
            (home / part.name).symlink_to(part)
    return home
