"""What scoring hears on the bus."""

from __future__ import annotations

from collections.abc import Sequence

from chassis.bus import Consumer, Message
from chassis.db import UnitOfWork
from services.scoring import consents, events, store
from services.scoring.handlers import Scorer

TAGS = "scoring-tags"
ENTITIES = "scoring-entities"
# At most 5,000 changes a message: the persons of a batch fit one question to tags.
BATCH = 16


def tags_changed(scorer: Scorer) -> Consumer:
    """Scores persons whose features changed."""

    async def handle(uow: UnitOfWork, messages: Sequence[Message]) -> None:
        versions = await scorer.models(uow)
        if not versions:
            return
        changes, unreadable = events.feature_changes(messages, {tag for version in versions for tag in version.served.tags})
        for message in unreadable:
            uow.dead_letter(TAGS, message.subject, message.data, "NOT_A_TAGS_CHANGED")
        for version in versions:
            await scorer.score_changed(uow, version, changes)

    return Consumer(TAGS, events.TAGS_CHANGED, handle, BATCH)


def entities_changed() -> Consumer:
    """Follows what persons say of personalisation, and forgets the erased. Merges and splits come by way of their tags."""

    async def handle(uow: UnitOfWork, messages: Sequence[Message]) -> None:
        heard = events.entities_changes(messages)
        for message in heard.unreadable:
            uow.dead_letter(ENTITIES, message.subject, message.data, "NOT_AN_ENTITIES_CHANGED")
        if heard.erased:
            await store.erase(uow, heard.erased)
            await consents.forget(uow, heard.erased_anchors)
        if concerned := await consents.keep(uow, heard.said, heard.moves):
            for model in await store.versions_in_use(uow):
                await store.look_again(uow, model, concerned, 0)

    return Consumer(ENTITIES, events.ENTITIES_CHANGED, handle, BATCH)
