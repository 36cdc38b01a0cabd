"""The background work: claims operations, keeps their leases, ends them one way or another.

Any number of replicas run this. A claim is a lease with a heartbeat; work whose process died is taken over where it stopped.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

from chassis.db import Database, UnitOfWork
from chassis.errors import is_operational
from services.scoring import operations
from services.scoring.domain import TrainingRefused
from services.scoring.operations import Kind, Operation, State

log = logging.getLogger(__name__)

POLL_S = 1.0
RETRY_S = 2.0
MAX_ATTEMPTS = 5


class LeaseLost(Exception):
    """Somebody else works on this now, or it was cancelled."""


class NotYet(Exception):
    """The rest of the work is to be done at a later moment."""

    def __init__(self, at: datetime) -> None:
        super().__init__(at.isoformat())
        self.at = at


class Task:
    """An operation in the hands of a worker."""

    def __init__(self, operation: Operation, owner: str, lease_s: float, database: Database) -> None:
        self.operation, self._owner, self._lease_s, self._database = operation, owner, lease_s, database

    async def tell(
        self,
        uow: UnitOfWork,
        *,
        progress: float | None = None,
        version: int | None = None,
        persons_scored: int | None = None,
        cursor: int | None = None,
        metrics: Mapping[str, float] | None = None,
        verdict: str | None = None,
    ) -> None:
        """Records what is known by now in a transaction that does part of the work; raises LeaseLost when it is another's."""
        if not await operations.advance(
            uow,
            self.operation.operation_id,
            self._owner,
            self._lease_s,
            progress=progress,
            version=version,
            persons_scored=persons_scored,
            cursor=cursor,
            metrics=metrics,
            verdict=verdict,
        ):
            raise LeaseLost

    async def progress(self, share: float) -> None:
        """Records how much is done, from 0 to 1."""
        async with self._database.transaction(traced=False) as uow:
            await self.tell(uow, progress=share)


class Work(Protocol):
    """Does one kind of operation from wherever it stands."""

    async def __call__(self, task: Task, /) -> None:
        """Returns when all is done; raises TrainingRefused when it can never be, NotYet when it has to wait."""


class Worker:
    """Works on operations, one at a time."""

    def __init__(self, database: Database, works: Mapping[Kind, Work], lease_s: float) -> None:
        self._database, self._works, self._lease_s = database, works, lease_s
        self._owner = uuid.uuid4().hex
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Runs until cancelled; wakes on `wake` and every POLL_S."""
        while True:
            try:
                while await self.work_once():
                    pass
            except Exception as error:
                if not is_operational(error):
                    log.exception("worker failed")
                await asyncio.sleep(RETRY_S)
            try:
                async with asyncio.timeout(POLL_S):
                    await self.wake.wait()
            except TimeoutError:
                pass
            self.wake.clear()

    async def work_once(self) -> bool:
        """Claims one operation and works on it until it ends or has to wait; False when there is none."""
        async with self._database.transaction(traced=False) as uow:
            operation = await operations.claim(uow, self._owner, self._lease_s)
        if operation is None:
            return False
        about = {"operation_id": operation.operation_id, "kind": operation.kind.value, "model": operation.model}
        task = Task(operation, self._owner, self._lease_s, self._database)
        work = asyncio.ensure_future(self._works[operation.kind](task))
        beat = asyncio.create_task(self._beat(operation.operation_id))
        try:
            await asyncio.wait({work, beat}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise LeaseLost
            work.result()
            await self._finish(operation, State.SUCCEEDED)
        except LeaseLost:
            log.warning("operation was taken over or cancelled", extra=about)
        except NotYet as later:
            wait_s = (later.at - datetime.now(UTC)).total_seconds()
            await self._give_back(operation, max(wait_s, POLL_S), forgive=True)
        except TrainingRefused as refusal:
            log.warning("operation refused", extra=about | {"reason": refusal.reason})
            await self._finish(operation, State.FAILED, refusal.reason, refusal.detail)
        except asyncio.CancelledError:
            # Stopping: whoever comes next need not wait for the lease to run out.
            await self._give_back(operation, 0, forgive=True)
            raise
        except Exception as error:
            await self._failed(operation, error, about)
        finally:
            for running in (work, beat):
                running.cancel()
            await asyncio.gather(work, beat, return_exceptions=True)
        return True

    async def _failed(self, operation: Operation, error: Exception, about: Mapping[str, object]) -> None:
        """What the world did is tried for ever; what only the work itself can have done, a few times."""
        forgive = is_operational(error)
        if not forgive:
            log.error("operation failed", extra=about, exc_info=error)
        if not forgive and operation.attempts >= MAX_ATTEMPTS:
            await self._finish(operation, State.FAILED, "GAVE_UP")
        else:
            await self._give_back(operation, RETRY_S, forgive)

    async def _beat(self, operation_id: int) -> None:
        """Keeps the lease; returns when it is lost."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                async with self._database.transaction(traced=False) as uow:
                    if not await operations.advance(uow, operation_id, self._owner, self._lease_s):
                        return
            except Exception as error:
                if not is_operational(error):
                    raise

    async def _finish(self, operation: Operation, state: State, reason: str = "", detail: str = "") -> None:
        async with self._database.transaction() as uow:
            await operations.finish(uow, operation.operation_id, self._owner, state, reason, detail)

    async def _give_back(self, operation: Operation, wait_s: float, forgive: bool) -> None:
        try:
            async with self._database.transaction() as uow:
                await operations.give_back(uow, operation.operation_id, self._owner, wait_s, forgive)
        except Exception as error:
            # The lease runs out by itself.
            if not is_operational(error):
                raise
