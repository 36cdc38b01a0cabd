"""The worker: ticks through running journeys, looks for dates once a day, empties journeys that are over."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, time, timedelta
from typing import Final

from chassis.errors import TroikaError, Unavailable, is_operational
from services.orchestrator.journeys.asking import PersonTags
from services.orchestrator.journeys.documents import minutes
from services.orchestrator.journeys.engine import BATCH, House, hold, tick
from services.orchestrator.journeys.enrolments import EnrolmentStore
from services.orchestrator.journeys.entering import Met, enter
from services.orchestrator.journeys.running import Running
from services.orchestrator.journeys.states import State
from services.orchestrator.journeys.store import JourneyStore

log = logging.getLogger(__name__)

IDLE_S: Final = 0.05
RETRY_S: Final = 1.0
LOOK_S: Final = 15.0
# Days that nobody looked at, because nothing ran, are looked at this long afterwards.
LATE_DAYS: Final = 7


class Worker:
    """One worker. Any number may run, in one process or many."""

    def __init__(self, house: House, tags: PersonTags) -> None:
        self._house, self._tags = house, tags

    async def run(self) -> None:
        """Moves people until cancelled."""
        looked = -LOOK_S
        clock = asyncio.get_running_loop().time
        while True:
            try:
                if clock() - looked >= LOOK_S:
                    looked = clock()
                    await self.look()
                if not await self.work_once():
                    await asyncio.sleep(IDLE_S)
            except Exception as error:
                if not is_operational(error):
                    log.exception("journeys failed")
                await asyncio.sleep(RETRY_S)

    async def work_once(self, most: int = BATCH) -> int:
        """A batch of each journey that has somebody due; returns how many were moved. One that fails stops no other."""
        async with self._house.database.read() as uow:
            due = await EnrolmentStore(uow).with_due(self._house.now())
        moved, failed = 0, None
        for each in due:
            try:
                moved += await tick(self._house, each.journey_id, bytes(each.salt), most)
            except Exception as error:
                failed = error
        if failed is not None:
            raise failed
        return moved

    async def look(self) -> None:
        """What is looked for now and then: dates, and people in journeys that are over."""
        async with self._house.database.read() as uow:
            over = await EnrolmentStore(uow).left_over()
            running = [each for each in await self._house.shelf.live(uow) if each.state is State.RUNNING]
        for journey_id in over:
            await self._empty(journey_id)
        for each in running:
            if each.program.document.trigger.date is not None:
                await self._look_for_dates(each)

    async def _empty(self, journey_id: int) -> None:
        ended = BATCH
        while ended == BATCH:
            async with self._house.database.transaction() as uow:
                ended = await EnrolmentStore(uow).end_some(journey_id, "finished", self._house.now(), BATCH)

    async def _look_for_dates(self, running: Running) -> None:
        """Lets in those whose day it is, once a day after its hour; whoever is faster does it."""
        stated = running.program.document.trigger.date
        if stated is None:
            return
        now, zone = self._house.now(), self._house.zone
        today = now.astimezone(zone).date()
        first = max(today - timedelta(days=LATE_DAYS), running.started_at.astimezone(zone).date())
        async with self._house.database.read() as uow:
            done = await JourneyStore(uow).days(running.journey_id, first)
        hour = minutes(stated.at)
        for number in range((today - first).days + 1):
            day = first + timedelta(days=number)
            begins = datetime.combine(day, time(hour // 60, hour % 60), zone).astimezone(UTC)
            if day in done or begins > now or begins < running.started_at:
                continue
            try:
                persons = await self._tags.on_day(stated, day, "trigger.date.tag")
            except TroikaError as error:
                if isinstance(error, Unavailable):
                    raise
                # A tag that is no more lets nobody in; the others go on.
                log.error("dates cannot be read", extra={"journey": running.journey_id, "reason": error.reason})
                return
            async with self._house.database.transaction() as uow:
                await hold(uow)
                if await JourneyStore(uow).runs(running.journey_id) and await JourneyStore(uow).mark(running.journey_id, day):
                    met = [Met(running, person, day.isoformat(), now) for person in persons.tolist()]
                    await enter(uow, self._house, met, now, by_tags=True)
