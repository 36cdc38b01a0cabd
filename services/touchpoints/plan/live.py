"""The plan in memory: shipped event types under saved ones, read again every two seconds; doors never wait for the database."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping

from prometheus_client import Counter as Metric

from chassis.db import Database
from chassis.errors import Unavailable, is_operational
from services.touchpoints.plan import store
from services.touchpoints.plan.held import shown_name
from services.touchpoints.plan.judging import EventType, Judge, Plan
from services.touchpoints.plan.schemas import InvalidSchema
from services.touchpoints.plan.shipped import shipped
from services.touchpoints.plan.store import Saved

log = logging.getLogger(__name__)

UNPLANNED = Metric("touchpoints_unplanned_events_total", "Events that are not in the tracking plan and were let pass.")

# A process that is killed loses so much counting.
REFRESH_S = 2.0
# Names come from anybody: beyond so many, of a day and process, they are counted as one.
MOST_NAMES = 2000


class LivePlan:
    """A copy of the plan, at most REFRESH_S old while the database answers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._plan: Plan | None = None
        self._judges: dict[tuple[str, int], Judge] = {}
        self._saved: Mapping[str, Saved] = {}
        self._loading = asyncio.Lock()
        # Unplanned events that passed, by source and name: just now, and of names that may be written down.
        self.passed: Counter[tuple[str, str]] = Counter()
        self._counted: Counter[tuple[str, str]] = Counter()
        self._names: set[tuple[str, str]] = set()
        self._day = ""

    def now(self) -> Plan:
        """The plan; raises Unavailable until it could be read once."""
        if self._plan is None:
            raise Unavailable("the tracking plan cannot be read yet, try again", reason="NO_PLAN")
        return self._plan

    async def check(self) -> None:
        """Raises until there is a plan: a door that refuses every event is not ready."""
        self.now()

    def saved(self, name: str) -> Saved | None:
        """Who saved the version in force of an event type and when; None for shipped ones."""
        return self._saved.get(name)

    async def refresh(self) -> Plan:
        """Reads the plan."""
        async with self._loading:
            async with self._database.read() as uow:
                saved = {each.type.name: each for each in await store.saved_types(uow)}
                mode = await store.unplanned(uow)
            types = {each.name: each for each in shipped()} | {name: each.type for name, each in saved.items()}
            self._judges = {(each.name, each.version): self._judge(each) for each in types.values()}
            self._plan, self._saved = Plan(self._judges.values(), mode), saved
            return self._plan

    def _judge(self, planned: EventType) -> Judge:
        known = self._judges.get((planned.name, planned.version))
        if known and known.planned == planned:
            return known
        try:
            return Judge(planned)
        except InvalidSchema:
            # Saved by another release: rather let its events pass than none.
            log.exception("schema not understood", extra={"version": planned.version})
            return Judge(
                EventType(
                    planned.name,
                    planned.version,
                    planned.title,
                    planned.description,
                    {},
                    planned.sources,
                    aliases=planned.aliases,
                )
            )

    def count(self) -> None:
        """Takes what passed into the counts of the day, no more names than MOST_NAMES whatever comes."""
        taken, self.passed = self.passed, Counter()
        UNPLANNED.inc(sum(taken.values()))
        day = time.strftime("%Y-%m-%d", time.gmtime())
        if day != self._day:
            self._day, self._names = day, set()
        for (source, name), number in taken.items():
            key = (source, shown_name(name))
            if key not in self._names and len(self._names) >= MOST_NAMES:
                key = (source, "")
            self._names.add(key)
            self._counted[key] += number

    async def write_down(self) -> None:
        """Adds the counts to the table."""
        if self._counted:
            counted = dict(self._counted)
            async with self._database.transaction() as uow:
                await store.add_passed(uow, counted)
            self._counted.subtract(counted)
            self._counted = +self._counted

    async def run(self) -> None:
        """Reads and counts until cancelled."""
        while True:
            self.count()
            try:
                await self.refresh()
                await self.write_down()
            except Exception as error:
                if not is_operational(error):
                    log.exception("plan not refreshed")
            await asyncio.sleep(REFRESH_S if self._plan else REFRESH_S / 4)
