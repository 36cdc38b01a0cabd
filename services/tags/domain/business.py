"""Business tags: definitions over other tags, evaluated in the order in which they depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from services.tags.domain.catalogue import Catalogue, CatalogueError, FromTags, Kind, TagDefinition, TagType, Value
from services.tags.domain.evaluation import Tags, compile_expression
from services.tags.domain.language import LanguageError, parse_expression
from services.tags.domain.terms import Case, Related, Term, tags_of

_RESULTS = {bool: TagType.BOOLEAN, str: TagType.CATEGORY, float: TagType.NUMBER}


@dataclass(frozen=True)
class _Definition:
    name: str
    inputs: frozenset[str]
    evaluate: Callable[[Tags], Value | None]


class BusinessRules:
    """The business tags of a catalogue, compiled. Raises CatalogueError when one cannot work."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._definitions = {kind: _ordered(catalogue, kind) for kind in Kind}
        self.inputs: Mapping[Kind, Mapping[str, frozenset[str]]] = {
            kind: {d.name: d.inputs for d in definitions} for kind, definitions in self._definitions.items()
        }

    def complete(self, kind: Kind, values: dict[str, Value]) -> None:
        """Adds all business tags to an entity's other values, in place."""
        for definition in self._definitions[kind]:
            if (value := definition.evaluate(values)) is not None:
                values[definition.name] = value

    def follow(self, kind: Kind, values: dict[str, Value], changed: dict[str, Value | None]) -> None:
        """Brings business tags up to date after some values changed; adds those that change to `values` and `changed`."""
        for definition in self._definitions[kind]:
            if definition.inputs.isdisjoint(changed):
                continue
            name, value = definition.name, definition.evaluate(values)
            if value == values.get(name):
                continue
            changed[name] = value
            if value is None:
                del values[name]
            else:
                values[name] = value


def _ordered(catalogue: Catalogue, kind: Kind) -> list[_Definition]:
    compiled: dict[str, _Definition] = {}
    for definition in catalogue.of(kind).values():
        if isinstance(definition.origin, FromTags):
            compiled[definition.name] = _compiled(definition, definition.origin, catalogue)
    try:
        order = TopologicalSorter({d.name: d.inputs & compiled.keys() for d in compiled.values()}).static_order()
        return [compiled[name] for name in order]
    except CycleError as error:
        raise CatalogueError(f"{kind.name.lower()} tags define each other in a circle: {' -> '.join(error.args[1])}") from None


def _compiled(definition: TagDefinition, origin: FromTags, catalogue: Catalogue) -> _Definition:
    place = f"{definition.kind.name.lower()}.{definition.name}"
    try:
        expression = parse_expression(origin.expression, definition.kind, catalogue)
    except LanguageError as error:
        raise CatalogueError(f"{place}: {error}") from None
    if _crosses(expression):
        raise CatalogueError(f"{place}: a business tag reads tags of its own entity only, ANY belongs into audiences")
    result = type(expression.branches[0][1]) if isinstance(expression, Case) else bool
    if _RESULTS[result] is not definition.type:
        raise CatalogueError(f"{place} is declared {definition.type.value}, but its expression gives {_RESULTS[result].value}")
    return _Definition(definition.name, tags_of(expression), compile_expression(expression))


def _crosses(expression: Term | Case) -> bool:
    match expression:
        case Related():
            return True
        case Case(branches):
            return any(_crosses(condition) for condition, _ in branches)
        case _:
            inner = getattr(expression, "terms", None) or ([expression.term] if hasattr(expression, "term") else [])
            return any(map(_crosses, inner))
