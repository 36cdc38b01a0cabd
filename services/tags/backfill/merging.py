"""Puts the past of some tags into the anchors' facts and derives the entities, as if the events came late."""

from __future__ import annotations

from collections.abc import Sequence

from chassis.db import UnitOfWork
from chassis.errors import Unavailable
from services.tags import handlers, store
from services.tags.backfill.reading import Past
from services.tags.domain.catalogue import Kind
from services.tags.domain.facts import fold, prune
from services.tags.handlers import Changes, TagRules

_LOOKS = 4


async def merge(uow: UnitOfWork, rules: TagRules, kind: Kind, pasts: Sequence[Past], at_us: int | None = None) -> Changes:
    """Folds what was said into anchors that are known; others are of erased persons.

    No order of events matters to a fold, so what came since the tag was added may be there before. Raises Unavailable when
    anchors keep moving.
    """
    await rules.hold(uow)
    at_us = handlers.now_us() if at_us is None else at_us
    said = {past.anchor_id: past.said for past in pasts}
    for _ in range(_LOOKS):
        owners = await store.owners(uow, kind, said)
        entity_ids = sorted({entity_id for entity_id, _ in owners.values()})
        await store.lock_entities(uow, kind, entity_ids)
        anchors = await store.anchors_of(uow, kind, entity_ids)
        if owners.keys() <= anchors.keys():
            break
    else:
        raise Unavailable("anchors moved while their entities were being locked")
    rows = [anchors[anchor_id] for anchor_id in owners]
    for row in rows:
        for occurrence, statements in said[row.anchor_id]:
            # A tag may have been retired meanwhile.
            present = [each for each in statements if each.tag in rules.facts.folds[kind]]
            fold(row.facts, occurrence, present)
            prune(row.facts, present, at_us)
    if not rows:
        return Changes()
    await store.update_anchors(uow, kind, rows)
    return await handlers.rederive(uow, rules, kind, entity_ids, at_us)
