"""What events say of an anchor, and how an entity's values follow from its anchors.

A fact is kept per anchor and tag as [state, occurred_at_us, tie, received_at_us]: plain JSON, because it is stored so. States
are those of `domain/states.py`. An entity's values are a pure function of the facts of its present anchors: that is why an
unmerge undoes a merge.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from services.tags.domain.catalogue import Aggregate, Catalogue, FromEvents, FromImport, Kind, TagDefinition, TagType, Value
from services.tags.domain.evaluation import Seen, Truth, compile_term, property_getter
from services.tags.domain.imported import Imported
from services.tags.domain.language import seconds
from services.tags.domain.states import LARGEST_SUMMAND, Fold

MAX_WORD = 200
MAX_TEXT = 2000
# Names of events come from outside; past this many the memory of rules per (source, event) starts afresh.
MAX_REMEMBERED = 10_000

_SUMMING = (Aggregate.SUM, Aggregate.AVG)
Fact = list[Any]
Facts = dict[str, Fact]
Properties = Mapping[str, Any]


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


class Statement(NamedTuple):
    """What one event states about one tag, and how that folds."""

    tag: str
    fold: Fold
    value: Value


@dataclass(frozen=True)
class _Rule:
    name: str
    fold: Fold
    typed: Callable[[Any], Value | None]
    field: str | None
    condition: Truth | None
    # Whether it reads properties at all: most events are counted, and their properties need no parsing then.
    asks: bool
    # What it states of every event that it concerns, where that is always the same.
    always: Statement | None


class FactRules:
    """The base tags of a catalogue, ready to fold events."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._definitions: dict[Kind, list[tuple[TagDefinition, FromEvents]]] = {
            kind: [(d, d.origin) for d in catalogue.of(kind).values() if isinstance(d.origin, FromEvents)] for kind in Kind
        }
        imported = {
            kind: [(n, d.origin) for n, d in catalogue.of(kind).items() if isinstance(d.origin, FromImport)] for kind in Kind
        }
        self.folds: dict[Kind, dict[str, Fold]] = {
            kind: {d.name: Fold(o.aggregate, o.window) for d, o in self._definitions[kind]}
            | {name: Imported.of(origin) for name, origin in imported[kind]}
            for kind in Kind
        }
        # What time alone changes.
        self.windowed = {kind: frozenset(n for n, fold in self.folds[kind].items() if fold.ages) for kind in Kind}
        self._remembered: dict[tuple[Kind, str, str], tuple[_Rule, ...]] = {}

    def stated(self, kind: Kind, event: Occurrence, properties_json: bytes) -> list[Statement]:
        """What an event states about one entity. A property of another type than the tag's says nothing.

        Raises BadEvent when the properties are not one JSON object.
        """
        statements: list[Statement] = []
        properties: Properties = {}
        seen: Seen | None = None
        for rule in self._rules(kind, event.source, event.name):
            if rule.asks and seen is None:
                properties = _object(properties_json)
                seen = Seen(properties, 0.0)
            if rule.condition is not None and rule.condition(seen) is not True:  # type: ignore[arg-type]  # it asks, so it is there
                continue
            field = rule.field
            if field is None:
                if rule.always is not None:
                    statements.append(rule.always)
                continue
            value = event.occurred_at_us / 1e6 if field == "$time" else rule.typed(properties.get(field))
            if value is not None:
                statements.append(Statement(rule.name, rule.fold, value))
        return statements

    def combined(self, kind: Kind, anchors: Sequence[Facts], now_us: int) -> dict[str, Value]:
        """An entity's base values over the facts of all its anchors, whatever their order."""
        names = anchors[0] if len(anchors) == 1 else {name for facts in anchors for name in facts}
        return self.combined_some(kind, anchors, names, now_us)

    def combined_some(self, kind: Kind, anchors: Sequence[Facts], names: Iterable[str], now_us: int) -> dict[str, Value]:
        """Like `combined`, for some tags only; those without a value now are missing."""
        values: dict[str, Value] = {}
        folds = self.folds[kind]
        one = anchors[0] if len(anchors) == 1 else None
        for name in names:
            how = folds.get(name)
            if how is None:
                continue
            if one is not None:
                fact = one.get(name)
                if fact is None:
                    continue
                # Most entities have one anchor, and most states are their own value.
                value = fact[0] if how.plain else how.value((fact,), now_us)
            elif having := [facts[name] for facts in anchors if name in facts]:
                value = how.value(having, now_us)
            else:
                continue
            if value is not None:
                values[name] = value
        return values

    def next_due_us(
        self, kind: Kind, anchors: Sequence[Facts], now_us: int, among: Collection[str] | None = None
    ) -> int | None:
        """When something leaves a window next, of some tags (None: of any); None for never."""
        folds, due = self.folds[kind], None
        windowed = self.windowed[kind] if among is None else self.windowed[kind].intersection(among)
        for facts in anchors:
            for name in windowed & facts.keys():
                leaves = folds[name].next_due_us(facts[name][0], now_us)
                if leaves is not None and (due is None or leaves < due):
                    due = leaves
        return due

    def explained(self, kind: Kind, anchors: Mapping[int, Facts]) -> dict[str, tuple[int, list[int]]]:
        """For each base tag when the newest event behind it happened, and the anchors: the winning one for LAST and FIRST."""
        found: dict[str, tuple[int, list[int]]] = {}
        for name, how in self.folds[kind].items():
            having = [(anchor, facts[name]) for anchor, facts in sorted(anchors.items()) if name in facts]
            if having:
                winner = having[0]
                for other in having[1:]:
                    if how.prefers(other[1], winner[1]):
                        winner = other
                found[name] = winner[1][1], [winner[0]] if how.ordered else [anchor for anchor, _ in having]
        return found

    def _rules(self, kind: Kind, source: str, event: str) -> tuple[_Rule, ...]:
        key = (kind, source, event)
        rules = self._remembered.get(key)
        if rules is None:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            rules = self._remembered[key] = tuple(
                _rule(definition, origin, source, self.folds[kind][definition.name])
                for definition, origin in self._definitions[kind]
                if origin.matches(source, event)
            )
        return rules


def fold(facts: Facts, event: Occurrence, statements: Sequence[Statement]) -> None:
    """Adds what one event states to an anchor's facts, in place. The order of events does not matter."""
    occurred, tie, received = event.occurred_at_us, event.tie, event.received_at_us
    for name, how, value in statements:
        old = facts.get(name)
        if old is None:
            facts[name] = [how.begin(value, occurred, tie), occurred, tie, received]
            continue
        old[0] = how.join(old[0], value, occurred, tie, (old[1], old[2]))
        if occurred > old[1] if not how.earliest and occurred != old[1] else how.moves((occurred, tie), (old[1], old[2])):
            old[1], old[2] = occurred, tie
        old[3] = max(old[3], received)


def prune(facts: Facts, statements: Sequence[Statement], now_us: int) -> None:
    """Forgets what has left its window long ago, of the tags that were stated anew."""
    for name, how, _ in statements:
        if how.window is not None:
            facts[name][0] = how.pruned(facts[name][0], now_us)


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


def _rule(definition: TagDefinition, origin: FromEvents, source: str, how: Fold) -> _Rule:
    field: str | None = origin.field
    constant: Value | None = None
    taken = definition.type
    if origin.aggregate is Aggregate.COUNT:
        field, constant = None, 1.0
    elif field == "$source":
        field, constant = None, source.partition(":")[2] or None
    elif field is None:
        constant = True
    elif origin.aggregate in (Aggregate.DISTINCT, Aggregate.VALUES):
        taken = TagType.CATEGORY
    condition = compile_term(origin.condition, property_getter) if origin.condition is not None else None
    takes = _summand if origin.aggregate in _SUMMING else _TYPED[taken]
    asks = condition is not None or (field is not None and field != "$time")
    always = Statement(definition.name, how, constant) if constant is not None else None
    return _Rule(definition.name, how, takes, field, condition, asks, always)


def typed(tag_type: TagType, given: Any) -> Value | None:
    """A JSON value as a tag's type; None when it is missing, empty or of another type. A set takes one word."""
    return _TYPED[tag_type](given)


def _number(given: Any) -> Value | None:
    if isinstance(given, (int, float)) and not isinstance(given, bool) and abs(given) < 1e300:
        return float(given)
    return None


def _summand(given: Any) -> Value | None:
    number = _number(given)
    return number if isinstance(number, float) and abs(number) <= LARGEST_SUMMAND else None


def _word(given: Any) -> Value | None:
    return given if isinstance(given, str) and 0 < len(given) <= MAX_WORD else None


def _text(given: Any) -> Value | None:
    return given[:MAX_TEXT] if isinstance(given, str) and given else None


def _flag(given: Any) -> Value | None:
    return given if isinstance(given, bool) else None


def _moment(given: Any) -> Value | None:
    if isinstance(given, str) and len(given) <= MAX_WORD:
        try:
            return seconds(given)
        except (ValueError, OverflowError):
            pass
    return None


_TYPED: Mapping[TagType, Callable[[Any], Value | None]] = {
    TagType.NUMBER: _number,
    TagType.CATEGORY: _word,
    TagType.SET: _word,
    TagType.TEXT: _text,
    TagType.BOOLEAN: _flag,
    TagType.TIME: _moment,
}
