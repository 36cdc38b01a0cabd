"""The mapping of a file: which column is the hash, which are tags, when it was true. Every error names line and column."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml

from chassis.errors import InvalidArgument
from services.tags.domain.catalogue import Catalogue, FromImport, Kind, TagType, Value
from services.tags.domain.language import seconds

# What identity matches, and whom that is about.
HASHED = {
    **dict.fromkeys(("mobile", "email", "id_card", "unionid", "device"), Kind.PERSON),
    **dict.fromkeys(("vin", "plate"), Kind.VEHICLE),
}
ENCODINGS = ("utf-8", "gbk", "gb18030")
_KEYS = {"partner", "match", "format", "time", "confidence", "retention_days", "tags"}
_TAG_KEYS = {"column", "values", "separator", "retention_days"}
_MOST_TAGS = 200
_DAY_US = 86_400_000_000


class MappingError(InvalidArgument):
    """The mapping cannot be used."""

    default_reason = "INVALID_MAPPING"


@dataclass(frozen=True)
class TagColumn:
    """One tag and the column that it comes from. `words`: what the partner's words mean; empty takes them as they are."""

    tag: str
    column: str
    type: TagType
    words: Mapping[str, Value]
    separator: str
    # None: for ever.
    lasts_us: int | None


@dataclass(frozen=True)
class FileMapping:
    """How to read one partner's files. Where there is no time column `time_us` is when all of it was true."""

    partner: str
    kind: Kind
    hash_kind: str
    hash_column: str
    encoding: str
    delimiter: str
    time_column: str
    time_us: int
    zone: str
    confidence_column: str
    confidence: float
    tags: tuple[TagColumn, ...]

    @property
    def columns(self) -> list[str]:
        """Columns that are read, each once."""
        named = [self.hash_column, self.time_column, self.confidence_column, *(tag.column for tag in self.tags)]
        return list(dict.fromkeys(name for name in named if name))

    @property
    def sha256(self) -> bytes:
        """Of what it says, however it is written."""
        return hashlib.sha256(repr(replace(self, tags=tuple(sorted(self.tags, key=lambda t: t.tag)))).encode()).digest()


def parse(text: str, catalogue: Catalogue) -> FileMapping:
    """The mapping in YAML text. Raises MappingError."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise MappingError(f"{place}{error.problem}", field="mapping") from None
    except (yaml.YAMLError, RecursionError):
        raise MappingError("not YAML", field="mapping") from None
    return _Reader(catalogue).mapping(root)


class _Reader:
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def mapping(self, root: yaml.Node | None) -> FileMapping:
        given = _pairs(root, _KEYS, "")
        # Without a time the file that is taken in last would win, whatever is in it.
        for needed in ("partner", "match", "time", "tags"):
            if needed not in given:
                raise _wrong(root, f"needs {needed}")
        partner = _text(given["partner"], "partner")
        match = _pairs(given["match"], {"column", "kind"}, "match")
        hash_kind = _text(match.get("kind"), "match.kind", given["match"])
        if hash_kind not in HASHED:
            raise _wrong(match["kind"], f"match.kind is one of {', '.join(HASHED)}")
        file_format = _pairs(given["format"], {"encoding", "delimiter"}, "format") if "format" in given else {}
        encoding = _text(file_format["encoding"], "format.encoding").lower() if "encoding" in file_format else "utf-8"
        if encoding not in ENCODINGS:
            raise _wrong(file_format["encoding"], f"format.encoding is one of {', '.join(ENCODINGS)}")
        delimiter = _text(file_format["delimiter"], "format.delimiter") if "delimiter" in file_format else ","
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise _wrong(file_format["delimiter"], "format.delimiter is one character")
        time_column, time_us, zone = self._time(given["time"])
        confidence_column, confidence = self._confidence(given.get("confidence"))
        days = _days(given.get("retention_days"), "retention_days")
        kind = HASHED[hash_kind]
        return FileMapping(
            partner,
            kind,
            hash_kind,
            _text(match.get("column"), "match.column", given["match"]),
            encoding,
            delimiter,
            time_column,
            time_us,
            zone,
            confidence_column,
            confidence,
            self._tags(given["tags"], kind, partner, days),
        )

    def _time(self, node: yaml.Node) -> tuple[str, int, str]:
        if isinstance(node, yaml.ScalarNode):
            try:
                return "", round(seconds(node.value) * 1e6), "UTC"
            except (ValueError, OverflowError):
                raise _wrong(node, "time is a date, a time with its zone, or {column: …}") from None
        given = _pairs(node, {"column", "zone"}, "time")
        zone = _text(given["zone"], "time.zone") if "zone" in given else "UTC"
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise _wrong(given["zone"], "time.zone is no zone of the IANA database") from None
        return _text(given.get("column"), "time.column", node), 0, zone

    def _confidence(self, node: yaml.Node | None) -> tuple[str, float]:
        if node is None:
            return "", 1.0
        if isinstance(node, yaml.MappingNode):
            return _text(_pairs(node, {"column"}, "confidence").get("column"), "confidence.column", node), 1.0
        try:
            confidence = float(node.value)
        except (TypeError, ValueError):
            confidence = -1.0
        if not 0 <= confidence <= 1:
            raise _wrong(node, "confidence is from 0 to 1, or {column: …}")
        return "", confidence

    def _tags(self, node: yaml.Node, kind: Kind, partner: str, days: int) -> tuple[TagColumn, ...]:
        given = _pairs(node, None, "tags")
        if not 0 < len(given) <= _MOST_TAGS:
            raise _wrong(node, f"tags names 1 to {_MOST_TAGS} tags")
        places = {key.value: key for key, _ in node.value}
        return tuple(self._tag(places[name], name, body, kind, partner, days) for name, body in given.items())

    def _tag(self, place: yaml.Node, name: str, body: yaml.Node, kind: Kind, partner: str, days: int) -> TagColumn:
        known = self._catalogue.known_as(kind)
        definition = known.get(name)
        if definition is None:
            raise _wrong(place, f"{kind.name.lower()} has no tag {name}{_near(name, known)}", reason="UNKNOWN_TAG")
        if not isinstance(definition.origin, FromImport):
            raise _wrong(place, f"{name} is not a tag that imports write", reason="TAG_NOT_IMPORTED")
        if partner not in definition.origin.partners:
            raise _wrong(place, f"the catalogue does not allow {partner} to deliver {name}", reason="PARTNER_NOT_ALLOWED")
        if isinstance(body, yaml.ScalarNode):
            options: Mapping[str, yaml.Node] = {"column": body}
        else:
            options = _pairs(body, _TAG_KEYS, name)
        lasts = [day for day in (_days(options.get("retention_days"), name) or days, definition.retention_days) if day]
        separator = _text(options["separator"], f"{name}.separator") if "separator" in options else ""
        if (separator != "") and definition.type is not TagType.SET:
            raise _wrong(options["separator"], f"{name} is no set: it takes no separator")
        return TagColumn(
            definition.name,
            _text(options.get("column"), f"{name}.column", body),
            definition.type,
            _words(options.get("values"), name, definition.type),
            separator or "|",
            min(lasts) * _DAY_US if lasts else None,
        )


def _words(node: yaml.Node | None, name: str, tag_type: TagType) -> Mapping[str, Value]:
    if node is None:
        return {}
    wanted = {TagType.NUMBER: (int, float), TagType.BOOLEAN: (bool,)}.get(tag_type, (str,))
    if tag_type is TagType.TIME:
        raise _wrong(node, f"{name} is a time: it takes no values")
    words: dict[str, Value] = {}
    for key, value in _pairs(node, None, f"{name}.values").items():
        made: Any = yaml.SafeLoader("").construct_object(value, deep=True)
        if not isinstance(made, wanted) or (isinstance(made, bool) and tag_type is not TagType.BOOLEAN):
            raise _wrong(value, f"{name}.values: not a {tag_type.value}", reason="TYPE_MISMATCH")
        words[key] = float(made) if tag_type is TagType.NUMBER else made
    return words


def _pairs(node: yaml.Node | None, keys: set[str] | None, where: str) -> dict[str, yaml.Node]:
    """The pairs of a mapping, each key once and known."""
    if not isinstance(node, yaml.MappingNode):
        raise _wrong(node, f"{where or 'the mapping'} is a mapping")
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = str(key.value)
        if keys is not None and name not in keys:
            raise _wrong(key, f"does not know {name}{_near(name, keys)}")
        if name in found:
            raise _wrong(key, f"{name} stands twice")
        found[name] = value
    return found


def _text(node: yaml.Node | None, where: str, parent: yaml.Node | None = None) -> str:
    if not isinstance(node, yaml.ScalarNode) or not node.value:
        raise _wrong(node or parent, f"needs {where}")
    return str(node.value)


def _days(node: yaml.Node | None, where: str) -> int:
    if node is None:
        return 0
    if isinstance(node, yaml.ScalarNode) and node.value.isdecimal() and 0 < int(node.value) <= 36_500:
        return int(node.value)
    raise _wrong(node, f"{where}: retention_days is from 1 to 36,500")


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _wrong(node: yaml.Node | None, message: str, reason: str | None = None) -> MappingError:
    mark = node.start_mark if node is not None else None
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return MappingError(f"{place}{message}", reason=reason, field="mapping")
