"""What happens when facts arrive: fold them into anchors, derive the entities, publish what changed.

Every path ends in `_derive`: an entity's tags are a function of its anchors' facts and its scores, so merges, splits,
late events and repeats all come out the same, whatever the order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from chassis.db import UnitOfWork
from chassis.errors import Unavailable
from services.tags import store
from services.tags.domain.business import BusinessRules
from services.tags.domain.catalogue import Catalogue, FromScore, Kind, Value
from services.tags.domain.facts import FactRules, Facts, Occurrence, Statement, fold
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


class Score(NamedTuple):
    """A person's score by one model."""

    person_id: int
    value: float
    scored_at_us: int
    received_at_us: int


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
    """What a transaction changed, to be published with it."""

    entities: list[EntityChange] = field(default_factory=list)
    relations: list[RelationRow] = field(default_factory=list)


class TagRules:
    """A catalogue, compiled: how events fold and what follows from them."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.facts = FactRules(catalogue)
        self.business = BusinessRules(catalogue)
        self.score_tags = {
            d.origin.model: name for name, d in catalogue.of(Kind.PERSON).items() if isinstance(d.origin, FromScore)
        }

    def derive(self, kind: Kind, base: dict[str, Value], entity: EntityRow, incremental: bool) -> dict[str, Value]:
        """All values of an entity that exists, from its base values and its scores. Takes `base` over."""
        values, old = base, entity.tags
        for name, score in entity.scores.items():
            if name in self.catalogue.of(kind):
                values[name] = score[0]
        changed = None
        if incremental:
            changed = {name for name, value in values.items() if old.get(name) != value}
            changed |= {name for name in old if name not in values and name not in self.business.inputs[kind]}
        self.business.complete(kind, values, old, changed)
        return values


# Another transaction moved an anchor between our look and our lock: we look again, keeping the locks we have.
_LOOKS = 4


async def apply(uow: UnitOfWork, rules: TagRules, batch: Batch) -> Changes:
    """Folds sightings, moves anchors and derives every entity concerned. Raises Unavailable when anchors keep moving."""
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
        await work.write(uow, rules, changes)
    if moving:
        pairs |= await store.pairs_of(uow, moving)
    if batch.relations:
        pairs |= await store.add_relations(uow, batch.relations)
    if pairs:
        changes.relations = await store.refresh_relations(uow, pairs)
    return changes


class _Work:
    """The part of a batch that concerns one kind of entity."""

    def __init__(self, kind: Kind, sightings: Sequence[Sighting], moves: Sequence[Move]) -> None:
        self.kind, self._sightings = kind, sightings
        self._explicit = {move.anchor_id for move in moves}
        self.claims: dict[int, tuple[int, int]] = {}
        self._claim(sightings)
        self._claim(moves)

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
        if self._new:
            await store.add_anchors(uow, self.kind, [AnchorRow(a, *self.claims[a], {}) for a in self._new])
        self._anchors = await store.anchors_of(uow, self.kind, self._concerned)
        if not self._anchors.keys() >= self.claims.keys():
            return False
        locked = {a: (row.entity_id, row.version) for a in self.claims if (row := self._anchors[a])}
        return self._moving(locked) == self.moving

    async def write(self, uow: UnitOfWork, rules: TagRules, changes: Changes) -> None:
        """Folds, moves, derives, writes; adds what changed."""
        if touched := self._fold():
            await store.update_anchors(uow, self.kind, [self._anchors[anchor_id] for anchor_id in touched])
        by_entity: dict[int, list[Facts]] = defaultdict(list)
        for row in self._anchors.values():
            by_entity[row.entity_id].append(row.facts)
        written = []
        for entity in self._entities.values():
            base = rules.facts.combined(self.kind, anchors) if (anchors := by_entity.get(entity.entity_id)) else None
            if change := _change(rules, self.kind, entity, base, self._received.get(entity.entity_id, 0)):
                changes.entities.append(change)
                written.append(entity)
        if written:
            await store.update_entities(uow, self.kind, written)

    def _fold(self) -> set[int]:
        """Applies claims and sightings to the anchors in memory; returns the anchors that changed."""
        touched = set(self.moving)
        for anchor_id in self.moving:
            row = self._anchors[anchor_id]
            row.entity_id, row.version = self.claims[anchor_id]
        for anchor_id in self._explicit:
            # A move back to where the anchor is stored must still outdate older moves that come later.
            row, version = self._anchors[anchor_id], self.claims[anchor_id][1]
            if version > row.version:
                row.version = version
                touched.add(anchor_id)
        self._received: dict[int, int] = {}
        received = self._received
        for sighting in self._sightings:
            row = self._anchors[sighting.anchor_id]
            touched.add(row.anchor_id)
            fold(row.facts, sighting.event, sighting.statements)
            if sighting.event.received_at_us > received.get(row.entity_id, 0):
                received[row.entity_id] = sighting.event.received_at_us
        return touched


async def apply_scores(uow: UnitOfWork, rules: TagRules, tag: str, scores: Iterable[Score]) -> Changes:
    """Keeps the newest score of each person and derives the persons whose score changed."""
    newest: dict[int, Score] = {}
    for score in scores:
        if (known := newest.get(score.person_id)) is None or score.scored_at_us > known.scored_at_us:
            newest[score.person_id] = score
    await store.add_entities(uow, Kind.PERSON, newest)
    changes, written = Changes(), []
    for entity in (await store.lock_entities(uow, Kind.PERSON, newest)).values():
        score = newest[entity.entity_id]
        if tag in entity.scores and entity.scores[tag][1] >= score.scored_at_us:
            continue
        entity.scores[tag] = [score.value, score.scored_at_us, score.received_at_us]
        written.append(entity)
        business = rules.business.inputs[Kind.PERSON]
        base = {name: value for name, value in entity.tags.items() if name not in business} if entity.present else None
        if change := _change(rules, Kind.PERSON, entity, base, score.received_at_us):
            changes.entities.append(change)
    if written:
        await store.update_entities(uow, Kind.PERSON, written)
    return changes


async def rederive(uow: UnitOfWork, rules: TagRules, kind: Kind, entity_ids: Sequence[int]) -> Changes:
    """Derives entities anew, all tags: for use after the catalogue changed."""
    entities = await store.lock_entities(uow, kind, entity_ids)
    by_entity: dict[int, list[Facts]] = defaultdict(list)
    for row in (await store.anchors_of(uow, kind, entity_ids)).values():
        by_entity[row.entity_id].append(row.facts)
    changes, written = Changes(), []
    for entity in entities.values():
        base = rules.facts.combined(kind, by_entity[entity.entity_id]) if entity.entity_id in by_entity else None
        if change := _change(rules, kind, entity, base, 0, incremental=False):
            changes.entities.append(change)
            written.append(entity)
    if written:
        await store.update_entities(uow, kind, written)
    return changes


def _change(
    rules: TagRules,
    kind: Kind,
    entity: EntityRow,
    base: dict[str, Value] | None,
    received_at_us: int,
    *,
    incremental: bool = True,
) -> EntityChange | None:
    """Derives one entity in place (`base` None: it has no anchor) and says what changed, None when nothing did."""
    present = base is not None
    new = {} if base is None else rules.derive(kind, base, entity, incremental and entity.present)
    old = entity.tags
    different: dict[str, Value | None] = {name: value for name, value in new.items() if old.get(name) != value}
    different.update((name, None) for name in old if name not in new)
    appeared = None if present == entity.present else present
    if not different and appeared is None:
        return None
    entity.tags, entity.present, entity.version = new, present, entity.version + 1
    return EntityChange(kind, entity.entity_id, entity.version, different, appeared, received_at_us)
