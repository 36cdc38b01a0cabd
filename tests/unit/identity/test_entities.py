"""Ids live on where their smallest anchor is; merges and splits are told, and no id is used twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.identity.domain.entities import assign, newcomers

F = frozenset


def told(
    groups: list[frozenset[int]], anchors: dict[int, int], fresh: list[int]
) -> tuple[dict[int, int], list[tuple[str, int, int]]]:
    found = assign(groups, anchors, fresh)
    return dict(found.owners), [(c.operation, c.survivor, c.other) for c in found.changes]


def test_a_new_group_gets_a_new_id_and_a_value_alone_gets_none() -> None:
    assert ({1: 7, 2: 7, 3: 0}, []) == told([F({1, 2}), F({3})], {1: 0}, [7])


def test_the_smallest_entity_survives_a_merge() -> None:
    assert ({1: 4, 2: 4, 3: 4}, [("merge", 4, 9)]) == told([F({1, 2, 3})], {1: 9, 2: 4, 3: 0}, [])


def test_the_part_with_the_smallest_anchor_keeps_the_id_of_a_split() -> None:
    assert ({1: 4, 2: 5, 3: 4}, [("split", 4, 5)]) == told([F({2}), F({1, 3})], {1: 4, 2: 4, 3: 4}, [5])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_every_anchor_has_one_owner_and_no_two_groups_share_one(colours: list[int], owners: list[int]) -> None:
    anchors = {i + 1: owners[i] for i in range(len(colours))}
    groups = [g for c in range(5) if (g := F(i + 1 for i, colour in enumerate(colours) if colour == c))]
    fresh = [100 + i for i in range(len(newcomers(groups, anchors)))]
    found = assign(groups, anchors, fresh)
    ids = [{found.owners[i] for i in group} for group in groups]
    assert all(len(of) == 1 for of in ids)
    flat = [next(iter(of)) for of in ids]
    assert len(set(flat)) == len(flat)
    # An entity that had anchors is still there, or the ledger says where it went.
    ended = {c.other for c in found.changes if c.operation == "merge"}
    assert {owner for owner in anchors.values() if owner} == (set(flat) | ended) - set(fresh)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_assigning_again_changes_nothing(colours: list[int]) -> None:
    groups = [g for c in range(5) if (g := F(i + 1 for i, colour in enumerate(colours) if colour == c))]
    first = assign(groups, dict.fromkeys(range(1, len(colours) + 1), 0), range(1, 13))
    assert (dict(first.owners), []) == told(groups, dict(first.owners), [])
