"""Erased persons: facts, documents and scores go, whoever held copies is told, and what comes late does not bring them back."""

from __future__ import annotations

from collections.abc import Sequence

from chassis.db import UnitOfWork
from chassis.errors import Unavailable
from services.tags import consents, erasure_store, store
from services.tags.domain.catalogue import Kind
from services.tags.erasure_store import Tombstone
from services.tags.handlers import Changes, TagRules, by_entity, now_us
from services.tags.lake import erasing as lake
from services.tags.sharing import forgetting
from services.tags.store import EntityRow

_LOOKS = 4


async def erase(uow: UnitOfWork, rules: TagRules, stones: Sequence[Tombstone]) -> Changes:
    """Forgets what is kept under the anchors, whoever has them now, and the scores of the persons. Repeats change nothing."""
    person_of = {stone.anchor_id: stone.person_id for stone in stones}
    persons = set(person_of.values())
    await store.serialise_moves(uow)
    # Who is just bringing a person that we do not know is waited for here, or waits for us and finds the tombstones.
    await store.add_entities(uow, Kind.PERSON, persons)
    entities = await store.lock_entities(uow, Kind.PERSON, persons)
    for _ in range(_LOOKS):
        owners = await store.owners(uow, Kind.PERSON, person_of)
        if {owner for owner, _ in owners.values()} <= entities.keys():
            break
        entities = await store.lock_entities(uow, Kind.PERSON, persons | {owner for owner, _ in owners.values()})
    else:
        raise Unavailable("anchors moved while their entities were being locked")
    pairs = await store.pairs_of(uow, {Kind.PERSON: person_of})
    seen = {a: version for a, (owner, version) in owners.items() if owner == person_of[a]}
    await erasure_store.bury(uow, [s._replace(version=max(s.version, seen.get(s.anchor_id, 0))) for s in stones])
    await lake.queue(uow, person_of)
    # Who writes without a person's lock is waited for here, and others wait.
    await consents.wait_for_writers(uow)
    await consents.forget(uow, sorted(person_of))
    await forgetting.forget(uow, sorted(person_of))
    changes = Changes()
    await _derive(uow, rules, entities, persons, changes)
    if pairs:
        changes.relations = await store.refresh_relations(uow, pairs)
    return changes


async def _derive(uow: UnitOfWork, rules: TagRules, entities: dict[int, EntityRow], erased: set[int], changes: Changes) -> None:
    """Derives entities from the anchors that are left; the erased ones lose their scores as well."""
    left = by_entity((await store.anchors_of(uow, Kind.PERSON, entities)).values())
    written = []
    for entity in entities.values():
        gone = entity.entity_id in erased
        if gone:
            entity.scores = {}
        change = rules.renew(Kind.PERSON, entity, left.get(entity.entity_id, ()), 0, now_us())
        if change:
            changes.entities.append(change)
        if change or gone:
            written.append(entity)
    if written:
        await store.update_entities(uow, Kind.PERSON, written)
