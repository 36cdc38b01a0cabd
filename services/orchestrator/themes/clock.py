"""Launches and finishes themes when their schedule says so. Any number of processes may look."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from chassis.errors import TroikaError, Unavailable, is_operational
from services.orchestrator.domain.themes import ThemeId
from services.orchestrator.handlers import Room
from services.orchestrator.themes import states
from services.orchestrator.themes.handlers import launch_theme
from services.orchestrator.themes.states import ThemeState
from services.orchestrator.themes.store import ThemeStore

log = logging.getLogger(__name__)

TICK_S = 1.0
RETRY_S = 5.0


class ThemeClock:
    """Sees to it that themes start and end in time."""

    def __init__(self, room: Room) -> None:
        self._room = room

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            try:
                await self.tick()
                await asyncio.sleep(TICK_S)
            except Exception as error:
                if not is_operational(error):
                    log.exception("themes' clock")
                await asyncio.sleep(RETRY_S)

    async def tick(self) -> None:
        """Starts and ends whatever is due; one that cannot be started says why and waits for somebody to launch it."""
        now = datetime.now(UTC)
        async with self._room.database.read() as uow:
            due = await ThemeStore(uow).due(now)
        for theme_id in due:
            if await self._end(theme_id, now):
                continue
            try:
                await launch_theme(self._room, theme_id)
                log.info("theme started by its schedule", extra={"theme": theme_id})
            except Unavailable:
                raise
            except TroikaError as error:
                log.error("theme could not start", extra={"theme": theme_id, "reason": error.reason})
                await self._give_back(theme_id, error.reason)

    async def _end(self, theme_id: ThemeId, now: datetime) -> bool:
        async with self._room.database.transaction() as uow:
            themes = ThemeStore(uow)
            await themes.lock(theme_id)
            theme = await themes.deciding(theme_id)
            if theme is None or (ends_at := theme.definition.schedule.ends_at) is None or now < ends_at:
                return False
            await themes.keep(states.finished(theme, now))
            return True

    async def _give_back(self, theme_id: ThemeId, reason: str) -> None:
        async with self._room.database.transaction() as uow:
            themes = ThemeStore(uow)
            await themes.lock(theme_id)
            theme = await themes.deciding(theme_id)
            if theme is not None and theme.state is ThemeState.APPROVED:
                await themes.keep(states.given_back(theme, reason))
