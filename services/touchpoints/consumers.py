"""JetStream doors: what other services state and touchpoints acts on."""

from __future__ import annotations

from collections.abc import Sequence

from chassis.bus import Consumer, Message
from chassis.db import UnitOfWork
from services.touchpoints import events, handlers

DELIVERIES = "touchpoints-deliveries"
ENTITIES = "touchpoints-entities"


async def _requested(uow: UnitOfWork, messages: Sequence[Message], /) -> None:
    await handlers.take_over(uow, [m.data for m in messages], DELIVERIES)


async def _entities(uow: UnitOfWork, messages: Sequence[Message], /) -> None:
    await handlers.follow_entities(uow, [m.data for m in messages])


CONSUMERS = (Consumer(DELIVERIES, events.REQUESTED, _requested), Consumer(ENTITIES, events.ENTITIES, _entities))
