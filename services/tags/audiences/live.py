"""Live audiences: memberships that follow the index, and readers of what changes in them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from pyroaring import BitMap

from chassis.errors import ResourceExhausted, TroikaError
from services.tags.audiences.membership import TICK_S, Changed, Membership, Moved
from services.tags.domain.catalogue import Kind
from services.tags.domain.terms import Term
from services.tags.index.projection import Projection

log = logging.getLogger(__name__)

# Changes that come close together are looked at together.
_GATHER_S: Final = 0.02
# What one reader may leave lying: ids, and changes.
MOST_IDS, MOST_CHANGES = 1_000_000, 10_000
MOST_READERS = 1_000


@dataclass(frozen=True)
class Change:
    """Who entered and left a membership; `count` is how many there are after it, `version` the definition's."""

    entered: BitMap
    left: BitMap
    position: int
    as_of: float
    count: int
    version: int


class Watch:
    """A reader of one membership, with what it has not read yet."""

    def __init__(self, followed: Followed, most_ids: int = MOST_IDS) -> None:
        self.followed, self._most_ids = followed, most_ids
        self._waiting: deque[Change] = deque()
        self._ids = 0
        self._news = asyncio.Event()
        self._end: TroikaError | None = None

    def offer(self, change: Change) -> None:
        """Adds a change; a reader that leaves too many lying is cut off, so that it cannot fill the memory."""
        self._ids += len(change.entered) + len(change.left)
        self._waiting.append(change)
        if self._ids > self._most_ids or len(self._waiting) > MOST_CHANGES:
            self.end(
                ResourceExhausted(
                    f"more than {self._most_ids} ids or {MOST_CHANGES} changes were waiting to be read; begin again",
                    reason="READER_TOO_SLOW",
                )
            )
        self._news.set()

    def end(self, error: TroikaError) -> None:
        """Ends the reading with an error; what was not read is dropped."""
        self._end = error
        self._waiting.clear()
        self._news.set()

    async def next(self, timeout_s: float) -> Change | None:
        """The next change, None when nothing changed for so long. Raises what ended the reading."""
        if not self._waiting and self._end is None:
            self._news.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
            except TimeoutError:
                return None
        if self._end is not None:
            raise self._end
        change = self._waiting.popleft()
        self._ids -= len(change.entered) + len(change.left)
        return change


class Followed:
    """One membership and its readers."""

    def __init__(self, membership: Membership, version: int) -> None:
        self.membership, self.version = membership, version
        self.watches: set[Watch] = set()
        # Whoever needs to know that something changed, without the changes themselves.
        self.stirred = True


class Live:
    """All memberships that somebody follows in this process, refreshed after the index has applied changes."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self._followed: dict[object, Followed] = {}
        self._holders: dict[object, int] = {}
        self._readers = 0
        self._changed: dict[Kind, set[int]] = {kind: set() for kind in Kind}
        self._news = asyncio.Event()
        projection.listen(self._listen)

    @property
    def position(self) -> int:
        """Sequence in TAGS_CHANGED up to which memberships are known."""
        return self._projection.sequence  # it has no other word for it yet

    def _listen(self, changed: Changed) -> None:
        if self._followed:
            for kind, entity_ids in changed.items():
                self._changed[kind].update(entity_ids)
            self._news.set()

    def follow(self, key: object, kind: Kind, term: Term, version: int = 0) -> Followed:
        """The membership under a key, followed from now on until `release`.

        What waits to be taken in concerns it, too, and then changes nothing: it was asked of the index as it is.
        """
        followed = self._followed.get(key)
        if followed is None:
            membership = Membership(self._projection.index, kind, term, time.time())
            followed = self._followed[key] = Followed(membership, version)
        self._holders[key] = self._holders.get(key, 0) + 1
        return followed

    def release(self, key: object) -> None:
        """Undoes one `follow`."""
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key], self._followed[key]

    def redefine(self, key: object, term: Term, version: int) -> None:
        """Gives a membership that is followed another predicate; readers hear who enters and leaves by that."""
        followed = self._followed.get(key)
        if followed is None or followed.version > version:
            return
        old, now = followed.membership, time.time()
        if followed.version == version and old.term == term:
            return
        followed.membership, followed.version = Membership(self._projection.index, old.kind, term, now), version
        new = followed.membership.members
        self._tell(followed, Moved(new - old.members, old.members - new), self.position)

    def end(self, key: object, error: TroikaError) -> None:
        """Ends all readings of a membership with an error."""
        if followed := self._followed.get(key):
            for watch in list(followed.watches):
                watch.end(error)

    @property
    def keys(self) -> Collection[object]:
        """What is followed."""
        return self._followed.keys()

    @asynccontextmanager
    async def watch(self, key: object, kind: Kind, term: Term, version: int = 0) -> AsyncIterator[Watch]:
        """A reader from now on. Raises ResourceExhausted when there are too many."""
        if self._readers >= MOST_READERS:
            raise ResourceExhausted(f"more than {MOST_READERS} readers", reason="TOO_MANY_READERS")
        self._readers += 1
        followed = self.follow(key, kind, term, version)
        watch = Watch(followed)
        followed.watches.add(watch)
        try:
            yield watch
        finally:
            self._readers -= 1
            followed.watches.discard(watch)
            self.release(key)

    async def run(self) -> None:
        """Refreshes, for ever."""
        while True:
            try:
                async with asyncio.timeout(TICK_S):
                    await self._news.wait()
                # More of the same batch, or the next one, is on its way.
                await asyncio.sleep(_GATHER_S)
            except TimeoutError:
                pass
            await self.settle()

    async def settle(self) -> None:
        """Takes in all that has changed until now. Others get their turn between memberships."""
        self._news.clear()
        position, changed = self.position, self._changed
        self._changed = {kind: set() for kind in Kind}
        for followed in list(self._followed.values()):
            try:
                moved = followed.membership.refresh(self._projection.index, changed, time.time())
            except Exception:
                # What was missed is made good for by asking everybody, once it can be asked again.
                if not followed.membership.stale:
                    log.exception("live audience failed")
                followed.membership.stale = True
                continue
            if moved:
                self._tell(followed, moved, position)
            await asyncio.sleep(0)

    def _tell(self, followed: Followed, moved: Moved, position: int) -> None:
        followed.stirred = True
        if followed.watches and moved:
            members, version = followed.membership.members, followed.version
            change = Change(moved.entered, moved.left, position, time.time(), len(members), version)
            for watch in followed.watches:
                watch.offer(change)
