"""Time goes by: what leaves a window, or is long enough ago, changes its entity's tags within a second, found by index."""

from __future__ import annotations

import asyncio
import logging

from chassis.db import Database
from chassis.errors import is_operational
from services.tags import events, handlers, store
from services.tags.handlers import TagRules

log = logging.getLogger(__name__)

_PAGE = 500
# Longest wait between two looks; another replica's batch may bring something due sooner.
_LOOK_S = 0.25
_RETRY_S = 1.0


async def run(database: Database, rules: TagRules) -> None:
    """Derives what is due, for ever. Any number of replicas may run it."""
    while True:
        try:
            done = await expire(database, rules, handlers.now_us())
        except Exception as error:
            if not is_operational(error):
                log.exception("expiry failed")
            await asyncio.sleep(_RETRY_S)
            continue
        if done < _PAGE:
            await asyncio.sleep(_LOOK_S)


async def expire(database: Database, rules: TagRules, at_us: int) -> int:
    """Derives one page of what is due at a moment; returns how many entities that were."""
    async with database.transaction(traced=False) as uow:
        # Before entities are locked, as everybody does.
        await rules.hold(uow)
        due = await store.due(uow, at_us, _PAGE)
        for kind, entity_ids in due.items():
            events.publish(uow, await handlers.rederive(uow, rules, kind, entity_ids, at_us))
    return sum(map(len, due.values()))
