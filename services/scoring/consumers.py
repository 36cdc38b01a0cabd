"""What scoring hears on the bus."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from chassis.bus import Consumer, Message
from chassis.db import UnitOfWork
from services.scoring import consents, events, store, texts
from services.scoring.handlers import Scorer
from services.scoring.texts import TextReader

TAGS = "scoring-tags"
ENTITIES = "scoring-entities"
TEXTS = "scoring-texts"
# At most 5,000 changes a message: the persons of a batch fit one question to tags.
BATCH = 16
# Messages hold up to 500 events: were all of them texts, they would take two seconds.
TEXT_BATCH = 4


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


def events_resolved(reader: TextReader, properties: Collection[str]) -> Consumer:
    """Reads the texts that come with events; before a text model is trained they go by unread."""

    async def handle(uow: UnitOfWork, messages: Sequence[Message]) -> None:
        if (model := await reader.in_use(uow)) is None:
            return
        resolved, unreadable = events.resolved_events(messages)
        for message in unreadable:
            uow.dead_letter(TEXTS, message.subject, message.data, "NOT_A_RESOLVED_BATCH")
        given = list(texts.written(resolved, properties))
        erased = await store.erased(uow, [each.event.person.entity_id for each in given])
        given = [each for each in given if each.event.person.entity_id not in erased]
        if given:
            _, readings = await reader.classify(model, [each.text for each in given])
            for told in await texts.keep(uow, given, readings):
                uow.publish(events.TEXTS_READ, told.SerializeToString())

    return Consumer(TEXTS, events.EVENTS_RESOLVED, handle, TEXT_BATCH)


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
