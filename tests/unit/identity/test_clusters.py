"""The rules of who is who, each guard by an example and the whole by its algebra."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from services.identity.domain.clusters import Link, Node, Partition, cluster
from services.identity.domain.kinds import Kind, Reason, Space

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


def solve(claims: Sequence[Claim], space: Space = Space.PERSON) -> tuple[Partition, Mapping[int, str]]:
    """Claims are (anchor, value, name, source); ids are given in the order of arrival, as the store does."""
    ids: dict[str, int] = {}
    for anchor, value, _, _ in claims:
        for word in (anchor, value):
            ids.setdefault(word, len(ids) + 1)
    anchors = {anchor for anchor, _, _, _ in claims}
    nodes = {i: Node(PREFIXES[word[:3]], word.encode(), word in anchors, None) for word, i in ids.items()}
    links = {Link(ids[anchor], ids[value], name.encode(), source) for anchor, value, name, source in claims}
    return cluster(space, nodes, links), {i: word for word, i in ids.items()}


def groups(claims: Sequence[Claim], space: Space = Space.PERSON) -> set[frozenset[str]]:
    """Anchors that are one entity."""
    partition, words = solve(claims, space)
    anchors = {claim[0] for claim in claims}
    return {found for group in partition.groups if (found := frozenset(words[i] for i in group) & anchors)}


def shared(claims: Sequence[Claim]) -> dict[str, Reason]:
    partition, words = solve(claims)
    return {words[i]: reason for i, reason in partition.shared.items()}


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
    partition, _ = solve(claims)
    assert [Reason.EXCLUSIVE_ID_CARD] == [reason for _, reason in partition.refused]


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
def test_nobody_has_two_id_cards_and_nobody_is_in_two_groups(claims: list[Claim]) -> None:
    partition, words_of = solve(claims)
    members = [words_of[i] for group in partition.groups for i in group]
    assert len(set(members)) == len(members)
    for group in partition.groups:
        assert sum(words_of[i].startswith("idc") for i in group) <= 1


@given(graphs)
def test_groups_that_share_no_link_do_not_know_of_each_other(claims: list[Claim]) -> None:
    # What is true of a component alone is true of it beside others: recomputing a neighbourhood equals recomputing all.
    other = [(f"{a}x", f"{v}x", name, source) for a, v, name, source in claims[::-1]]
    assert groups(claims) | groups(other) == groups([*claims, *other])


def test_a_tie_between_two_card_holders_is_not_decided_by_who_came_first() -> None:
    claims = [
        *(("rec1", "idc1", "", "app"), ("rec2", "idc2", "", "app")),
        *(("rec1", "mob", "", "app"), ("rec2", "mob", "", "app"), ("rec3", "mob", "", "app")),
    ]
    orders = [groups(list(order)) for order in itertools.permutations(claims)]
    assert all(orders[0] == found for found in orders)
    assert 2 == len(orders[0])
