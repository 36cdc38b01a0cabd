"""Writes what lines say into the documents of their anchors and derives the entities, as events do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

from pyroaring import BitMap64

from chassis.db import UnitOfWork
from chassis.errors import Unavailable
from services.tags import erasing, events, handlers, store
from services.tags.domain import imported
from services.tags.domain.catalogue import Kind
from services.tags.domain.imported import Imported, Statement
from services.tags.handlers import Batch, Changes, Move, TagRules, by_entity
from services.tags.imports.jobs import Counts
from services.tags.imports.values import Fault
from services.tags.store import AnchorRow, EntityRow

REPEATED: Final = "SAME_ENTITY_AND_TAG"
NOT_IMPORTED: Final = "TAG_NOT_IMPORTED"
_LOOKS: Final = 4


@dataclass(frozen=True)
class Line:
    """A line that matched, and what it says."""

    line: int
    owner: Move
    statements: Sequence[Statement]


class Seen:
    """What a dry run said already, for it keeps no documents that would tell: entities and tags, in a bitmap."""

    def __init__(self, tags: Iterable[str]) -> None:
        self._places = {tag: place for place, tag in enumerate(tags)}
        self._numbers = BitMap64()

    def has(self, entity_id: int, tag: str) -> bool:
        """Whether something was said of it in an earlier chunk."""
        return self._number(entity_id, tag) in self._numbers

    def add(self, pairs: Iterable[tuple[int, str]]) -> None:
        """Remembers a chunk."""
        self._numbers.update(self._number(*pair) for pair in pairs)

    def _number(self, entity_id: int, tag: str) -> int:
        return entity_id * len(self._places) + self._places[tag]


@dataclass(frozen=True)
class Written:
    """What lines came to, and which entities and tags they spoke of first."""

    counts: Counts
    faults: Sequence[Fault]
    pairs: Set[tuple[int, str]]


@dataclass(frozen=True)
class Stamp:
    """Whose lines these are."""

    import_id: int
    partner: str
    kind: Kind
    at_us: int


async def write(
    uow: UnitOfWork,
    rules: TagRules,
    stamp: Stamp,
    lines: Sequence[Line],
    columns: Mapping[str, str],
    seen: Seen | None = None,
) -> Written:
    """Writes lines, and tells which of them speak of the same entity and tag as others of the file.

    `columns`: the column that each tag comes from. Lines of persons who were erased meanwhile match nobody.
    """
    await rules.hold(uow)
    await _bring_up_to_date(uow, rules, stamp, lines)
    entities, anchors = await lock(uow, stamp.kind, {line.owner.anchor_id for line in lines})
    folded = _fold(rules, stamp, lines, columns, anchors, seen)
    if folded.touched:
        await store.update_anchors(uow, stamp.kind, [anchors[anchor_id] for anchor_id in folded.touched])
        await _note(uow, stamp.import_id, folded.touched)
    before = {entity_id: dict(entities[entity_id].tags) for entity_id in folded.stated}
    await derive(uow, rules, stamp.kind, entities, anchors, folded.stated, stamp.at_us)
    counts = folded.counts
    for entity_id, tag in folded.counted:
        old, new = before[entity_id], entities[entity_id].tags
        if old.get(tag) == new.get(tag):
            counts.values_unchanged += 1
        elif tag in old:
            counts.values_changed += 1
        else:
            counts.values_new += 1
    return Written(counts, folded.faults, folded.counted)


@dataclass
class _Folded:
    """What lines did to documents in memory: anchors with their line, tags by entity, and which of them to count."""

    counts: Counts = field(default_factory=Counts)
    faults: list[Fault] = field(default_factory=list)
    touched: dict[int, int] = field(default_factory=dict)
    stated: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    counted: set[tuple[int, str]] = field(default_factory=set)


def _fold(
    rules: TagRules,
    stamp: Stamp,
    lines: Sequence[Line],
    columns: Mapping[str, str],
    anchors: Mapping[int, AnchorRow],
    seen: Seen | None,
) -> _Folded:
    folded, folds, grouped = _Folded(), rules.facts.folds[stamp.kind], by_entity(anchors.values())
    for line in lines:
        row = anchors.get(line.owner.anchor_id)
        if row is None:
            folded.counts.unmatched += 1
            continue
        folded.counts.matched += 1
        folded.touched[row.anchor_id] = line.line
        tags = folded.stated[row.entity_id]
        for said in line.statements:
            rule = folds.get(said.tag)
            if not isinstance(rule, Imported):
                # The catalogue changed while the file was taken in.
                folded.counts.values_refused += 1
                folded.faults.append(Fault(line.line, columns[said.tag], NOT_IMPORTED))
                continue
            before = seen is not None and seen.has(row.entity_id, said.tag)
            if before or imported.said_elsewhere(grouped[row.entity_id], said.tag, stamp.import_id, line.line):
                folded.counts.values_repeated += 1
                folded.faults.append(Fault(line.line, columns[said.tag], REPEATED))
            else:
                folded.counted.add((row.entity_id, said.tag))
            tags.add(said.tag)
            imported.add(row.facts, rule, said, key=stamp.import_id, partner=stamp.partner, line=line.line)
    return folded


async def _bring_up_to_date(uow: UnitOfWork, rules: TagRules, stamp: Stamp, lines: Sequence[Line]) -> None:
    """Lets tags know of the anchors, where identity knows more than the bus has told yet."""
    owners = await store.owners(uow, stamp.kind, {line.owner.anchor_id for line in lines})
    batch = Batch()
    for owner in {line.owner for line in lines}:
        known = owners.get(owner.anchor_id)
        if known is None or (known[0] != owner.entity_id and known[1] < owner.version):
            batch.moves[stamp.kind].append(owner)
    if batch.moves[stamp.kind]:
        changes = await handlers.apply(uow, rules, batch, stamp.at_us)
        events.publish(uow, changes)
        if changes.overdue:
            events.publish(uow, await erasing.erase(uow, rules, changes.overdue))


async def lock(uow: UnitOfWork, kind: Kind, anchor_ids: set[int]) -> tuple[dict[int, EntityRow], dict[int, AnchorRow]]:
    """Locks the owners of some anchors; returns them and all their anchors. Raises Unavailable when anchors keep moving."""
    for _ in range(_LOOKS):
        wanted = {owner for owner, _ in (await store.owners(uow, kind, anchor_ids)).values()}
        entities = await store.lock_entities(uow, kind, wanted)
        anchors = await store.anchors_of(uow, kind, wanted)
        owners = await store.owners(uow, kind, anchor_ids)
        if owners.keys() <= anchors.keys() and all(anchors[a].entity_id == owner for a, (owner, _) in owners.items()):
            return entities, anchors
    raise Unavailable("anchors moved while their entities were being locked")


async def derive(
    uow: UnitOfWork,
    rules: TagRules,
    kind: Kind,
    entities: dict[int, EntityRow],
    anchors: dict[int, AnchorRow],
    stated: Mapping[int, set[str]],
    at_us: int,
) -> None:
    """Lets tags of locked entities follow their facts, writes and publishes what changed."""
    grouped = by_entity(anchors.values())
    changes, written = Changes(), []
    for entity_id, tags in stated.items():
        entity = entities[entity_id]
        due_us = entity.due_us
        if entity.present:
            change = rules.advance(kind, entity, grouped[entity_id], tags, at_us, at_us)
        else:
            change = rules.renew(kind, entity, grouped[entity_id], at_us, at_us)
        if change:
            changes.entities.append(change)
        if change or entity.due_us != due_us:
            written.append(entity)
    if written:
        await store.update_entities(uow, kind, written)
    events.publish(uow, changes)


async def _note(uow: UnitOfWork, import_id: int, touched: dict[int, int]) -> None:
    await uow.fetch(
        "INSERT INTO import_line (import_id, anchor_id, line) SELECT $1, anchor_id, line"
        " FROM unnest($2::bigint[], $3::bigint[]) AS n(anchor_id, line)"
        " ON CONFLICT (import_id, anchor_id) DO UPDATE SET line = excluded.line",
        import_id,
        list(touched),
        list(touched.values()),
    )
