"""After the catalogue changed, every entity is derived anew from its anchors' facts, in the background."""

from __future__ import annotations

import asyncio
import hashlib
import logging

from chassis.db import Database
from chassis.errors import is_operational
from services.tags import events, handlers, store
from services.tags.domain.catalogue import Catalogue, Kind
from services.tags.handlers import TagRules

log = logging.getLogger(__name__)

_PAGE = 500
_RETRY_S = 1.0


async def run(database: Database, rules: TagRules) -> None:
    """Derives each kind whose catalogue differs from the one it was last derived with; repeats after faults."""
    for kind in Kind:
        digest = digest_of(rules.catalogue, kind)
        while True:
            try:
                await _rederive(database, rules, kind, digest)
                break
            except Exception as error:
                if not is_operational(error):
                    raise
                await asyncio.sleep(_RETRY_S)


async def _rederive(database: Database, rules: TagRules, kind: Kind, digest: str) -> None:
    async with database.read() as uow:
        if await store.derived_with(uow, kind) == digest:
            return
    after = count = 0
    while True:
        async with database.transaction() as uow:
            page = [row.entity_id for row in await store.entities_after(uow, kind, after, _PAGE)]
            if not page:
                await store.mark_derived(uow, kind, digest)
                break
            events.publish(uow, await handlers.rederive(uow, rules, kind, page))
        after, count = page[-1], count + len(page)
    log.info("derived anew", extra={"kind": kind.name, "entities": count})


def digest_of(catalogue: Catalogue, kind: Kind) -> str:
    """A fingerprint of all definitions of a kind."""
    definitions = [(d.name, d.type.value, d.expression, repr(d.origin)) for d in catalogue.of(kind).values()]
    return hashlib.sha256(repr(sorted(definitions)).encode()).hexdigest()
