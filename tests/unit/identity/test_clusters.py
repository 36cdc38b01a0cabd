"""The rules of who is who, each guard by an example and the whole by its algebra."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.identity.domain.clusters import Partition, neighbourhoods, partition
from services.identity.domain.graphs import Graph
from services.identity.domain.kinds import OPERATOR_STRENGTH, REASON_OF, Kind, Reason, Space, trust

# Identifiers by a speaking name: the first letters say the kind.
PREFIXES = {
    "rec": Kind.CRM_ID,
    "mob": Kind.MOBILE,
    "dev": Kind.DEVICE,
    "uni": Kind.UNIONID,
    "idc": Kind.ID_CARD,
    "vin": Kind.VIN,
    "pla": Kind.PLATE,
}
Claim = tuple[str, str, str, str]
OPERATOR = "operator"


def graph_of(claims: Sequence[Claim], apart: Mapping[str, tuple[int, ...]] | None = None) -> tuple[Graph, list[str]]:
    """Claims are (anchor, value, name, source); nodes are numbered in the order of arrival, as the store does."""
    seen = dict.fromkeys(claims)
    words = list(dict.fromkeys(word for anchor, value, _, _ in seen for word in (anchor, value)))
    at = {word: i for i, word in enumerate(words)}
    sources = sorted({source for _, _, _, source in seen})
    graph = Graph(
        kind=np.array([PREFIXES[word[:3]] for word in words], np.int16),
        person_guard=np.zeros(len(words), np.int16),
        vehicle_guard=np.zeros(len(words), np.int16),
        cleared=np.zeros(len(words), bool),
        anchor=np.array([at[c[0]] for c in seen], np.int64),
        value=np.array([at[c[1]] for c in seen], np.int64),
        name=np.array([hash(c[2]) if c[2] else 0 for c in seen], np.int64),
        source=np.array([sources.index(c[3]) for c in seen], np.int64),
        strength=np.array([OPERATOR_STRENGTH if c[3] == OPERATOR else 0 for c in seen], np.int16),
        trust=np.array([trust(source) for source in sources], np.int64),
        apart={at[word]: operations for word, operations in (apart or {}).items() if word in at},
    )
    return graph, words


def solve(
    claims: Sequence[Claim], space: Space = Space.PERSON, apart: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[Partition, list[str]]:
    graph, words = graph_of(claims, apart)
    return partition(graph, space), words


def groups(
    claims: Sequence[Claim], space: Space = Space.PERSON, apart: Mapping[str, tuple[int, ...]] | None = None
) -> set[frozenset[str]]:
    """Anchors that are one entity."""
    if not claims:
        return set()
    found, words = solve(claims, space, apart)
    anchors = {claim[0] for claim in claims}
    members: dict[int, set[str]] = {}
    for word, label in zip(words, found.label.tolist(), strict=True):
        if word in anchors and PREFIXES[word[:3]].space is space:
            members.setdefault(label, set()).add(word)
    return {frozenset(group) for group in members.values()}


def shared(claims: Sequence[Claim]) -> dict[str, Reason]:
    if not claims:
        return {}
    found, words = solve(claims)
    return {word: REASON_OF[guard] for word, guard in zip(words, found.guard.tolist(), strict=True) if guard}


def refusals(claims: Sequence[Claim], **more: object) -> set[str]:
    found, _ = solve(claims, **more)  # type: ignore[arg-type]
    return {str(REASON_OF[state]) for state in found.state.tolist() if state >= 20}


def test_records_with_one_mobile_and_one_name_are_one_person() -> None:
    claims = [("rec1", "mob", "zhang", "dealer:1"), ("rec2", "mob", "zhang", "app")]
    assert {frozenset({"rec1", "rec2"})} == groups(claims)


def test_a_family_phone_keeps_its_names_apart_and_gives_nameless_records_to_the_best_attested() -> None:
    claims = [
        ("rec1", "mob", "zhang", "call_center"),
        ("rec2", "mob", "li", "dealer:1"),
        ("rec3", "mob", "", "app"),
    ]
    assert {frozenset({"rec1", "rec3"}), frozenset({"rec2"})} == groups(claims)


def test_where_no_name_leads_nameless_records_meet_only_one_another() -> None:
    claims = [
        ("rec1", "mob", "zhang", "dealer:1"),
        ("rec2", "mob", "li", "dealer:2"),
        ("rec3", "mob", "", "app"),
        ("rec4", "mob", "", "call_center"),
    ]
    assert {frozenset({"rec1"}), frozenset({"rec2"}), frozenset({"rec3", "rec4"})} == groups(claims)


def test_a_phone_under_many_names_is_a_dealers_and_links_nobody() -> None:
    claims = [(f"rec{i}", "mob", name, "dealer:1") for i, name in enumerate("abcd")]
    claims += [("rec8", "mob", "a", "dealer:2"), ("rec9", "mob", "", "app")]
    assert {frozenset({claim[0]}) for claim in claims} == groups(claims)
    assert {"mob": Reason.TOO_MANY_NAMES} == shared(claims)


def test_a_phone_on_many_nameless_records_of_one_source_links_nobody() -> None:
    claims = [(f"rec{i}", "mob", "", "dealer:1") for i in range(4)]
    assert 4 == len(groups(claims))
    assert {"mob": Reason.TOO_MANY_ANCHORS} == shared(claims)


def test_a_tablet_with_two_accounts_of_one_source_links_nobody() -> None:
    claims = [("rec1", "dev", "", "app"), ("rec2", "dev", "", "app")]
    assert {frozenset({"rec1"}), frozenset({"rec2"})} == groups(claims)


def test_a_device_that_saw_many_phones_links_nobody() -> None:
    claims = [("dev", f"mob{i}", "", "app") for i in range(3)] + [(f"rec{i}", f"mob{i}", "", "dealer:1") for i in range(3)]
    assert 4 == len(groups(claims))
    assert {"dev": Reason.TOO_MANY_VALUES} == shared(claims)


def test_two_id_cards_are_two_persons_whatever_else_they_share() -> None:
    claims = [
        *(("rec1", "idc1", "", "dealer:1"), ("rec1", "mob", "zhang", "dealer:1")),
        *(("rec2", "idc2", "", "app"), ("rec2", "mob", "zhang", "app")),
    ]
    assert {frozenset({"rec1"}), frozenset({"rec2"})} == groups(claims)
    assert {"EXCLUSIVE_ID_CARD"} == refusals(claims)


def test_a_car_glues_nobody_but_with_the_same_name_it_does() -> None:
    claims = [("rec1", "vin", "zhang", "dealer:1"), ("rec2", "vin", "li", "dealer:1"), ("rec3", "vin", "zhang", "app")]
    assert {frozenset({"rec1", "rec3"}), frozenset({"rec2"})} == groups(claims)
    assert 2 == len(groups([("rec1", "vin", "", "dealer:1"), ("rec2", "vin", "", "app")]))


def test_a_plate_on_two_cars_goes_with_the_car_more_sources_name() -> None:
    claims = [
        ("vin1", "pla", "", "dealer:1"),
        ("vin2", "pla", "", "app"),
        ("vin2", "pla", "", "call_center"),
        ("pla", "pla", "", "app"),
    ]
    assert {frozenset({"vin1"}), frozenset({"vin2", "pla"})} == groups(claims, Space.VEHICLE)


def test_a_plate_that_two_cars_claim_with_equal_right_is_nobodys() -> None:
    claims = [("vin1", "pla", "", "dealer:1"), ("vin2", "pla", "", "dealer:2"), ("pla", "pla", "", "app")]
    assert {frozenset({"vin1"}), frozenset({"vin2"}), frozenset({"pla"})} == groups(claims, Space.VEHICLE)


def test_what_hangs_on_contradicting_evidence_without_taking_sides_still_joins() -> None:
    claims = [
        *(("rec1", "idc1", "", "app"), ("rec2", "idc2", "", "app")),
        *(("rec1", "mob1", "", "app"), ("rec2", "mob1", "", "app")),
        *(("rec1", "mob2", "", "app"), ("rec5", "mob2", "", "app")),
    ]
    assert {frozenset({"rec1", "rec5"}), frozenset({"rec2"})} == groups(claims)


def test_stronger_evidence_stands_where_weaker_contradicts_it() -> None:
    claims = [
        *(("rec1", "idc1", "", "app"), ("rec2", "idc2", "", "app")),
        *(("rec3", "uni", "", "app"), ("rec1", "uni", "", "app")),
        *(("rec3", "mob", "", "app"), ("rec2", "mob", "", "app")),
    ]
    assert {frozenset({"rec1", "rec3"}), frozenset({"rec2"})} == groups(claims)


def test_an_operators_link_joins_what_shares_nothing_and_gives_way_to_two_id_cards() -> None:
    claims = [("rec1", "rec2", "", OPERATOR)]
    assert {frozenset({"rec1", "rec2"})} == groups([*claims, ("rec2", "rec2", "", "app")])
    claims += [("rec1", "idc1", "", "app"), ("rec2", "idc2", "", "app")]
    assert {frozenset({"rec1"}), frozenset({"rec2"})} == groups(claims)


def test_the_sides_of_an_undone_merge_stay_apart_and_keep_what_is_theirs() -> None:
    claims = [
        *(("rec1", "mob1", "", "app"), ("rec2", "mob1", "", "app")),
        *(("rec2", "uni", "", "app"), ("rec3", "uni", "", "app")),
    ]
    assert 1 == len(groups([*claims, ("rec3", "rec3", "", "app")]))
    apart = {"rec1": (7,), "rec2": (-7,)}
    assert {frozenset({"rec1"}), frozenset({"rec2", "rec3"})} == groups(
        [*claims, ("rec3", "rec3", "", "app")], Space.PERSON, apart
    )
    assert {"UNMERGED"} == refusals(claims, apart=apart)


words = st.sampled_from(["rec1", "rec2", "rec3", "rec4", "rec5", "dev1", "mob1"])
values = st.sampled_from(["mob1", "mob2", "dev1", "dev2", "uni1", "uni2", "idc1", "idc2", "vin1", "pla1"])
names = st.sampled_from(["", "zhang", "li", "wang", "zhao"])
sources = st.sampled_from(["app", "call_center", "dealer:1", "dealer:2"])
graphs = st.lists(st.tuples(words, values, names, sources), max_size=25)


@given(graphs, st.randoms(use_true_random=False))
def test_the_order_of_arrival_makes_no_difference(claims: list[Claim], rng: random.Random) -> None:
    shuffled = rng.sample(claims, len(claims)) + claims[:3]
    assert groups(claims) == groups(shuffled)
    assert shared(claims) == shared(shuffled)


@given(graphs, graphs)
def test_a_shared_value_stays_shared_whatever_comes(claims: list[Claim], more: list[Claim]) -> None:
    assert shared(claims).keys() <= shared(claims + more).keys()


@given(graphs)
def test_nobody_has_two_id_cards(claims: list[Claim]) -> None:
    if claims:
        found, words_of = solve(claims)
        cards = [label for word, label in zip(words_of, found.label.tolist(), strict=True) if word.startswith("idc")]
        assert len(set(cards)) == len(cards)


@given(graphs)
def test_groups_that_share_no_link_do_not_know_of_each_other(claims: list[Claim]) -> None:
    # What is true of a component alone is true of it beside others: recomputing a neighbourhood equals recomputing all.
    other = [(f"{a}x", f"{v}x", name, source) for a, v, name, source in claims[::-1]]
    assert groups(claims) | groups(other) == groups([*claims, *other])


@given(graphs)
def test_a_neighbourhood_is_enough_to_solve_it(claims: list[Claim]) -> None:
    if not claims:
        return
    graph, words_of = graph_of(claims)
    person, vehicle = partition(graph, Space.PERSON), partition(graph, Space.VEHICLE)
    near = neighbourhoods(graph, (Space.PERSON, person), (Space.VEHICLE, vehicle)).tolist()
    label_of = dict(zip(words_of, near, strict=True))
    told: set[frozenset[str]] = set()
    for label in set(near):
        mine = [c for c in claims if label_of[c[0]] == label]
        told |= {g for g in groups(mine) if {label_of[w] for w in g} == {label}}
    # Values that are shared only as seen from outside make no difference to who is one with whom inside.
    whole = {g for g in groups(claims) if not {*shared(claims)} & {*words_of}}
    assert whole <= told


def test_a_tie_between_two_card_holders_is_not_decided_by_who_came_first() -> None:
    claims = [
        *(("rec1", "idc1", "", "app"), ("rec2", "idc2", "", "app")),
        *(("rec1", "mob", "", "app"), ("rec2", "mob", "", "app"), ("rec3", "mob", "", "app")),
    ]
    orders = [groups(list(order)) for order in itertools.permutations(claims)]
    assert all(orders[0] == found for found in orders)
    assert {frozenset({"rec1"}), frozenset({"rec2"}), frozenset({"rec3"})} == orders[0]
