"""Whatever the order in which the bus tells them, changes end in what the database has."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from services.tags.domain.catalogue import Kind
from services.tags.index.index import AudienceIndex
from services.tags.index.projection import project
from tests.unit.tags.index.changes import PAIR, History, commits, held, related, shuffled
from tests.unit.tags.index.worlds import CATALOGUE


@given(commits, st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_any_order_ends_in_what_the_database_has_once_the_torn_are_mended(
    planned: list[tuple[list[tuple[Kind, int, dict[str, object] | None]], set[tuple[int, int, str]]]], rnd: random.Random
) -> None:
    history = History()
    messages = [history.commit(*each) for each in planned]  # type: ignore[arg-type]
    in_order, disordered = AudienceIndex(CATALOGUE), AudienceIndex(CATALOGUE)
    for message in messages:
        project(in_order, message)
    assert not any(in_order.torn.values())
    for message in shuffled(messages, rnd):
        project(disordered, message)
        # Nobody has a tag without being there, whatever is missing yet.
        for kind in Kind:
            assert all(column.known().issubset(disordered.present[kind]) for column in disordered.columns(kind).values())
    history.mend(disordered)
    for index in (in_order, disordered):
        assert not any(index.torn.values())
        for kind in Kind:
            assert history.world.entities[kind] == held(index, kind)
        assert {(one, other) for one, other, _ in history.world.relations[PAIR]} == related(index)


def test_a_skipped_version_tears_and_what_is_read_before_it_came_does_not_mend() -> None:
    index = AudienceIndex(CATALOGUE)
    index.apply(Kind.PERSON, 7, 1, {"number_1": 1.0}, True)
    index.apply(Kind.PERSON, 7, 3, {"number_2": 2.0}, None)
    assert {7} == index.torn[Kind.PERSON]
    index.load_entity(Kind.PERSON, 7, True, {"number_1": 1.0}, 2)
    assert {7} == index.torn[Kind.PERSON]
    index.load_entity(Kind.PERSON, 7, True, {"number_1": 5.0, "number_2": 2.0}, 3)
    assert not index.torn[Kind.PERSON]
    assert {7: {"number_1": 5.0, "number_2": 2.0}} == held(index, Kind.PERSON)


def test_whose_coming_was_missed_is_there_with_the_first_tag() -> None:
    index = AudienceIndex(CATALOGUE)
    index.apply(Kind.PERSON, 7, 3, {"number_2": None}, None)
    index.apply(Kind.PERSON, 7, 4, {"number_1": 1.0}, None)
    assert 7 in index.present[Kind.PERSON]


def test_who_ceases_with_a_gap_leaves_nothing_behind() -> None:
    index = AudienceIndex(CATALOGUE)
    index.apply(Kind.PERSON, 7, 1, {"number_1": 1.0, "set_1": ["yes"], "text_1": "said"}, True)
    index.apply(Kind.PERSON, 7, 4, {"number_1": None}, False)
    assert {} == held(index, Kind.PERSON)
