"""Base tags as SQL: one pass over the events of a kind, one aggregate per tag, as `domain.states` folds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.tags.domain.catalogue import Aggregate, FromEvents, Kind, TagDefinition, TagType
from services.tags.domain.facts import MAX_TEXT, MAX_WORD
from services.tags.domain.states import LARGEST_SUMMAND, MILLION, MOST_WORDS
from services.tags.lake.dialects import Dialect
from services.tags.lake.sql_terms import Writer

_LARGEST_NUMBER = 1e300
_MAPS = {float: "numbers", str: "words", bool: "flags"}
_ALL_MAPS = ("numbers", "words", "flags", "other")
ORDER = "_order"


class Properties:
    """The properties that some tags read, each extracted once as a column of the events."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._columns: dict[tuple[str, str], str] = {}

    def column(self, map_name: str, key: str) -> str:
        """A property's column."""
        return self._columns.setdefault((map_name, key), f"_p{len(self._columns)}")

    def value(self, name: str, wanted: type) -> str:
        """A property as it is compared in a condition; one of another type is missing."""
        return self.column(_MAPS[wanted], name)

    def missing(self, name: str) -> str:
        """Whether the event has no such property."""
        return " AND ".join(f"{self.column(each, name)} IS NULL" for each in _ALL_MAPS)

    def extracted(self) -> list[tuple[str, str]]:
        """(column, expression) of all that were asked."""
        return [(column, self._dialect.entry(map_name, key)) for (map_name, key), column in self._columns.items()]


def base_columns(
    dialect: Dialect, definitions: Iterable[tuple[TagDefinition, FromEvents]], properties: Properties, at_us: int
) -> list[str]:
    """Aggregates over events, one per tag."""
    return [
        f"{_aggregate(dialect, definition, origin, properties, at_us)} AS {dialect.identifier(definition.name)}"
        for definition, origin in definitions
    ]


def events_step(dialect: Dialect, kind: Kind, properties: Properties, at_us: int) -> str:
    """The events of a kind up to a moment with their present owners, each event once."""
    extracted = properties.extracted()
    plain = ("anchor_id", "source", "event", "occurred_us", "tie")
    columns = [*plain, *(column for column, _ in extracted)]
    inner = ", ".join([*plain, *(f"{expression} AS {column}" for column, expression in extracted)])
    once = ", ".join(f"any_value({column}) AS {column}" for column in columns)
    kept = ", ".join(f"e.{column}" for column in columns if column not in ("anchor_id", "tie"))
    return (
        f"SELECT o.entity_id AS _id, {dialect.order('e.occurred_us', 'COALESCE(e.tie, 0)')} AS {ORDER}, {kept}"
        f" FROM (SELECT {once} FROM (SELECT event_id, {inner} FROM events"
        f" WHERE entity_kind = {int(kind)} AND occurred_us <= {at_us}) AS raw GROUP BY event_id) AS e"
        f" JOIN owners AS o ON o.entity_kind = {int(kind)} AND o.anchor_id = e.anchor_id"
    )


def _aggregate(  # noqa: C901, PLR0911  # one arm per aggregate
    dialect: Dialect, definition: TagDefinition, origin: FromEvents, properties: Properties, at_us: int
) -> str:
    value = _value(dialect, definition, origin, properties)
    filters = _filters(dialect, origin, properties, at_us)
    if value != "TRUE":
        filters.append(f"{value} IS NOT NULL")
    if origin.aggregate in (Aggregate.SUM, Aggregate.AVG):
        filters.append(f"abs({value}) <= {dialect.number(LARGEST_SUMMAND)}")
    where = " AND ".join(filters) or "TRUE"
    over = f"FILTER (WHERE {where})"
    match origin.aggregate:
        case Aggregate.LAST:
            return f"{dialect.at_greatest(value, ORDER)} {over}"
        case Aggregate.FIRST:
            return f"{dialect.at_least(value, ORDER)} {over}"
        case Aggregate.COUNT:
            return f"CAST(NULLIF(COUNT(*) {over}, 0) AS DOUBLE)"
        case Aggregate.SUM:
            return _exact(f"SUM({_millionths(dialect, value)}) {over}")
        case Aggregate.AVG:
            total = f"CAST(CAST(SUM({_millionths(dialect, value)}) {over} AS {dialect.text}) AS DOUBLE)"
            return f"({total} / CAST(NULLIF(COUNT(*) {over}, 0) AS DOUBLE) / {dialect.number(MILLION)})"
        case Aggregate.MAX:
            return f"MAX({value}) {over}"
        case Aggregate.MIN:
            return f"MIN({value}) {over}"
        case Aggregate.DISTINCT:
            return f"CAST(NULLIF(LEAST({dialect.how_many(value, where)}, {MOST_WORDS}), 0) AS DOUBLE)"
        case Aggregate.VALUES:
            return dialect.words(value, where, MOST_WORDS)
        case Aggregate.ANY:
            return f"bool_or({value}) {over}"


def _filters(dialect: Dialect, origin: FromEvents, properties: Properties, at_us: int) -> list[str]:
    filters = []
    if origin.events:
        filters.append(f"event IN ({', '.join(dialect.word(name) for name in sorted(origin.events))})")
    if origin.source is not None and origin.source.endswith("*"):
        prefix = origin.source[:-1]
        filters.append(f"left(source, {len(prefix)}) = {dialect.word(prefix)}")
    elif origin.source is not None:
        filters.append(f"source = {dialect.word(origin.source)}")
    if origin.window is not None:
        filters.append(f"occurred_us >= {origin.window.first(at_us) * origin.window.step_us}")
    if origin.condition is not None:
        filters.append(Writer(dialect, properties, 0.0).term(origin.condition))
    return filters


def _value(  # noqa: PLR0911  # one arm per type
    dialect: Dialect, definition: TagDefinition, origin: FromEvents, properties: Properties
) -> str:
    """What is taken from an event: NULL where it says nothing."""
    field = origin.field
    if field is None or origin.aggregate is Aggregate.COUNT:
        return "TRUE"
    if field == "$source":
        return "CASE WHEN position(':' IN source) > 0 THEN NULLIF(substring(source, position(':' IN source) + 1), '') END"
    if field == "$time":
        return f"(CAST(occurred_us AS DOUBLE) / {dialect.number(1e6)})"
    taken = TagType.CATEGORY if origin.aggregate in (Aggregate.DISTINCT, Aggregate.VALUES) else definition.type
    match taken:
        case TagType.NUMBER:
            column = properties.column("numbers", field)
            return f"CASE WHEN abs({column}) < {dialect.number(_LARGEST_NUMBER)} THEN {column} END"
        case TagType.CATEGORY | TagType.SET:
            column = properties.column("words", field)
            return f"CASE WHEN length({column}) BETWEEN 1 AND {MAX_WORD} THEN {column} END"
        case TagType.TEXT:
            column = properties.column("words", field)
            return f"NULLIF(left({column}, {MAX_TEXT}), '')"
        case TagType.BOOLEAN:
            return properties.column("flags", field)
        case TagType.TIME:
            return properties.column("moments", field)


def _millionths(dialect: Dialect, value: str) -> str:
    million, half = dialect.number(MILLION), dialect.number(0.5)
    return f"CAST(CAST(FLOOR({value} * {million} + {half}) AS BIGINT) AS DECIMAL(20, 0))"


def _exact(total: str) -> str:
    """Millionths as a double, rounded once: engines round decimals well when they read them as text."""
    return f"CAST(CAST(CAST({total} AS DECIMAL(32, 0)) * CAST(0.000001 AS DECIMAL(6, 6)) AS STRING) AS DOUBLE)"


def typed_null(dialect: Dialect, definition: TagDefinition) -> str:
    """No value, in the column type of a tag."""
    names = {TagType.BOOLEAN: "BOOLEAN", TagType.SET: dialect.list_of_words, TagType.NUMBER: "DOUBLE", TagType.TIME: "DOUBLE"}
    return f"CAST(NULL AS {names.get(definition.type, dialect.text)})"


def of_events(definitions: Sequence[TagDefinition]) -> list[tuple[TagDefinition, FromEvents]]:
    """Those that come from events."""
    return [(d, d.origin) for d in definitions if isinstance(d.origin, FromEvents)]
