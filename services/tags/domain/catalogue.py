"""The catalogue: which tags exist, of what type, and where their values come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.tags.domain.terms import Expression, Term

# A set's value is its words, sorted.
Value = float | str | bool | list[str]


class Kind(IntEnum):
    """Kinds of entities; numbers as in the contract's EntityKind and in the database."""

    PERSON = 1
    VEHICLE = 2
    HOUSEHOLD = 3
    DEALER = 4


# Which kinds may be related, and how; the first is the one that owns, drives, is a member, was sold.
RELATIONS: Mapping[tuple[Kind, Kind], tuple[str, ...]] = {
    (Kind.PERSON, Kind.VEHICLE): ("owns", "drives", "pays_for"),
    (Kind.PERSON, Kind.HOUSEHOLD): ("member_of",),
    (Kind.PERSON, Kind.DEALER): ("advised_by",),
    (Kind.VEHICLE, Kind.DEALER): ("sold_by", "serviced_by"),
}
# Names of the one entity that stands in a relation to one of a kind: `owner.lifecycle`.
SINGLE: Mapping[Kind, Mapping[str, tuple[Kind, str]]] = {
    Kind.PERSON: {"household": (Kind.HOUSEHOLD, "member_of"), "dealer": (Kind.DEALER, "advised_by")},
    Kind.VEHICLE: {"owner": (Kind.PERSON, "owns"), "dealer": (Kind.DEALER, "sold_by")},
    Kind.HOUSEHOLD: {},
    Kind.DEALER: {},
}


def related_kinds(kind: Kind) -> tuple[Kind, ...]:
    """Kinds whose entities may be related to those of a kind."""
    return tuple(other if one is kind else one for one, other in RELATIONS if kind in (one, other))


class TagType(Enum):
    """What values a tag takes. Times are seconds since the epoch; a text is shown and never searched."""

    NUMBER = "number"
    CATEGORY = "category"
    BOOLEAN = "boolean"
    TIME = "time"
    SET = "set"
    TEXT = "text"


class Aggregate(Enum):
    """How the events of one tag fold into one value. None depends on the order in which events arrive."""

    LAST = "last"
    FIRST = "first"
    COUNT = "count"
    SUM = "sum"
    AVG = "avg"
    MAX = "max"
    MIN = "min"
    # How many different words, and which.
    DISTINCT = "distinct_count"
    VALUES = "values"
    ANY = "any"


class Sensitivity(Enum):
    """Who may see a tag: `sensitive` ones (law: health, finance, whereabouts, minors) are never shared nor inferred."""

    PUBLIC = "public"
    INTERNAL = "internal"
    PERSONAL = "personal"
    SENSITIVE = "sensitive"

    @property
    def rank(self) -> int:
        """The higher, the fewer may see it."""
        return list(Sensitivity).index(self)


class CatalogueError(ValueError):
    """The catalogue cannot be used; the message names the place."""


@dataclass(frozen=True)
class Window:
    """The last `steps` steps of `step_us` microseconds: an event leaves with the step that it happened in.

    Steps bound what is kept of each entity and make every execution count the same.
    """

    step_us: int
    steps: int

    @classmethod
    def of(cls, seconds: float) -> Window:
        """A window of that length, rounded up to whole steps; finer than a thousandth is none."""
        step = next((step for step in _STEPS if seconds <= step * _MOST_STEPS), _STEPS[-1])
        return cls(step * 1_000_000, max(1, -int(-seconds // step)))

    def first(self, at_us: int) -> int:
        """The number of the oldest step that still counts at a moment."""
        return at_us // self.step_us - self.steps + 1


_STEPS = (1, 10, 60, 600, 3600, 86_400)
_MOST_STEPS = 1000


@dataclass(frozen=True)
class FromEvents:
    """A base tag: which events count, and what is taken from each.

    `events` empty means every event; `source` is a name, or a prefix ending in "*", or None for every source.
    `field` is a property's name, "$source" (what stands behind the source's colon), "$time" (when it happened) or
    None (that it happened). `condition` is over the event's properties.
    """

    aggregate: Aggregate
    events: frozenset[str] = frozenset()
    source: str | None = None
    field: str | None = None
    condition: Term | None = None
    window: Window | None = None

    def matches(self, source: str, event: str) -> bool:
        """True when an event of this source and name may count."""
        if self.events and event not in self.events:
            return False
        if self.source is None:
            return True
        return source.startswith(self.source[:-1]) if self.source.endswith("*") else source == self.source


@dataclass(frozen=True)
class FromScore:
    """A tag that holds the newest score of one model."""

    model: str


class Conflict(Enum):
    """Which of several values that partners deliver counts. `keep_ours`: what the house itself delivers, as partner `ours`."""

    NEWEST = "newest"
    HIGHEST_CONFIDENCE = "highest_confidence"
    PARTNER_ORDER = "partner_order"
    KEEP_OURS = "keep_ours"


@dataclass(frozen=True)
class FromImport:
    """A base tag that partners deliver: who may, best first, and who counts when they differ."""

    partners: tuple[str, ...]
    conflict: Conflict = Conflict.NEWEST


@dataclass(frozen=True)
class FromTags:
    """A business tag: a SQL expression over other tags of the same entity."""


@dataclass(frozen=True)
class TagDefinition:
    """One line of the catalogue. `title` is the name that business people use, `words` help to find it."""

    kind: Kind
    name: str
    type: TagType
    description: str
    origin: FromEvents | FromScore | FromImport | FromTags
    expression: str = ""
    title: str = ""
    folder: str = ""
    owner: str = ""
    words: tuple[str, ...] = ()
    sensitivity: Sensitivity = Sensitivity.INTERNAL
    retention_days: int = 0
    version: int = 1


class Catalogue:
    """All tags of all kinds, by kind and name. Names are lower case because SQL folds bare names.

    It may become another one between two batches (`become`), under all who hold it; what they made of it before is of an older
    `edition`.
    """

    def __init__(self, definitions: Sequence[TagDefinition]) -> None:
        """Raises CatalogueError on a name or title used twice within a kind."""
        self.edition = 0
        self.definitions = tuple(definitions)
        self._by_kind: dict[Kind, dict[str, TagDefinition]] = {kind: {} for kind in Kind}
        # Business tags that cross relations are computed when asked: BusinessRules puts in what they mean.
        self.views: dict[Kind, dict[str, Expression]] = {kind: {} for kind in Kind}
        self._known_as: dict[Kind, dict[str, TagDefinition]] = {kind: {} for kind in Kind}
        for definition in definitions:
            known = self._known_as[definition.kind]
            for name in {definition.name, definition.title} - {""}:
                if name in known:
                    raise CatalogueError(f"{definition.kind.name.lower()}.{name} is defined twice")
                known[name] = definition
            self._by_kind[definition.kind][definition.name] = definition

    def of(self, kind: Kind) -> Mapping[str, TagDefinition]:
        """The tags of one kind by name, in catalogue order."""
        return self._by_kind[kind]

    def known_as(self, kind: Kind) -> Mapping[str, TagDefinition]:
        """The tags of one kind by name and by title."""
        return self._known_as[kind]

    def become(self, other: Catalogue) -> None:
        """Takes over all of another one."""
        edition = self.edition
        self.__dict__.update(other.__dict__)
        self.edition = edition + 1
