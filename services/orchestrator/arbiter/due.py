"""The worker behind proposals and deferrals: decides each when it is due, as if for the first time."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

import numpy as np

from chassis.errors import is_operational
from chassis.moments import to_us
from services.orchestrator.arbiter.asking import Asked
from services.orchestrator.arbiter.deciding import PACING
from services.orchestrator.arbiter.pacing import next_day
from services.orchestrator.arbiter.passing import Arbiter, Changed, Turn
from services.orchestrator.arbiter.store import ArbiterStore, Due
from services.orchestrator.domain.themes import ThemeId
from services.orchestrator.offers.store import OfferStore
from services.orchestrator.themes.states import Theme, ThemeState
from services.orchestrator.themes.store import ThemeStore

log = logging.getLogger(__name__)

# Proposals of one theme decided together; a turn of this size keeps others waiting for some 50 ms.
CHUNK: Final = 2_000
IDLE_S: Final = 0.05
RETRY_S: Final = 1.0
# A theme whose questions nobody answers is left alone for this long, for those behind it.
TROUBLED_S: Final = 5.0
FINISHED_S: Final = 1.0


class DueWorker:
    """One worker. Any number may run, in one process or many: whoever comes second finds nothing left to decide."""

    def __init__(self, arbiter: Arbiter) -> None:
        self._arbiter = arbiter
        self._troubled: dict[ThemeId, float] = {}
        self._looked = float("-inf")

    async def run(self) -> None:
        """Decides until cancelled."""
        while True:
            try:
                while await self.work_once():
                    pass
                await asyncio.sleep(IDLE_S)
            except Exception as error:
                if not is_operational(error):
                    log.exception("deciding failed")
                await asyncio.sleep(RETRY_S)

    async def work_once(self) -> bool:
        """One chunk of each theme that has something due, higher priorities first; False when there was none."""
        if time.monotonic() - self._looked > FINISHED_S:
            self._looked = time.monotonic()
            await self._finish()
        async with self._arbiter.database.transaction(traced=False) as uow:
            themes = await ArbiterStore(uow).themes_due(await self._arbiter.clock(uow), ThemeState.RUNNING)
        themes = [theme for theme in themes if self._troubled.get(theme, 0) <= time.monotonic()]
        for theme_id in themes:
            try:
                await self._decide(theme_id)
            except Changed:
                continue
            except Exception as error:
                if is_operational(error):
                    raise
                log.exception("a theme cannot be decided on", extra={"theme_id": theme_id})
                self._troubled[theme_id] = time.monotonic() + TROUBLED_S
        return bool(themes)

    async def _finish(self) -> None:
        async with self._arbiter.database.transaction(traced=False) as uow:
            await ArbiterStore(uow).end_launches(ThemeState.FINISHED)
        while True:
            async with self._arbiter.database.transaction(traced=False) as uow:
                if await ArbiterStore(uow).finish(ThemeState.FINISHED, CHUNK) < CHUNK:
                    return

    async def _decide(self, theme_id: ThemeId) -> None:
        arbiter = self._arbiter
        async with arbiter.database.read() as uow:
            theme = await ThemeStore(uow).deciding(theme_id)
            if theme is None:
                return
            due = await ArbiterStore(uow).due(theme_id, await arbiter.clock(uow), CHUNK)
            offers = await OfferStore(uow).at(theme.definition.offers, theme.offer_versions)
        if not due:
            return
        asked = await arbiter.asking.about(theme.definition, offers, *_columns(due, theme), recheck=True)
        async with arbiter.turn(theme_id, theme.version) as turn:
            left = await self._still_due(turn, asked)
            if len(left.person_id):
                purse = await arbiter.decide(turn, left, anew=False)
                if purse.contacts_today <= 0 < purse.contacts:
                    # Whoever else is due would be put off one by one.
                    tomorrow = next_day(turn.now, arbiter.house.zone)
                    await turn.store.put_off(theme_id, turn.now, tomorrow, PACING)

    async def _still_due(self, turn: Turn, asked: Asked) -> Asked:
        """Whom nobody else has decided on meanwhile; those whose time is over are dropped."""
        due = await turn.store.due(turn.theme.theme_id, turn.now, 2 * CHUNK, asked.person_id.tolist())
        if over := [each for each in due if each.expires_at <= turn.now]:
            await turn.store.drop(turn.theme.theme_id, over)
        living = {(each.person_id, each.occasion) for each in due if each.expires_at > turn.now}
        pairs = zip(asked.person_id.tolist(), asked.occasion.tolist(), strict=True)
        return asked.take(np.array([pair in living for pair in pairs], np.bool_))


def _columns(due: list[Due], theme: Theme) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Persons, occasions, the places of the offers proposed (-1 for any) and the ends."""
    places = {offer: place for place, offer in enumerate(theme.definition.offers)}
    # An offer that the theme does not have any more gives way to those that it has.
    wanted = [places.get(each.offer_id, -1) if each.offer_id is not None else -1 for each in due]
    return (
        np.array([each.person_id for each in due], np.int64),
        np.array([each.occasion for each in due], np.int64),
        np.array(wanted, np.int8),
        np.array([to_us(each.expires_at) for each in due], np.int64),
    )
