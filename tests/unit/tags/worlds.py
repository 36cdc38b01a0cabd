"""Random small worlds and predicates over them, each predicate in our language and in PostgreSQL's."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from services.tags.domain.catalogue import Aggregate, Catalogue, FromEvents, Kind, TagDefinition, TagType, Value
from services.tags.domain.evaluation import Seen
from services.tags.index.index import AudienceIndex

WORDS = ("yes", "no", "it's", "车主", "")
NUMBERS = (-1.5, 0.0, 1.0, 2.0, 3.25)
PG_TYPES = {TagType.NUMBER: "float8", TagType.TIME: "float8", TagType.CATEGORY: "text", TagType.BOOLEAN: "boolean"}


@dataclass(frozen=True)
class World:
    """Tags of persons and vehicles by id, and who is related to whom."""

    catalogue: Catalogue
    entities: dict[Kind, dict[int, dict[str, Value]]]
    relations: list[tuple[int, int]]

    def index(self) -> AudienceIndex:
        index = AudienceIndex(self.catalogue)
        for kind, entities in self.entities.items():
            for entity_id, tags in entities.items():
                index.load_entity(kind, entity_id, True, tags, 1)
        for person, vehicle in self.relations:
            index.relations.set((Kind.PERSON, Kind.VEHICLE), person, vehicle, "owns", False, 1)
        return index

    def seen(self, person: int) -> Seen:
        vehicles = [self.entities[Kind.VEHICLE][vehicle] for p, vehicle in self.relations if p == person]
        return Seen(self.entities[Kind.PERSON][person], 0.0, _Vehicles([Seen(tags, 0.0) for tags in vehicles]))


@dataclass(frozen=True)
class _Vehicles:
    """Who is around a person."""

    vehicles: list[Seen]

    def related(self, kind: Kind) -> list[Seen]:
        assert kind is Kind.VEHICLE
        return self.vehicles

    def single(self, kind: Kind, relation: str) -> Seen | None:
        raise AssertionError("nothing here asks for the one")


@dataclass(frozen=True)
class Written:
    """The same predicate for us and for PostgreSQL."""

    ours: str
    postgres: str


def _catalogue(seed: int) -> Catalogue:
    rnd = random.Random(seed)
    types = {kind: rnd.choices(list(PG_TYPES), k=rnd.randint(1, 5)) for kind in Kind}
    return Catalogue([d for kind in Kind for d in _definitions(kind, types[kind])])


def _definitions(kind: Kind, types: list[TagType]) -> list[TagDefinition]:
    prefix = kind.name[0].lower()
    origin = FromEvents(Aggregate.LAST, field="x")
    return [TagDefinition(kind, f"{prefix}{i}_{t.value}", t, "made", origin) for i, t in enumerate(types)]


# Few enough that their strategies are built once: building them costs more than everything that is tested.
CATALOGUES = [_catalogue(seed) for seed in range(12)]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    catalogue = draw(st.sampled_from(CATALOGUES))
    entities = {}
    for kind, most in ((Kind.PERSON, 10), (Kind.VEHICLE, 6)):
        ids = draw(st.sets(st.integers(1, 70_000), max_size=most))
        entities[kind] = {id_: draw(_tags(catalogue, kind)) for id_ in sorted(ids)}
    pairs = [(p, v) for p in entities[Kind.PERSON] for v in entities[Kind.VEHICLE]]
    relations = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=12)) if pairs else []
    return World(catalogue, entities, relations)


@functools.cache
def _tags(catalogue: Catalogue, kind: Kind) -> st.SearchStrategy[dict[str, Value]]:
    values = {d.name: _values(d.type) for d in catalogue.of(kind).values()}
    return st.fixed_dictionaries({}, optional=values)


def _values(tag_type: TagType) -> st.SearchStrategy[Any]:
    if tag_type is TagType.CATEGORY:
        return st.sampled_from(WORDS)
    return st.booleans() if tag_type is TagType.BOOLEAN else st.sampled_from(NUMBERS)


@functools.cache
def predicates(catalogue: Catalogue, kind: Kind, crossing: bool = True) -> st.SearchStrategy[Written]:
    leaves = st.one_of([_leaf(d) for d in catalogue.of(kind).values()])
    if crossing:
        leaves |= predicates(catalogue, Kind.VEHICLE, False).map(_any)
    return st.recursive(leaves, _joined, max_leaves=8)


def _any(inner: Written) -> Written:
    exists = f"EXISTS (SELECT 1 FROM r JOIN v ON v.id = r.v WHERE r.p = p.id AND ({inner.postgres}))"
    return Written(f"ANY(vehicle, {inner.ours})", exists)


def _joined(inner: st.SearchStrategy[Written]) -> st.SearchStrategy[Written]:
    def both(form: str, *parts: Written) -> Written:
        return Written(form.format(*(p.ours for p in parts)), form.format(*(p.postgres for p in parts)))

    two = st.sampled_from(("({} AND {})", "({} OR {})", "({} AND NOT {})"))
    one = st.sampled_from(("NOT ({})", "(({}) IS TRUE)", "(({}) IS NOT FALSE)", "({})", "(({}) IS FALSE)"))
    return st.builds(both, two, inner, inner) | st.builds(both, one, inner)


def _leaf(definition: TagDefinition) -> st.SearchStrategy[Written]:
    name, tag_type = definition.name, definition.type
    forms = ["{n} IS NULL", "{n} IS NOT NULL", "{n} = {a}", "{n} <> {b}"]
    if tag_type is TagType.BOOLEAN:
        forms += ["{n}", "NOT {n}", "{n} IS TRUE", "{n} IS NOT TRUE"]
    else:
        forms += ["{n} IN ({a}, {b})", "{n} NOT IN ({a}, {b})", "{a} = {n}"]
    if tag_type in (TagType.NUMBER, TagType.TIME):
        forms += [
            "{n} < {a}",
            "{n} <= {a}",
            "{a} < {n}",
            "{n} >= {b}",
            "{n} BETWEEN {a} AND {b}",
            "{n} NOT BETWEEN {a} AND {b}",
        ]

    def write(form: str, a: Any, b: Any) -> Written:
        ours = form.format(n=name, a=_ours(tag_type, a), b=_ours(tag_type, b))
        return Written(ours, form.format(n=name, a=_sql(a), b=_sql(b)))

    values = _values(tag_type)
    return st.builds(write, st.sampled_from(forms), values, values)


def _ours(tag_type: TagType, value: Any) -> str:
    return f"'{datetime.fromtimestamp(value, UTC).isoformat()}'" if tag_type is TagType.TIME else _sql(value)


def _sql(value: Any) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)
