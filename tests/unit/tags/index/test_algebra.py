"""Every term of the language on bitmaps and columns means what it means entity by entity."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from services.tags.domain.catalogue import Kind
from services.tags.domain.terms import And, Compares, Constant, Holds
from services.tags.index import algebra
from services.tags.index.algebra import audience, count
from services.tags.index.index import AudienceIndex
from tests.unit.tags.index.worlds import CATALOGUE, IDS, NOW, World, terms, worlds

_SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


@given(st.data(), worlds(), st.sampled_from(Kind))
@settings(max_examples=60, deadline=None, suppress_health_check=_SLOW)
def test_the_whole_base_at_once_and_one_entity_at_a_time_agree(data: st.DataObject, world: World, kind: Kind) -> None:
    term, index = data.draw(terms(kind)), world.index()
    expected = world.true_of(kind, term)
    assert expected == list(audience(index, kind, term, NOW))
    assert len(expected) == count(index, kind, term, NOW)


@given(st.data(), worlds(), st.sampled_from(Kind), st.sets(IDS))
@settings(max_examples=60, deadline=None, suppress_health_check=_SLOW)
def test_a_few_entities_and_the_whole_base_agree(
    monkeypatch: pytest.MonkeyPatch, data: st.DataObject, world: World, kind: Kind, few: set[int]
) -> None:
    term, index = data.draw(terms(kind)), world.index()
    expected = [entity_id for entity_id in world.true_of(kind, term) if entity_id in few]
    assert expected == list(audience(index, kind, term, NOW, BitMap(few)))
    # As if there were many more.
    with monkeypatch.context() as patched:
        patched.setattr(algebra, "_NARROW", 0)
        patched.setattr(algebra, "_NARROW_ACROSS", 0)
        assert expected == list(audience(index, kind, term, NOW, BitMap(few)))


def test_what_a_caller_gets_is_his_own() -> None:
    index = AudienceIndex(CATALOGUE)
    for person in (1, 2):
        index.load_entity(Kind.PERSON, person, True, {"boolean_1": True}, 1)
    for term in (Holds("boolean_1"), Constant(True), And((Holds("boolean_1"), Constant(True)))):
        audience(index, Kind.PERSON, term, NOW).clear()
        assert 2 == count(index, Kind.PERSON, term, NOW)


def test_what_is_compared_with_a_wrong_type_is_refused_not_guessed() -> None:
    with pytest.raises(TypeError):
        audience(AudienceIndex(CATALOGUE), Kind.PERSON, Compares("category_1", "<", 1.0), NOW)
