"""Folding events: no order matters, and an entity is a function of its anchors."""

import copy
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tags.catalogue import yaml_files
from services.tags.domain.catalogue import Kind, TagType
from services.tags.domain.facts import BadEvent, FactRules, Facts, Occurrence, fold, typed

FOLDS = (
    *("LAST(x)", "FIRST(x)", "COUNT(*)", "SUM(x)", "AVG(x)", "MAX(x)", "MIN(x)", "COUNT(DISTINCT w)"),
    *("ARRAY_AGG(DISTINCT w)", "BOOL_OR(TRUE)", "MAX(occurred_at)"),
)
TYPES = {"ARRAY": "set", "BOOL": "boolean", "MAX(occ": "time"}


def _line(name: str, expression: str, window: str) -> str:
    tag_type = next((t for start, t in TYPES.items() if expression.startswith(start)), "number")
    return f'  {name}{"w" if window else ""}: {{type: {tag_type}, description: d, expression: "{expression}{window}"}}'


WINDOW = " FILTER (WHERE event = 'E' AND occurred_at > NOW() - INTERVAL '3 seconds')"
TEXT = "\n".join(
    [
        "person:",
        *(_line(f"t{i}", expression, window) for i, expression in enumerate(FOLDS) for window in ("", WINDOW)),
        "  place_of: {type: category, description: d, expression: \"LAST(source_name) FILTER (WHERE source LIKE 's:%')\"}",
        "  last: {type: number, description: d, expression: \"LAST(x) FILTER (WHERE event = 'E')\"}",
        "  count: {type: number, description: d, expression: COUNT(*)}",
        "  big: {type: number, description: d, expression: COUNT(*) FILTER (WHERE x > 2 AND NOT w = 'a')}",
    ]
)
RULES = FactRules(yaml_files.parse(TEXT))
NOW = 5_000_000

Event = tuple[Occurrence, int]
events = st.builds(
    lambda source, at, tie, x: (Occurrence(source, "E", at, tie, at + 1), x),
    st.sampled_from(("s:1", "s:2", "t")),
    st.integers(0, 5).map(lambda second: second * 1_000_000),
    st.integers(0, 2**63 - 1),
    st.integers(-5, 5),
)


def folded(given_events: list[Event]) -> Facts:
    facts: Facts = {}
    for occurrence, x in given_events:
        fold(facts, occurrence, RULES.stated(Kind.PERSON, occurrence, b'{"x":%d,"w":"%c"}' % (x, 97 + x % 3)))
    return facts


@given(st.lists(events, max_size=8, unique_by=lambda e: e[0].tie), st.randoms(use_true_random=False))
def test_events_fold_to_the_same_facts_in_any_order(given_events: list[Event], rnd: random.Random) -> None:
    shuffled = list(given_events)
    rnd.shuffle(shuffled)
    assert folded(given_events) == folded(shuffled)


@given(st.lists(st.tuples(events, st.integers(1, 4)), min_size=1, max_size=10, unique_by=lambda e: e[0][0].tie))
def test_an_entity_over_many_anchors_is_as_if_all_events_had_one(spread: list[tuple[Event, int]]) -> None:
    whole = RULES.combined(Kind.PERSON, [folded([event for event, _ in spread])], NOW)
    parts = [folded([event for event, anchor in spread if anchor == a]) for a in {anchor for _, anchor in spread}]
    before = copy.deepcopy(parts)
    assert whole == RULES.combined(Kind.PERSON, parts, NOW)
    assert before == parts


@given(st.lists(events, max_size=8, unique_by=lambda e: e[0].tie), st.integers(0, 9_000_000))
def test_a_window_holds_what_brute_force_finds_in_it_and_says_when_that_changes(given_events: list[Event], now: int) -> None:
    facts = folded(given_events)

    def inside(at: int) -> list[Event]:
        return [e for e in given_events if e[0].occurred_at_us // 1_000_000 > at // 1_000_000 - 3]

    for at in (now, now + 1):
        values = RULES.combined(Kind.PERSON, [facts] if facts else [], at)
        kept = inside(at)
        assert values.get("t2w") == (len(kept) or None)
        assert values.get("t3w") == (sum(x for _, x in kept) if kept else None)
        assert values.get("t8w") == (sorted({"abc"[x % 3] for _, x in kept}) or None)
        last = max(kept, key=lambda e: e[0][2:4], default=None)
        assert values.get("t0w") == (last and last[1])
        first = min(kept, key=lambda e: e[0][2:4], default=None)
        assert values.get("t1w") == (first and first[1])
    due = RULES.next_due_us(Kind.PERSON, [facts], now)
    leaves = [e[0].occurred_at_us // 1_000_000 * 1_000_000 + 3_000_000 for e in inside(now)]
    assert min(leaves, default=None) == due


def test_an_event_counts_where_its_properties_fulfil_the_condition() -> None:
    def stated(properties: bytes) -> set[str]:
        return {s.tag for s in RULES.stated(Kind.PERSON, Occurrence("t", "E", 1, 1, 1), properties)} & {"big"}

    assert {"big"} == stated(b'{"x":3,"w":"b"}')
    # Missing, and of another type, is unknown, and so is its negation.
    for properties in (b'{"x":3}', b'{"x":3,"w":5}', b'{"x":"3","w":"b"}', b'{"x":3,"w":"a"}', b'{"x":2,"w":"b"}', b""):
        assert set() == stated(properties)


def test_the_anchors_behind_a_value_are_named() -> None:
    early, late = Occurrence("s:1", "E", 1, 1, 5), Occurrence("s:2", "E", 2, 2, 6)
    explained = RULES.explained(Kind.PERSON, {7: folded([(early, 3)]), 9: folded([(late, 4)])})
    assert (2, [9]) == explained["last"]
    assert (2, [7, 9]) == explained["count"]
    assert [9] == explained["place_of"][1]


@pytest.mark.parametrize(
    ("tag_type", "given_value", "expected"),
    [
        (TagType.NUMBER, 3, 3.0),
        (TagType.CATEGORY, "a", "a"),
        (TagType.CATEGORY, "", None),
        (TagType.NUMBER, None, None),
        (TagType.BOOLEAN, False, False),
        (TagType.TIME, "1970-01-01T01:00:00+01:00", 0.0),
        (TagType.TEXT, "x" * 3000, "x" * 2000),
    ],
)
def test_a_json_value_becomes_the_tags_type(tag_type: TagType, given_value: object, expected: object) -> None:
    assert expected == typed(tag_type, given_value)


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
def test_a_value_of_another_type_says_nothing(tag_type: TagType, given_value: object) -> None:
    assert typed(tag_type, given_value) is None


@pytest.mark.parametrize("properties", [b"[1]", b"{", b"\xff"])
def test_properties_that_are_no_object_are_bad(properties: bytes) -> None:
    with pytest.raises(BadEvent, match="not one JSON object"):
        RULES.stated(Kind.PERSON, Occurrence("t", "E", 1, 1, 1), properties)
