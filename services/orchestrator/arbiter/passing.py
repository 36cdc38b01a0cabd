"""One transaction of the arbiter: its turn, the theme as it stands, decisions and what they send, all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from chassis.db import Database, UnitOfWork
from services.orchestrator.arbiter.asking import Asked, Asking
from services.orchestrator.arbiter.deciding import Purse
from services.orchestrator.arbiter.evidence import Evidence
from services.orchestrator.arbiter.house import Deciding, House
from services.orchestrator.arbiter.judging import Judge, Judged
from services.orchestrator.arbiter.store import ArbiterStore, Record, clock_of
from services.orchestrator.domain.themes import ThemeId
from services.orchestrator.events import DELIVERIES_REQUESTED, deliveries_requested
from services.orchestrator.peers import Scoring, Tags
from services.orchestrator.settings import Settings
from services.orchestrator.themes.states import Theme, ThemeState
from services.orchestrator.themes.store import ThemeStore

Clock = Callable[[UnitOfWork], Awaitable[datetime]]


class Changed(Exception):
    """The theme does not run any more, or in another version than was asked about: nothing was decided."""


@dataclass(frozen=True)
class Turn:
    """A transaction in which nobody else decides; `now` by the database's clock."""

    uow: UnitOfWork
    store: ArbiterStore
    theme: Theme
    now: datetime


class Arbiter:
    """What the workers of this process decide with."""

    def __init__(self, database: Database, tags: Tags, scoring: Scoring, settings: Settings, clock: Clock = clock_of) -> None:
        self.database, self.tags, self.scoring, self.clock = database, tags, scoring, clock
        self.house = House.of(settings)
        self.asking = Asking(tags, scoring, settings.audience_age_s)

    @asynccontextmanager
    async def turn(self, theme_id: ThemeId, version: int) -> AsyncIterator[Turn]:
        """The arbiter's turn for a running theme in a version; raises Changed."""
        async with self.database.transaction() as uow:
            store = ArbiterStore(uow)
            await store.turn()
            if not await store.running(theme_id, ThemeState.RUNNING):
                raise Changed
            theme = await ThemeStore(uow).deciding(theme_id)
            if theme is None or theme.version != version:
                raise Changed
            yield Turn(uow, store, theme, await self.clock(uow))

    async def decide(self, turn: Turn, asked: Asked, *, anew: bool) -> Purse:
        """Decides, keeps and hands over; what is left to spend. `anew`: nobody of them was proposed before."""
        deciding = await Deciding.of(turn.uow, turn.theme, self.house)
        judge = Judge(turn.uow, self.house, deciding, turn.now)
        known, purse = await judge.look(asked, once=anew)
        # Threads: thousands of decisions take a tenth of a second that the doors must not wait for.
        judged, records = await asyncio.to_thread(_decided, judge, known, purse)
        # What goes out is written while the database takes what was decided.
        _, payloads = await asyncio.gather(
            judge.keep(judged, records, anew=anew), asyncio.to_thread(_handed_over, judge, judged, records)
        )
        for payload in payloads:
            turn.uow.publish(DELIVERIES_REQUESTED, payload)
        return purse


def _decided(judge: Judge, known: Evidence, purse: Purse) -> tuple[Judged, list[Record]]:
    judged = judge.judge(known, purse)
    return judged, judge.records(judged)


def _handed_over(judge: Judge, judged: Judged, records: list[Record]) -> list[bytes]:
    return list(deliveries_requested(judge.pushes(judged, records)))
