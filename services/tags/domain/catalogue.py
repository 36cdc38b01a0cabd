"""The catalogue: which tags exist, of what type, and where their values come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

Value = float | str | bool


class Kind(IntEnum):
    """Kinds of entities; numbers as in the contract's EntityKind and in the database."""

    PERSON = 1
    VEHICLE = 2

    @property
    def other(self) -> Kind:
        """The kind that relations lead to."""
        return Kind.VEHICLE if self is Kind.PERSON else Kind.PERSON


class TagType(Enum):
    """What values a tag takes. Times are seconds since the epoch."""

    NUMBER = "number"
    CATEGORY = "category"
    BOOLEAN = "boolean"
    TIME = "time"


class Aggregate(Enum):
    """How the events of one tag fold into one value. None depends on the order in which events arrive."""

    LAST = "last"
    COUNT = "count"
    SUM = "sum"
    MAX = "max"
    MIN = "min"
    ANY = "any"


class CatalogueError(ValueError):
    """The catalogue cannot be used; the message names the place."""


@dataclass(frozen=True)
class FromEvents:
    """A base tag: which events count, and what is taken from each.

    `events` empty means every event; `source` is a name, or a prefix ending in "*", or None for every source.
    `field` is a property's name, "$source" (what the source's "*" stood for), "$time" (when it happened) or
    None (that it happened).
    """

    aggregate: Aggregate
    events: frozenset[str] = frozenset()
    source: str | None = None
    field: str | None = None

    def matches(self, source: str, event: str) -> bool:
        """True when an event of this source and name counts."""
        if self.events and event not in self.events:
            return False
        if self.source is None:
            return True
        return source.startswith(self.source[:-1]) if self.source.endswith("*") else source == self.source


@dataclass(frozen=True)
class FromScore:
    """A tag that holds the newest score of one model."""

    model: str


@dataclass(frozen=True)
class FromTags:
    """A business tag: a SQL expression over other tags of the same entity."""

    expression: str


@dataclass(frozen=True)
class TagDefinition:
    """One line of the catalogue."""

    kind: Kind
    name: str
    type: TagType
    description: str
    origin: FromEvents | FromScore | FromTags

    @property
    def expression(self) -> str:
        """The defining expression, empty for a base tag."""
        return self.origin.expression if isinstance(self.origin, FromTags) else ""


class Catalogue:
    """All tags of all kinds, by kind and name. Names are lower case because SQL folds bare names."""

    def __init__(self, definitions: Sequence[TagDefinition]) -> None:
        """Raises CatalogueError on a name used twice within a kind."""
        self.definitions = tuple(definitions)
        self._by_kind: dict[Kind, dict[str, TagDefinition]] = {kind: {} for kind in Kind}
        for definition in definitions:
            if definition.name in self._by_kind[definition.kind]:
                raise CatalogueError(f"{definition.kind.name.lower()}.{definition.name} is defined twice")
            self._by_kind[definition.kind][definition.name] = definition

    def of(self, kind: Kind) -> Mapping[str, TagDefinition]:
        """The tags of one kind by name, in catalogue order."""
        return self._by_kind[kind]
