"""An erased person does not come back by any of their old identifiers, and nobody else is turned away for them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import ANCHOR_ORDER, Kind, Space
from services.identity.domain.suppression import ANY_NAME, screen, suppressions

PERSON_KINDS = sorted(kind for kind in Kind if kind.space is Space.PERSON)
ZHANG, WANG, LI = 11, 12, 13


def known(number: int, kind: Kind) -> Known:
    return Known(kind, "", f"v{number}", b"token%03d" % number)


def in_order(identifiers: list[Known]) -> list[Known]:
    return sorted(identifiers, key=lambda k: (ANCHOR_ORDER[k.kind], k.token))


def table(pairs: frozenset[tuple[int, int]]) -> dict[bytes, frozenset[int]]:
    """Pairs as the store would answer them, by token."""
    found: dict[bytes, frozenset[int]] = {}
    for number, name in pairs:
        token = b"token%03d" % number
        found[token] = found.get(token, frozenset()) | {name}
    return found


@st.composite
def erased_persons(draw: st.DrawFn) -> tuple[list[Known], list[Known], frozenset[int]]:
    """Own identifiers, values others use too, and the person's names."""
    kinds = draw(st.lists(st.sampled_from(PERSON_KINDS), min_size=1, max_size=8))
    identifiers = [known(number, kind) for number, kind in enumerate(kinds)]
    own = draw(st.integers(1, len(identifiers)))
    return identifiers[:own], identifiers[own:], draw(st.frozensets(st.sampled_from([ZHANG, WANG]), max_size=2))


names = st.sampled_from([ANY_NAME, ZHANG, WANG, LI])


@given(erased_persons(), st.data())
def test_no_subset_of_their_old_identifiers_lets_an_erased_person_in(
    person: tuple[list[Known], list[Known], frozenset[int]], data: st.DataObject
) -> None:
    own, shared, theirs = person
    suppressed = table(suppressions([int(k.value[1:]) for k in own], {int(k.value[1:]): frozenset() for k in shared}, theirs))
    name = data.draw(st.sampled_from([ANY_NAME, *theirs]))
    # A value that others use is theirs only under their name.
    old = own + (shared if name else [])
    again = data.draw(st.lists(st.sampled_from(old), min_size=1, unique=True))
    assert screen(in_order(again), name, suppressed) is None


@given(erased_persons(), st.data(), names)
def test_nothing_of_an_erased_person_enters_beside_new_identifiers(
    person: tuple[list[Known], list[Known], frozenset[int]], data: st.DataObject, name: int
) -> None:
    own, shared, theirs = person
    suppressed = table(suppressions([int(k.value[1:]) for k in own], {int(k.value[1:]): frozenset() for k in shared}, theirs))
    again = data.draw(st.lists(st.sampled_from(own), min_size=1, unique=True))
    new = [known(100 + number, kind) for number, kind in enumerate(data.draw(st.lists(st.sampled_from(PERSON_KINDS))))]
    left = screen(in_order(again + new), name, suppressed)
    assert left is None or not {k.token for k in left} & {k.token for k in again}
    if {k.kind for k in again} - {Kind.DEVICE, Kind.COOKIE}:
        assert left is None


@given(erased_persons(), st.data())
def test_nobody_is_turned_away_for_a_value_they_share_with_an_erased_person_of_another_name(
    person: tuple[list[Known], list[Known], frozenset[int]], data: st.DataObject
) -> None:
    own, shared, theirs = person
    suppressed = table(suppressions([int(k.value[1:]) for k in own], {int(k.value[1:]): frozenset() for k in shared}, theirs))
    mine = [known(100 + number, kind) for number, kind in enumerate(data.draw(st.lists(st.sampled_from(PERSON_KINDS))))]
    record = in_order(mine + shared)
    assert tuple(record) == screen(record, data.draw(st.sampled_from([ANY_NAME, LI])), suppressed)


@given(st.sampled_from(PERSON_KINDS), names)
def test_a_namesake_who_is_known_on_the_same_value_is_not_turned_away(kind: Kind, name: int) -> None:
    pairs = suppressions([1], {2: frozenset({ZHANG})}, frozenset({ZHANG, WANG}))
    assert {(1, ANY_NAME), (2, WANG)} == pairs
    record = [known(3, Kind.CRM_ID), known(2, kind)]
    left = screen(record, name, table(pairs))
    assert (left is not None and known(2, kind) in left) == (name != WANG)


def test_a_family_tablet_is_left_out_and_the_family_stays() -> None:
    wife = [known(5, Kind.CRM_ID), known(6, Kind.DEVICE), known(7, Kind.MOBILE)]
    assert (wife[0], wife[2]) == screen(wife, LI, table(frozenset({(6, ANY_NAME)})))


def test_what_nobody_erased_passes_untouched() -> None:
    record = (known(5, Kind.CRM_ID), known(6, Kind.MOBILE))
    assert record == screen(record, ZHANG, {})
