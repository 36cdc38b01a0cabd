"""What happens when scores arrive: they belong to the person, not to an anchor, and the newest counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from chassis.db import UnitOfWork
from services.tags import erasure_store, store
from services.tags.domain.catalogue import Kind
from services.tags.handlers import Changes, TagRules, now_us


class Score(NamedTuple):
    """A person's score by one model."""

    person_id: int
    value: float
    scored_at_us: int
    received_at_us: int


async def apply(uow: UnitOfWork, rules: TagRules, tag: str, scores: Iterable[Score]) -> Changes:
    """Keeps the newest score of each person and derives the persons whose score changed; the erased have none."""
    await rules.hold(uow)
    newest: dict[int, Score] = {}
    for score in scores:
        if (known := newest.get(score.person_id)) is None or score.scored_at_us > known.scored_at_us:
            newest[score.person_id] = score
    await store.add_entities(uow, Kind.PERSON, newest)
    changes, written, at_us = Changes(), [], now_us()
    entities = await store.lock_entities(uow, Kind.PERSON, newest)
    erased = await erasure_store.erased_persons(uow, newest)
    for entity in (entities[person_id] for person_id in entities.keys() - erased):
        score = newest[entity.entity_id]
        if tag in entity.scores and entity.scores[tag][1] >= score.scored_at_us:
            continue
        entity.scores[tag] = [score.value, score.scored_at_us, score.received_at_us]
        written.append(entity)
        if entity.present and (change := rules.rescore(entity, tag, score.value, score.received_at_us, at_us)):
            changes.entities.append(change)
    if written:
        await store.update_entities(uow, Kind.PERSON, written)
    return changes
