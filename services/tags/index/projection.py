"""Keeps an index in step: a snapshot of its own or the database first, then the service's own stream of changes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from prometheus_client import Histogram
from troika.tags.v1 import events_pb2 as pb

from chassis.bus import Bus, Message
from chassis.db import Database
from chassis.errors import Unavailable, is_operational
from services.tags import events
from services.tags.domain.catalogue import FromEvents, Kind, Value
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
# Kind, entity, version.
_Version = tuple[int, int, int]
Listener = Callable[[Changed], None]


class Projection:
    """Boots and follows. Questions are refused until it has caught up."""

    def __init__(self, index: AudienceIndex, database: Database, bus: Bus, snapshots: Snapshots | None = None) -> None:
        self.index, self._database, self._bus, self._snapshots = index, database, bus, snapshots
        self._caught_up, self._torn = asyncio.Event(), asyncio.Event()
        self._listeners: list[Listener] = []
        self._sequence = 0
        # Scores and business tags have longer ways behind them; they would blur what the figure is about.
        self._timed = {(int(d.kind), d.name) for d in index.catalogue.definitions if isinstance(d.origin, FromEvents)}

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
            self._sequence = sequence
        source = "database" if sequence is None else "snapshot"
        log.info("index loaded", extra={"source": source, "seconds": round(time.perf_counter() - began, 3)})
        self._torn.set()

    async def _mend(self) -> None:
        while True:
            await self._torn.wait()
            self._torn.clear()
            try:
                while mended := await loading.mend(self.index, self._database):
                    log.info("index mended", extra={"entities": sum(map(len, mended.values()))})
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
        project(self.index, changed)
        self._sequence = message.sequence
        if any(self.index.torn.values()):
            self._torn.set()
        if self._listeners:
            self._tell(_concerned(changed))
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

    def _tell(self, changed: Changed) -> None:
        for listener in self._listeners:
            listener(changed)


def project(index: AudienceIndex, changed: pb.TagsChanged) -> None:
    """Applies one bus message to an index."""
    presences: dict[_Version, bool] = {(p.entity_kind, p.entity_id, p.version): p.present for p in changed.presence_changes}
    tags: dict[str, Value | None] = {}
    told: _Version | None = None
    # All that one version of an entity changed stands together.
    for change in changed.changes:
        version: _Version = (change.entity_kind, change.entity_id, change.version)
        if version != told:
            _apply_version(index, told, tags, presences)
            told, tags = version, {}
        tags[change.tag] = events.from_value(change.value) if change.HasField("value") else None
    _apply_version(index, told, tags, presences)
    for left in list(presences):
        _apply_version(index, left, {}, presences)
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


def _apply_version(
    index: AudienceIndex,
    told: _Version | None,
    tags: Mapping[str, Value | None],
    presences: dict[_Version, bool],
) -> None:
    if told:
        kind, entity_id, version = told
        index.apply(_KINDS[kind], entity_id, version, tags, presences.pop(told, None))


def _concerned(changed: pb.TagsChanged) -> Changed:
    concerned: dict[Kind, set[int]] = {kind: set() for kind in Kind}
    for change in changed.changes:
        concerned[_KINDS[change.entity_kind]].add(change.entity_id)
    for presence in changed.presence_changes:
        concerned[_KINDS[presence.entity_kind]].add(presence.entity_id)
    for relation in changed.relation_changes:
        for kind, entity_id in ((relation.subject_kind, relation.subject_id), (relation.object_kind, relation.object_id)):
            if kind in _KINDS:
                concerned[_KINDS[kind]].add(entity_id)
    return concerned
