"""Business tags: definitions over other tags, evaluated in the order in which they depend on each other.

One that crosses relations is a view: it is computed when asked, and whoever names it means its expression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from services.tags.domain.catalogue import Catalogue, CatalogueError, FromTags, Kind, TagDefinition, TagType, Value
from services.tags.domain.evaluation import Clocks, Seen, Tags, compile_expression
from services.tags.domain.language import LanguageError
from services.tags.domain.predicates import names_in, parse_expression
from services.tags.domain.terms import Arithmetic, Case, CountOf, DaysSince, Expression, Figure, NumberOf, crosses, tags_of

_RESULTS = {bool: TagType.BOOLEAN, str: TagType.CATEGORY, float: TagType.NUMBER}
_NUMBERS = (Figure, NumberOf, DaysSince, CountOf, Arithmetic)


@dataclass(frozen=True)
class Definition:
    """A business tag, compiled. `inputs`: names of the tags that it reads."""

    name: str
    expression: Expression
    inputs: frozenset[str]
    evaluate: Callable[[Seen], Value | None]


class DefinitionError(CatalogueError):
    """A definition that cannot work, with its place in the definition's own text (1-based characters)."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


class BusinessRules:
    """The business tags of a catalogue, compiled. Raises CatalogueError when one cannot work."""

    def __init__(self, catalogue: Catalogue) -> None:
        compiled = _compiled(catalogue)
        self._definitions = {kind: [d for d in compiled[kind] if d.name not in catalogue.views[kind]] for kind in Kind}
        self.views = {kind: {d.name: d for d in compiled[kind] if d.name in catalogue.views[kind]} for kind in Kind}
        self.inputs: Mapping[Kind, Mapping[str, frozenset[str]]] = {
            kind: {d.name: d.inputs for d in compiled[kind]} for kind in Kind
        }
        self._clocks = {kind: Clocks([d.expression for d in self._definitions[kind]]) for kind in Kind}

    def complete(self, kind: Kind, values: dict[str, Value], now: float) -> None:
        """Adds all business tags that are stored to an entity's other values, in place. `now`: seconds."""
        seen = Seen(values, now)
        for definition in self._definitions[kind]:
            if (value := definition.evaluate(seen)) is not None:
                values[definition.name] = value

    def follow(self, kind: Kind, values: dict[str, Value], changed: dict[str, Value | None], now: float) -> None:
        """Brings business tags up to date after some values changed; adds those that change to `values` and `changed`."""
        seen = Seen(values, now)
        for definition in self._definitions[kind]:
            if definition.inputs.isdisjoint(changed):
                continue
            name, value = definition.name, definition.evaluate(seen)
            if value == values.get(name):
                continue
            changed[name] = value
            if value is None:
                del values[name]
            else:
                values[name] = value

    def next_due(self, kind: Kind, values: Tags, now: float) -> float:
        """When a business tag may change by itself next, seconds; infinity for never."""
        return self._clocks[kind].next(values, now)


def _compiled(catalogue: Catalogue) -> dict[Kind, list[Definition]]:
    """All business tags by kind, each after what it is built on, be it of another kind; fills the catalogue's views."""
    business = {(d.kind, d.name): d for d in catalogue.definitions if isinstance(d.origin, FromTags)}
    for views in catalogue.views.values():
        views.clear()
    graph = {key: _mentioned(d, catalogue) & business.keys() for key, d in business.items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = " -> ".join(f"{kind.name.lower()}.{name}" for kind, name in error.args[1])
        raise CatalogueError(f"{circle.partition(' ')[0]}: tags define each other in a circle: {circle}") from None
    found: dict[Kind, list[Definition]] = {kind: [] for kind in Kind}
    for key in order:
        definition = business[key]
        compiled = _definition(definition, catalogue)
        found[definition.kind].append(compiled)
        if crosses(compiled.expression):
            catalogue.views[definition.kind][definition.name] = compiled.expression
    return found


def _mentioned(definition: TagDefinition, catalogue: Catalogue) -> set[tuple[Kind, str]]:
    """Tags that a definition names, of its own kind and of others; names that are none are found when it is read."""
    try:
        named = names_in(definition.expression, definition.kind)
    except LanguageError:
        return set()
    return {(kind, tag.name) for kind, name in named if (tag := catalogue.known_as(kind).get(name)) is not None}


def _definition(definition: TagDefinition, catalogue: Catalogue) -> Definition:
    place = f"{definition.kind.name.lower()}.{definition.name}"
    try:
        expression = parse_expression(definition.expression, definition.kind, catalogue)
    except LanguageError as error:
        raise DefinitionError(f"{place}: {error}", error.position) from None
    if isinstance(expression, Case):
        result = _RESULTS[type(expression.branches[0][1])]
    else:
        result = TagType.NUMBER if isinstance(expression, _NUMBERS) else TagType.BOOLEAN
    if crosses(expression) and isinstance(expression, Case):
        raise DefinitionError(f"{place}: a tag that crosses relations is a boolean or a number, CASE is neither", 1)
    if result is not definition.type:
        raise DefinitionError(f"{place} is declared {definition.type.value}, but its expression gives {result.value}", 1)
    return Definition(definition.name, expression, tags_of(expression), compile_expression(expression))
