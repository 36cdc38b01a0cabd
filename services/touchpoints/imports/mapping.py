"""The mapping of a file: which column is what of a record. Every mistake is told with line, column and the part at fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml

from chassis import marked_yaml
from chassis.errors import InvalidArgument
from services.touchpoints.domain.observed import Invalid
from services.touchpoints.domain.records import IDENTIFIERS, RELATIONS, VEHICLE_IDENTIFIERS
from services.touchpoints.imports import cells

KINDS: Final = ("csv", "parquet", "jsonl")
ENCODINGS: Final = ("utf-8", "gbk", "gb18030", "latin-1")
TYPES: Final = ("text", "number", "boolean", "date", "time")
_KEYS: Final = ("format", "record_id", "updated_at", "identifiers", "vehicle", "attributes")
_OPTIONS: Final = ("column", "value", "values", "type", "format", "zone")
_MOST_FIELDS: Final = 500


class MappingError(InvalidArgument):
    """The mapping cannot be used."""

    default_reason = "INVALID_MAPPING"


_YAML: Final = marked_yaml.Reader(MappingError, "mapping")


@dataclass(frozen=True)
class Field:
    """One part of a record: its path, the place of its column (-1: always `constant`), and what becomes of a cell."""

    path: tuple[str, ...]
    place: int
    constant: Any
    convert: Callable[[Any], Any]

    @property
    def name(self) -> str:
        """As errors name it."""
        return ".".join(self.path)


@dataclass(frozen=True)
class FileMapping:
    """How to read one kind of file. `kind` empty: the file's name says it."""

    kind: str
    encoding: str
    delimiter: str
    columns: tuple[str, ...]
    fields: tuple[Field, ...]

    def record(self, row: Sequence[Any]) -> dict[str, Any]:
        """A record as /v1/records takes it, of cells in the order of `columns`; raises Invalid naming the part at fault."""
        record: dict[str, Any] = {}
        for field in self.fields:
            if field.place < 0:
                value = field.constant
            else:
                try:
                    value = field.convert(row[field.place])
                except cells.BadCell as bad:
                    raise Invalid(field.name, bad.reason, bad.reason.lower()) from None
                if value is None:
                    continue
            part = record
            for name in field.path[:-1]:
                part = part.setdefault(name, {})
            part[field.path[-1]] = value
        return record


def parse(text: str) -> FileMapping:
    """The mapping in YAML text. Raises MappingError."""
    root = _YAML.compose(text)
    given = _YAML.pairs(root, _KEYS, "")
    for needed in ("record_id", "updated_at"):
        if needed not in given:
            raise _YAML.wrong(root, f"needs {needed}")
    kind, encoding, delimiter = _format(given.get("format"))
    columns: dict[str, int] = {}
    fields = tuple(_field(path, node, columns) for path, node in _parts(given))
    if len(fields) > _MOST_FIELDS:
        raise _YAML.wrong(root, f"names more than {_MOST_FIELDS} parts of a record")
    return FileMapping(kind, encoding, delimiter, tuple(columns), fields)


def _format(node: yaml.Node | None) -> tuple[str, str, str]:
    given = _YAML.pairs(node, ("kind", "encoding", "delimiter"), "format") if node else {}
    kind = _YAML.text(given["kind"], "format.kind") if "kind" in given else ""
    if kind and kind not in KINDS:
        raise _YAML.wrong(given["kind"], f"format.kind is one of {', '.join(KINDS)}")
    encoding = _YAML.text(given["encoding"], "format.encoding").lower() if "encoding" in given else "utf-8"
    if encoding not in ENCODINGS:
        raise _YAML.wrong(given["encoding"], f"format.encoding is one of {', '.join(ENCODINGS)}")
    delimiter = _YAML.text(given["delimiter"], "format.delimiter") if "delimiter" in given else ","
    if len(delimiter) != 1 or delimiter in '"\r\n' or not delimiter.isascii():
        raise _YAML.wrong(given["delimiter"], "format.delimiter is one character")
    return kind, encoding, delimiter


def _parts(given: Mapping[str, yaml.Node]) -> Iterator[tuple[tuple[str, ...], yaml.Node]]:
    """Every part of a record that the mapping names, with what it says of it."""
    for name in ("record_id", "updated_at"):
        yield (name,), given[name]
    if "identifiers" in given:
        for name, node in _YAML.pairs(given["identifiers"], IDENTIFIERS, "identifiers").items():
            yield ("identifiers", name), node
    if "vehicle" in given:
        vehicle = _YAML.pairs(given["vehicle"], (*VEHICLE_IDENTIFIERS, "relation", "attributes"), "vehicle")
        for name, node in vehicle.items():
            if name == "attributes":
                for attribute, of in _YAML.pairs(node, None, "vehicle.attributes").items():
                    yield ("vehicle", "attributes", attribute), of
            else:
                yield ("vehicle", name), node
    if "attributes" in given:
        for name, node in _YAML.pairs(given["attributes"], None, "attributes").items():
            yield ("attributes", name), node


def _field(path: tuple[str, ...], node: yaml.Node, columns: dict[str, int]) -> Field:
    where = ".".join(path)
    options = {"column": node} if isinstance(node, yaml.ScalarNode) else _YAML.pairs(node, _OPTIONS, where)
    if ("column" in options) == ("value" in options):
        raise _YAML.wrong(node, f"{where} needs either column or value")
    if "value" in options:
        return Field(path, -1, _constant(path, options), cells.as_it_is)
    column = _YAML.text(options["column"], f"{where}.column")
    return Field(path, columns.setdefault(column, len(columns)), None, _converter(path, options))


def _constant(path: tuple[str, ...], options: Mapping[str, yaml.Node]) -> Any:
    where, node = ".".join(path), options["value"]
    if len(options) > 1:
        raise _YAML.wrong(node, f"{where}.value stands alone")
    if path == ("updated_at",):
        # As it is written: YAML's own reading would lose the zone.
        convert = cells.moment(_YAML.text(node, f"{where}.value"), (), ZoneInfo("UTC"))
        if convert is None:
            raise _YAML.wrong(node, f"{where}.value is a date, or a time with its zone")
        return convert
    value = _YAML.value(node) if isinstance(node, yaml.ScalarNode) else None
    if not isinstance(value, (str, int, float, bool)):
        raise _YAML.wrong(node, f"{where}.value is a word, a number, true or false")
    if path[0] != "attributes" and path[:2] != ("vehicle", "attributes"):
        value = str(node.value)
    if path == ("vehicle", "relation") and value not in RELATIONS:
        raise _YAML.wrong(node, f"{where} is one of {', '.join(RELATIONS)}")
    return value


def _converter(path: tuple[str, ...], options: Mapping[str, yaml.Node]) -> Callable[[Any], Any]:
    """What becomes of a cell. Without options identifiers are text, attributes what they are."""
    where = ".".join(path)
    free = path[0] == "attributes" or path[:2] == ("vehicle", "attributes")
    usual = "time" if path == ("updated_at",) else "date" if path[-1] == "birth_date" and not free else "" if free else "text"
    given = _YAML.text(options["type"], f"{where}.type") if "type" in options else usual
    if given not in ("", *TYPES) or (usual and given != usual):
        allowed = ", ".join(TYPES) if free else usual
        raise _YAML.wrong(options["type"], f"{where}.type is one of {allowed}")
    if "values" in options:
        if given in ("date", "time"):
            raise _YAML.wrong(options["values"], f"{where} is a {given}: it takes no values")
        words = {key: _YAML.value(node) for key, node in _YAML.pairs(options["values"], None, f"{where}.values").items()}
        for key, word in words.items():
            if word is not None and not isinstance(word, (str, int, float, bool)):
                raise _YAML.wrong(options["values"], f"{where}.values: {key} becomes a word, a number, true, false or nothing")
            if path == ("vehicle", "relation") and word not in RELATIONS:
                raise _YAML.wrong(options["values"], f"{where}.values: {key} becomes one of {', '.join(RELATIONS)}")
        if not free:
            words = {key: None if word is None else str(word) for key, word in words.items()}
        return cells.translated(words)
    formats = _formats(options.get("format"), where)
    for option in ("format", "zone"):
        if option in options and given not in ("date", "time"):
            raise _YAML.wrong(options[option], f"{where}.{option} is for dates and times")
    zone = _zone(options.get("zone"), where)
    return cells.converter(given, formats, zone)


def _formats(node: yaml.Node | None, where: str) -> tuple[str, ...]:
    """One format of strptime, or several that are tried in turn."""
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node] if node is not None else []
    formats = tuple(_YAML.text(each, f"{where}.format", node) for each in nodes)
    for each, text in zip(nodes, formats, strict=True):
        if not cells.is_format(text):
            raise _YAML.wrong(each, f"{where}.format: not a format such as %Y/%m/%d")
    return formats


def _zone(node: yaml.Node | None, where: str) -> ZoneInfo:
    name = _YAML.text(node, f"{where}.zone") if node is not None else "UTC"
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise _YAML.wrong(node, f"{where}.zone is no zone of the IANA database") from None
