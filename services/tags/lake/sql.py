"""The third execution: a whole catalogue as one SQL query over the lake, as of a moment, for DuckDB and for Spark.

It reads the tables
    events     rows of the lake (`rows.SCHEMA`)
    owners     (anchor_id, entity_id, entity_kind): whose each anchor is at present
    relations  (subject_kind, subject_id, object_kind, object_id, kind, valid_from_us, valid_to_us), 0 while it holds
    given      (entity_kind, entity_id, tag, number, word, flag, words, at_us): what no event says; only if asked for
and is built of steps: events with their owners, base tags as aggregates, business tags layer by layer, and for each question
about related entities a table of answers, joined to whoever asks. Three-valued logic is the engine's own.

An entity is there once an event about it had happened; one of a kind without events, once somebody was related to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

from services.tags.domain.business import BusinessRules
from services.tags.domain.catalogue import Catalogue, FromEvents, FromTags, Kind, TagDefinition, TagType, related_kinds
from services.tags.domain.predicates import parse_expression
from services.tags.domain.terms import CountOf, Expression, Related, Term, Through, own_parts, parts_of, tags_of
from services.tags.lake import sql_base
from services.tags.lake.dialects import Dialect
from services.tags.lake.sql_base import Properties
from services.tags.lake.sql_terms import Writer

_GIVEN = {TagType.NUMBER: "number", TagType.TIME: "number", TagType.BOOLEAN: "flag", TagType.SET: "words"}
# Kinds that events are about; the others exist through their relations.
_OF_EVENTS = (Kind.PERSON, Kind.VEHICLE)


@dataclass(frozen=True)
class Query:
    """Steps (name, SELECT) in order, and the SELECT over them; `given`: tags that it takes from the table of that name."""

    dialect: Dialect
    steps: tuple[tuple[str, str], ...]
    result: str
    given: frozenset[tuple[Kind, str]]

    @property
    def text(self) -> str:
        """All of it as one statement."""
        steps = ",\n".join(f"{name} AS{self.dialect.materialized} (\n{sql}\n)" for name, sql in self.steps)
        return f"WITH {steps}\n{self.result}" if steps else self.result


def tags_query(
    dialect: Dialect,
    catalogue: Catalogue,
    kind: Kind,
    at_us: int,
    tags: Collection[str] | None = None,
    given: bool = False,
    among: Term | None = None,
) -> Query:
    """One row per entity of a kind: entity_id, and a column per tag, ascending.

    `tags`: of these only; `among`: only entities that make this predicate true.
    """
    builder = _Builder(dialect, catalogue, at_us, given)
    wanted = [name for name in catalogue.of(kind) if tags is None or name in tags]
    expressions = {name: builder.views[kind][name] for name in wanted if name in builder.views[kind]}
    asked: list[Expression] = [*expressions.values(), *([among] if among is not None else [])]
    builder.prepare({kind: set(wanted) - expressions.keys()}, {kind: asked})
    row = builder.row(kind)
    columns = [
        f"{row.writer.expression(expressions[name]) if name in expressions else row.tag(name)} AS {dialect.identifier(name)}"
        for name in wanted
    ]
    where = "" if among is None else f" WHERE {row.writer.term(among)}"
    return builder.query(f"SELECT {', '.join(['x._id AS entity_id', *columns])} FROM {row.source}{where} ORDER BY 1")


def audience_query(dialect: Dialect, catalogue: Catalogue, kind: Kind, term: Term, at_us: int, given: bool = False) -> Query:
    """The ids of the entities that make a predicate true, ascending, as column entity_id."""
    builder = _Builder(dialect, catalogue, at_us, given)
    builder.prepare({}, {kind: [term]})
    row = builder.row(kind)
    where = row.writer.term(term)
    return builder.query(f"SELECT x._id AS entity_id FROM {row.source} WHERE {where} ORDER BY 1")


class _Builder:
    """Collects the steps of one query."""

    def __init__(self, dialect: Dialect, catalogue: Catalogue, at_us: int, given: bool) -> None:
        self.dialect, self.now, self._catalogue, self._at_us, self._given = dialect, at_us / 1e6, catalogue, at_us, given
        # Fills the catalogue's views, without which expressions that name one cannot be read.
        BusinessRules(catalogue)
        self.views: Mapping[Kind, Mapping[str, Expression]] = {kind: dict(catalogue.views[kind]) for kind in Kind}
        self._business = {
            kind: {
                d.name: parse_expression(d.expression, kind, catalogue)
                for d in catalogue.of(kind).values()
                if isinstance(d.origin, FromTags) and d.name not in self.views[kind]
            }
            for kind in Kind
        }
        self._steps: dict[str, str] = {}
        self._answers: dict[object, str] = {}
        self._taken: set[tuple[Kind, str]] = set()

    def query(self, result: str) -> Query:
        return Query(self.dialect, tuple(self._steps.items()), result, frozenset(self._taken))

    def row(self, kind: Kind) -> _Row:
        """A row of one kind's tags as it is asked now; questions join it as they come."""
        return _Row(self, kind)

    # Which tags are needed

    def prepare(self, tags: Mapping[Kind, Collection[str]], expressions: Mapping[Kind, Iterable[Expression]]) -> None:
        """Makes the tables of tags for all kinds that are asked, with only what is asked of them."""
        needed: dict[Kind, set[str]] = {}
        waiting = [(kind, name) for kind, names in tags.items() for name in names]
        for kind in tags:
            needed.setdefault(kind, set())
        for kind, given in expressions.items():
            for expression in given:
                waiting += self._read(kind, expression, needed)
        while waiting:
            kind, name = waiting.pop()
            if name in needed.setdefault(kind, set()):
                continue
            needed[kind].add(name)
            if (business := self._business[kind].get(name)) is not None:
                waiting += self._read(kind, business, needed)
        for kind in sorted(needed):
            self._table(kind, needed[kind])

    def _read(self, kind: Kind, expression: Expression, needed: dict[Kind, set[str]]) -> list[tuple[Kind, str]]:
        needed.setdefault(kind, set())
        found = [(kind, name) for name in tags_of(expression)]
        for part in own_parts(expression):
            if isinstance(part, (Related, CountOf, Through)):
                for inner in parts_of(part):
                    found += self._read(part.kind, inner, needed)
        return found

    # Tables of tags

    def _table(self, kind: Kind, names: set[str]) -> None:
        """The table `tags_<kind>` (_id and a column per name)."""
        definitions = [d for name, d in self._catalogue.of(kind).items() if name in names]
        base = [d for d in definitions if not isinstance(d.origin, FromTags)]
        last = self._base(kind, base)
        for number, layer in enumerate(_layers(self._business[kind], names)):
            plain = Writer(self.dialect, _Tags(self.dialect, "x"), self.now)
            columns = [f"{plain.expression(self._business[kind][n])} AS {self.dialect.identifier(n)}" for n in layer]
            last = self._step(f"layer_{_word(kind)}_{number}", f"SELECT x.*, {', '.join(columns)} FROM {last} AS x")
        self._step(f"tags_{_word(kind)}", f"SELECT * FROM {last}")

    def _base(self, kind: Kind, definitions: Sequence[TagDefinition]) -> str:
        word, dialect = _word(kind), self.dialect
        of_events = sql_base.of_events(definitions) if kind in _OF_EVENTS else []
        others = [d for d in definitions if not (isinstance(d.origin, FromEvents) and kind in _OF_EVENTS)]
        columns: list[str] = []
        if kind in _OF_EVENTS:
            properties = Properties(dialect)
            columns = sql_base.base_columns(dialect, of_events, properties, self._at_us)
            events = self._step(f"events_{word}", sql_base.events_step(dialect, kind, properties, self._at_us))
            source = f"SELECT {', '.join(['_id', *columns])} FROM {events} GROUP BY _id"
        else:
            source = " UNION ".join(f"SELECT to_id AS _id FROM {self._links(other, kind)}" for other in related_kinds(kind))
        if not others:
            return self._step(f"base_{word}", source)
        about = self._step(f"entities_{word}", source)
        if self._given:
            return self._step(f"base_{word}", self._with_given(kind, about, others))
        nulls = ", ".join(f"{sql_base.typed_null(dialect, d)} AS {dialect.identifier(d.name)}" for d in others)
        return self._step(f"base_{word}", f"SELECT x.*, {nulls} FROM {about} AS x")

    def _with_given(self, kind: Kind, about: str, definitions: Sequence[TagDefinition]) -> str:
        columns = []
        for definition in definitions:
            self._taken.add((kind, definition.name))
            column = _GIVEN.get(definition.type, "word")
            newest = self.dialect.at_greatest(column, "at_us")
            value = f"{newest} FILTER (WHERE tag = {self.dialect.word(definition.name)} AND {column} IS NOT NULL)"
            columns.append(f"{value} AS {self.dialect.identifier(definition.name)}")
        where = f"entity_kind = {int(kind)} AND at_us <= {self._at_us}"
        grouped = f"SELECT entity_id AS _other, {', '.join(columns)} FROM given WHERE {where} GROUP BY entity_id"
        names = ", ".join(f"g.{self.dialect.identifier(d.name)}" for d in definitions)
        return f"SELECT x.*, {names} FROM {about} AS x LEFT JOIN ({grouped}) AS g ON g._other = x._id"

    # Questions about others

    def links(self, kind: Kind, other: Kind, relation: str | None = None) -> str:
        """The table (from_id, to_id) of related pairs at the moment, each once."""
        return self._links(kind, other, relation)

    def _links(self, kind: Kind, other: Kind, relation: str | None = None) -> str:
        valid = f"valid_from_us <= {self._at_us} AND (valid_to_us = 0 OR valid_to_us > {self._at_us})"
        only = "" if relation is None else f" AND kind = {self.dialect.word(relation)}"
        parts = [
            f"SELECT {one}_id AS from_id, {two}_id AS to_id FROM relations"
            f" WHERE {one}_kind = {int(kind)} AND {two}_kind = {int(other)} AND {valid}{only}"
            for one, two in (("subject", "object"), ("object", "subject"))
        ]
        name = f"links_{_word(kind)}_{_word(other)}{'' if relation is None else f'_{relation}'}"
        return self._step(name, " UNION ".join(parts))

    def counted(self, kind: Kind, other: Kind, term: Term) -> str:
        """The table (_id, answer): how many related entities make a term true."""
        key = (kind, other, term)
        if key not in self._answers:
            links, row = self.links(kind, other), self.row(other)
            where = row.writer.term(term)
            number = len(self._answers)
            hits = self._step(f"hits_{number}", f"SELECT x._id FROM {row.source} WHERE {where}")
            self._answers[key] = self._step(
                f"answer_{number}",
                f"SELECT l.from_id AS _id, COUNT(*) AS answer FROM {links} AS l JOIN {hits} AS h ON h._id = l.to_id"
                " GROUP BY l.from_id",
            )
        return self._answers[key]

    def led(self, kind: Kind, other: Kind, relation: str, term: Term) -> str:
        """The table (_id, answer): a term's truth at the lowest id of those in a relation."""
        key = (kind, other, relation, term)
        if key not in self._answers:
            links, row = self.links(kind, other, relation), self.row(other)
            truth = row.writer.term(term)
            number = len(self._answers)
            truths = self._step(f"truths_{number}", f"SELECT x._id, {truth} AS answer FROM {row.source}")
            lowest = (
                f"SELECT l.from_id AS _id, MIN(l.to_id) AS to_id FROM {links} AS l"
                f" JOIN tags_{_word(other)} AS t ON t._id = l.to_id GROUP BY l.from_id"
            )
            self._answers[key] = self._step(
                f"answer_{number}",
                f"SELECT w._id, t.answer FROM ({lowest}) AS w JOIN {truths} AS t ON t._id = w.to_id",
            )
        return self._answers[key]

    def _step(self, name: str, sql: str) -> str:
        self._steps.setdefault(name, sql)
        return name


class _Tags:
    """Tags as columns of a row named `alias`; they have their declared type."""

    def __init__(self, dialect: Dialect, alias: str) -> None:
        self._dialect, self._alias = dialect, alias

    def value(self, name: str, _wanted: type) -> str:
        return f"{self._alias}.{self._dialect.identifier(name)}"

    def missing(self, name: str) -> str:
        return f"{self.value(name, str)} IS NULL"


class _Row:
    """One kind's row `x` of tags, joined to the answers that expressions over it ask for."""

    def __init__(self, builder: _Builder, kind: Kind) -> None:
        self._builder, self._kind = builder, kind
        self._joined: dict[str, str] = {}
        self._tags = _Tags(builder.dialect, "x")
        self.writer = Writer(builder.dialect, self._tags, builder.now, self)

    def tag(self, name: str) -> str:
        return self._tags.value(name, str)

    @property
    def source(self) -> str:
        """What stands after FROM; complete once all expressions are written."""
        joins = "".join(f" LEFT JOIN {table} AS {alias} ON {alias}._id = x._id" for table, alias in self._joined.items())
        return f"tags_{_word(self._kind)} AS x{joins}"

    def count(self, kind: Kind, term: Term) -> str:
        return f"COALESCE({self._join(self._builder.counted(self._kind, kind, term))}.answer, 0)"

    def truth(self, kind: Kind, relation: str, term: Term) -> str:
        return f"{self._join(self._builder.led(self._kind, kind, relation, term))}.answer"

    def _join(self, table: str) -> str:
        return self._joined.setdefault(table, f"a{len(self._joined)}")


def _layers(business: Mapping[str, Expression], names: Collection[str]) -> Iterable[list[str]]:
    """Business tags in the order in which they can be computed, as many at once as possible."""
    mine = {name: tags_of(expression) & business.keys() for name, expression in business.items() if name in names}
    sorter = TopologicalSorter(mine)
    sorter.prepare()
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        yield ready
        sorter.done(*ready)


def _word(kind: Kind) -> str:
    return kind.name.lower()
