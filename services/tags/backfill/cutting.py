"""Where the past of an added tag ends, and what is said of how far back it goes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import nats.errors
from nats.js.errors import NotFoundError

from chassis.bus import Bus
from chassis.db import UnitOfWork
from chassis.errors import Unavailable
from services.tags import consumers
from services.tags.backfill import jobs
from services.tags.domain.catalogue import FromEvents, Kind, TagDefinition

# Everybody who derives tags waits for the answer.
_PATIENCE_S: Final = 2.0


class Reach(Enum):
    """How far back the events of an added base tag go."""

    FROM_CREATION = 1
    FILLING = 2
    WHOLE = 3


@dataclass(frozen=True)
class History:
    """How far back, what share of the anchors is done, and how many had something to say."""

    reach: Reach
    progress: float = 1.0
    anchors: int = 0


class Histories:
    """Gives added tags their past, where an event lake keeps one (`keeps`)."""

    def __init__(self, bus: Bus, keeps: bool) -> None:
        self._bus, self._keeps = bus, keeps

    async def begin(self, uow: UnitOfWork, definitions: Iterable[TagDefinition]) -> None:
        """Cuts at this moment for those of new tags that come from events, in the transaction that adds them and after it
        has begun its change: nobody derives tags then. Raises Unavailable without the bus."""
        by_kind: dict[Kind, list[str]] = defaultdict(list)
        for definition in definitions:
            if isinstance(definition.origin, FromEvents):
                by_kind[definition.kind].append(definition.name)
        if by_kind and self._keeps:
            cut = await self._last_sequence()
            for kind, tags in by_kind.items():
                await jobs.add(uow, kind, tags, cut)

    async def _last_sequence(self) -> int:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return (await self._bus.extent(consumers.EVENTS_RESOLVED)).last
        except NotFoundError:
            return 0
        except (TimeoutError, OSError, nats.errors.Error) as error:
            raise Unavailable("the bus does not say where its events end", reason="BUS_UNAVAILABLE") from error


async def history(uow: UnitOfWork, definition: TagDefinition) -> History | None:
    """How far back an added tag goes; None for one that does not come from events."""
    if not isinstance(definition.origin, FromEvents):
        return None
    job = await jobs.of_tag(uow, definition.kind, definition.name)
    if job is None:
        return History(Reach.FROM_CREATION)
    if job.finished:
        return History(Reach.WHOLE, 1.0, job.anchors)
    largest = await jobs.largest_anchor(uow, job.kind)
    return History(Reach.FILLING, min(job.after_anchor / largest, 1.0) if largest else 0.0, job.anchors)
