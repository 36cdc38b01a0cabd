"""What scoring hears on the bus."""

from __future__ import annotations

from collections.abc import Sequence

from chassis.bus import Consumer, Message
from chassis.db import UnitOfWork
from services.scoring import events, store
from services.scoring.handlers import Scorer

TAGS = "scoring-tags"
ENTITIES = "scoring-entities"
# At most 5,000 changes a message: the persons of a batch fit one question to tags.
BATCH = 16


def tags_changed(scorer: Scorer) -> Consumer:
    """Scores persons whose features changed."""

    async def handle(uow: UnitOfWork, messages: Sequence[Message]) -> None:
        models = await scorer.models(uow)
        if not models:
            return
        changes, unreadable = events.feature_changes(messages, {tag for model in models for tag in model.tags})
        for message in unreadable:
            uow.dead_letter(TAGS, message.subject, message.data, "NOT_A_TAGS_CHANGED")
        for model in models:
            await scorer.score_changed(uow, model, changes)

    return Consumer(TAGS, events.TAGS_CHANGED, handle, BATCH)


def entities_changed() -> Consumer:
    """Forgets erased persons. Merges and splits come by way of their tags."""

    async def handle(uow: UnitOfWork, messages: Sequence[Message]) -> None:
        persons, unreadable = events.erased_persons(messages)
        for message in unreadable:
            uow.dead_letter(ENTITIES, message.subject, message.data, "NOT_AN_ENTITIES_CHANGED")
        if persons:
            await store.erase(uow, persons)

    return Consumer(ENTITIES, events.ENTITIES_CHANGED, handle, BATCH)
