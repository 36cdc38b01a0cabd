"""What `python -m bench linkage` means by precision, recall and F1."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bench.linkage_peers import connected
from bench.linkage_sets import LabelledSet, Links, cluster_pairs, historical_persons


def labelled(person: list[int]) -> LabelledSet:
    ids = [f"Q{p}-{n}" for n, p in enumerate(person)]
    return LabelledSet("toy", pd.DataFrame({"record_id": ids}), np.array(person, dtype=np.int64))


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def test_a_true_pair_that_nobody_compared_counts_as_missed() -> None:
    # Three records of one person are three pairs; one was found, and one that is wrong.
    found = labelled([0, 0, 0, 1]).accuracy(ids(0, 2), ids(1, 3))
    assert {"precision": 0.5, "recall": pytest.approx(1 / 3), "f1": pytest.approx(0.4)} == found


def test_clustered_counts_links_of_links() -> None:
    links = Links(ids(0, 1), ids(1, 2), np.array([0.99, 0.96]))
    cluster = connected(4, links, 0.95)
    assert {(0, 1), (0, 2), (1, 2)} == set(zip(*(side.tolist() for side in cluster_pairs(cluster)), strict=True))
    assert 1.0 == labelled([0, 0, 0, 1]).accuracy(*cluster_pairs(cluster))["f1"]
    assert (0, 0) == tuple(len(side) for side in cluster_pairs(connected(4, links, 0.999)))


def test_halves_hold_whole_persons_and_all_of_them() -> None:
    toy = labelled([person for person in range(40) for _ in range(3)])
    one, other = toy.halves()
    assert (one ^ other).all() and one.any() and other.any()
    assert toy.true_pairs() == toy.true_pairs(one) + toy.true_pairs(other)
    assert 1.0 == toy.accuracy(*cluster_pairs(toy.person), one)["f1"]


def test_the_set_that_is_shipped_has_the_size_it_says_and_no_truth_among_its_columns() -> None:
    shipped = historical_persons()
    assert (25_692, 154_651) == (len(shipped.records), shipped.true_pairs())
    assert "cluster" not in shipped.records.columns
