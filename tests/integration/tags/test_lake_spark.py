"""The same catalogue, the same files, on Spark: the same tags."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from chassis.db import Database
from services.tags.domain.catalogue import Kind
from services.tags.domain.predicates import parse_predicate
from services.tags.lake import keeping, reading, storage
from services.tags.lake.engines import Spark, audience_as_of, duckdb_engine, spark_engine, tags_as_of
from services.tags.lake.keeping import Rules
from services.tags.lake.reading import Lake
from tests.integration.tags.lake_world import DAY, messages, written
from tests.spark import HASTY
from tests.unit.tags.lake.lake_worlds import BASE_US, CATALOGUE, LakeWorld, lake_worlds
from tests.unit.tags.lake.test_lake_sql import PREDICATES, plain

pytestmark = pytest.mark.skipif(
    shutil.which("java") is None and "JAVA_HOME" not in os.environ, reason="Spark needs Java 17, and there is none here"
)
OPTIONS = {"spark.sql.shuffle.partitions": "1", "spark.default.parallelism": "1", "spark.driver.memory": "1g"}


@pytest.fixture(scope="module")
def spark() -> Iterator[Spark]:
    with spark_engine("local[1]", HASTY | OPTIONS) as engine:
        yield engine


def drawn(seed: int) -> LakeWorld:
    """One world with some events."""
    from hypothesis import Phase, find, settings

    quick = settings(max_examples=300, database=None, phases=[Phase.generate])
    return find(lake_worlds(), lambda w: len(w.events) > 9 and len(w.relations) > 2, settings=quick, random=random.Random(seed))


def test_every_tag_and_audience_is_as_the_first_execution_has_it(spark: Spark) -> None:
    world = drawn(1)
    for name, table in world.tables().items():
        spark.register(name, table)
    expected = world.tags(BASE_US)
    for kind in (Kind.PERSON, Kind.VEHICLE):
        assert expected[kind] == plain(tags_as_of(spark, CATALOGUE, kind, BASE_US))
    for kind, predicates in PREDICATES.items():
        for text in predicates[2::3]:
            term = parse_predicate(text, kind, CATALOGUE)
            assert world.audience(kind, term, BASE_US) == audience_as_of(spark, CATALOGUE, kind, term, BASE_US).to_pylist()


async def test_spark_and_duckdb_read_the_same_files(
    spark: Spark, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(storage.opened(str(tmp_path / "lake")))
    await written(database, lake.storage, messages(60))
    await keeping.compact(database, lake, Rules(grace_s=0))
    await written(database, lake.storage, messages(80)[60:])
    owners = {(kind, n): n % 9 for kind in (Kind.PERSON, Kind.VEHICLE) for n in range(1, 41)}
    tables = LakeWorld([], owners, [(1, 1, "owns", 0, 0)]).tables()
    at = (DAY + 10 * 86_400) * 1_000_000
    found: list[pa.Table] = []
    with duckdb_engine() as duck:
        # Blocks as files, and blocks as rows.
        for engine, settled_ns in ((duck, 0), (spark, 0), (spark, 600 * 10**9)):
            monkeypatch.setattr(reading, "_SETTLED_NS", settled_ns)
            engine.register("owners", tables["owners"])
            engine.register("relations", tables["relations"])
            engine.read(lake, 0, 2**62)
            found.append(tags_as_of(engine, CATALOGUE, Kind.PERSON, at))
    duckdb, *sparks = [plain(table) for table in found]
    assert 9 == len(duckdb) and 400.0 == sum(float(str(tags["orders"])) for tags in duckdb.values())
    assert [duckdb, duckdb] == sparks
