"""What insights count is what their predicates select, and chance is told from more than chance."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from services.tags.domain.catalogue import Kind
from services.tags.domain.predicates import parse_predicate
from services.tags.index import values
from services.tags.index.algebra import audience
from services.tags.index.describe import DescribedTerm, conclude, describe
from services.tags.index.distribution import distribution
from services.tags.index.index import AudienceIndex
from services.tags.index.overlaps import all_overlaps, matrix
from tests.unit.tags.index.worlds import CATALOGUE, IDS, NOW, World, worlds

PERSON = Kind.PERSON


def selected(index: AudienceIndex, predicate: str) -> BitMap:
    return audience(index, PERSON, parse_predicate(predicate, PERSON, CATALOGUE), NOW)


@given(worlds(), st.sets(IDS), st.sets(IDS))
@settings(max_examples=80, deadline=None)
def test_every_figure_is_that_of_its_predicate(world: World, some: set[int], others: set[int]) -> None:
    index = world.index()
    members, base = BitMap(some) & index.present[PERSON], BitMap(others) & index.present[PERSON]
    for term in describe(index, PERSON, members, base, frozenset()).terms:
        who = selected(index, term.predicate)
        assert (len(who & members), len(who & base)) == (term.audience_count, term.base_count)
        assert 0 <= term.p_value <= 0.5 and term.p_value <= term.q_value <= 1
    for overlap in all_overlaps(index, PERSON, members):
        who = selected(index, overlap.predicate)
        assert (len(who), len(who & members)) == (overlap.size, overlap.both) and overlap.both
    for tag in index.columns(PERSON):
        spread = distribution(index, PERSON, tag, members, base)
        missing = selected(index, f"{tag} IS NULL")
        assert (len(missing & members), len(missing & base)) == (spread.missing, spread.base_missing)
        for share in spread.shares:
            who = selected(index, share.predicate)
            assert (len(who & members), len(who & base)) == (share.count, share.base_count)
        if not tag.startswith(("set", "text")):
            assert len(members) == spread.missing + sum(share.count for share in spread.shares)


def test_ranges_of_many_numbers_are_about_equal_and_select_what_they_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "_SAMPLE", 500)
    index, rnd = AudienceIndex(CATALOGUE), random.Random(1)
    for person in range(1, 4_000):
        index.load_entity(PERSON, person, True, {"number_1": rnd.gauss(50, 20)}, 1)
    base = index.present[PERSON]
    spread = distribution(index, PERSON, "number_1", BitMap(range(1, 1000)), base)
    assert values.RANGES == len(spread.shares)
    for share in spread.shares:
        assert share.base_count == len(selected(index, share.predicate))
        assert 300 < share.base_count < 700
    assert sorted(spread.quantiles) == list(spread.quantiles) and 40 < spread.quantiles[3] < 60
    assert sum(share.base_count for share in spread.shares) > 0.98 * len(base)


def test_false_discoveries_are_corrected_as_benjamini_and_hochberg_did() -> None:
    p_values = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205]
    looked = [DescribedTerm("t", f"p{i}", 1, 1, 2.0, 9.0 - i, p) for i, p in enumerate(p_values)]
    looked += [DescribedTerm("t", f"q{i}", 1, 1, 0.5, -1.0, 0.84) for i in range(2)]
    found = conclude(looked)
    assert 10 == found.compared
    # By hand: the least of p * 10 / rank from here on.
    expected = [0.01, 0.04, 0.084, 0.084, 0.084, 0.1, 0.74 / 7, 2.05 / 8]
    assert pytest.approx(expected) == [term.q_value for term in found.terms]


def test_a_p_value_is_that_of_its_z() -> None:
    index = AudienceIndex(CATALOGUE)
    for person in range(1, 201):
        index.load_entity(PERSON, person, True, {"boolean_1": person <= 60 or person > 180}, 1)
    (term,) = describe(index, PERSON, BitMap(range(1, 101)), index.present[PERSON], frozenset()).terms
    # 60 of 100 against 20 of 100.
    pooled = 80 / 200
    z = (0.6 - 0.2) / math.sqrt(pooled * (1 - pooled) * 2 / 100)
    assert pytest.approx(z) == term.z_score
    assert pytest.approx(0.5 * math.erfc(z / math.sqrt(2))) == term.p_value


def test_of_random_tags_none_is_a_discovery_and_a_planted_one_is() -> None:
    rng, index = np.random.default_rng(3), AudienceIndex(CATALOGUE)
    for person in range(1, 2_001):
        tags = {"boolean_1": bool(rng.random() < 0.3), "category_1": str(rng.integers(40)), "number_1": float(rng.random())}
        index.load_entity(PERSON, person, True, tags | {"boolean_2": bool(rng.random() < (0.5 if person <= 500 else 0.2))}, 1)
    found = describe(index, PERSON, BitMap(range(1, 501)), index.present[PERSON], frozenset())
    assert ["boolean_2"] == [term.predicate for term in found.terms if term.q_value <= 0.01]
    assert [] == [
        t
        for t in describe(index, PERSON, BitMap(range(1, 501)), index.present[PERSON], frozenset({"boolean_2"})).terms
        if t.q_value <= 0.01
    ]


def test_a_matrix_is_symmetric_and_has_sizes_on_its_diagonal() -> None:
    assert [[3, 2, 0], [2, 2, 0], [0, 0, 0]] == matrix([BitMap([1, 2, 3]), BitMap([2, 3]), BitMap()])
