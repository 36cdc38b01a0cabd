"""The executions of a predicate agree; the integration tests add PostgreSQL as a third opinion."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.tags.domain.catalogue import Kind
from services.tags.domain.evaluation import compile_term
from services.tags.domain.predicates import parse_predicate
from services.tags.index.algebra import audience
from services.tags.index.describe import describe
from tests.unit.tags.worlds import World, predicates, worlds


@given(st.data(), worlds())
@settings(max_examples=150, deadline=None)
def test_one_entity_at_a_time_and_the_whole_base_agree(data: st.DataObject, world: World) -> None:
    term = parse_predicate(data.draw(predicates(world.catalogue, Kind.PERSON)).ours, Kind.PERSON, world.catalogue)
    truth = compile_term(term)
    expected = [person for person in world.entities[Kind.PERSON] if truth(world.seen(person)) is True]
    assert expected == list(audience(world.index(), Kind.PERSON, term, 0.0))


@given(st.data(), worlds())
@settings(max_examples=60, deadline=None)
def test_what_an_insight_counts_is_what_its_predicate_selects(data: st.DataObject, world: World) -> None:
    index, kind = world.index(), Kind.PERSON
    whole = index.present[kind]
    term = parse_predicate(data.draw(predicates(world.catalogue, kind)).ours, kind, world.catalogue)
    members = audience(index, kind, term, 0.0)
    for described in describe(index, kind, members, whole, frozenset()).terms:
        selected = audience(index, kind, parse_predicate(described.predicate, kind, world.catalogue), 0.0)
        assert described.base_count == len(selected)
        assert described.audience_count == len(selected & members)
        assert described.lift > 1
