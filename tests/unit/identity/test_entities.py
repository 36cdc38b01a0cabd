"""Ids live on where their smallest anchor is; merges and splits are told, and no id is used twice."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.identity.domain.entities import Assignment, Before, assign

F = frozenset
NEW = 100


def given_to(
    groups: list[frozenset[int]],
    anchors: dict[int, int],
    *,
    born: dict[int, int] | None = None,
    preferred: frozenset[int] = F(),
) -> tuple[Assignment, dict[int, int]]:
    """Owners by node; the k-th new entity is NEW + k. Nodes are their own rank; every id that anyone was born with is free."""
    nodes = sorted(node for group in groups for node in group)
    label = np.array([next(i for i, group in enumerate(groups) if node in group) for node in nodes], np.int64)
    before = Before(
        np.array(nodes, np.int64),
        np.array([node in anchors for node in nodes], bool),
        np.array([anchors.get(node, 0) for node in nodes], np.int64),
        np.array([(born or {}).get(node, 0) for node in nodes], np.int64),
    )
    found = assign(label, before, lambda wanted: wanted - set(anchors.values()), preferred)
    return found, {
        node: NEW - entity if entity < 0 else entity for node, entity in zip(nodes, found.entity.tolist(), strict=True)
    }


def told(
    groups: list[frozenset[int]], anchors: dict[int, int], **more: Any
) -> tuple[dict[int, int], list[tuple[str, int, int]]]:
    found, owners = given_to(groups, anchors, **more)
    return owners, [(c.operation, c.survivor, NEW - c.other if c.other < 0 else c.other) for c in found.changes]


def test_a_new_group_gets_a_new_id_and_a_value_alone_gets_none() -> None:
    assert ({1: 101, 2: 101, 3: 0}, []) == told([F({1, 2}), F({3})], {1: 0})


def test_the_smallest_entity_survives_a_merge_unless_another_is_preferred() -> None:
    assert ({1: 4, 2: 4, 3: 4}, [("merge", 4, 9)]) == told([F({1, 2, 3})], {1: 9, 2: 4, 3: 0})
    assert ({1: 9, 2: 9}, [("merge", 9, 4)]) == told([F({1, 2})], {1: 9, 2: 4}, preferred=F({9}))


def test_the_part_with_the_smallest_anchor_keeps_the_id_of_a_split() -> None:
    assert ({1: 4, 2: 101, 3: 4}, [("split", 4, 101)]) == told([F({2}), F({1, 3})], {1: 4, 2: 4, 3: 4})


def test_what_comes_apart_gets_the_id_back_that_it_was_born_with() -> None:
    born = {1: 4, 2: 8, 3: 4}
    assert ({1: 4, 2: 8, 3: 4}, [("split", 4, 8)]) == told([F({2}), F({1, 3})], {1: 4, 2: 4, 3: 4}, born=born)


def test_an_entity_lives_on_with_those_who_were_born_with_it() -> None:
    born = {1: 3, 2: 4}
    assert ({1: 3, 2: 4}, [("split", 4, 3)]) == told([F({1}), F({2})], {1: 4, 2: 4}, born=born)


def test_an_id_that_somebody_has_is_not_given_back() -> None:
    born = {1: 4, 2: 8, 3: 8}
    found, owners = given_to([F({2}), F({1}), F({3})], {1: 4, 2: 4, 3: 8}, born=born)
    assert {1: 4, 2: 101, 3: 8} == owners
    assert 1 == found.newcomers


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_every_anchor_has_one_owner_and_no_two_groups_share_one(colours: list[int], owners: list[int]) -> None:
    anchors = {i + 1: owners[i] for i in range(len(colours))}
    groups = [g for c in range(5) if (g := F(i + 1 for i, colour in enumerate(colours) if colour == c))]
    found, owner = given_to(groups, anchors)
    ids = [{owner[i] for i in group} for group in groups]
    assert all(len(of) == 1 for of in ids)
    flat = [next(iter(of)) for of in ids]
    assert len(set(flat)) == len(flat)
    # An entity that had anchors is still there, or the ledger says where it went.
    ended = {c.other for c in found.changes if c.operation == "merge"}
    assert {owner for owner in anchors.values() if owner} == {i for i in set(flat) | ended if i < NEW}


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_assigning_again_changes_nothing(colours: list[int]) -> None:
    groups = [g for c in range(5) if (g := F(i + 1 for i, colour in enumerate(colours) if colour == c))]
    _, owners = given_to(groups, dict.fromkeys(range(1, len(colours) + 1), 0))
    assert (owners, []) == told(groups, owners)
