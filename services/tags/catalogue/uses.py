"""What uses a tag: other tags, named audiences, shares; and how large each is before and after a change."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from chassis.db import UnitOfWork
from services.tags.catalogue.checking import Key, readers_of
from services.tags.catalogue.inlining import Inlining, NotCountable
from services.tags.domain.business import compile_all
from services.tags.domain.catalogue import Catalogue, FromTags, Kind, TagDefinition, TagType
from services.tags.domain.language import LanguageError
from services.tags.domain.names import names_in
from services.tags.domain.predicates import parse_predicate
from services.tags.index.algebra import audience
from services.tags.index.index import AudienceIndex


class UseKind(IntEnum):
    """Numbers as in the contract's TagUseKind."""

    ITSELF = 1
    TAG = 2
    AUDIENCE = 3
    SHARE = 4
    ASKED = 5


@dataclass(frozen=True)
class Sizes:
    """How many there are, how many there would be, and how many of those there are would be no more."""

    before: int
    after: int
    leaving: int


@dataclass(frozen=True)
class Use:
    """Something that a tag is used for; `name` is that of a tag or audience, or a share's number."""

    kind: UseKind
    entity_kind: Kind
    name: str
    predicate: str = ""
    sizes: Sizes | None = None


def readers_closure(catalogue: Catalogue, keys: Iterable[Key]) -> dict[Key, TagDefinition]:
    """All tags that are built on some, at whatever distance, without themselves."""
    readers, found, waiting = readers_of(catalogue), {}, list(keys)
    start = set(waiting)
    while waiting:
        for reader in readers.get(waiting.pop(), ()):
            key = (reader.kind, reader.name)
            if key not in found and key not in start:
                found[key] = reader
                waiting.append(key)
    return found


async def predicates_in_use(uow: UnitOfWork) -> list[Use]:
    """The predicates of all named audiences and of shares that have not ended; of shares the tags, too."""
    audiences = await uow.rows("SELECT name, entity_kind, predicate FROM audience WHERE deleted_at IS NULL ORDER BY name")
    shares = await uow.rows(
        "SELECT share_id, predicate, tags FROM share WHERE revoked_at IS NULL AND expires_at > now() ORDER BY share_id"
    )
    found = [Use(UseKind.AUDIENCE, Kind(row.entity_kind), row.name, row.predicate) for row in audiences]
    for row in shares:
        having = " OR ".join(f"{tag} IS NOT NULL" for tag in row.tags)
        whole = f"({row.predicate}) AND ({having})" if row.predicate.strip() and having else row.predicate or having
        found.append(Use(UseKind.SHARE, Kind.PERSON, str(row.share_id), whole))
    return found


def concerned(uses: Sequence[Use], keys: Collection[Key], catalogue: Catalogue) -> list[Use]:
    """Those whose predicate names one of some tags, by name or title."""
    found = []
    for use in uses:
        try:
            named = names_in(use.predicate, use.entity_kind) if use.predicate.strip() else set()
        except LanguageError:
            continue
        tags = {(kind, tag.name) for kind, name in named if (tag := catalogue.known_as(kind).get(name)) is not None}
        if not tags.isdisjoint(keys):
            found.append(use)
    return found


def unreadable(use: Use, catalogue: Catalogue) -> str:
    """Why a predicate cannot be asked with a catalogue; empty when it can."""
    try:
        parse_predicate(use.predicate, use.entity_kind, catalogue)
    except LanguageError as error:
        return str(error)
    return ""


def presence(definition: TagDefinition) -> str:
    """The predicate of those that a tag says something of: for a boolean, where it is true."""
    return definition.name if definition.type is TagType.BOOLEAN else f"{definition.name} IS NOT NULL"


class Measuring:
    """Sizes before and after, from the index as it is."""

    def __init__(self, index: AudienceIndex, before: Catalogue, after: Catalogue, changed: Collection[Key]) -> None:
        """`changed`: the tags whose definitions differ."""
        self._index, self._before, self._after = index, before, after
        compiled, _ = compile_all(after)
        again = {*changed, *readers_closure(after, changed)}
        self._inlining = Inlining(
            {kind: {each.name: each.expression for each in compiled[kind] if (kind, each.name) in again} for kind in Kind}
        )

    def measured(self, use: Use) -> Use:
        """A use with its sizes; without where the index cannot know them."""
        if use.kind in (UseKind.ITSELF, UseKind.TAG):
            return replace(use, sizes=self._sizes_of_tag(use))
        return replace(use, sizes=self._sizes(use.entity_kind, use.predicate, use.predicate))

    def _sizes_of_tag(self, use: Use) -> Sizes | None:
        old, new = self._before.of(use.entity_kind).get(use.name), self._after.of(use.entity_kind).get(use.name)
        if old is None and new is not None and not isinstance(new.origin, FromTags):
            return Sizes(0, 0, 0)  # it begins with the next event
        return self._sizes(use.entity_kind, presence(old) if old else "FALSE", presence(new) if new else "FALSE")

    def _sizes(self, kind: Kind, before: str, after: str) -> Sizes | None:
        now = time.time()
        try:
            then = self._inlining.term(kind, parse_predicate(after, kind, self._after))
            has = audience(self._index, kind, parse_predicate(before, kind, self._before), now)
            would_have = audience(self._index, kind, then, now)
        except (NotCountable, LanguageError):
            return None
        return Sizes(len(has), len(would_have), len(has - would_have))
