"""Held events are read again and sent on, in steps that happen whole or not at all."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from prometheus_client import Counter as Metric

from chassis.db import Database, UnitOfWork
from chassis.errors import TroikaError, is_operational
from chassis.moments import to_us
from services.touchpoints import events
from services.touchpoints.domain.observed import Invalid, Observed
from services.touchpoints.ingest import DAY_US, small
from services.touchpoints.plan import quarantine_store as store
from services.touchpoints.plan import store as plan_store
from services.touchpoints.plan.held import Holder
from services.touchpoints.plan.judging import Plan
from services.touchpoints.plan.live import LivePlan
from services.touchpoints.plan.quarantine_store import Replay, Wanted
from services.touchpoints.publishing import chunks
from services.touchpoints.sealer import Sealer
from services.touchpoints.sources import Sources

log = logging.getLogger(__name__)

REPLAYED = Metric("touchpoints_replayed_events_total", "Held events that were sent on.")
DROPPED = Metric("touchpoints_quarantine_dropped_total", "Held events that were deleted, by age or for lack of room.", ["why"])

STEP: Final = 200
IDLE_S: Final = 1.0
EXPIRE_S: Final = 300.0
MOST_FORESEEN: Final = 10_000


@dataclass
class Healing:
    """What a replay would come to."""

    examined: int = 0
    healed: int = 0
    still_held: Counter[str] = field(default_factory=Counter)


class Rereader:
    """Reads held events again as their doors would have, and asks the plan."""

    def __init__(self, holder: Holder, sources: Sources, oldest_event_days: int) -> None:
        self._holder, self._sources, self._oldest_us = holder, sources, oldest_event_days * DAY_US

    def observe(self, row: Any, plan: Plan, patch: Any = None) -> tuple[Observed, int]:
        """(the event, when it was received, microseconds); raises Invalid when it must still be held."""
        try:
            return self._observe(row, plan, patch)
        except (Invalid, TroikaError):
            raise
        except Exception as error:
            if is_operational(error):
                raise
            number = row["event_id"].hex()
            # One event that a bug of ours cannot read must not stop all replays. Its error may quote it, hence only the kind.
            log.error("held event not read: %s", type(error).__name__, extra={"event_id": number})
            raise Invalid("", "INTERNAL", "could not be read by an error of ours; the log names it") from error

    def _observe(self, row: Any, plan: Plan, patch: Any) -> tuple[Observed, int]:
        received_us = to_us(row["received_at"])
        kept = self._holder.open(row["event_id"], row["sealed"])
        if patch is not None:
            kept = kept.patched(patch)
        source = self._sources.named(row["source"])
        if source is None:
            raise Invalid("", "SOURCE_UNKNOWN", "its source is not registered any more")
        event = plan.named(kept.observe(source, received_us, received_us - self._oldest_us))
        small(event)
        if fault := plan.fault(event):
            raise fault
        return event, received_us


class Replayer:
    """Works on replays, a step at a time, and lets held events expire."""

    def __init__(
        self, database: Database, rereader: Rereader, live: LivePlan, sealer: Sealer, days: float, most_bytes: int
    ) -> None:
        self._database, self._rereader, self._live, self._sealer = database, rereader, live, sealer
        self._days, self._most_bytes = days, most_bytes

    async def run(self) -> None:
        """Runs until cancelled."""
        await asyncio.gather(self._replay(), self._expire())

    async def foresee(self, wanted: Wanted, plan: Plan, patch: Any = None) -> Healing:
        """What a replay would come to under a plan, over the newest of the events meant."""
        found, below = Healing(), 2**63 - 1
        while found.examined < MOST_FORESEEN:
            async with self._database.read() as uow:
                rows = await store.page(uow, wanted, below, STEP)
            for row in rows:
                found.examined += 1
                try:
                    self._rereader.observe(row, plan, patch)
                    found.healed += 1
                except Invalid as error:
                    found.still_held[error.reason] += 1
            if len(rows) < STEP:
                break
            below = rows[-1]["id"]
        return found

    async def _replay(self) -> None:
        while True:
            worked = False
            try:
                worked = await self.step()
            except Exception as error:
                if not (is_operational(error) or isinstance(error, TroikaError)):
                    log.exception("replay failed")
            if not worked:
                await asyncio.sleep(IDLE_S)

    async def step(self) -> bool:
        """One step of one replay; False when there was nothing to do.

        What goes on leaves the quarantine in the transaction that publishes it: a step that is cut off did nothing.
        """
        key = self._sealer.key()
        async with self._database.transaction(traced=False) as uow:
            replay = await store.claim_replay(uow)
            if replay is None:
                return False
            # Who mended the plan and asks for a replay may have spoken to another replica.
            plan = await self._live.refresh()
            rows = await store.claim(uow, replay.wanted, replay.position, replay.up_to, STEP)
            facts, ids, released, held = [], [], [], []
            patch = orjson.loads(replay.patch) if replay.patch else None
            for row in rows:
                try:
                    event, received_us = self._rereader.observe(row, plan, patch)
                except Invalid as error:
                    held.append((row["id"], error.reason, error.field, error.message, error.schema_path))
                else:
                    facts.append(events.sealed_batch([event], key, received_us))
                    ids.append(event.event_id)
                    released.append(row["id"])
            for message in chunks(events.key_prefix(key), facts, ids):
                uow.publish(message.subject, message.payload)
            await self._note(uow, replay, rows, released, held)
        REPLAYED.inc(len(released))
        return True

    async def _note(
        self, uow: UnitOfWork, replay: Replay, rows: Sequence[Any], released: Sequence[int], held: Sequence[Any]
    ) -> None:
        if released:
            await store.release(uow, released)
        if not replay.patch:
            # What a patch makes of it is nobody's explanation.
            await store.explain(uow, held)
        position = rows[-1]["id"] if rows else replay.up_to
        await store.advance(uow, replay.replay_id, position, len(rows), len(released), len(rows) < STEP)

    async def _expire(self) -> None:
        while True:
            try:
                async with self._database.transaction(traced=False) as uow:
                    old, crowded = await store.expire(uow, self._days, self._most_bytes)
                    await plan_store.forget_passed(uow, math.ceil(self._days))
                for why, count in (("age", old), ("room", crowded)):
                    DROPPED.labels(why).inc(count)
            except Exception as error:
                if not is_operational(error):
                    log.exception("held events not expired")
            await asyncio.sleep(EXPIRE_S)
