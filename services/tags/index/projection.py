"""Keeps an index in step with the database: a snapshot first, then the service's own stream of changes."""

from __future__ import annotations

import asyncio
import logging
import time

from prometheus_client import Histogram
from troika.tags.v1 import events_pb2 as pb

from chassis.bus import Bus, Message
from chassis.db import Database
from chassis.errors import Unavailable, is_operational
from services.tags import events, store
from services.tags.domain.catalogue import FromEvents, Kind
from services.tags.index.index import AudienceIndex

log = logging.getLogger(__name__)

VISIBLE = Histogram(
    "troika_visible_seconds",
    "From accepted at the door to visible in the audience index; one observation per event that changed a base tag.",
    buckets=(*(i / 100 for i in range(1, 51)), *(i / 20 for i in range(11, 41)), 2.5, 3, 4, 5, 10, 30, 60),
)
_PAGE = 5_000
_RETRY_S = 1.0
_KINDS = {int(kind): kind for kind in Kind}


class Projection:
    """Boots and follows. Questions are refused until it has caught up."""

    def __init__(self, index: AudienceIndex, database: Database, bus: Bus) -> None:
        self.index, self._database, self._bus = index, database, bus
        self._caught_up = asyncio.Event()
        # Scores and business tags have longer ways behind them; they would blur what the figure is about.
        self._timed = {(int(d.kind), d.name) for d in index.catalogue.definitions if isinstance(d.origin, FromEvents)}

    async def run(self) -> None:
        """Runs until cancelled. The position is taken before the tables are read: what is seen twice is the same twice."""
        while True:
            try:
                position = await self._bus.last_sequence(events.TAGS_CHANGED.name)
                await self._load()
                break
            except Exception as error:
                if not is_operational(error):
                    raise
                log.warning("index waits", extra={"error": type(error).__name__})
                await asyncio.sleep(_RETRY_S)
        await self._bus.follow(events.TAGS_CHANGED, position, self._apply, self._caught_up)

    async def check(self) -> None:
        """Raises Unavailable until the index has caught up."""
        if not self._caught_up.is_set():
            raise Unavailable("the audience index is still catching up", reason="INDEX_BOOTING")

    async def _load(self) -> None:
        for kind in Kind:
            after = 0
            while page := await self._entities(kind, after):
                for row in page:
                    self.index.load_entity(kind, row.entity_id, row.present, row.tags, row.version)
                after = page[-1].entity_id
        last = (0, 0, "")
        while relations := await self._relations(last):
            for relation in relations:
                _relate(self.index, relation)
            last = (relations[-1].person_id, relations[-1].vehicle_id, relations[-1].kind)

    async def _entities(self, kind: Kind, after: int) -> list[store.EntityRow]:
        async with self._database.read() as uow:
            return await store.entities_after(uow, kind, after, _PAGE)

    async def _relations(self, after: tuple[int, int, str]) -> list[store.RelationRow]:
        async with self._database.read() as uow:
            return await store.relations_after(uow, after, _PAGE)

    async def _apply(self, message: Message) -> None:
        changed = pb.TagsChanged.FromString(message.data)
        project(self.index, changed)
        timed = self._timed
        # Several tags of one event are one observation.
        moments = {
            (change.entity_kind, change.entity_id, change.received_at_us)
            for change in changed.changes
            if change.received_at_us and (change.entity_kind, change.tag) in timed
        }
        now = time.time()
        for _, _, received in moments:
            VISIBLE.observe(max(0.0, now - received / 1e6))


def project(index: AudienceIndex, changed: pb.TagsChanged) -> None:
    """Applies one bus message to an index."""
    for change in changed.changes:
        value = events.from_value(change.value) if change.HasField("value") else None
        index.set_tag(_KINDS[change.entity_kind], change.entity_id, change.tag, value, change.version)
    for presence in changed.presence_changes:
        index.set_present(_KINDS[presence.entity_kind], presence.entity_id, presence.present, presence.version)
    for relation in changed.relation_changes:
        _relate(index, relation)


def _relate(index: AudienceIndex, change: store.RelationRow | pb.RelationChange) -> None:
    index.edges.set(change.person_id, change.vehicle_id, change.kind, change.removed, change.version)
