"""What events say of an anchor, and how an entity's values follow from its anchors.

A fact is kept per anchor and tag as [value, occurred_at_us, tie, received_at_us]: plain JSON, because it is stored so.
An entity's values are a pure function of the facts of its present anchors: that is why an unmerge undoes a merge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from services.tags.domain.catalogue import Aggregate, Catalogue, FromEvents, Kind, TagDefinition, TagType, Value
from services.tags.domain.language import seconds

MAX_WORD = 200
# Names of events come from outside; past this many the memory of rules per (source, event) starts afresh.
MAX_REMEMBERED = 10_000

Fact = list[Any]
Facts = dict[str, Fact]
Properties = Mapping[str, Any]
# (tag, aggregate, value) that one event states.
Statement = tuple[str, Aggregate, Value]


class BadEvent(ValueError):
    """An event that cannot be folded; `reason` is UPPER_SNAKE, the message names the property but never its value."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Occurrence(NamedTuple):
    """One event as the facts need it. `tie` orders events of the same microsecond and is derived from the event id."""

    source: str
    name: str
    occurred_at_us: int
    tie: int
    received_at_us: int


@dataclass(frozen=True)
class _Rule:
    name: str
    aggregate: Aggregate
    type: TagType
    field: str | None
    constant: Value | None


class FactRules:
    """The base tags of a catalogue, ready to fold events."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._definitions: dict[Kind, list[tuple[TagDefinition, FromEvents]]] = {
            kind: [(d, d.origin) for d in catalogue.of(kind).values() if isinstance(d.origin, FromEvents)] for kind in Kind
        }
        self._aggregates = {kind: {d.name: o.aggregate for d, o in self._definitions[kind]} for kind in Kind}
        self._remembered: dict[tuple[Kind, str, str], tuple[_Rule, ...]] = {}

    def stated(self, kind: Kind, event: Occurrence, properties_json: bytes) -> list[Statement]:
        """What an event states about one entity. Raises BadEvent when a property that a tag reads has the wrong type."""
        statements: list[Statement] = []
        properties: Properties | None = None
        for rule in self._rules(kind, event.source, event.name):
            if rule.field is None:
                value = rule.constant
            elif rule.field == "$time":
                value = event.occurred_at_us / 1e6
            else:
                if properties is None:
                    properties = _object(properties_json)
                value = typed(rule.type, properties.get(rule.field), rule.field)
            if value is not None:
                statements.append((rule.name, rule.aggregate, value))
        return statements

    def combined(self, kind: Kind, anchors: Sequence[Facts]) -> dict[str, Value]:
        """An entity's base values over the facts of all its anchors, whatever their order."""
        values: dict[str, Value] = {}
        for name, aggregate in self._aggregates[kind].items():
            if having := [facts[name] for facts in anchors if name in facts]:
                values[name] = having[0][0] if len(having) == 1 else _combined(aggregate, having)
        return values

    def combined_some(self, kind: Kind, anchors: Sequence[Facts], names: Iterable[str]) -> dict[str, Value]:
        """Like `combined`, for tags that at least one of the anchors has."""
        if len(anchors) == 1:
            return {name: anchors[0][name][0] for name in names}
        aggregates = self._aggregates[kind]
        return {name: _combined(aggregates[name], [facts[name] for facts in anchors if name in facts]) for name in names}

    def explained(self, kind: Kind, anchors: Mapping[int, Facts]) -> dict[str, tuple[Fact, list[int]]]:
        """For each base tag its combined fact and the anchors behind it: the winning one for `last`, else all that count."""
        combined: dict[str, tuple[Fact, list[int]]] = {}
        for name, aggregate in self._aggregates[kind].items():
            having = [(anchor, facts[name]) for anchor, facts in sorted(anchors.items()) if name in facts]
            if not having:
                continue
            newest = max(having, key=lambda pair: (pair[1][1], pair[1][2]))
            if aggregate is Aggregate.LAST:
                combined[name] = newest[1], [newest[0]]
                continue
            facts_only = [fact for _, fact in having]
            value, received = _combined(aggregate, facts_only), max(fact[3] for fact in facts_only)
            combined[name] = [value, newest[1][1], newest[1][2], received], [anchor for anchor, _ in having]
        return combined

    def _rules(self, kind: Kind, source: str, event: str) -> tuple[_Rule, ...]:
        key = (kind, source, event)
        rules = self._remembered.get(key)
        if rules is None:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            rules = self._remembered[key] = tuple(
                _rule(definition, origin, source)
                for definition, origin in self._definitions[kind]
                if origin.matches(source, event)
            )
        return rules


def fold(facts: Facts, event: Occurrence, statements: Sequence[Statement]) -> None:
    """Adds what one event states to an anchor's facts, in place. The order of events does not matter."""
    occurred, tie, received = event.occurred_at_us, event.tie, event.received_at_us
    for name, aggregate, value in statements:
        old = facts.get(name)
        if old is None:
            facts[name] = [value, occurred, tie, received]
            continue
        later = (occurred, tie) > (old[1], old[2])
        if aggregate is Aggregate.LAST:
            if later:
                facts[name] = [value, occurred, tie, received]
            continue
        old[0] = _joined(aggregate, old[0], value)
        if later:
            old[1], old[2] = occurred, tie
        old[3] = max(old[3], received)


def _object(properties_json: bytes) -> Properties:
    if not properties_json:
        return {}
    try:
        properties = orjson.loads(properties_json)
    except orjson.JSONDecodeError:
        properties = None
    if not isinstance(properties, dict):
        raise BadEvent("INVALID_JSON", "properties are not one JSON object")
    return properties


def _rule(definition: TagDefinition, origin: FromEvents, source: str) -> _Rule:
    field: str | None = origin.field
    constant: Value | None = None
    if origin.aggregate is Aggregate.COUNT:
        field, constant = None, 1.0
    elif field == "$source":
        field, constant = None, source[len((origin.source or "*")[:-1]) :] or None
    elif field is None:
        constant = True
    return _Rule(definition.name, origin.aggregate, definition.type, field, constant)


def _combined(aggregate: Aggregate, having: Sequence[Fact]) -> Any:
    """One value of the same tag over several anchors."""
    best = having[0]
    if aggregate is Aggregate.LAST:
        for fact in having:
            if (fact[1], fact[2]) > (best[1], best[2]):
                best = fact
        return best[0]
    value = best[0]
    for fact in having[1:]:
        value = _joined(aggregate, value, fact[0])
    return value


def _joined(aggregate: Aggregate, old: Any, new: Any) -> Any:
    """Two values of a commutative aggregate as one."""
    if aggregate in (Aggregate.COUNT, Aggregate.SUM):
        return old + new
    if aggregate is Aggregate.MAX:
        return max(old, new)
    if aggregate is Aggregate.MIN:
        return min(old, new)
    return old or new


def typed(tag_type: TagType, given: Any, field: str) -> Value | None:
    """A JSON value as the tag's type; None and "" say nothing. Raises BadEvent on any other type."""
    if given is None or given == "":
        return None
    match tag_type:
        case TagType.NUMBER if isinstance(given, (int, float)) and not isinstance(given, bool):
            number = float(given) if abs(given) < 1e300 else math.inf
            if math.isfinite(number):
                return number
        case TagType.CATEGORY if isinstance(given, str) and len(given) <= MAX_WORD:
            return given
        case TagType.BOOLEAN if isinstance(given, bool):
            return given
        case TagType.TIME if isinstance(given, str):
            try:
                return seconds(given)
            except (ValueError, OverflowError):
                pass
    raise BadEvent("TYPE_MISMATCH", f"property {field} is not a {tag_type.value}")
