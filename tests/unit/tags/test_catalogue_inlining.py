"""A predicate with definitions in place of names is true of exactly those of whom it would be true by these definitions."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.tags.catalogue import yaml_files
from services.tags.catalogue.inlining import Inlining
from services.tags.domain.business import BusinessRules, compile_all
from services.tags.domain.catalogue import Kind
from services.tags.domain.evaluation import Seen, compile_term
from services.tags.domain.predicates import parse_predicate
from services.tags.index.algebra import audience
from services.tags.index.index import AudienceIndex

CATALOGUE = yaml_files.parse(
    """
person:
  opens: {type: number, description: d, expression: COUNT(*)}
  app: {type: boolean, description: d, expression: BOOL_OR(yes)}
  often: {type: boolean, description: d, expression: opens >= 2 AND app}
  band: {type: category, description: d, expression: "CASE WHEN often THEN 'a' WHEN opens > 3 THEN 'b' WHEN app THEN 'a' END"}
  level: {type: number, description: d, expression: CASE WHEN opens > 4 THEN 4 WHEN often THEN 2 ELSE 0 END}
  double: {type: number, description: d, expression: opens * 2}
  top: {type: boolean, description: d, expression: "band = 'a' AND double > 3"}
"""
)
RULES = BusinessRules(CATALOGUE)
COMPILED, _ = compile_all(CATALOGUE)
INLINING = Inlining({kind: {each.name: each.expression for each in COMPILED[kind]} for kind in Kind})
ATOMS = st.sampled_from(
    [
        *("often", "app", "top", "band = 'a'", "band = 'b'", "band IN ('a', 'c')", "band IS NULL", "often IS NULL"),
        *("level > 1", "level = 0", "level <= 2", "level IS NULL", "double >= 6", "double = 4", "double IS NULL"),
        *("double + opens > 5", "opens > 1", "top IS NULL", "often IS NOT TRUE"),
    ]
)
PREDICATES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        inner.map(lambda each: f"NOT ({each})"),
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda parts: f"({parts[0]}) {parts[1]} ({parts[2]})"),
    ),
    max_leaves=5,
)
PERSONS = st.fixed_dictionaries({}, optional={"opens": st.integers(0, 6).map(float), "app": st.booleans()})


@given(PREDICATES, PERSONS)
def test_an_inlined_predicate_means_the_same(predicate: str, person: dict[str, Any]) -> None:
    derived = dict(person)
    RULES.complete(Kind.PERSON, derived, 0.0)
    term = parse_predicate(predicate, Kind.PERSON, CATALOGUE)
    # The inlined one sees base tags only.
    expected = compile_term(term)(Seen(derived, 0.0))
    assert expected is compile_term(INLINING.term(Kind.PERSON, term))(Seen(person, 0.0))


@given(PREDICATES, st.lists(PERSONS, min_size=1, max_size=8))
def test_the_index_finds_the_same_by_an_inlined_predicate(predicate: str, persons: list[dict[str, Any]]) -> None:
    index = AudienceIndex(CATALOGUE)
    expected = set()
    term = parse_predicate(predicate, Kind.PERSON, CATALOGUE)
    for number, person in enumerate(persons, start=1):
        derived = dict(person)
        RULES.complete(Kind.PERSON, derived, 0.0)
        index.load_entity(Kind.PERSON, number, True, person, 1)
        if compile_term(term)(Seen(derived, 0.0)) is True:
            expected.add(number)
    assert expected == set(audience(index, Kind.PERSON, INLINING.term(Kind.PERSON, term), 0.0))
