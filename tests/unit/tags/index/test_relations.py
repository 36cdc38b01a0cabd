"""Edges that come and go in any order, late and twice, are those of their newest versions."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from services.tags.domain.catalogue import RELATIONS, Kind
from services.tags.index import edges as edges_module
from services.tags.index.relations import Relations, RelationTable

PAIR = (Kind.PERSON, Kind.VEHICLE)
Change = tuple[int, int, str, bool, int]


@st.composite
def histories(draw: st.DrawFn) -> list[Change]:
    """For some edges a chain of versions, each of which ends what the one before began."""
    ends = st.tuples(st.integers(1, 6), st.sampled_from((1, 2, 3, 9, 300)), st.sampled_from(RELATIONS[PAIR]))
    made: list[Change] = []
    for one, other, relation in draw(st.sets(ends, max_size=14)):
        first, length = draw(st.booleans()), draw(st.integers(1, 5))
        made += [(one, other, relation, first ^ bool(version % 2), version) for version in range(1, length + 1)]
    return made


def newest(changes: list[Change]) -> set[tuple[int, int, str]]:
    last = {change[:3]: change for change in sorted(changes, key=lambda change: change[4])}
    return {key for key, change in last.items() if not change[3]}


def check(relations: Relations, alive: set[tuple[int, int, str]]) -> None:
    person, vehicle = PAIR
    for other in (1, 2, 3, 9, 300):
        members = BitMap([other, 9])
        expected = sorted({p for p, v, _ in alive if v in members})
        assert expected == list(relations.reached(person, vehicle, members))
        counts = relations.counted(person, vehicle, members)
        assert [len({v for p, v, _ in alive if p == each and v in members}) for each in range(len(counts))] == counts.tolist()
        for relation in RELATIONS[PAIR]:
            lowest: dict[int, int] = {}
            for p, v, name in sorted(alive):
                if name == relation:
                    lowest.setdefault(p, v)
            single = relations.single(person, vehicle, relation, members)
            assert sorted(p for p, v in lowest.items() if v in members) == list(single)
            pairs = relations.of(person, vehicle, np.arange(8, dtype=np.uint32), relation)
            assert pairs is not None
            assert lowest == dict(zip(pairs.positions.tolist(), pairs.targets.tolist(), strict=True))
    for one in range(1, 7):
        assert sorted({v for p, v, _ in alive if p == one}) == list(relations.reached(vehicle, person, BitMap([one])))
    pairs = relations.of(vehicle, person, np.array([1, 300], np.uint32))
    assert pairs is not None
    found = {([1, 300][at], p) for at, p in zip(pairs.positions.tolist(), pairs.targets.tolist(), strict=True)}
    assert {(v, p) for p, v, _ in alive if v in (1, 300)} == found


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges_module, "LATE", 2)
    monkeypatch.setattr(edges_module, "_PARALLEL", 3)


@given(histories(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_order_of_changes_ends_in_the_newest(changes: list[Change], rnd: random.Random) -> None:
    relations = Relations()
    told = changes * 2
    rnd.shuffle(told)
    for one, other, relation, removed, version in told:
        relations.set(PAIR, one, other, relation, removed, version)
    check(relations, newest(changes))


@given(histories(), st.integers(0, 60), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_what_is_loaded_at_once_goes_on_as_if_it_had_come_one_by_one(
    changes: list[Change], cut: int, rnd: random.Random
) -> None:
    told, later = changes[:cut], [*changes]
    last = list({change[:3]: change for change in told}.values())
    rnd.shuffle(last)
    columns: list[Any] = [list(column) for column in zip(*last, strict=True)] if last else [[]] * 5
    relations = Relations()
    relations.fill(
        PAIR,
        RelationTable(
            np.array(columns[0], np.int64),
            np.array(columns[1], np.int64),
            np.array([RELATIONS[PAIR].index(name) for name in columns[2]], np.int64),
            np.array(columns[3], np.bool_),
            np.array(columns[4], np.int64),
        ),
    )
    check(relations, newest(told))
    rnd.shuffle(later)
    for one, other, relation, removed, version in later:
        relations.set(PAIR, one, other, relation, removed, version)
    check(relations, newest(changes))


def test_a_version_is_newer_however_high_it_is() -> None:
    relations = Relations()
    for version in range(1, 1000):
        relations.set(PAIR, 1, 2, "owns", version % 2 == 0, version)
        relations.set(PAIR, 1, 2, "owns", version % 2 == 1, version - 5)
        assert ([1] if version % 2 else []) == list(relations.reached(*PAIR, BitMap([2])))


def test_a_relation_that_does_not_exist_is_ignored() -> None:
    relations = Relations()
    relations.set(PAIR, 1, 2, "envies", False, 1)
    relations.set((Kind.DEALER, Kind.PERSON), 1, 2, "owns", False, 1)
    assert not relations.reached(*PAIR, BitMap([2]))
