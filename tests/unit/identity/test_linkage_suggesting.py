from __future__ import annotations

from collections import defaultdict

import numpy as np

from services.identity.linkage.model import Pairs
from services.identity.linkage.records import Customers
from services.identity.linkage.run import Linked
from services.identity.linkage.suggesting import Wanted, worth_telling


def scored(pairs: list[tuple[int, int, float]], cluster: list[int]) -> Linked:
    """Pairs of (record, record, probability)."""
    probability = np.array([p for _, _, p in pairs])
    weight = np.log2(probability / (1 - probability))
    return Linked(
        Pairs(
            np.array([a for a, _, _ in pairs], dtype=np.int64),
            np.array([b for _, b, _ in pairs], dtype=np.int64),
            weight,
            {"name": weight.astype(np.float32), "born": np.zeros(len(pairs), np.float32)},
            {"name": np.ones(len(pairs), np.int8), "born": np.full(len(pairs), -1, np.int8)},
        ),
        np.array(cluster, dtype=np.int64),
        [],
    )


def customers(persons: list[int], cards: dict[int, set[int]] | None = None) -> Customers:
    return Customers([100 + record for record in range(len(persons))], persons, defaultdict(set, cards or {}))


def anchors(pairs: object) -> list[tuple[int, int]]:
    return [(pair.anchor_a, pair.anchor_b) for pair in pairs]  # type: ignore[attr-defined]


def test_two_persons_are_suggested_once_by_their_likeliest_records() -> None:
    linked = scored([(0, 2, 0.7), (1, 2, 0.9), (0, 1, 0.99)], [0, 0, 0])
    found = worth_telling(linked, customers([7, 7, 8]), Wanted(0.5))
    # Records 0 and 1 are one person already.
    assert ([], [(101, 102)]) == (anchors(found.certain), anchors(found.possible))


def test_what_a_comparison_did_not_see_it_does_not_explain() -> None:
    found = worth_telling(scored([(0, 1, 0.9)], [0, 0]), customers([7, 8]), Wanted(0.5))
    assert {"name": 3.17} == found.possible[0].match_weights


def test_only_within_a_cluster_a_pair_is_linked_by_itself() -> None:
    linked = scored([(0, 1, 0.99), (2, 3, 0.99), (0, 3, 0.6)], [0, 0, 2, 3])
    found = worth_telling(linked, customers([1, 2, 3, 4]), Wanted(0.5, threshold=0.9))
    assert [(100, 101)] == anchors(found.certain)
    assert [(102, 103), (100, 103)] == anchors(found.possible)


def test_persons_with_different_id_cards_are_no_pair() -> None:
    linked = scored([(0, 1, 0.99), (0, 2, 0.98)], [0, 0, 0])
    found = worth_telling(linked, customers([1, 2, 3], {1: {50}, 2: {51}, 3: {50, 52}}), Wanted(0.5))
    assert [(100, 102)] == anchors(found.possible)


def test_what_is_less_likely_than_wanted_is_not_told() -> None:
    found = worth_telling(scored([(0, 1, 0.49)], [0, 1]), customers([1, 2]), Wanted(0.5))
    assert ([], []) == (found.certain, found.possible)
