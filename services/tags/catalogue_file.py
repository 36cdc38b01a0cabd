"""Reads catalogue.yaml and says where it is wrong: every error names file and line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from services.tags.domain.business import BusinessRules
from services.tags.domain.catalogue import (
    Aggregate,
    Catalogue,
    CatalogueError,
    FromEvents,
    FromScore,
    FromTags,
    Kind,
    TagDefinition,
    TagType,
)

DEFAULT = Path(__file__).parent / "catalogue.yaml"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")
_KEYS = {"type", "description", "from", "aggregate", "score", "expression"}
_FROM_KEYS = {"event", "source", "property"}
_NUMERIC = {Aggregate.SUM, Aggregate.MAX, Aggregate.MIN}


def load(path: Path = DEFAULT) -> Catalogue:
    """The catalogue in a file. Raises CatalogueError with the line at fault."""
    text = path.read_text(encoding="utf-8")
    try:
        return parse(text)
    except CatalogueError as error:
        raise CatalogueError(f"{path.name}: {error}") from None


def parse(text: str) -> Catalogue:
    """The catalogue in YAML text: entity kind -> tag name -> definition. Raises CatalogueError with the line at fault."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise CatalogueError(f"line {line}: {error.problem}") from None
    definitions, lines = [], {}
    for kind_node, tags in _pairs(root):
        kind = _kind(kind_node)
        for name_node, body in _pairs(tags):
            line = name_node.start_mark.line + 1
            try:
                definitions.append(_definition(kind, str(name_node.value), _plain(body)))
            except CatalogueError as error:
                raise CatalogueError(f"line {line}: {kind.name.lower()}.{name_node.value}: {error}") from None
            lines[f"{kind.name.lower()}.{name_node.value}"] = line
    try:
        catalogue = Catalogue(definitions)
        BusinessRules(catalogue)
    except CatalogueError as error:
        place = next((line for name, line in lines.items() if str(error).startswith((f"{name}:", f"{name} "))), None)
        raise CatalogueError(f"line {place}: {error}" if place else str(error)) from None
    return catalogue


def _kind(node: yaml.Node) -> Kind:
    try:
        return Kind[str(node.value).upper()]
    except KeyError:
        raise CatalogueError(f"line {node.start_mark.line + 1}: no entity kind {node.value!r}") from None


def _pairs(node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise CatalogueError(f"line {node.start_mark.line + 1 if node else 1}: expected a mapping")
    return [(key, value) for key, value in node.value]


def _plain(node: yaml.Node) -> Mapping[str, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise CatalogueError("expected a mapping")
    loader = yaml.SafeLoader("")
    return {str(key): value for key, value in loader.construct_mapping(node, deep=True).items()}


def _definition(kind: Kind, name: str, body: Mapping[str, Any]) -> TagDefinition:
    if not _NAME.match(name):
        raise CatalogueError("a name is lower case letters, digits and _, at most 63, beginning with a letter")
    _known(body, _KEYS)
    if sum(key in body for key in ("from", "score", "expression")) != 1:
        raise CatalogueError("needs exactly one of from, score, expression")
    tag_type = _member(TagType, body.get("type"), "type")
    description = body.get("description")
    if not isinstance(description, str) or not description:
        raise CatalogueError("needs a description")
    if "score" in body:
        if tag_type is not TagType.NUMBER or kind is not Kind.PERSON:
            raise CatalogueError("a score is a number of a person")
        return TagDefinition(kind, name, tag_type, description, FromScore(str(body["score"])))
    if "expression" in body:
        return TagDefinition(kind, name, tag_type, description, FromTags(str(body["expression"])))
    return TagDefinition(kind, name, tag_type, description, _from_events(tag_type, body))


def _from_events(tag_type: TagType, body: Mapping[str, Any]) -> FromEvents:
    given = body["from"] or {}
    if not isinstance(given, Mapping):
        raise CatalogueError("from needs event, source or property")
    _known(given, _FROM_KEYS)
    aggregate = _member(Aggregate, body.get("aggregate"), "aggregate")
    events = given.get("event") or []
    source, field = given.get("source"), given.get("property")
    origin = FromEvents(aggregate, frozenset([events] if isinstance(events, str) else events), source, field)
    if aggregate in _NUMERIC and tag_type not in (TagType.NUMBER, TagType.TIME):
        raise CatalogueError(f"{aggregate.value} needs a number or time")
    if aggregate is Aggregate.COUNT and (tag_type is not TagType.NUMBER or field):
        raise CatalogueError("count gives a number and takes no property")
    if aggregate is Aggregate.ANY and tag_type is not TagType.BOOLEAN:
        raise CatalogueError("any gives a boolean")
    if aggregate not in (Aggregate.ANY, Aggregate.COUNT) and not field:
        raise CatalogueError(f"{aggregate.value} needs a property")
    if field == "$source" and not (tag_type is TagType.CATEGORY and source and source.endswith("*")):
        raise CatalogueError("$source needs type category and a source ending in *")
    if field == "$time" and tag_type is not TagType.TIME:
        raise CatalogueError("$time needs type time")
    return origin


def _known(body: Mapping[str, Any], keys: set[str]) -> None:
    if unknown := sorted(str(key) for key in body if key not in keys):
        raise CatalogueError(f"does not know {', '.join(unknown)}")


def _member(enumeration: Any, given: object, key: str) -> Any:
    try:
        return enumeration(given)
    except ValueError:
        raise CatalogueError(f"{key} must be one of {', '.join(m.value for m in enumeration)}") from None
