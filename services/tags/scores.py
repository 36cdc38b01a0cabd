"""What happens when scores arrive: they belong to the person, not to an anchor, and the newest counts.

A number tag of a model holds its score; a category tag of a model of classes holds the likeliest class, with how likely it
is. No class may be told of some persons: then the tag goes away.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from chassis.db import UnitOfWork
from services.tags import erasure_store, store
from services.tags.domain.catalogue import Kind
from services.tags.handlers import Changes, TagRules, now_us

# Where an entity's scores hold the confidence: [value, scored_at_us, received_at_us, confidence].
CONFIDENCE: Final = 3


class Score(NamedTuple):
    """A person's score by one model, or the class that she belongs to; None where none may be told."""

    person_id: int
    value: float | str | None
    scored_at_us: int
    received_at_us: int
    confidence: float = 1.0


def of_score(said: Any) -> Score:
    """From a PersonScore, for a number tag."""
    return Score(said.person_id, said.score, said.scored_at_us, said.received_at_us)


def of_label(said: Any) -> Score:
    """From a PersonScore, for a category tag."""
    return Score(said.person_id, said.label or None, said.scored_at_us, said.received_at_us, said.probability)


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
        entity.scores[tag] = [score.value, score.scored_at_us, score.received_at_us, score.confidence]
        written.append(entity)
        if entity.present and (change := rules.rescore(entity, tag, score.value, score.received_at_us, at_us)):
            changes.entities.append(change)
    if written:
        await store.update_entities(uow, Kind.PERSON, written)
    return changes
