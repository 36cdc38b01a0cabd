from __future__ import annotations

import itertools
import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.identity.linkage.clusters import average_linkage, one_to_one

Pairs = dict[tuple[int, int], float]


def linked(records: int, pairs: Pairs, threshold: float) -> list[int]:
    left, right = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    return average_linkage(records, left, right, np.array(list(pairs.values())), threshold).tolist()


def mean(one: list[int], other: list[int], pairs: Pairs) -> float:
    return sum(pairs.get((min(a, b), max(a, b)), 0.0) for a in one for b in other) / (len(one) * len(other))


def slowly(records: int, pairs: Pairs, threshold: float) -> list[list[int]]:
    """Average linkage by its definition: again and again the best pair of groups."""
    groups = [[record] for record in range(records)]
    while True:
        best = max(itertools.combinations(groups, 2), key=lambda two: mean(*two, pairs), default=None)
        if best is None or mean(*best, pairs) < threshold:
            return sorted(sorted(group) for group in groups)
        groups = [group for group in groups if group not in best] + [best[0] + best[1]]


# Probabilities of which no two sums tie.
graphs = st.integers(2, 8).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.dictionaries(
            st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda pair: pair[0] < pair[1]),
            st.floats(0.01, 1.0, allow_nan=False),
            max_size=20,
        ),
        st.integers(0, 1_000_000),
    )
)


@given(graphs, st.sampled_from([0.1, 0.3, 0.5, 0.8]))
def test_clusters_are_those_of_the_definition(graph: tuple[int, Pairs, int], threshold: float) -> None:
    records, pairs, seed = graph
    rng = random.Random(seed)
    pairs = {pair: min(1.0, p * rng.uniform(0.9, 1.0)) for pair, p in pairs.items()}
    cluster = linked(records, pairs, threshold)
    groups = sorted([record for record in range(records) if cluster[record] == name] for name in sorted(set(cluster)))
    assert slowly(records, pairs, threshold) == groups


@given(graphs, st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_matter(graph: tuple[int, Pairs, int], rng: random.Random) -> None:
    records, pairs, _ = graph
    shuffled = list(pairs.items())
    rng.shuffle(shuffled)
    assert linked(records, pairs, 0.3) == linked(records, dict(shuffled), 0.3)


def test_a_chain_of_look_alikes_does_not_hold_two_persons_together() -> None:
    triangle = {(0, 1): 0.99, (0, 2): 0.98, (1, 2): 0.97}
    other = {(3, 4): 0.99, (3, 5): 0.98, (4, 5): 0.97}
    assert [0, 0, 0, 3, 3, 3] == linked(6, {**triangle, **other, (2, 3): 0.95}, 0.5)


def test_clusters_are_named_after_their_first_record() -> None:
    assert [0, 1, 0, 1] == linked(4, {(0, 2): 0.9, (1, 3): 0.9}, 0.5)
    assert [0, 1] == linked(2, {}, 0.5)


def test_between_two_files_nobody_has_two_partners_and_the_likeliest_wins() -> None:
    left, right = np.array([0, 0, 1, 1]), np.array([2, 3, 2, 3])
    weight = np.array([9.0, 8.0, 8.5, 1.0])
    assert [0, 1, 0, 1] == one_to_one(4, left, right, weight, 0.0).tolist()
    assert [0, 1, 0, 3] == one_to_one(4, left, right, weight, 2.0).tolist()


def test_between_two_files_ties_do_not_depend_on_order() -> None:
    left, right, weight = np.array([0, 1, 0]), np.array([2, 2, 3]), np.array([5.0, 5.0, 5.0])
    one = one_to_one(4, left, right, weight, 0.0)
    assert one.tolist() == one_to_one(4, left[::-1], right[::-1], weight, 0.0).tolist()
