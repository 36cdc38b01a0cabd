"""Every replica follows what any of them adds to the catalogue, without a restart.

A row counts changes. Who derives tags holds that row (`hold`): so a change waits for batches that are under way, and every
batch after it knows it, in whichever replica. A replica without batches looks a few times a second. No two batches, wherever
they run, ever derive tags of one entity by different catalogues in the wrong order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from chassis.db import Database, UnitOfWork
from chassis.errors import is_operational
from services.tags import rederivation
from services.tags.backfill import jobs
from services.tags.catalogue import stored
from services.tags.catalogue.merging import merge
from services.tags.domain.catalogue import Catalogue
from services.tags.handlers import TagRules

log = logging.getLogger(__name__)

_LOOK_S = 0.25
_RETRY_S = 1.0
Listener = Callable[[Catalogue], None]


class LiveCatalogue:
    """The catalogue of the files and of all that was added, inside the rules that everybody has."""

    def __init__(self, database: Database, rules: TagRules) -> None:
        """`rules` are those of the files alone; from now on they follow."""
        self.rules, self.files = rules, rules.catalogue.definitions
        self._database, self._epoch = database, 0
        self._listeners: list[Listener] = []
        self._changed = asyncio.Event()
        rules.hold = self.hold

    @property
    def epoch(self) -> int:
        """The count of changes that this replica has followed."""
        return self._epoch

    def listen(self, listener: Listener) -> None:
        """Lets someone know whenever the catalogue has become another one."""
        self._listeners.append(listener)

    async def hold(self, uow: UnitOfWork) -> None:
        """Follows what is new, and keeps it so until the transaction ends."""
        epoch = await stored.held_epoch(uow)
        if epoch > self._epoch:
            await self._follow(uow, epoch)

    async def begin(self, uow: UnitOfWork) -> None:
        """Begins a change: nobody else makes one or derives tags until this transaction ends, and all before it is known."""
        epoch = await stored.begin(uow)
        if epoch - 1 > self._epoch:
            await self._follow(uow, epoch - 1)

    async def refresh(self) -> None:
        """Follows what is new."""
        async with self._database.read() as uow:
            epoch = await stored.epoch(uow)
            if epoch > self._epoch:
                await self._follow(uow, epoch)

    async def start(self) -> None:
        """Follows what there is, as soon as the database is there."""
        while True:
            try:
                return await self.refresh()
            except Exception as error:
                if not is_operational(error):
                    raise
                log.warning("catalogue waits", extra={"error": type(error).__name__})
                await asyncio.sleep(_RETRY_S)

    async def run(self) -> None:
        """Looks for ever, and derives all entities anew after each change."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look())
            tasks.create_task(self._rederive())

    async def _look(self) -> None:
        while True:
            try:
                await self.refresh()
                await asyncio.sleep(_LOOK_S)
            except Exception as error:
                if not is_operational(error):
                    raise
                await asyncio.sleep(_RETRY_S)

    async def _rederive(self) -> None:
        self._changed.set()
        while True:
            await self._changed.wait()
            self._changed.clear()
            await rederivation.run(self._database, self.rules)

    async def _follow(self, uow: UnitOfWork, epoch: int) -> None:
        catalogue, broken = merge(self.files, await stored.current(uow))
        cuts = await jobs.cuts(uow)
        if epoch <= self._epoch:
            return  # another task was faster
        self.rules.become(catalogue)
        self.rules.cuts = cuts
        self._epoch = epoch
        for each in broken:
            place = f"{each.version.kind.name.lower()}.{each.version.name}"
            log.error("an added tag is set aside", extra={"tag": place, "why": each.why})
        for listener in self._listeners:
            listener(self.rules.catalogue)
        self._changed.set()
