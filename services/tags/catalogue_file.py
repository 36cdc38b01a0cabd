"""Reads catalogue.yaml and says where it is wrong: every error names file and line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from services.tags.domain.aggregates import RESULTS, TAKES, parse_aggregate
from services.tags.domain.business import BusinessRules, DefinitionError
from services.tags.domain.catalogue import (
    Catalogue,
    CatalogueError,
    Conflict,
    FromEvents,
    FromImport,
    FromScore,
    FromTags,
    Kind,
    Sensitivity,
    TagDefinition,
    TagType,
)
from services.tags.domain.language import LanguageError

DEFAULT = Path(__file__).parent / "catalogue.yaml"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")
_KEYS = {
    *("type", "description", "expression", "score", "import", "conflict", "title", "folder", "owner", "words", "sensitivity"),
    *("retention_days", "version"),
}


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
    if sum(key in body for key in ("expression", "score", "import")) != 1:
        raise CatalogueError("needs exactly one of expression, score, import")
    tag_type = _member(TagType, body.get("type"), "type")
    description, expression = body.get("description"), str(body.get("expression", ""))
    if not isinstance(description, str) or not description:
        raise CatalogueError("needs a description")
    return TagDefinition(
        kind,
        name,
        tag_type,
        description,
        _origin(kind, tag_type, body, expression),
        expression,
        title=str(body.get("title", "")),
        folder=str(body.get("folder", "")),
        owner=str(body.get("owner", "")),
        words=tuple(map(str, body.get("words", ()))),
        sensitivity=_member(Sensitivity, body.get("sensitivity", "internal"), "sensitivity"),
        retention_days=int(body.get("retention_days", 0)),
        version=int(body.get("version", 1)),
    )


def _origin(
    kind: Kind, tag_type: TagType, body: Mapping[str, Any], expression: str
) -> FromEvents | FromScore | FromImport | FromTags:
    if "score" in body:
        if tag_type is not TagType.NUMBER or kind is not Kind.PERSON:
            raise CatalogueError("a score is a number of a person")
        return FromScore(str(body["score"]))
    if "import" in body:
        partners = body["import"]
        conflict = _member(Conflict, body.get("conflict", "newest"), "conflict")
        return FromImport(tuple(map(str, partners if isinstance(partners, list) else [partners])), conflict)
    try:
        origin = parse_aggregate(expression)
    except LanguageError as error:
        raise DefinitionError(str(error), error.position) from None
    if origin is None:
        return FromTags()
    result, takes = RESULTS.get(origin.aggregate), TAKES.get(origin.aggregate, ())
    if tag_type is not result and tag_type not in takes:
        known = result.value if result else " or ".join(each.value for each in takes)
        raise DefinitionError(f"{origin.aggregate.value} gives {known}, not {tag_type.value}", 1)
    if origin.field == "$time" and tag_type is not TagType.TIME:
        raise DefinitionError("occurred_at is a time", 1)
    if origin.field == "$source" and tag_type is not TagType.CATEGORY:
        raise DefinitionError("source_name is a category", 1)
    return origin


def _known(body: Mapping[str, Any], keys: set[str]) -> None:
    if unknown := sorted(str(key) for key in body if key not in keys):
        raise CatalogueError(f"does not know {', '.join(unknown)}")


def _member(enumeration: Any, given: object, key: str) -> Any:
    try:
        return enumeration(given)
    except ValueError:
        raise CatalogueError(f"{key} must be one of {', '.join(m.value for m in enumeration)}") from None
