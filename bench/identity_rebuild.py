"""The full rebuild on arrays: guards, components and clusters of 5M identifiers and 6M links beside bare connected components.

Both solvers get the same arrays, each in a process of its own, in turn; memory is the peak of a process above what it had
when its arrays were loaded. Scipy takes the links as they are, shared phones included, and knows no guard.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from services.identity.domain.graphs import Graph
from services.identity.domain.kinds import Kind, Space
from services.identity.rebuild import view
from services.identity.rebuild.stored import Stored

IDENTIFIERS, LINKS, SHARED = 5_000_000, 6_000_000, 50
ROUNDS = 3
# What persons have beside records, by share; a twelfth of the mix are cars, most of them with a name beside.
MIX = {
    Kind.MOBILE: 0.46,
    Kind.UNIONID: 0.18,
    Kind.VIN: 0.12,
    Kind.OPENID: 0.08,
    Kind.DEVICE: 0.08,
    Kind.ID_CARD: 0.04,
    Kind.EMAIL: 0.04,
}
# Records that a clerk put a stranger's value on; records with a name; sources that records come from.
MIXED, NAMED, SOURCES = 0.01, 0.4, 22
_COLUMNS = ("kind", "anchor", "value", "name", "source", "strength", "trust")


def arrays(identifiers: int, links: int, seed: int = 1) -> dict[str, Any]:
    """Seeded: a person per five identifiers, with records that share the person's values, and phones that thousands share."""
    rng = np.random.default_rng(seed)
    persons, records = identifiers // 5, identifiers * 48 // 100
    values = identifiers - records
    record_of = np.concatenate([np.arange(persons), rng.integers(0, persons, records - persons)])
    value_of = np.concatenate([np.arange(persons), rng.integers(0, persons, values - persons - SHARED)])
    kind_of = rng.choice([int(kind) for kind in MIX], values, p=list(MIX.values())).astype(np.int16)
    kind_of[-SHARED:] = Kind.MOBILE
    # Nobody has two id cards.
    cards = np.flatnonzero(kind_of[:-SHARED] == Kind.ID_CARD)
    kind_of[np.delete(cards, np.unique(value_of[cards], return_index=True)[1])] = Kind.MOBILE
    by_person = np.argsort(value_of, kind="stable")
    count = np.bincount(value_of, minlength=persons)
    first = np.cumsum(count) - count
    degree = np.geomspace(1_000, 20_000, SHARED).astype(np.int64) * links // LINKS
    own = links - int(degree.sum())
    record = np.concatenate([np.arange(records), rng.integers(0, records, own - records)])
    person = np.where(rng.random(own) < MIXED, rng.integers(0, persons, own), record_of[record])
    value = by_person[first[person] + (rng.random(own) * count[person]).astype(np.int64)]
    anchor = np.concatenate([record, rng.integers(0, records, int(degree.sum()))])
    value = np.concatenate([value, np.repeat(np.arange(values - SHARED, values), degree)])
    name = np.where(rng.random(records) < NAMED, record_of + 1, 0)[anchor]
    source = rng.integers(1, SOURCES, records).astype(np.int16)[anchor]
    # Numbers say nothing about who belongs together.
    number, order = rng.permutation(identifiers), rng.permutation(links)
    kind = np.empty(identifiers, np.int16)
    kind[number[:records]] = Kind.CRM_ID
    kind[number[records:]] = kind_of
    return {
        "kind": kind,
        "anchor": number[anchor][order],
        "value": number[records + value][order],
        "name": name[order],
        "source": source[order],
        "strength": np.zeros(links, np.int16),
        "trust": np.ones(SOURCES, np.int64),
    }


def graph_of(columns: dict[str, Any]) -> Graph:
    """The arrays as the rebuild reads them out of the tables."""
    size = len(columns["kind"])
    nothing = np.zeros(size, np.int16)
    return Graph(person_guard=nothing, vehicle_guard=nothing, cleared=np.zeros(size, bool), **columns)


def _scipy(graph: Graph) -> Any:
    ones = np.ones(len(graph.anchor), np.int8)
    return connected_components(coo_matrix((ones, (graph.anchor, graph.value)), shape=(graph.size, graph.size)), directed=False)


SOLVERS: dict[str, Callable[[Graph], Any]] = {"scipy": _scipy, "troika": view.in_memory}


def _kib(line: str) -> int:
    """Memory of this process; not `getrusage`, whose peak may be that of the process it was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{line}:")[2].split()[0])


def solve(name: str, folder: Path) -> dict[str, float]:
    """One solver on loaded arrays: seconds, and MiB at the peak above the arrays."""
    graph = graph_of({column: np.load(folder / f"{column}.npy") for column in _COLUMNS})
    _ = graph.size, graph.person_guard.sum(), graph.cleared.sum()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _kib("VmRSS")
    begin = time.perf_counter()
    found = SOLVERS[name](graph)
    seconds = time.perf_counter() - begin
    outcome = {"seconds": seconds, "mib": (_kib("VmHWM") - before) / 1024}
    if name == "troika":
        solution = found[Space.PERSON]
        outcome |= {"guarded": int((solution.guard != 0).sum()), "largest": int(np.bincount(solution.label).max())}
    else:
        outcome |= {"largest": int(np.bincount(found[1]).max())}
    return outcome


def measure(quick: bool) -> dict[str, Any]:
    """Time and memory of both, medians; and ratios of the medians of the same run."""
    part = 10 if quick else 1
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in SOLVERS}
    with tempfile.TemporaryDirectory(prefix="troika-bench-") as name:
        for column, values in arrays(IDENTIFIERS // part, LINKS // part).items():
            np.save(Path(name) / f"{column}.npy", values)
        for _ in range(ROUNDS):
            for solver, outcomes in taken.items():
                command = [sys.executable, "-m", "bench.identity_rebuild", solver, name]
                outcomes.append(orjson.loads(subprocess.run(command, capture_output=True, check=True).stdout))
    median = {
        solver: {figure: statistics.median(o[figure] for o in outcomes) for figure in outcomes[0]}
        for solver, outcomes in taken.items()
    }
    ours, scipy = median["troika"], median["scipy"]
    return {
        "rebuild_s": round(ours["seconds"], 3),
        "rebuild_vs_scipy": round(ours["seconds"] / scipy["seconds"], 3),
        "rebuild_memory_vs_scipy": round(ours["mib"] / scipy["mib"], 3),
        "rebuild_mib": round(ours["mib"]),
        "rebuild_guarded": int(ours["guarded"]),
        "rebuild_largest_cluster": int(ours["largest"]),
        "scipy_s": round(scipy["seconds"], 3),
        "scipy_mib": round(scipy["mib"]),
        "scipy_largest_cluster": int(scipy["largest"]),
        "rebuild_bound_by": "one core and its memory: some forty passes over arrays of all links, mostly look-ups at random",
    }


def on_spark(part: int, master: str) -> dict[str, Any]:
    """The same graph on Spark: seconds, and whether its clusters are byte-equal to those solved in memory."""
    # Java is needed for this alone.
    from services.identity.rebuild import spark

    columns = arrays(IDENTIFIERS // part, LINKS // part)
    graph = graph_of(columns)
    anchor = np.zeros(graph.size, bool)
    anchor[graph.anchor] = True
    nothing = np.zeros(graph.size, np.int64)
    stored = Stored(np.arange(1, graph.size + 1), anchor, nothing, nothing, graph.person_guard, graph.vehicle_guard, graph, 0)
    expected = view.of_links(stored)
    with spark.opened(master) as engine:
        begin = time.perf_counter()
        found = view.of_links(stored, engine)
        seconds = time.perf_counter() - begin
    return {
        "spark_rebuild_s": round(seconds, 1),
        "spark_identifiers": graph.size,
        "spark_links": len(graph.anchor),
        "spark_equal": expected.clusters == found.clusters and not any(d.any() for d in expected.differs(found).values()),
        "spark_sha256": found.digest,
    }


def main() -> None:
    """One solver for `measure`, or the whole on Spark."""
    parser = argparse.ArgumentParser(prog="python -m bench.identity_rebuild", description=__doc__)
    words = parser.add_subparsers(dest="solver", required=True)
    for name in SOLVERS:
        words.add_parser(name).add_argument("folder", type=Path)
    spark = words.add_parser("spark", help="solve the same graph on Spark and compare; minutes at full size")
    spark.add_argument("--part", type=int, default=1, help="so many times smaller")
    spark.add_argument("--master", default="local[2]")
    flags = parser.parse_args()
    outcome = on_spark(flags.part, flags.master) if flags.solver == "spark" else solve(flags.solver, flags.folder)
    sys.stdout.write(orjson.dumps(outcome).decode() + "\n")


if __name__ == "__main__":
    main()
