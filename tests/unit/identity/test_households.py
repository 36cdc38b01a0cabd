"""Who may live together: an address and a thing, both small enough to be a family's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.identity.domain.households import MOST_RESIDENTS, MOST_SHARERS, Joining, Thing, join, suggest

PERSONS = st.integers(1, 12)
RESIDENTS = st.dictionaries(st.integers(1, 4), st.frozensets(PERSONS, max_size=12), max_size=4)
THINGS: st.SearchStrategy[Thing] = st.tuples(st.sampled_from(["vehicle", "mobile", "device"]), st.integers(1, 3))
SHARERS = st.dictionaries(THINGS, st.frozensets(PERSONS, max_size=9), max_size=5)


@given(RESIDENTS, SHARERS, st.frozensets(st.integers(1, 4)))
def test_a_pair_shares_a_home_and_a_thing_and_neither_is_a_crowds(
    residents: dict[int, frozenset[int]], sharers: dict[Thing, frozenset[int]], offices: frozenset[int]
) -> None:
    found = {(pair.a, pair.b) for pair in suggest(residents, sharers, offices)}
    homes = [crowd for address, crowd in residents.items() if address not in offices and len(crowd) <= MOST_RESIDENTS]
    things = [crowd for crowd in sharers.values() if len(crowd) <= MOST_SHARERS]
    expected = {
        (a, b)
        for a in range(1, 13)
        for b in range(a + 1, 13)
        if any({a, b} <= home for home in homes) and any({a, b} <= thing for thing in things)
    }
    assert expected == found


@given(RESIDENTS)
def test_an_address_alone_suggests_nothing(residents: dict[int, frozenset[int]]) -> None:
    assert [] == suggest(residents, {})


@given(SHARERS)
def test_a_thing_alone_suggests_nothing(sharers: dict[Thing, frozenset[int]]) -> None:
    assert [] == suggest({}, sharers)


@given(RESIDENTS, SHARERS)
def test_confidence_is_a_probability_and_more_shared_kinds_raise_it(
    residents: dict[int, frozenset[int]], sharers: dict[Thing, frozenset[int]]
) -> None:
    vehicles = {thing: crowd for thing, crowd in sharers.items() if thing[0] == "vehicle"}
    with_all = {(pair.a, pair.b): pair.confidence for pair in suggest(residents, sharers)}
    for pair in suggest(residents, vehicles):
        assert 0 < pair.confidence <= with_all[pair.a, pair.b] < 1


def test_fewer_residents_make_surer() -> None:
    car: dict[Thing, frozenset[int]] = {("vehicle", 1): frozenset({1, 2})}
    (two,), (eight,) = (suggest({1: frozenset(range(1, 1 + n))}, car) for n in (2, MOST_RESIDENTS))
    assert two.confidence > eight.confidence
    assert [] == suggest({1: frozenset(range(1, 2 + MOST_RESIDENTS))}, car)


@given(PERSONS, PERSONS, st.dictionaries(PERSONS, st.integers(1, 3)))
def test_joining_looks_the_same_from_both_sides_and_never_moves_anybody(a: int, b: int, of: dict[int, int]) -> None:
    outcome = join(a, b, of)
    assert outcome is join(b, a, of)
    expected = {
        (False, False): Joining.CREATED,
        (True, False): Joining.JOINED,
        (False, True): Joining.JOINED,
        (True, True): Joining.ALREADY_TOGETHER if of.get(a) == of.get(b) else Joining.DIFFERENT_HOUSEHOLDS,
    }[a in of, b in of]
    assert (Joining.SAME_PERSON if a == b else expected) is outcome


def test_a_thing_of_a_crowd_speaks_for_nobody() -> None:
    home = {1: frozenset({1, 2})}
    assert 1 == len(suggest(home, {("device", 1): frozenset(range(1, 1 + MOST_SHARERS))}))
    assert [] == suggest(home, {("device", 1): frozenset(range(1, 2 + MOST_SHARERS))})
