"""Which events there are and what they carry: the one list of names (events.yaml)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import yaml

from services.tags.catalogue.mistakes import Fault, Found, nearest
from services.tags.domain.catalogue import Aggregate, FromEvents, Kind, TagDefinition, TagType
from services.tags.domain.terms import Equals, Expression, own_parts

DEFAULT: Final = Path(__file__).parent / "events.yaml"
# What a property is, and the types of tags that can be made of it.
_TYPES: Final[Mapping[str, frozenset[TagType]]] = {
    "number": frozenset({TagType.NUMBER}),
    "word": frozenset({TagType.CATEGORY, TagType.SET, TagType.TEXT}),
    "text": frozenset({TagType.TEXT}),
    "flag": frozenset({TagType.BOOLEAN}),
    "time": frozenset({TagType.TIME}),
}


@dataclass(frozen=True)
class Property:
    """One property of an event; `values`: all that a word may be, empty for any."""

    type: str
    description: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Event:
    """One event: what of persons it says, and what of vehicles."""

    name: str
    title: str
    description: str
    properties: Mapping[str, Property]
    vehicle: Mapping[str, Property]

    def about(self, kind: Kind) -> Mapping[str, Property]:
        """What it says of an entity of a kind."""
        return self.vehicle if kind is Kind.VEHICLE else self.properties


@cache
def load(path: Path = DEFAULT) -> Mapping[str, Event]:
    """Events by name."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        name: Event(
            name, body["title"], body["description"], _properties(body.get("properties")), _properties(body.get("vehicle"))
        )
        for name, body in raw.items()
    }


def unheard_of(definitions: Collection[TagDefinition]) -> Iterator[Found]:
    """Warnings for tags that wait for events, properties or words that nobody sends."""
    events = load()
    for definition in definitions:
        if isinstance(definition.origin, FromEvents):
            for name, message in _strange(definition, definition.origin, events):
                at = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", definition.expression)
                position = at.start() + 1 if at else 1
                yield Found(definition, Fault("expression", "NOT_IN_VOCABULARY", message, position, is_warning=True))


def _strange(definition: TagDefinition, origin: FromEvents, events: Mapping[str, Event]) -> Iterator[tuple[str, str]]:
    for name in sorted(origin.events - events.keys()):
        yield name, f"no source is known to send {name!r}{nearest(name, events)}"
    known = [events[name] for name in origin.events if name in events]
    if not known or len(known) < len(origin.events):
        return
    properties: dict[str, Property] = {}
    for event in known:
        properties |= event.about(definition.kind)
    if origin.field and not origin.field.startswith("$"):
        words = origin.aggregate in (Aggregate.DISTINCT, Aggregate.VALUES)
        wanted = TagType.CATEGORY if words else definition.type
        if (given := properties.get(origin.field)) and wanted not in _TYPES[given.type]:
            yield origin.field, f"{origin.field} is a {given.type}, which makes no {wanted.value}"
    asked = {*_asked(origin.condition), *([origin.field] if origin.field and not origin.field.startswith("$") else [])}
    for name in sorted(asked - properties.keys()):
        what = "the vehicle" if definition.kind is Kind.VEHICLE else "the person"
        told = " or ".join(sorted(origin.events))
        yield name, f"{told} is not known to say {name} of {what}{nearest(name, properties)}"
    yield from _strange_words(origin.condition, properties)


def _strange_words(condition: Expression | None, properties: Mapping[str, Property]) -> Iterator[tuple[str, str]]:
    for part in own_parts(condition) if condition is not None else ():
        if isinstance(part, Equals) and (given := properties.get(part.tag)) and given.values:
            for value in part.values:
                if value not in given.values:
                    yield str(value), f"{part.tag} is one of {', '.join(given.values)}"


def _asked(condition: Expression | None) -> set[str]:
    parts = own_parts(condition) if condition is not None else ()
    return {tag for part in parts if isinstance(tag := getattr(part, "tag", None), str)}


def _properties(raw: Mapping[str, Mapping[str, object]] | None) -> dict[str, Property]:
    return {
        name: Property(str(body["type"]), str(body["description"]), tuple(map(str, _list(body.get("values")))))
        for name, body in (raw or {}).items()
    }


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
