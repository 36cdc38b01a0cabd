"""Relations as identity tells them: what has ended (a car that was sold) ends here, whatever sources once said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chassis.db import UnitOfWork
from services.tags import erasure_store, store
from services.tags.domain.catalogue import Kind
from services.tags.handlers import Changes, EntityChange
from services.tags.store import Pair

# Nobody's anchors lead to these: they exist as long as somebody is related to them.
_WITHOUT_ANCHORS = (Kind.HOUSEHOLD, Kind.DEALER)


class Told(NamedTuple):
    """A relation since `valid_from_us`; `valid_to_us` 0 while it holds; `void` when it was taken back.

    `sequence` is the place in the stream: of two that say something of the same relation the later counts.
    """

    pair: Pair
    valid_from_us: int
    valid_to_us: int
    void: bool
    sequence: int


async def follow(uow: UnitOfWork, told: Sequence[Told]) -> Changes:
    """Keeps what was told and begins, ends or resumes relations. Order and repetition do not matter."""
    newest: dict[tuple[Pair, int], Told] = {}
    for each in told:
        known = newest.get((each.pair, each.valid_from_us))
        if known is None or each.sequence > known.sequence:
            newest[each.pair, each.valid_from_us] = each
    persons = {pair.subject_id for pair, _ in newest if pair.subject_kind == Kind.PERSON}
    # Sources that state a relation hold their person's lock.
    await store.add_entities(uow, Kind.PERSON, persons)
    await store.lock_entities(uow, Kind.PERSON, persons)
    erased = await erasure_store.erased_persons(uow, persons)
    rows = [
        each for (pair, _), each in sorted(newest.items()) if pair.subject_kind != Kind.PERSON or pair.subject_id not in erased
    ]
    if not rows:
        return Changes()
    await _keep(uow, rows)
    pairs = sorted({each.pair for each in rows})
    # Of a car that no source ever related to its person, identity alone says nothing.
    ours = [pair for pair in pairs if (pair.subject_kind, pair.object_kind) != (Kind.PERSON, Kind.VEHICLE)]
    concerned = {*ours, *await store.known_pairs(uow, [pair for pair in pairs if pair not in set(ours)])}
    changes = Changes(relations=await store.refresh_relations(uow, concerned)) if concerned else Changes()
    for kind in _WITHOUT_ANCHORS:
        await _exist(uow, kind, {pair.object_id for pair in ours if pair.object_kind == kind}, changes)
    return changes


async def _exist(uow: UnitOfWork, kind: Kind, entity_ids: set[int], changes: Changes) -> None:
    """Lets entities exist while somebody is related to them."""
    if not entity_ids:
        return
    await store.add_entities(uow, kind, entity_ids)
    entities = await store.lock_entities(uow, kind, entity_ids)
    present = {pair.object_id for pair in await store.related(uow, kind, entity_ids)}
    written = []
    for entity in entities.values():
        if entity.present != (entity.entity_id in present):
            entity.present, entity.version = not entity.present, entity.version + 1
            changes.entities.append(EntityChange(kind, entity.entity_id, entity.version, {}, entity.present, 0))
            written.append(entity)
    if written:
        await store.update_entities(uow, kind, written)


async def _keep(uow: UnitOfWork, rows: Sequence[Told]) -> None:
    """Writes what is newer than what is kept."""
    await uow.execute(
        "INSERT INTO told_relation AS t (subject_kind, subject_id, object_kind, object_id, kind, valid_from_us, valid_to_us,"
        " void, sequence) SELECT * FROM unnest(CAST(:subject_kinds AS smallint[]), CAST(:subjects AS bigint[]),"
        " CAST(:object_kinds AS smallint[]), CAST(:objects AS bigint[]), CAST(:kinds AS text[]),"
        " CAST(:since AS bigint[]), CAST(:until AS bigint[]), CAST(:void AS boolean[]), CAST(:sequences AS bigint[]))"
        " ON CONFLICT (subject_kind, subject_id, object_kind, object_id, kind, valid_from_us) DO UPDATE SET"
        " valid_to_us = EXCLUDED.valid_to_us, void = EXCLUDED.void, sequence = EXCLUDED.sequence"
        " WHERE EXCLUDED.sequence > t.sequence",
        **store.pair_arrays([each.pair for each in rows]),
        since=[each.valid_from_us for each in rows],
        until=[each.valid_to_us for each in rows],
        void=[each.void for each in rows],
        sequences=[each.sequence for each in rows],
    )
