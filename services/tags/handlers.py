"""What happens when facts arrive: fold them into anchors, derive the entities, publish what changed.

Every path ends in `_derive`: an entity's tags are a function of its anchors' facts and its scores, so merges, splits,
late events and repeats all come out the same, whatever the order.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from chassis.db import UnitOfWork
from chassis.errors import Unavailable
from services.tags import erasure_store, store
from services.tags.domain.business import BusinessRules
from services.tags.domain.catalogue import Catalogue, FromScore, Kind, TagDefinition, Value
from services.tags.domain.facts import FactRules, Facts, Occurrence, Statement, fold, prune
from services.tags.erasure_store import Tombstone
from services.tags.store import AnchorRow, EntityRow, RelationRow


class Sighting(NamedTuple):
    """One event about one anchor, and who owned the anchor at a version of the graph."""

    anchor_id: int
    entity_id: int
    version: int
    event: Occurrence
    statements: Sequence[Statement]


class Move(NamedTuple):
    """An anchor belongs to an entity as of a version of the graph."""

    anchor_id: int
    entity_id: int
    version: int


Claiming = TypeVar("Claiming", Sighting, Move)


@dataclass
class Batch:
    """What one transaction works on. `relations` are (person anchor, vehicle anchor, kind)."""

    sightings: dict[Kind, list[Sighting]] = field(default_factory=lambda: {kind: [] for kind in Kind})
    moves: dict[Kind, list[Move]] = field(default_factory=lambda: {kind: [] for kind in Kind})
    relations: set[tuple[int, int, str]] = field(default_factory=set)


class EntityChange(NamedTuple):
    """An entity's tags that changed (None: gone) and whether it came into being or ceased (None: neither)."""

    kind: Kind
    entity_id: int
    version: int
    tags: Mapping[str, Value | None]
    present: bool | None
    received_at_us: int


@dataclass
class Changes:
    """What a transaction changed, to be published with it; `overdue`: anchors that turn out to be erased ones only now."""

    entities: list[EntityChange] = field(default_factory=list)
    relations: list[RelationRow] = field(default_factory=list)
    overdue: list[Tombstone] = field(default_factory=list)


class TagRules:
    """A catalogue, compiled. `hold` is asked at the start of each transaction that derives tags: see LiveCatalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.hold: Callable[[UnitOfWork], Awaitable[None]] = _as_it_is
        # Tags that messages up to a place in the stream say nothing of: their events come from the lake (`backfill`).
        self.cuts: Mapping[Kind, Mapping[str, int]] = {}
        self.facts = FactRules(catalogue)
        self.business = BusinessRules(catalogue)
        self.score_tags: dict[str, list[TagDefinition]] = {}
        for definition in catalogue.of(Kind.PERSON).values():
            if isinstance(definition.origin, FromScore):
                self.score_tags.setdefault(definition.origin.model, []).append(definition)

    def become(self, catalogue: Catalogue) -> None:
        """Takes over another catalogue; raises DefinitionError, and stays as it was, when that cannot work."""
        others = TagRules(catalogue)
        self.catalogue.become(catalogue)
        self.facts, self.business, self.score_tags = others.facts, others.business, others.score_tags

    def renew(
        self, kind: Kind, entity: EntityRow, anchors: Sequence[Facts], received_at_us: int, now_us: int
    ) -> EntityChange | None:
        """Derives an entity anew from all facts of its anchors (none: it has ceased), in place."""
        present = bool(anchors)
        old, new = entity.tags, self._derived(kind, anchors, entity.scores, now_us) if present else {}
        changed: dict[str, Value | None] = {name: value for name, value in new.items() if old.get(name) != value}
        changed.update((name, None) for name in old if name not in new)
        appeared = None if present == entity.present else present
        entity.tags, entity.present = new, present
        entity.due_us = self._due_us(kind, entity, anchors, now_us)
        if not changed and appeared is None:
            return None
        entity.version += 1
        return EntityChange(kind, entity.entity_id, entity.version, changed, appeared, received_at_us)

    def advance(
        self, kind: Kind, entity: EntityRow, anchors: Sequence[Facts], stated: Collection[str], received_at_us: int, now_us: int
    ) -> EntityChange | None:
        """Lets the tags that were stated anew follow their facts, in place; what else the entity has stays or follows."""
        if entity.due_us is not None and entity.due_us <= now_us:
            # What time alone has changed meanwhile must not be skipped by looking for what it changes next.
            return self.renew(kind, entity, anchors, received_at_us, now_us)
        fresh = self.facts.combined_some(kind, anchors, stated, now_us)
        old = entity.tags
        changed: dict[str, Value | None] = {name: value for name, value in fresh.items() if old.get(name) != value}
        if len(fresh) < len(stated):
            changed.update((name, None) for name in stated if name not in fresh and name in old)
        if changed:
            for name, value in changed.items():
                if value is None:
                    del old[name]
                else:
                    old[name] = value
            self.business.follow(kind, old, changed, now_us / 1e6)
        if changed or not self.facts.windowed[kind].isdisjoint(stated):
            entity.due_us = self._due_us(kind, entity, anchors, now_us, stated)
        if not changed:
            return None
        entity.version += 1
        return EntityChange(kind, entity.entity_id, entity.version, changed, None, received_at_us)

    def rescore(
        self, entity: EntityRow, tag: str, score: Value | None, received_at_us: int, now_us: int
    ) -> EntityChange | None:
        """Lets a person's score or class be this (None: it goes away), in place."""
        if entity.tags.get(tag) == score:
            return None
        if score is None:
            del entity.tags[tag]
        else:
            entity.tags[tag] = score
        changed: dict[str, Value | None] = {tag: score}
        self.business.follow(Kind.PERSON, entity.tags, changed, now_us / 1e6)
        entity.version += 1
        return EntityChange(Kind.PERSON, entity.entity_id, entity.version, changed, None, received_at_us)

    def _derived(
        self, kind: Kind, anchors: Sequence[Facts], scores: Mapping[str, Sequence[Any]], now_us: int
    ) -> dict[str, Value]:
        values = self.facts.combined(kind, anchors, now_us)
        for name, score in scores.items():
            if score[0] is not None and name in self.catalogue.of(kind):
                values[name] = score[0]
        self.business.complete(kind, values, now_us / 1e6)
        return values

    def _due_us(
        self, kind: Kind, entity: EntityRow, anchors: Sequence[Facts], now_us: int, stated: Collection[str] | None = None
    ) -> int | None:
        """When time alone will change the entity's tags next; None for never.

        With the tags that were `stated` anew the others' windows count as they are known: it may then be told too early, when
        a moment that something was waiting for has moved, and never too late.
        """
        if not entity.present:
            return None
        due: list[int] = []
        if (aged := self.business.next_due(kind, entity.tags, now_us / 1e6)) != math.inf:
            due.append(math.ceil(aged * 1e6))
        if (leaves := self.facts.next_due_us(kind, anchors, now_us, stated)) is not None:
            due.append(leaves)
        if stated is not None and entity.due_us is not None:
            due.append(entity.due_us)
        return min(due, default=None)


async def _as_it_is(_: UnitOfWork) -> None:
    """A catalogue that never changes."""


def now_us() -> int:
    """The present moment, microseconds since the epoch."""
    return time.time_ns() // 1000


_tag = itemgetter(0)
# Another transaction moved an anchor between our look and our lock: we look again, keeping the locks we have.
_LOOKS = 4


async def apply(uow: UnitOfWork, rules: TagRules, batch: Batch, at_us: int | None = None) -> Changes:
    """Folds sightings, moves anchors and derives every entity concerned as of a moment (None: now).

    Raises Unavailable when anchors keep moving.
    """
    await rules.hold(uow)
    at_us = now_us() if at_us is None else at_us
    works = [_Work(kind, batch.sightings[kind], batch.moves[kind]) for kind in Kind]
    works = [work for work in works if work.claims]
    serialised = False
    for _ in range(_LOOKS):
        for work in works:
            await work.plan(uow)
        if not serialised and any(work.moving for work in works):
            await store.serialise_moves(uow)
            serialised = True
            continue
        if all([await work.lock(uow) for work in works]):
            break
    else:
        raise Unavailable("anchors moved while their entities were being locked")
    moving = {work.kind: work.moving for work in works if work.moving}
    pairs = await store.pairs_of(uow, moving) if moving else set()
    changes = Changes()
    for work in works:
        await work.write(uow, rules, changes, at_us)
    if moving:
        pairs |= await store.pairs_of(uow, moving)
    buried = {anchor_id for work in works if work.kind is Kind.PERSON for anchor_id in work.buried}
    if stated := {each for each in batch.relations if each[0] not in buried}:
        pairs |= await store.add_relations(uow, stated)
    if pairs:
        changes.relations = await store.refresh_relations(uow, pairs)
    return changes


class _Work:
    """The part of a batch that concerns one kind of entity."""

    def __init__(self, kind: Kind, sightings: Sequence[Sighting], moves: Sequence[Move]) -> None:
        self.kind, self._sightings, self._moves = kind, sightings, moves
        self.buried: set[int] = set()
        self._overdue: dict[int, Tombstone] = {}
        self._claim_all()

    def _claim_all(self) -> None:
        self.claims: dict[int, tuple[int, int]] = {}
        self._claim(self._sightings)
        self._claim(self._moves)

    def _claim(self, said: Sequence[Sighting] | Sequence[Move]) -> None:
        for each in said:
            claim = self.claims.get(each.anchor_id)
            if claim is None or each.version > claim[1]:
                self.claims[each.anchor_id] = (each.entity_id, each.version)

    async def plan(self, uow: UnitOfWork) -> None:
        """Finds out which anchors are new, which move, and which entities that concerns."""
        known = await store.owners(uow, self.kind, self.claims)
        self._new = [anchor_id for anchor_id in self.claims if anchor_id not in known]
        self.moving = self._moving(known)
        self._joined = {self.claims[anchor_id][0] for anchor_id in (*self._new, *self.moving)}
        self._concerned = self._joined | {entity_id for entity_id, _ in known.values()}

    def _moving(self, known: Mapping[int, tuple[int, int]]) -> set[int]:
        """Anchors whose stored owner a newer claim contradicts."""
        claims = self.claims
        return {a for a, (owner, version) in known.items() if claims[a][1] > version and claims[a][0] != owner}

    async def lock(self, uow: UnitOfWork) -> bool:
        """Locks every entity concerned and reads all its anchors; False when the plan was overtaken."""
        if self._joined:
            await store.add_entities(uow, self.kind, self._joined)
        self._entities = await store.lock_entities(uow, self.kind, self._concerned)
        # Asked with the locks held: an erasure that we did not wait for waits for us.
        if self.kind is Kind.PERSON and self._screen(await erasure_store.tombstones(uow, self.claims)):
            return False
        if self._new:
            await store.add_anchors(uow, self.kind, [AnchorRow(a, *self.claims[a], {}) for a in self._new])
        self._anchors = await store.anchors_of(uow, self.kind, self._concerned)
        if not self._anchors.keys() >= self.claims.keys():
            return False
        locked = {a: (row.entity_id, row.version) for a in self.claims if (row := self._anchors[a])}
        return self._moving(locked) == self.moving

    def _screen(self, stones: Mapping[int, Tombstone]) -> bool:
        """Drops what is said of erased persons; False when nothing was."""
        self._sightings, late = _parted(self._sightings, stones)
        self._moves, late_moves = _parted(self._moves, stones)
        late += late_moves
        if not late:
            return False
        for anchor_id, (entity_id, version) in late:
            known = self._overdue.get(anchor_id, stones[anchor_id])
            if entity_id == known.person_id and version > known.version:
                self._overdue[anchor_id] = known._replace(version=version)
        self._claim_all()
        self.buried |= {anchor_id for anchor_id, _ in late} - self.claims.keys()
        return True

    async def write(self, uow: UnitOfWork, rules: TagRules, changes: Changes, at_us: int) -> None:
        """Folds, moves, derives, writes; adds what changed."""
        changes.overdue += self._overdue.values()
        if touched := self._fold(at_us):
            await store.update_anchors(uow, self.kind, [self._anchors[anchor_id] for anchor_id in touched])
        grouped = by_entity(self._anchors.values())
        written = []
        for entity_id, entity in self._entities.items():
            anchors, received = grouped.get(entity_id, ()), self._received.get(entity_id, 0)
            due_us = entity.due_us
            if entity_id in self._regrouped or not entity.present:
                change = rules.renew(self.kind, entity, anchors, received, at_us)
            else:
                stated: Collection[str] = self._stated.get(entity_id, ())
                change = rules.advance(self.kind, entity, anchors, stated, received, at_us)
            if change:
                changes.entities.append(change)
            if change or entity.due_us != due_us:
                written.append(entity)
        if written:
            await store.update_entities(uow, self.kind, written)

    def _fold(self, at_us: int) -> set[int]:
        """Applies claims and sightings to the anchors in memory; returns the anchors that changed."""
        touched = set(self.moving)
        # Entities that gain or lose an anchor: everything they have is to be derived anew.
        self._regrouped = set(self._joined)
        for anchor_id in self.moving:
            row = self._anchors[anchor_id]
            self._regrouped.add(row.entity_id)
            row.entity_id, row.version = self.claims[anchor_id]
        for anchor_id, (_, version) in self.claims.items():
            # Who confirms the owner that is stored must still outdate older moves that come later.
            row = self._anchors[anchor_id]
            if version > row.version:
                row.version = version
                touched.add(anchor_id)
        self._received: dict[int, int] = {}
        self._stated: dict[int, set[str]] = defaultdict(set)
        for sighting in self._sightings:
            row = self._anchors[sighting.anchor_id]
            touched.add(row.anchor_id)
            fold(row.facts, sighting.event, sighting.statements)
            prune(row.facts, sighting.statements, at_us)
            self._stated[row.entity_id].update(map(_tag, sighting.statements))
            if sighting.event.received_at_us > self._received.get(row.entity_id, 0):
                self._received[row.entity_id] = sighting.event.received_at_us
        return touched


def _parted(
    said: Sequence[Claiming], stones: Mapping[int, Tombstone]
) -> tuple[list[Claiming], list[tuple[int, tuple[int, int]]]]:
    """What may stand, and (anchor, owner) of what is said of the time before an erasure."""
    kept: list[Claiming] = []
    late = []
    for each in said:
        stone = stones.get(each.anchor_id)
        if stone is not None and stone.covers(each.entity_id, each.version):
            late.append((each.anchor_id, (each.entity_id, each.version)))
        else:
            kept.append(each)
    return kept, late


async def rederive(
    uow: UnitOfWork, rules: TagRules, kind: Kind, entity_ids: Sequence[int], at_us: int | None = None
) -> Changes:
    """Derives entities anew, all tags, as of a moment (None: now): after the catalogue changed, or time went by."""
    await rules.hold(uow)
    at_us = now_us() if at_us is None else at_us
    entities = await store.lock_entities(uow, kind, entity_ids)
    grouped = by_entity((await store.anchors_of(uow, kind, entity_ids)).values())
    changes, written = Changes(), []
    for entity in entities.values():
        due_us = entity.due_us
        if change := rules.renew(kind, entity, grouped.get(entity.entity_id, ()), 0, at_us):
            changes.entities.append(change)
        if change or entity.due_us != due_us:
            written.append(entity)
    if written:
        await store.update_entities(uow, kind, written)
    return changes


def by_entity(anchors: Iterable[AnchorRow]) -> dict[int, list[Facts]]:
    """Facts of anchors by the entity that owns them."""
    grouped: dict[int, list[Facts]] = defaultdict(list)
    for row in anchors:
        grouped[row.entity_id].append(row.facts)
    return grouped
