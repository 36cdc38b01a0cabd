"""The mapping of a file: which column is the hash, which are tags, when it was true. Every error names line and column."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml

from chassis import marked_yaml
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


_YAML = marked_yaml.Reader(MappingError, "mapping")


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
    return _Reader(catalogue).mapping(_YAML.compose(text))


class _Reader:
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def mapping(self, root: yaml.Node | None) -> FileMapping:
        given = _YAML.pairs(root, _KEYS, "")
        # Without a time the file that is taken in last would win, whatever is in it.
        for needed in ("partner", "match", "time", "tags"):
            if needed not in given:
                raise _YAML.wrong(root, f"needs {needed}")
        partner = _YAML.text(given["partner"], "partner")
        match = _YAML.pairs(given["match"], {"column", "kind"}, "match")
        hash_kind = _YAML.text(match.get("kind"), "match.kind", given["match"])
        if hash_kind not in HASHED:
            raise _YAML.wrong(match["kind"], f"match.kind is one of {', '.join(HASHED)}")
        file_format = _YAML.pairs(given["format"], {"encoding", "delimiter"}, "format") if "format" in given else {}
        encoding = _YAML.text(file_format["encoding"], "format.encoding").lower() if "encoding" in file_format else "utf-8"
        if encoding not in ENCODINGS:
            raise _YAML.wrong(file_format["encoding"], f"format.encoding is one of {', '.join(ENCODINGS)}")
        delimiter = _YAML.text(file_format["delimiter"], "format.delimiter") if "delimiter" in file_format else ","
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise _YAML.wrong(file_format["delimiter"], "format.delimiter is one character")
        time_column, time_us, zone = self._time(given["time"])
        confidence_column, confidence = self._confidence(given.get("confidence"))
        days = _days(given.get("retention_days"), "retention_days")
        kind = HASHED[hash_kind]
        return FileMapping(
            partner,
            kind,
            hash_kind,
            _YAML.text(match.get("column"), "match.column", given["match"]),
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
                raise _YAML.wrong(node, "time is a date, a time with its zone, or {column: …}") from None
        given = _YAML.pairs(node, {"column", "zone"}, "time")
        zone = _YAML.text(given["zone"], "time.zone") if "zone" in given else "UTC"
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise _YAML.wrong(given["zone"], "time.zone is no zone of the IANA database") from None
        return _YAML.text(given.get("column"), "time.column", node), 0, zone

    def _confidence(self, node: yaml.Node | None) -> tuple[str, float]:
        if node is None:
            return "", 1.0
        if isinstance(node, yaml.MappingNode):
            return _YAML.text(_YAML.pairs(node, {"column"}, "confidence").get("column"), "confidence.column", node), 1.0
        try:
            confidence = float(node.value)
        except (TypeError, ValueError):
            confidence = -1.0
        if not 0 <= confidence <= 1:
            raise _YAML.wrong(node, "confidence is from 0 to 1, or {column: …}")
        return "", confidence

    def _tags(self, node: yaml.Node, kind: Kind, partner: str, days: int) -> tuple[TagColumn, ...]:
        given = _YAML.pairs(node, None, "tags")
        if not 0 < len(given) <= _MOST_TAGS:
            raise _YAML.wrong(node, f"tags names 1 to {_MOST_TAGS} tags")
        places = {key.value: key for key, _ in node.value}
        return tuple(self._tag(places[name], name, body, kind, partner, days) for name, body in given.items())

    def _tag(self, place: yaml.Node, name: str, body: yaml.Node, kind: Kind, partner: str, days: int) -> TagColumn:
        known = self._catalogue.known_as(kind)
        definition = known.get(name)
        if definition is None:
            meant = marked_yaml.near(name, known)
            raise _YAML.wrong(place, f"{kind.name.lower()} has no tag {name}{meant}", reason="UNKNOWN_TAG")
        if not isinstance(definition.origin, FromImport):
            raise _YAML.wrong(place, f"{name} is not a tag that imports write", reason="TAG_NOT_IMPORTED")
        if partner not in definition.origin.partners:
            raise _YAML.wrong(place, f"the catalogue does not allow {partner} to deliver {name}", reason="PARTNER_NOT_ALLOWED")
        if isinstance(body, yaml.ScalarNode):
            options: Mapping[str, yaml.Node] = {"column": body}
        else:
            options = _YAML.pairs(body, _TAG_KEYS, name)
        lasts = [day for day in (_days(options.get("retention_days"), name) or days, definition.retention_days) if day]
        separator = _YAML.text(options["separator"], f"{name}.separator") if "separator" in options else ""
        if (separator != "") and definition.type is not TagType.SET:
            raise _YAML.wrong(options["separator"], f"{name} is no set: it takes no separator")
        return TagColumn(
            definition.name,
            _YAML.text(options.get("column"), f"{name}.column", body),
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
        raise _YAML.wrong(node, f"{name} is a time: it takes no values")
    words: dict[str, Value] = {}
    for key, value in _YAML.pairs(node, None, f"{name}.values").items():
        made = _YAML.value(value)
        if not isinstance(made, wanted) or (isinstance(made, bool) and tag_type is not TagType.BOOLEAN):
            raise _YAML.wrong(value, f"{name}.values: not a {tag_type.value}", reason="TYPE_MISMATCH")
        words[key] = float(made) if tag_type is TagType.NUMBER else made
    return words


def _days(node: yaml.Node | None, where: str) -> int:
    if node is None:
        return 0
    if isinstance(node, yaml.ScalarNode) and node.value.isdecimal() and 0 < int(node.value) <= 36_500:
        return int(node.value)
    raise _YAML.wrong(node, f"{where}: retention_days is from 1 to 36,500")
