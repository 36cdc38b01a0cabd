"""Which of several things that partners say counts, whatever came first, whoever the anchors belong to, and after an undo."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tags.domain import imported
from services.tags.domain.catalogue import Conflict, FromImport, Kind, Value
from services.tags.domain.facts import FactRules
from services.tags.domain.imported import MOST_SAID, Imported, Statement
from tests.unit.tags.imports.catalogue import CATALOGUE

PARTNERS = ("ours", "acme", "bravo")
NOW = 1000
RULES = FactRules(CATALOGUE)
FOLDS = RULES.folds[Kind.PERSON]

Line = tuple[int, str, Value, int, float, int | None]  # anchor, partner, value, when, confidence, until
LINES = st.tuples(
    st.integers(1, 3),
    st.sampled_from([*PARTNERS, "charlie"]),
    st.sampled_from(["low", "middle", "high"]),
    st.integers(1, 4),
    st.sampled_from([0.2, 0.5, 1.0]),
    st.sampled_from([None, NOW - 1, NOW + 1, NOW + 2]),
)
FILES = st.lists(st.lists(LINES, min_size=1, max_size=5), max_size=6)


def rule(conflict: Conflict) -> Imported:
    return Imported.of(FromImport(PARTNERS, conflict))


def take_in(how: Imported, files: dict[int, list[Line]], order: list[int]) -> dict[int, Any]:
    """Documents of anchors after these files, in this order."""
    documents: dict[int, Any] = {}
    for key in order:
        for number, (anchor, partner, value, at, sure, until) in enumerate(files[key], start=2):
            said = Statement("t", value, at, sure, until)
            imported.add(documents.setdefault(anchor, {}), how, said, key=key, partner=partner, line=number)
    return documents


def value(how: Imported, documents: dict[int, Any], now: int = NOW) -> Value | None:
    having = [facts["t"] for facts in documents.values() if "t" in facts]
    return how.value(having, now) if having else None


@pytest.mark.parametrize(
    ("conflict", "expected"),
    [
        (Conflict.NEWEST, "newest"),
        (Conflict.HIGHEST_CONFIDENCE, "surest"),
        (Conflict.PARTNER_ORDER, "first partner's"),
        (Conflict.KEEP_OURS, "newest"),
    ],
)
def test_each_rule_chooses_as_its_name_says(conflict: Conflict, expected: str) -> None:
    files: dict[int, list[Line]] = {
        1: [(1, "acme", "first partner's", 1, 0.1, None)],
        2: [(1, "bravo", "newest", 9, 0.2, None)],
        3: [(2, "bravo", "surest", 5, 0.9, None)],
    }
    assert expected == value(rule(conflict), take_in(rule(conflict), files, [1, 2, 3]))
    files[4] = [(3, "ours", "ours", 0, 0.0, None)]
    kept = {Conflict.KEEP_OURS: "ours", Conflict.PARTNER_ORDER: "ours"}.get(conflict, expected)
    assert kept == value(rule(conflict), take_in(rule(conflict), files, [1, 2, 3, 4]))


@given(FILES, st.sampled_from(Conflict), st.randoms(use_true_random=False))
def test_the_order_of_files_does_not_matter_nor_that_of_their_lines(files: Any, conflict: Conflict, draw: Any) -> None:
    how, numbered = rule(conflict), dict(enumerate(files, start=1))
    expected = value(how, take_in(how, numbered, list(numbered)))
    order = draw.sample(list(numbered), len(numbered))
    shuffled = {key: draw.sample(lines, len(lines)) for key, lines in numbered.items()}
    # Not even that they bear other numbers then.
    renumbered = {place: shuffled[key] for place, key in enumerate(order, start=50)}
    assert expected == value(how, take_in(how, numbered, order))
    assert expected == value(how, take_in(how, renumbered, list(renumbered)))


@given(FILES, st.sampled_from(Conflict), st.integers(0, 5))
def test_an_undone_file_is_as_if_it_had_never_been(files: Any, conflict: Conflict, undone: int) -> None:
    how, numbered = rule(conflict), dict(enumerate(files, start=1))
    documents = take_in(how, numbered, list(numbered))
    for facts in documents.values():
        imported.withdraw(facts, {"t": how}, undone)
    left = {key: lines for key, lines in numbered.items() if key != undone}
    without = take_in(how, left, list(left))
    assert without == {anchor: facts for anchor, facts in documents.items() if facts}


@given(FILES, st.sampled_from(Conflict))
def test_what_counts_for_two_is_the_stronger_of_what_counts_for_each(files: Any, conflict: Conflict) -> None:
    how, numbered = rule(conflict), dict(enumerate(files, start=1))
    documents = take_in(how, numbered, list(numbered))
    alive = [
        said
        for facts in documents.values()
        for _, said, _ in imported.spoken(facts, {"t": how})
        if said[3] in PARTNERS and (said[4] is None or said[4] > NOW)
    ]
    assert (max(alive, key=how.order)[0] if alive else None) == value(how, documents)


@given(FILES, st.sampled_from(Conflict))
def test_between_due_times_nothing_changes(files: Any, conflict: Conflict) -> None:
    how, numbered = rule(conflict), dict(enumerate(files, start=1))
    documents = take_in(how, numbered, list(numbered))
    now = NOW - 5
    while True:
        due = [d for facts in documents.values() if (d := how.next_due_us(facts["t"][0], now)) is not None]
        if not due:
            assert value(how, documents, now) == value(how, documents, 10**18)
            break
        assert value(how, documents, now) == value(how, documents, min(due) - 1)
        now = min(due)


def test_one_anchor_keeps_the_strongest_of_many_files() -> None:
    how = rule(Conflict.NEWEST)
    files: dict[int, list[Line]] = {n: [(1, "acme", f"v{n}", n * 37 % 101, 1.0, None)] for n in range(1, 101)}
    forward, backward = take_in(how, files, list(files)), take_in(how, files, list(files)[::-1])
    assert forward == backward and MOST_SAID == len(forward[1]["t"][0])
    assert sorted((n * 37 % 101 for n in files), reverse=True)[:MOST_SAID] == sorted(
        (said[1] for said in forward[1]["t"][0].values()), reverse=True
    )


def test_imported_tags_follow_from_anchors_as_those_of_events_do_and_become_due() -> None:
    facts: dict[str, Any] = {}
    for key, until in ((1, 50), (2, 80)):
        said = Statement("income_band", f"v{key}", 100 - key, 1.0, until)
        imported.add(facts, FOLDS["income_band"], said, key=key, partner="acme", line=2)  # type: ignore[arg-type]
    kept = copy.deepcopy(facts)
    assert [{"income_band": "v1"}, {"income_band": "v2"}, {}] == [
        RULES.combined(Kind.PERSON, [facts], at) for at in (49, 50, 80)
    ]
    assert [50, 80, None] == [RULES.next_due_us(Kind.PERSON, [facts], at) for at in (49, 50, 80)]
    assert kept == facts


def test_a_tag_is_explained_by_the_anchor_whose_word_counts_and_not_by_the_newest() -> None:
    surest = FOLDS["household_size"]
    assert isinstance(surest, Imported)
    anchors: dict[int, Any] = {7: {}, 8: {}}
    for anchor, at, sure in ((7, 10, 0.9), (8, 20, 0.1)):
        said = Statement("household_size", float(anchor), at, sure, None)
        imported.add(anchors[anchor], surest, said, key=1, partner="acme", line=anchor)
    assert {"household_size": (10, [7])} == RULES.explained(Kind.PERSON, anchors)
    assert {"household_size": 7.0} == RULES.combined(Kind.PERSON, list(anchors.values()), NOW)
