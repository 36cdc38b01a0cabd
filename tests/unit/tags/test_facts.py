"""Folding events: no order matters, and an entity is a function of its anchors."""

import copy
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tags import catalogue_file
from services.tags.domain.catalogue import Kind, TagType
from services.tags.domain.facts import BadEvent, FactRules, Facts, Occurrence, fold, typed

TEXT = """
person:
  last: {type: number, description: d, from: {event: E, property: x}, aggregate: last}
  count: {type: number, description: d, from: {event: E}, aggregate: count}
  sum: {type: number, description: d, from: {event: E, property: x}, aggregate: sum}
  max: {type: number, description: d, from: {event: E, property: x}, aggregate: max}
  min: {type: number, description: d, from: {event: E, property: x}, aggregate: min}
  any: {type: boolean, description: d, from: {source: "s:*"}, aggregate: any}
  where: {type: category, description: d, from: {source: "s:*", property: $source}, aggregate: last}
  seen: {type: time, description: d, from: {property: $time}, aggregate: max}
"""
RULES = FactRules(catalogue_file.parse(TEXT))

Event = tuple[Occurrence, int]
events = st.builds(
    lambda source, at, tie, x: (Occurrence(source, "E", at, tie, at + 1), x),
    st.sampled_from(("s:1", "s:2", "t")),
    st.integers(0, 4),
    st.integers(0, 2**63 - 1),
    st.integers(-5, 5),
)


def folded(given_events: list[Event]) -> Facts:
    facts: Facts = {}
    for occurrence, x in given_events:
        fold(facts, occurrence, RULES.stated(Kind.PERSON, occurrence, b'{"x":%d}' % x))
    return facts


@given(st.lists(events, max_size=8, unique_by=lambda e: e[0].tie), st.randoms(use_true_random=False))
def test_events_fold_to_the_same_facts_in_any_order(given_events: list[Event], rnd: random.Random) -> None:
    shuffled = list(given_events)
    rnd.shuffle(shuffled)
    assert folded(given_events) == folded(shuffled)


@given(st.lists(st.tuples(events, st.integers(1, 4)), min_size=1, max_size=10, unique_by=lambda e: e[0][0].tie))
def test_an_entity_over_many_anchors_is_as_if_all_events_had_one(spread: list[tuple[Event, int]]) -> None:
    whole = RULES.combined(Kind.PERSON, [folded([event for event, _ in spread])])
    parts = [folded([event for event, anchor in spread if anchor == a]) for a in {anchor for _, anchor in spread}]
    before = copy.deepcopy(parts)
    assert whole == RULES.combined(Kind.PERSON, parts)
    assert before == parts


def test_the_anchors_behind_a_value_are_named() -> None:
    early, late = Occurrence("s:1", "E", 1, 1, 5), Occurrence("s:2", "E", 2, 2, 6)
    explained = RULES.explained(Kind.PERSON, {7: folded([(early, 3)]), 9: folded([(late, 4)])})
    assert ([4.0, 2, 2, 6], [9]) == explained["last"]
    assert ([2.0, 2, 2, 6], [7, 9]) == explained["count"]
    assert ("2", [9]) == (explained["where"][0][0], explained["where"][1])


@pytest.mark.parametrize(
    ("tag_type", "given_value", "expected"),
    [
        (TagType.NUMBER, 3, 3.0),
        (TagType.CATEGORY, "a", "a"),
        (TagType.CATEGORY, "", None),
        (TagType.NUMBER, None, None),
        (TagType.BOOLEAN, False, False),
        (TagType.TIME, "1970-01-01T01:00:00+01:00", 0.0),
    ],
)
def test_a_json_value_becomes_the_tags_type(tag_type: TagType, given_value: object, expected: object) -> None:
    assert expected == typed(tag_type, given_value, "x")


@pytest.mark.parametrize(
    ("tag_type", "given_value"),
    [
        (TagType.NUMBER, "3"),
        (TagType.NUMBER, True),
        (TagType.NUMBER, 10**400),
        (TagType.CATEGORY, 3),
        (TagType.CATEGORY, "x" * 201),
        (TagType.BOOLEAN, "yes"),
        (TagType.TIME, "soon"),
        (TagType.TIME, 5),
    ],
)
def test_a_value_of_another_type_is_bad(tag_type: TagType, given_value: object) -> None:
    with pytest.raises(BadEvent) as caught:
        typed(tag_type, given_value, "x")
    assert "TYPE_MISMATCH" == caught.value.reason


@pytest.mark.parametrize("properties", [b"[1]", b"{", b"\xff"])
def test_properties_that_are_no_object_are_bad(properties: bytes) -> None:
    with pytest.raises(BadEvent, match="not one JSON object"):
        RULES.stated(Kind.PERSON, Occurrence("t", "E", 1, 1, 1), properties)
