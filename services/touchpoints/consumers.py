"""JetStream doors: what other services state and touchpoints acts on."""

from __future__ import annotations

from collections.abc import Sequence

from chassis.bus import Consumer, Message
from chassis.db import UnitOfWork
from services.touchpoints import events, handlers
from services.touchpoints.channels.dealer.notices import DealerNotices

DELIVERIES = "touchpoints-deliveries"
LEADS = "touchpoints-leads"
ENTITIES = "touchpoints-entities"


async def _requested(uow: UnitOfWork, messages: Sequence[Message], /) -> None:
    await handlers.take_over(uow, [m.data for m in messages], DELIVERIES)


async def _handed_over(uow: UnitOfWork, messages: Sequence[Message], /) -> None:
    await handlers.hand_over_leads(uow, [m.data for m in messages], LEADS)


def consumers(notices: DealerNotices) -> Sequence[Consumer]:
    """All of them."""

    async def entities(uow: UnitOfWork, messages: Sequence[Message], /) -> None:
        await handlers.follow_entities(uow, [m.data for m in messages], notices)

    return (
        Consumer(DELIVERIES, events.REQUESTED, _requested),
        Consumer(LEADS, events.LEADS, _handed_over),
        Consumer(ENTITIES, events.ENTITIES, entities),
    )
