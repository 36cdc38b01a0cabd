"""Keeps an index in step: a snapshot of its own or the database first, then the service's own stream of changes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import Histogram
from troika.tags.v1 import events_pb2 as pb

from chassis.bus import Bus, Message
from chassis.db import Database
from chassis.errors import Unavailable, is_operational
from services.tags import events
from services.tags.domain.catalogue import FromEvents, Kind
from services.tags.events import Told
from services.tags.index import loading
from services.tags.index.index import AudienceIndex
from services.tags.index.snapshots import Snapshots

log = logging.getLogger(__name__)

VISIBLE = Histogram(
    "troika_visible_seconds",
    "From accepted at the door to visible in the audience index; one observation per event that changed a base tag.",
    buckets=(*(i / 100 for i in range(1, 51)), *(i / 20 for i in range(11, 41)), 2.5, 3, 4, 5, 10, 30, 60),
)
_RETRY_S, _MEND_S = 1.0, 0.05
_KINDS = {int(kind): kind for kind in Kind}
# Entities that changed, by kind; those at either end of a relation that did are among them.
Changed = Mapping[Kind, set[int]]
Listener = Callable[[Changed], None]


class Projection:
    """Boots and follows. Questions are refused until it has caught up."""

    def __init__(self, index: AudienceIndex, database: Database, bus: Bus, snapshots: Snapshots | None = None) -> None:
        self.index, self._database, self._bus, self._snapshots = index, database, bus, snapshots
        self._caught_up, self._torn = asyncio.Event(), asyncio.Event()
        self._listeners: list[Listener] = []
        self._sequence, self._restored = 0, False
        self._edition, self._timed = -1, dict[int, frozenset[str]]()

    @property
    def sequence(self) -> int:
        """Up to where in TAGS_CHANGED the index has everything."""
        return self._sequence

    def listen(self, listener: Listener) -> None:
        """Lets someone know, from now on, whenever changes have been applied."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Runs until cancelled. The position is taken before the tables are read: what is seen twice is the same twice."""
        while True:
            try:
                await self._boot()
                break
            except Exception as error:
                if not is_operational(error):
                    raise
                log.warning("index waits", extra={"error": type(error).__name__})
                await asyncio.sleep(_RETRY_S)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._bus.follow(events.TAGS_CHANGED, self._sequence, self._apply, self._caught_up))
            tasks.create_task(self._mend())
            if self._snapshots:
                tasks.create_task(self._keep_snapshots(self._snapshots))

    async def check(self) -> None:
        """Raises Unavailable until the index has caught up."""
        if not self._caught_up.is_set():
            raise Unavailable("the audience index is still catching up", reason="INDEX_BOOTING")

    async def _boot(self) -> None:
        began = time.perf_counter()
        extent = await self._bus.extent(events.TAGS_CHANGED.name)
        sequence = await self._snapshots.load(self.index, extent) if self._snapshots else None
        if sequence is None:
            self._sequence = extent.last
            await loading.load(self.index, self._database)
        else:
            self._sequence, self._restored = sequence, True
        source = "snapshot" if self._restored else "database"
        log.info("index loaded", extra={"source": source, "seconds": round(time.perf_counter() - began, 3)})
        self._torn.set()

    async def _mend(self) -> None:
        while True:
            await self._torn.wait()
            self._torn.clear()
            try:
                while mended := await loading.mend(self.index, self._database):
                    count = sum(map(len, mended.values()))
                    log.info("index mended", extra={"entities": count})
                    self._tell(mended)
                    await asyncio.sleep(_MEND_S)
            except Exception as error:
                if not is_operational(error):
                    raise
                log.warning("mending waits", extra={"error": type(error).__name__})
                await asyncio.sleep(_RETRY_S)
                self._torn.set()

    async def _keep_snapshots(self, snapshots: Snapshots) -> None:
        await self._caught_up.wait()
        if self._restored:
            await asyncio.sleep(snapshots.period_s)
        while True:
            try:
                extent = await self._bus.extent(events.TAGS_CHANGED.name)
                await snapshots.write(self.index, extent.created, self._sequence)
            except Exception as error:
                # Without one the next boot takes longer, and that is all.
                log.warning("snapshot failed", exc_info=not is_operational(error), extra={"error": type(error).__name__})
            await asyncio.sleep(snapshots.period_s)

    async def _apply(self, message: Message) -> None:
        changed = pb.TagsChanged.FromString(message.data)
        entities = events.told(changed)
        project(self.index, changed, entities)
        self._sequence = message.sequence
        if any(self.index.torn.values()):
            self._torn.set()
        if self._listeners:
            self._tell(_concerned(changed, entities))
        now, timed = time.time(), self._base_tags()
        # Several tags of one event are one observation.
        for received in {
            (each.kind, each.entity_id, each.received_at_us)
            for each in entities
            if each.received_at_us and not timed[each.kind].isdisjoint(each.tags)
        }:
            VISIBLE.observe(max(0.0, now - received[2] / 1e6))

    def _base_tags(self) -> Mapping[int, frozenset[str]]:
        """Tags whose way is timed: scores and business tags have longer ways behind them, which would blur the figure."""
        catalogue = self.index.catalogue
        if self._edition != catalogue.edition:
            self._edition = catalogue.edition
            self._timed = {
                int(kind): frozenset(n for n, d in catalogue.of(kind).items() if isinstance(d.origin, FromEvents))
                for kind in Kind
            }
        return self._timed

    def heal(self, torn: Mapping[Kind, set[int]]) -> None:
        """Has entities read anew from the database."""
        for kind, ids in torn.items():
            self.index.torn[kind] |= ids
        self._torn.set()

    def _tell(self, changed: Changed) -> None:
        for listener in self._listeners:
            listener(changed)


def project(index: AudienceIndex, changed: pb.TagsChanged, entities: Sequence[Told] | None = None) -> None:
    """Applies one bus message to an index. `entities`: what it says of them, where the caller has read it already."""
    for kind, entity_id, version, tags, present, _ in events.told(changed) if entities is None else entities:
        index.apply(_KINDS[kind], entity_id, version, tags, present)
    for relation in changed.relation_changes:
        pair = _KINDS.get(relation.subject_kind), _KINDS.get(relation.object_kind)
        if pair[0] and pair[1]:
            index.relations.set(
                (pair[0], pair[1]),
                relation.subject_id,
                relation.object_id,
                relation.kind,
                relation.removed,
                relation.version,
            )


def _concerned(changed: pb.TagsChanged, entities: Sequence[Told]) -> Changed:
    concerned: dict[Kind, set[int]] = {kind: set() for kind in Kind}
    for each in entities:
        concerned[_KINDS[each.kind]].add(each.entity_id)
    for relation in changed.relation_changes:
        for kind, entity_id in ((relation.subject_kind, relation.subject_id), (relation.object_kind, relation.object_id)):
            if kind in _KINDS:
                concerned[_KINDS[kind]].add(entity_id)
    return concerned
