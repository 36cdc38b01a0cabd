"""Business tags: definitions over other tags, evaluated in the order in which they depend on each other.

One that crosses relations is a view: it is computed when asked, and whoever names it means its expression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush

from services.tags.domain.catalogue import Catalogue, CatalogueError, FromTags, Kind, TagDefinition, TagType, Value
from services.tags.domain.evaluation import Clocks, Seen, Tags, compile_expression
from services.tags.domain.language import LanguageError
from services.tags.domain.names import names_in
from services.tags.domain.predicates import parse_expression
from services.tags.domain.terms import Arithmetic, Case, CountOf, DaysSince, Expression, Figure, NumberOf, crosses, tags_of

_RESULTS = {bool: TagType.BOOLEAN, str: TagType.CATEGORY, float: TagType.NUMBER}
Key = tuple[Kind, str]
_NUMBERS = (Figure, NumberOf, DaysSince, CountOf, Arithmetic)


@dataclass(frozen=True)
class Definition:
    """A business tag, compiled. `inputs`: names of the tags that it reads."""

    name: str
    expression: Expression
    inputs: frozenset[str]
    evaluate: Callable[[Seen], Value | None]


class DefinitionError(CatalogueError):
    """A tag whose expression cannot work, with the place in the expression (1-based characters)."""

    def __init__(self, kind: Kind, name: str, reason: str, message: str, position: int) -> None:
        super().__init__(f"{kind.name.lower()}.{name}: {message}")
        self.kind, self.name, self.reason, self.message, self.position = kind, name, reason, message, position


class BusinessRules:
    """The business tags of a catalogue, compiled. Raises DefinitionError when one cannot work."""

    def __init__(self, catalogue: Catalogue) -> None:
        compiled, errors = compile_all(catalogue)
        if errors:
            raise errors[0]
        self._definitions = {kind: [d for d in compiled[kind] if d.name not in catalogue.views[kind]] for kind in Kind}
        self.views = {kind: {d.name: d for d in compiled[kind] if d.name in catalogue.views[kind]} for kind in Kind}
        self.inputs: Mapping[Kind, Mapping[str, frozenset[str]]] = {
            kind: {d.name: d.inputs for d in compiled[kind]} for kind in Kind
        }
        self._readers = {kind: _readers(definitions) for kind, definitions in self._definitions.items()}
        self._clocks = {kind: Clocks([d.expression for d in self._definitions[kind]]) for kind in Kind}

    def complete(self, kind: Kind, values: dict[str, Value], now: float) -> None:
        """Adds all business tags that are stored to an entity's other values, in place. `now`: seconds."""
        seen = Seen(values, now)
        for definition in self._definitions[kind]:
            if (value := definition.evaluate(seen)) is not None:
                values[definition.name] = value

    def follow(self, kind: Kind, values: dict[str, Value], changed: dict[str, Value | None], now: float) -> None:
        """Brings business tags up to date after some values changed; adds those that change to `values` and `changed`."""
        readers, definitions = self._readers[kind], self._definitions[kind]
        waiting = {place for name in changed for place in readers.get(name, ())}
        if not waiting:
            return
        seen, queue = Seen(values, now), sorted(waiting)
        # In catalogue order: whoever reads a business tag stands behind it.
        while queue:
            definition = definitions[heappop(queue)]
            name, value = definition.name, definition.evaluate(seen)
            if value == values.get(name):
                continue
            changed[name] = value
            if value is None:
                del values[name]
            else:
                values[name] = value
            for place in readers.get(name, ()):
                if place not in waiting:
                    waiting.add(place)
                    heappush(queue, place)

    def next_due(self, kind: Kind, values: Tags, now: float) -> float:
        """When a business tag may change by itself next, seconds; infinity for never."""
        return self._clocks[kind].next(values, now)


def _readers(definitions: Sequence[Definition]) -> Mapping[str, tuple[int, ...]]:
    """For each tag the places of those that read it."""
    found: dict[str, list[int]] = {}
    for place, definition in enumerate(definitions):
        for name in definition.inputs:
            found.setdefault(name, []).append(place)
    return {name: tuple(places) for name, places in found.items()}


def compile_all(catalogue: Catalogue) -> tuple[dict[Kind, list[Definition]], list[DefinitionError]]:
    """All business tags by kind, each after what it is built on, be it of another kind, and all that cannot work.

    Fills the catalogue's views.
    """
    business = {(d.kind, d.name): d for d in catalogue.definitions if isinstance(d.origin, FromTags)}
    for views in catalogue.views.values():
        views.clear()
    graph = {key: _mentioned(d, catalogue) & business.keys() for key, d in business.items()}
    order, errors = _ordered(graph)
    found: dict[Kind, list[Definition]] = {kind: [] for kind in Kind}
    for key in order:
        definition = business[key]
        try:
            compiled = _definition(definition, catalogue)
        except DefinitionError as error:
            errors.append(error)
            continue
        found[definition.kind].append(compiled)
        if crosses(compiled.expression):
            catalogue.views[definition.kind][definition.name] = compiled.expression
    return found, errors


def _ordered(graph: Mapping[Key, set[Key]]) -> tuple[list[Key], list[DefinitionError]]:
    """Keys, each after those that it names, and an error for each circle, whose members are left out."""
    left = dict(graph)
    errors: list[DefinitionError] = []
    while True:
        try:
            # What names a member of a circle is still looked at.
            order = TopologicalSorter({key: named & left.keys() for key, named in left.items()}).static_order()
            return list(order), errors
        except CycleError as error:
            members: list[Key] = error.args[1][:-1]
            # It comes from whom is named to who names it; told the way one reads.
            first = min(members)
            at = members.index(first)
            path = [first, *reversed([*members[at + 1 :], *members[:at]]), first]
            circle = " -> ".join(f"{kind.name.lower()}.{name}" for kind, name in path)
            errors.append(DefinitionError(*first, "CYCLE", f"tags define each other in a circle: {circle}", 1))
            for key in members:
                del left[key]


def _mentioned(definition: TagDefinition, catalogue: Catalogue) -> set[Key]:
    """Tags that a definition names, of its own kind and of others; names that are none are found when it is read."""
    try:
        named = names_in(definition.expression, definition.kind)
    except LanguageError:
        return set()
    return {(kind, tag.name) for kind, name in named if (tag := catalogue.known_as(kind).get(name)) is not None}


def _definition(definition: TagDefinition, catalogue: Catalogue) -> Definition:
    def wrong(reason: str, message: str, position: int = 1) -> DefinitionError:
        return DefinitionError(definition.kind, definition.name, reason, message, position)

    try:
        expression = parse_expression(definition.expression, definition.kind, catalogue)
    except LanguageError as error:
        raise wrong(error.reason, str(error), error.position) from None
    if isinstance(expression, Case):
        result = _RESULTS[type(expression.branches[0][1])]
    else:
        result = TagType.NUMBER if isinstance(expression, _NUMBERS) else TagType.BOOLEAN
    if crosses(expression) and isinstance(expression, Case):
        raise wrong("UNSUPPORTED", "a tag that crosses relations is a boolean or a number, CASE is neither")
    if result is not definition.type:
        raise wrong("TYPE_MISMATCH", f"it is declared {definition.type.value}, but its expression gives {result.value}")
    return Definition(definition.name, expression, tags_of(expression), compile_expression(expression))
