"""Views in canonical form, and the whole graph solved on Spark as in memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from services.identity.domain.clusters import partition
from services.identity.domain.graphs import Graph
from services.identity.domain.kinds import NUMBERS, OPERATOR_STRENGTH, RETRACTED_STRENGTH, Kind, Reason, Space
from services.identity.rebuild import repair, spark, view
from services.identity.rebuild.stored import Stored
from services.identity.rebuild.view import Engine, View, smallest
from tests.spark import configuration

PEOPLE, SOURCES = 300, 6
# What people have beside their records, and how many of each at most.
KINDS = {
    Kind.OPENID: 1,
    Kind.UNIONID: 1,
    Kind.DEVICE: 2,
    Kind.MOBILE: 2,
    Kind.EMAIL: 1,
    Kind.ID_CARD: 1,
    Kind.VIN: 1,
    Kind.PLATE: 1,
}


def random_graph(seed: int) -> Graph:  # noqa: C901
    """Thousands of links: people with records and values, strangers' values mixed in, shared phones, devices and plates, names,
    two cards in one component, links of operators, links taken back, decisions, and the sides of undone merges."""
    rng = np.random.default_rng(seed)
    kind: list[int] = []
    records: list[list[int]] = []
    values: list[list[int]] = []

    def new(of: Kind) -> int:
        kind.append(int(of))
        return len(kind) - 1

    for _ in range(PEOPLE):
        records.append([new(Kind.CRM_ID) for _ in range(rng.integers(1, 4))])
        values.append([new(of) for of, most in KINDS.items() for _ in range(rng.integers(0, most + 1))])
    shared = [new(Kind.MOBILE) for _ in range(3)] + [new(Kind.DEVICE), new(Kind.PLATE)]
    links: list[tuple[int, int, int, int, int]] = []
    for person in range(PEOPLE):
        for record in records[person]:
            source, name = int(rng.integers(SOURCES)), int(rng.integers(2)) * (person + 1) * (-1) ** person
            links.append((record, record, name, source, 0))
            mine = values[person]
            for value in rng.permutation(mine)[: rng.integers(1, 5)].tolist() if mine else []:
                links.append((record, value, name, source, 0))
            if rng.random() < 0.08:
                other = values[rng.integers(PEOPLE)]
                links += [(record, value, name, source, 0) for value in other[:1]]
            if rng.random() < 0.1:
                links.append((record, int(rng.choice(shared)), name, source, 0))
        # Accounts, devices and cars speak for themselves, too.
        for one, other in pairwise(values[person]):
            if rng.random() < 0.3:
                links.append((one, other, 0, int(rng.integers(SOURCES)), 0))
    tablet = new(Kind.DEVICE)
    links += [(tablet, mine[-1], 0, 1, 0) for mine in values[:60] if mine]
    for _ in range(20):
        one, other = rng.integers(PEOPLE, size=2)
        strength = int(rng.choice([OPERATOR_STRENGTH, 10, RETRACTED_STRENGTH]))
        links.append((records[one][0], records[other][0], 0, 0, strength))
    links = list({link[:4]: link for link in links}.values())
    columns = [np.array(column) for column in zip(*links, strict=True)]
    size = len(kind)
    decided = np.zeros(size, np.int16)
    decided[rng.choice(size, 12)] = NUMBERS[Reason.REGISTERED]
    apart: dict[int, tuple[int, ...]] = {}
    for operation in range(1, 9):
        mine = [records[p] for p in rng.integers(PEOPLE, size=30) if len(records[p]) > 1 and records[p][0] not in apart]
        apart[mine[0][0]], apart[mine[0][1]] = (operation,), (-operation,)
    return Graph(
        kind=np.array(kind, np.int16),
        person_guard=decided,
        vehicle_guard=decided.copy(),
        cleared=rng.random(size) < 0.05,
        anchor=columns[0].astype(np.int64),
        value=columns[1].astype(np.int64),
        name=columns[2].astype(np.int64),
        source=columns[3].astype(np.int64),
        strength=columns[4].astype(np.int16),
        trust=np.array([4, 4, 3, 1, 1, 1]),
        apart=apart,
    )


def held(graph: Graph) -> Stored:
    """A graph as if it had been read; the tables' view does not matter."""
    nothing = np.zeros(graph.size, np.int64)
    anchor = np.zeros(graph.size, bool)
    anchor[graph.anchor] = True
    # Ids need not be dense.
    ids = np.arange(graph.size) * 3 + 7
    return Stored(ids, anchor, nothing, nothing, graph.person_guard, graph.vehicle_guard, graph, 0)


@pytest.fixture(scope="module")
def on_spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_CONF_DIR", configuration(tmp_path_factory.mktemp("spark")))
        with spark.opened("local[2]") as engine:
            yield engine


def test_spark_solves_as_memory_does(on_spark: Engine) -> None:
    graph = random_graph(1)
    stored = held(graph)
    expected, found = view.of_links(stored), view.of_links(stored, on_spark)
    # The graph has in it what is hard.
    in_memory = view.in_memory(graph)
    assert {1, 2, 3, 4} <= set(np.unique(in_memory[Space.PERSON].guard).tolist())
    states = partition(graph, Space.PERSON).state.tolist()
    assert {NUMBERS[reason] for reason in (Reason.NAME_MISSING, Reason.EXCLUSIVE_ID_CARD, Reason.UNMERGED)} <= {*states}
    assert expected.person_guard.tolist() == found.person_guard.tolist()
    assert expected.vehicle_guard.tolist() == found.vehicle_guard.tolist()
    assert expected.digest == found.digest
    assert expected.neighbourhood.tolist() == found.neighbourhood.tolist()


def test_the_canonical_form_names_each_cluster_by_its_smallest_id() -> None:
    ids = np.array([3, 5, 8, 9, 12])
    assert [3, 5, 3, 0, 5] == smallest(ids, np.array([7, 2, 7, 7, 2]), np.array([True, True, True, False, True])).tolist()
    assert [3, 5, 3, 0, 5] == smallest(ids, np.array([70, 2, 70, 1, 2]) * 10**9, np.array([1, 1, 1, 0, 1], bool)).tolist()


def test_what_to_mend_is_whole_groups_of_both_views_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(cluster: list[int]) -> View:
        nothing = np.zeros(len(cluster), np.int16)
        return View(np.array(cluster), np.array(cluster), nothing, nothing)

    ids = np.arange(1, 9)
    wrong = seen([1, 1, 3, 3, 5, 5, 7, 8])
    right = seen([1, 1, 1, 4, 5, 6, 7, 8])
    assert [[1, 2, 3, 4, 5, 6]] == [batch.tolist() for batch in repair.wrong(ids, wrong, right)]
    monkeypatch.setattr(repair, "BATCH", 1)
    assert [[1, 2, 3, 4], [5, 6]] == [batch.tolist() for batch in repair.wrong(ids, wrong, right)]
    assert [] == list(repair.wrong(ids, right, right))
