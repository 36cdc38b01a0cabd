"""Explanations agree with the index, their texts with the language, and the fewest terms with a search through all."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from services.tags.audiences.around import Standing
from services.tags.audiences.explaining import Explained, decisive, explain
from services.tags.audiences.wording import Writer
from services.tags.domain.catalogue import RELATIONS, Kind
from services.tags.domain.language import LanguageError
from services.tags.domain.predicates import parse_predicate
from services.tags.domain.terms import And, Compares, Equals, Holds, IsMissing, IsTruth, Not, Or, Related, Since, Term, Through
from services.tags.index.algebra import audience
from tests.unit.tags.index.worlds import CATALOGUE, NOW, World, terms, worlds


def standing(world: World, kind: Kind, entity_id: int) -> Standing:
    """An entity and everybody around it, linked as deep as anybody may ask."""
    made = {(k, i): Standing(k, i, tags, NOW) for k, entities in world.entities.items() for i, tags in entities.items()}
    for (one, other), relations in world.relations.items():
        for left, right, name in relations:
            made[one, left].around.setdefault(other, []).append((name, made[other, right]))
            made[other, right].around.setdefault(one, []).append((name, made[one, left]))
    assert RELATIONS
    return made[kind, entity_id]


PERSON_TERMS = terms(Kind.PERSON)


@settings(max_examples=60)
@given(worlds(), PERSON_TERMS)
def test_an_explanation_agrees_with_the_index(world: World, term: Term) -> None:
    index = world.index()
    members = audience(index, Kind.PERSON, term, NOW)
    for entity_id in world.entities[Kind.PERSON]:
        explained = explain(CATALOGUE, standing(world, Kind.PERSON, entity_id), term)
        assert (entity_id in members) == (explained.truth is True)
        assert decisive(explained)


@settings(max_examples=60)
@given(worlds(), PERSON_TERMS)
def test_the_text_of_a_term_means_the_term(world: World, term: Term) -> None:
    text = Writer(CATALOGUE, Kind.PERSON).term(term)
    try:
        read = parse_predicate(text, Kind.PERSON, CATALOGUE)
    except LanguageError:
        # Trees that no text stands for: a constant compared with itself, an age to the microsecond, owner.(a AND b).
        return
    index = world.index()
    assert list(audience(index, Kind.PERSON, term, NOW)) == list(audience(index, Kind.PERSON, read, NOW)), text


def test_texts_read_as_people_write_them() -> None:
    writer = Writer(CATALOGUE, Kind.VEHICLE)
    for text in (
        "category_1 IN ('yes', '车主') AND NOT boolean_1",
        "(number_1 >= 1 AND number_1 <= 2) OR time_1 < '2026-03-01T00:00:00+00:00'",
        "NOW() - time_1 >= INTERVAL '30 days'",
        "ANY(person, CONTAINS(set_1, 'yes') AND ANY(household, number_1 > 1.5))",
        "ALL(person, boolean_1)",
        "owner.category_1 = 'it''s'",
        "owner.time_1 > NOW() - INTERVAL '1 hours'",
        "COUNT(person, boolean_1) >= (number_1 + 2)",
        "number_1 IS NOT NULL",
        "(boolean_1 OR boolean_2) IS TRUE",
    ):
        assert text == writer.term(parse_predicate(text, Kind.VEHICLE, CATALOGUE))
        assert parse_predicate(text, Kind.VEHICLE, CATALOGUE) == parse_predicate(
            writer.term(parse_predicate(text, Kind.VEHICLE, CATALOGUE)), Kind.VEHICLE, CATALOGUE
        )


LEAVES = [Holds("boolean_1"), Holds("boolean_2"), IsMissing("number_1"), Compares("number_2", ">", 1.0)]
SMALL = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(IsTruth, inner, st.booleans()),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: And(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Or(tuple(parts))),
    ),
    max_leaves=5,
)
SAYINGS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {}, optional={"boolean_1": st.booleans(), "boolean_2": st.booleans(), "number_1": st.just(1.0), "number_2": st.just(2.0)}
)


def leaves(explained: Explained) -> list[Explained]:
    return [leaf for part in explained.parts for leaf in leaves(part)] if explained.parts else [explained]


def outcome(explained: Explained, truths: dict[int, bool | None]) -> bool | None:
    """What the tree is when its leaves are something else."""
    if not explained.parts:
        return truths[id(explained)]
    inner = [outcome(part, truths) for part in explained.parts]
    match explained.term:
        case And():
            return False if False in inner else None if None in inner else True
        case Or():
            return True if True in inner else None if None in inner else False
        case IsTruth(_, value):
            return inner[0] is value
        case _:
            return None if inner[0] is None else not inner[0]


def settles(explained: Explained, fixed: set[int]) -> bool:
    """Whether the outcome stays, whatever the leaves that are not fixed are."""
    free = [leaf for leaf in leaves(explained) if id(leaf) not in fixed]
    known = {id(leaf): leaf.truth for leaf in leaves(explained)}
    choices: tuple[bool | None, ...] = (True, False, None)
    return all(
        (outcome(explained, known | {id(leaf): truth for leaf, truth in zip(free, chosen, strict=True)}) is True)
        == (explained.truth is True)
        for chosen in itertools.product(choices, repeat=len(free))
    )


@settings(max_examples=60, deadline=None)
@given(SMALL, SAYINGS)
def test_the_decisive_terms_settle_the_outcome_and_no_fewer_do(term: Term, tags: dict[str, Any]) -> None:
    explained = explain(CATALOGUE, Standing(Kind.PERSON, 1, tags, NOW), term)
    # Trees share no leaves here, but the same frozen term may stand at two places: identity tells them apart.
    chosen = {id(leaf) for leaf in leaves(explained) if leaf.decisive}
    assert settles(explained, chosen)
    if _never_unknown_inside(explained):
        fewer = itertools.combinations([id(leaf) for leaf in leaves(explained)], len(chosen) - 1)
        assert not any(settles(explained, set(each)) for each in fewer)


def _never_unknown_inside(explained: Explained) -> bool:
    """IS TRUE and IS FALSE make shorter proofs possible that go by cases; those are not looked for."""
    return not any(isinstance(part.term, IsTruth) for part in _all(explained))


def _all(explained: Explained) -> list[Explained]:
    return [explained, *(each for part in explained.parts for each in _all(part))]


def test_who_is_related_and_decided_is_named() -> None:
    person = Standing(Kind.PERSON, 7, {"boolean_1": True}, NOW)
    person.around[Kind.VEHICLE] = [
        ("owns", Standing(Kind.VEHICLE, 3, {"number_1": 1.0}, NOW)),
        ("drives", Standing(Kind.VEHICLE, 4, {"number_1": 5.0}, NOW)),
    ]
    term = And((Holds("boolean_1"), Related(Kind.VEHICLE, Compares("number_1", ">", 2.0))))
    explained = explain(CATALOGUE, person, term)
    assert explained.truth is True
    assert ["boolean_1", "ANY(vehicle, number_1 > 2)"] == decisive(explained)
    across = explained.parts[1]
    assert (2, [(Kind.VEHICLE, 4)]) == (across.related_count, [(kind, entity_id) for kind, entity_id, _ in across.related])
    assert [("number_1", 5.0)] == across.related[0][2].values
    out = explain(CATALOGUE, person, And((Holds("boolean_2"), Related(Kind.VEHICLE, Compares("number_1", ">", 9.0)))))
    assert out.truth is False
    assert ["boolean_2"] == decisive(out)


def test_ages_and_singles_are_explained_with_their_values() -> None:
    vehicle = Standing(Kind.VEHICLE, 1, {"time_1": NOW - 86_400}, NOW)
    vehicle.around[Kind.PERSON] = [("owns", Standing(Kind.PERSON, 9, {"category_1": "yes"}, NOW))]
    term = Or((Since("time_1", ">", 2 * 86_400), Through(Kind.PERSON, "owns", Equals("category_1", ("yes",)))))
    explained = explain(CATALOGUE, vehicle, term)
    assert ["owner.category_1 = 'yes'"] == decisive(explained)
    assert [("time_1", NOW - 86_400)] == explained.parts[0].values
    assert (False, True) == (explained.parts[0].truth, explained.parts[1].truth)


def test_members_of_nothing_are_nobody() -> None:
    assert BitMap() == audience(World().index(), Kind.DEALER, Holds("boolean_1"), NOW)
