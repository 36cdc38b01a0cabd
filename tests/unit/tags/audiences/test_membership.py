"""A membership that is kept up to date is what it would be if everybody were asked again."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from services.tags.audiences.membership import Membership, is_clocked
from services.tags.domain.catalogue import RELATIONS, Kind
from services.tags.domain.terms import And, Compares, CountOf, Figure, Holds, Measures, Related, Since, Term
from services.tags.index.algebra import audience
from services.tags.index.index import AudienceIndex
from tests.unit.tags.index.worlds import CATALOGUE, IDS, NOW, World, tags, terms, worlds

KINDS = st.sampled_from(list(Kind))


@st.composite
def steps(draw: st.DrawFn) -> tuple[Any, ...]:
    """An entity's tags all anew, an entity gone, or a relation that comes or goes."""
    if draw(st.booleans()):
        return "entity", draw(KINDS), draw(IDS), draw(st.none() | tags())
    pair = draw(st.sampled_from(list(RELATIONS)))
    return "relation", pair, draw(IDS), draw(IDS), draw(st.sampled_from(RELATIONS[pair])), draw(st.booleans())


def take(index: AudienceIndex, step: tuple[Any, ...], version: int, changed: dict[Kind, set[int]]) -> None:
    """Lets an index follow a step, and notes who that concerns, as the projection does."""
    if step[0] == "entity":
        _, kind, entity_id, given_tags = step
        new = {name: (given_tags or {}).get(name) for name in CATALOGUE.of(kind)}
        index.versions[kind] = index.versions[kind]
        known = int(index.versions[kind][entity_id]) if entity_id < len(index.versions[kind]) else 0
        index.apply(kind, entity_id, known + 1, new, given_tags is not None)
        changed[kind].add(entity_id)
    else:
        _, pair, one, other, relation, removed = step
        index.relations.set(pair, one, other, relation, removed, version)
        changed[pair[0]].add(one)
        changed[pair[1]].add(other)


@settings(max_examples=50, deadline=None)
@given(worlds(), KINDS.flatmap(lambda kind: st.tuples(st.just(kind), terms(kind))), st.lists(st.lists(steps(), max_size=4)))
def test_following_changes_equals_asking_everybody_again(
    world: World, asked: tuple[Kind, Term], batches: list[list[tuple[Any, ...]]]
) -> None:
    kind, term = asked
    index = world.index()
    # Many bystanders, so that a change concerns a small part.
    for entity_id in range(100, 200):
        index.load_entity(kind, entity_id, True, {}, 1)
    membership = Membership(index, kind, term, NOW)
    version = 1
    for batch in batches:
        changed: dict[Kind, set[int]] = {each: set() for each in Kind}
        for step in batch:
            version += 1
            take(index, step, version, changed)
        before = membership.members.copy()
        moved = membership.refresh(index, changed, NOW)
        now = audience(index, kind, term, NOW)
        assert now == membership.members
        assert (now - before, before - now) == (moved.entered, moved.left)


def test_time_alone_moves_members_within_a_second() -> None:
    world = World()
    world.entities[Kind.PERSON] = {1: {"time_1": NOW - 9.5}, 2: {"time_1": NOW}}
    index = world.index()
    membership = Membership(index, Kind.PERSON, Since("time_1", ">=", 10.0), NOW)
    nothing: dict[Kind, set[int]] = {}
    assert not membership.refresh(index, nothing, NOW + 0.4)
    assert BitMap([1]) == membership.refresh(index, nothing, NOW + 0.9).entered
    assert BitMap([2]) == membership.refresh(index, nothing, NOW + 10.5).entered


def test_a_clock_is_found_at_related_entities_too() -> None:
    assert is_clocked(Related(Kind.VEHICLE, And((Holds("boolean_1"), Since("time_1", "<", 1.0)))))
    assert is_clocked(Measures(CountOf(Kind.VEHICLE, Since("time_1", "<", 1.0)), ">", Figure(1.0)))
    assert not is_clocked(Related(Kind.VEHICLE, Compares("number_1", "<", 1.0)))
