"""Random small worlds of all kinds, random terms over them, and what a term means, entity by entity, in plain Python."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from services.tags.domain.catalogue import (
    RELATIONS,
    SINGLE,
    Aggregate,
    Catalogue,
    FromEvents,
    Kind,
    TagDefinition,
    TagType,
    Value,
    related_kinds,
)
from services.tags.domain.terms import (
    And,
    Arithmetic,
    Compares,
    Constant,
    Contains,
    CountOf,
    DaysSince,
    Equals,
    Figure,
    Holds,
    IsMissing,
    IsTruth,
    Measures,
    Not,
    Number,
    NumberOf,
    Or,
    Related,
    Since,
    Term,
    Through,
)
from services.tags.index.index import AudienceIndex

NOW = 1_800_000_000.0
WORDS = ("yes", "no", "车主", "")
NUMBERS = (-1.5, 0.0, 1.0, 2.0, 3.25)
MOMENTS = (NOW - 3 * 86_400, NOW - 86_400, NOW - 1.0, NOW, NOW + 60)
VALUES: dict[TagType, st.SearchStrategy[Any]] = {
    TagType.NUMBER: st.sampled_from(NUMBERS),
    TagType.TIME: st.sampled_from(MOMENTS),
    TagType.CATEGORY: st.sampled_from(WORDS),
    TagType.BOOLEAN: st.booleans(),
    TagType.SET: st.sets(st.sampled_from(WORDS)).map(sorted),
    TagType.TEXT: st.just("said"),
}
CATALOGUE = Catalogue(
    [
        TagDefinition(kind, f"{type_.value}_{number}", type_, "made", FromEvents(Aggregate.LAST, field="x"))
        for kind in Kind
        for type_ in TagType
        for number in (1, 2)
    ]
)
IDS = st.sampled_from((1, 2, 3, 4, 70_000, 200_000))
_OPERATORS: dict[str, Any] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
}


@dataclass
class World:
    """Tags by kind and id, and relations as (one, other, relation) by pair of kinds."""

    entities: dict[Kind, dict[int, dict[str, Value]]] = field(default_factory=lambda: {kind: {} for kind in Kind})
    relations: dict[tuple[Kind, Kind], set[tuple[int, int, str]]] = field(
        default_factory=lambda: {pair: set() for pair in RELATIONS}
    )

    def index(self) -> AudienceIndex:
        index = AudienceIndex(CATALOGUE)
        for kind, entities in self.entities.items():
            for entity_id, tags in entities.items():
                index.load_entity(kind, entity_id, True, tags, 1)
        for pair, relations in self.relations.items():
            for one, other, relation in relations:
                index.relations.set(pair, one, other, relation, False, 1)
        return index

    def true_of(self, kind: Kind, term: Term) -> list[int]:
        return sorted(entity_id for entity_id in self.entities[kind] if self.truth(kind, entity_id, term) is True)

    def _around(self, kind: Kind, entity_id: int, other: Kind, relation: str = "") -> list[int]:
        found = set()
        for (one, two), relations in self.relations.items():
            for left, right, name in relations:
                if relation in ("", name) and (one, left, two) == (kind, entity_id, other):
                    found.add(right)
                if relation in ("", name) and (two, right, one) == (kind, entity_id, other):
                    found.add(left)
        return sorted(found & self.entities[other].keys())

    def truth(self, kind: Kind, entity_id: int, term: Term) -> bool | None:  # noqa: C901  # one arm per kind of term
        tags = self.entities[kind][entity_id]
        have: Any = tags.get(getattr(term, "tag", ""))
        match term:
            case Constant(value):
                return value
            case IsMissing():
                return have is None
            case Not(inner):
                truth = self.truth(kind, entity_id, inner)
                return None if truth is None else not truth
            case IsTruth(inner, value):
                return self.truth(kind, entity_id, inner) is value
            case And(terms) | Or(terms):
                truths = {self.truth(kind, entity_id, each) for each in terms}
                decisive = isinstance(term, Or)
                return decisive if decisive in truths else None if None in truths else not decisive
            case Related(other, inner):
                return any(self.truth(other, each, inner) is True for each in self._around(kind, entity_id, other))
            case Through(other, relation, inner):
                around = self._around(kind, entity_id, other, relation)
                return self.truth(other, around[0], inner) if around else None
            case Measures(left, symbol, right):
                one, two = self.number(kind, entity_id, left), self.number(kind, entity_id, right)
                return None if one is None or two is None else bool(_OPERATORS[symbol](one, two))
        if have is None:
            return None
        match term:
            case Holds():
                return bool(have)
            case Equals(_, values):
                return have in values
            case Contains(_, values):
                return any(word in values for word in have)
            case Compares(_, symbol, number):
                return bool(_OPERATORS[symbol](have, number))
            case Since(_, symbol, seconds):
                return bool(_OPERATORS[symbol](NOW - have, seconds))
        raise AssertionError(term)

    def number(self, kind: Kind, entity_id: int, number: Number) -> float | None:
        tags = self.entities[kind][entity_id]
        match number:
            case Figure(value):
                return value
            case NumberOf(tag):
                have: Any = tags.get(tag)
                return have
            case DaysSince(tag):
                have = tags.get(tag)
                return None if have is None else math.floor((NOW - have) / 86_400)
            case CountOf(other, term):
                return float(sum(self.truth(other, i, term) is True for i in self._around(kind, entity_id, other)))
            case Arithmetic(symbol, left, right):
                one, two = self.number(kind, entity_id, left), self.number(kind, entity_id, right)
                if one is None or two is None or (symbol == "/" and two == 0):
                    return None
                match symbol:
                    case "+":
                        return one + two
                    case "-":
                        return one - two
                    case "*":
                        return one * two
                    case _:
                        return one / two


@st.composite
def worlds(draw: st.DrawFn) -> World:
    world = World()
    for kind in Kind:
        for entity_id in draw(st.sets(IDS, max_size=5)):
            world.entities[kind][entity_id] = draw(tags())
    for pair, names in RELATIONS.items():
        edge = st.tuples(IDS, IDS, st.sampled_from(names))
        world.relations[pair] = {each for each in draw(st.sets(edge, max_size=8)) if _exist(world, pair, each)}
    return world


def _exist(world: World, pair: tuple[Kind, Kind], edge: tuple[int, int, str]) -> bool:
    return edge[0] in world.entities[pair[0]] and edge[1] in world.entities[pair[1]]


@functools.cache
def tags() -> st.SearchStrategy[dict[str, Value]]:
    return st.fixed_dictionaries({}, optional={d.name: VALUES[d.type] for d in CATALOGUE.of(Kind.PERSON).values()})


@functools.cache
def terms(kind: Kind, depth: int = 3) -> st.SearchStrategy[Term]:
    """Terms over a kind; each crossing of relations takes one off the depth."""
    return st.recursive(
        st.one_of(list(_leaves(kind, depth))),
        lambda inner: st.one_of(
            st.builds(Not, inner),
            st.builds(IsTruth, inner, st.booleans()),
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: And(tuple(parts))),
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: Or(tuple(parts))),
        ),
        max_leaves=6,
    )


def _leaves(kind: Kind, depth: int) -> Iterator[st.SearchStrategy[Term]]:
    number = st.sampled_from(("1", "2"))
    symbol = st.sampled_from(tuple(_OPERATORS))

    def named(type_: TagType) -> st.SearchStrategy[str]:
        return number.map(lambda each: f"{type_.value}_{each}")

    yield st.builds(Constant, st.booleans())
    yield st.builds(Holds, named(TagType.BOOLEAN))
    yield st.builds(Equals, named(TagType.CATEGORY), st.lists(st.sampled_from(WORDS), min_size=1).map(tuple))
    yield st.builds(Equals, named(TagType.NUMBER), st.lists(st.sampled_from(NUMBERS), min_size=1).map(tuple))
    yield st.builds(Contains, named(TagType.SET), st.lists(st.sampled_from(WORDS), min_size=1).map(tuple))
    yield st.builds(Compares, named(TagType.NUMBER), symbol, st.sampled_from(NUMBERS))
    yield st.builds(Compares, named(TagType.TIME), symbol, st.sampled_from(MOMENTS))
    yield st.builds(Since, named(TagType.TIME), symbol, st.sampled_from([NOW - moment for moment in MOMENTS]))
    yield st.builds(IsMissing, st.sampled_from([*CATALOGUE.of(kind)]))
    yield st.builds(Measures, _numbers(kind, depth), symbol, _numbers(kind, depth))
    if depth:
        yield st.sampled_from(related_kinds(kind)).flatmap(lambda k: st.builds(Related, st.just(k), terms(k, depth - 1)))
        if SINGLE[kind]:
            yield st.sampled_from(sorted(SINGLE[kind].values())).flatmap(
                lambda one: st.builds(Through, st.just(one[0]), st.just(one[1]), terms(one[0], depth - 1))
            )


@functools.cache
def _numbers(kind: Kind, depth: int) -> st.SearchStrategy[Number]:
    leaves: st.SearchStrategy[Number] = st.one_of(
        st.builds(Figure, st.sampled_from(NUMBERS)),
        st.builds(NumberOf, st.sampled_from(("number_1", "number_2"))),
        st.builds(DaysSince, st.sampled_from(("time_1", "time_2"))),
    )
    if depth:
        leaves |= st.sampled_from(related_kinds(kind)).flatmap(
            lambda other: st.builds(CountOf, st.just(other), st.deferred(lambda: terms(other, depth - 1)))
        )
    return st.recursive(
        leaves, lambda inner: st.builds(Arithmetic, st.sampled_from(("+", "-", "*", "/")), inner, inner), max_leaves=3
    )
