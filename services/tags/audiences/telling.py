"""Tells on the bus who entered and left named audiences: one replica at a time, and after a restart only the difference.

The teller holds an advisory lock of PostgreSQL on a connection of its own: it goes with the process. What was told is kept
with the message in one transaction, so a crash at any line tells nothing twice and leaves nothing out. Should two believe to
hold the lock, the row of the audience lets one tell after the other, each the difference to what the one before has told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Final

import numpy as np
from pyroaring import BitMap
from troika.identity.v1.events_pb2 import EntityKind
from troika.tags.v1 import events_pb2 as pb

from chassis.db import Database, UnitOfWork
from chassis.errors import TroikaError, is_operational
from services.tags import events
from services.tags.audiences import store
from services.tags.audiences.live import Followed, Live
from services.tags.audiences.naming import key_of, redefine
from services.tags.audiences.store import Named, Told
from services.tags.domain.catalogue import Kind
from services.tags.questions import Questions, ids_in

log = logging.getLogger(__name__)

BLOCK: Final = 65_536
# Between two tellings of one audience; what comes and goes between them is never told.
_PAUSE_S: Final = 0.25
_LOOK_S: Final = 1.0
_SAMPLE_S: Final = 30.0
# A teller that is behind its predecessor waits this long for itself; after that the stream has begun anew.
_PATIENCE_US: Final = 30_000_000


class Teller:
    """Follows every named audience while it holds the lock, and tells what changed."""

    def __init__(self, database: Database, questions: Questions, live: Live) -> None:
        self._database, self._questions, self._live = database, questions, live
        self._audiences: dict[int, Named] = {}
        self._followed: dict[int, Followed] = {}
        # What was told, as long as nobody else tells: (number of the telling, members).
        self._told: dict[int, tuple[int, BitMap]] = {}

    async def run(self) -> None:
        """Waits for its turn, then tells, for ever."""
        while True:
            try:
                await self._questions.index()
                async with self._database.transaction(traced=False) as lock:
                    if (await lock.rows("SELECT pg_try_advisory_xact_lock(hashtext('troika tags audiences'))"))[0][0]:
                        await self._lead(lock)
            except Exception as error:
                if not is_operational(error) and not isinstance(error, TroikaError):
                    log.exception("telling of audiences failed")
            finally:
                self._let_go()
            await asyncio.sleep(_LOOK_S)

    async def _lead(self, lock: UnitOfWork) -> None:
        looked = sampled = 0.0
        while True:
            now = time.monotonic()
            if now - looked >= _LOOK_S:
                # Raises when the connection, and the lock with it, is gone.
                await lock.rows("SELECT 1")
                await self.look()
                await redefine(self._database, self._questions, self._live)
                looked = now
            await self.tell()
            if now - sampled >= _SAMPLE_S:
                await self.sample()
                sampled = now
            await asyncio.sleep(_PAUSE_S)

    async def look(self) -> None:
        """Follows audiences as they are defined now. One whose predicate can no longer be read stays as it was."""
        found = {named.audience_id: named for named in await store.to_tell(self._database)}
        for audience_id in (self._audiences.keys() | self._followed.keys()) - found.keys():
            self._drop(audience_id)
        for audience_id, named in found.items():
            self._audiences[audience_id] = named
            if named.deleted_at is not None:
                if audience_id in self._followed:
                    self._live.release(key_of(named))
                    del self._followed[audience_id]
            elif audience_id not in self._followed:
                self._follow(named)
                await asyncio.sleep(0)

    def _follow(self, named: Named) -> None:
        definition = named.definition
        try:
            term = self._questions.term(definition.kind, definition.predicate, "predicate")
        except TroikaError as error:
            log.warning("audience cannot be read", extra={"audience": named.name, "reason": error.reason})
            return
        followed = self._live.follow(key_of(named), definition.kind, term, named.version)
        self._live.redefine(key_of(named), term, named.version)
        followed.stirred = True
        self._followed[named.audience_id] = followed

    def _drop(self, audience_id: int) -> None:
        self._audiences.pop(audience_id, None)
        self._told.pop(audience_id, None)
        if self._followed.pop(audience_id, None) is not None:
            self._live.release(("audience", audience_id))

    async def tell(self) -> None:
        """Tells of every audience that changed."""
        for named in list(self._audiences.values()):
            followed = self._followed.get(named.audience_id)
            if named.deleted_at is not None:
                await self._tell_end(named)
                self._drop(named.audience_id)
            elif followed is not None and followed.stirred:
                followed.stirred = False
                try:
                    done = await self._tell(named, followed)
                except BaseException:
                    followed.stirred = True
                    raise
                followed.stirred |= not done

    async def _tell(self, named: Named, followed: Followed) -> bool:
        """Tells the difference to what was told last; False when this process does not know enough yet."""
        audience_id, version = named.audience_id, followed.version
        members, position, now_us = followed.membership.members.copy(), self._live.position, time.time_ns() // 1000
        base = len((await self._questions.index()).present[followed.membership.kind])
        async with self._database.transaction() as uow:
            last = await store.told(uow, audience_id)
            if last and last.position > position and now_us - last.as_of_us < _PATIENCE_US:
                return False
            told = await self._members_told(uow, audience_id, last)
            entered, left = members - told, told - members
            defined = last is None or last.version != version
            if not (entered or left or defined):
                return True
            number = last.number + 1 if last else 1
            what = _told_of(named, version, number, "definition" if defined else "data", len(members), now_us)
            events.publish_audience(uow, what, ids_in(entered), ids_in(left))
            await store.keep_blocks(uow, audience_id, blocks_of(members, entered | left))
            await store.keep_told(uow, audience_id, Told(number, version, position, now_us, len(members)))
            await store.keep_size(uow, audience_id, now_us, len(members), base, version)
        self._told[audience_id] = number, members
        return True

    async def _members_told(self, uow: UnitOfWork, audience_id: int, last: Told | None) -> BitMap:
        number, members = self._told.get(audience_id, (0, BitMap()))
        if last is None or last.number == number:
            return members if last else BitMap()
        blocks = await store.blocks(uow, audience_id)
        return BitMap.union(BitMap(), *map(BitMap.deserialize, blocks.values()))

    async def _tell_end(self, named: Named) -> None:
        async with self._database.transaction() as uow:
            if last := await store.told(uow, named.audience_id):
                now_us = time.time_ns() // 1000
                what = _told_of(named, named.version, last.number + 1, "deleted", 0, now_us)
                events.publish_audience(uow, what, ids_in(BitMap()), ids_in(BitMap()))
                await store.forget_told(uow, named.audience_id)
        self._told.pop(named.audience_id, None)

    async def sample(self) -> None:
        """Keeps a size of today for every audience that has none."""
        index, now_us = await self._questions.index(), time.time_ns() // 1000
        async with self._database.transaction(traced=False) as uow:
            for audience_id in await store.unsampled(uow, now_us):
                if followed := self._followed.get(audience_id):
                    membership = followed.membership
                    base = len(index.present[membership.kind])
                    await store.keep_size(uow, audience_id, now_us, len(membership.members), base, followed.version)

    def _let_go(self) -> None:
        for audience_id in self._followed:
            self._live.release(("audience", audience_id))
        self._followed, self._audiences = {}, {}


def blocks_of(members: BitMap, changed: BitMap) -> Mapping[int, bytes]:
    """Serialised members of the blocks in which something changed; empty where there are none any more."""
    blocks = np.unique(ids_in(changed) // BLOCK).tolist()
    found = {block: members & BitMap(range(block * BLOCK, (block + 1) * BLOCK)) for block in blocks}
    return {block: bytes(inside.serialize()) if inside else b"" for block, inside in found.items()}


def _told_of(named: Named, version: int, number: int, reason: str, members: int, at_us: int) -> pb.AudienceChange:
    return pb.AudienceChange(
        audience_id=named.audience_id,
        name=named.name,
        entity_kind=EntityKind.ValueType(Kind(named.definition.kind)),
        version=version,
        number=number,
        count=members,
        reason=reason,
        at_us=at_us,
    )
