"""Opens the layers of a theme: the first with its launch, each next one while the last one's response holds."""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from chassis.db import UnitOfWork
from chassis.errors import is_operational
from services.orchestrator.domain.themes import ThemeId
from services.orchestrator.handlers import Room
from services.orchestrator.themes.definitions import Waves
from services.orchestrator.themes.states import Theme, ThemeState
from services.orchestrator.themes.store import ThemeStore
from services.orchestrator.waves.judging import OPENS, STOPS, Verdict, judge
from services.orchestrator.waves.store import Wave, WaveStore

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]

# What one question for those who are alike may name.
MOST_RESPONDED = 100_000
LOOK_S = 2.0
RETRY_S = 5.0


@dataclass(frozen=True)
class Reach:
    """How far a launch may go now: so many persons in all, or down to a score. `layer` 0: a theme without waves, everybody.

    `responded`: who has reached the goal so far, where layers are the nearest to seeds.
    """

    layer: int = 0
    persons: int | None = None
    from_score: float | None = None
    responded: Ints = field(default_factory=lambda: np.empty(0, np.int64), compare=False)

    def room_for(self, done: int) -> int | None:
        """How many more persons there is room for; None for any number."""
        return None if self.persons is None else max(0, self.persons - done)

    def holds(self, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Who of a ranking is in it by their score, -1 for none."""
        return np.full(len(scores), True) if self.from_score is None else scores >= self.from_score


EVERYBODY = Reach()


def part_of(waves: Waves, layer: int, audience: int) -> tuple[int | None, float | None]:
    """(persons in all layers up to this one, None) or (None, its lowest score)."""
    if waves.shares:
        return math.ceil(waves.shares[layer - 1] * audience), None
    return None, waves.from_scores[layer - 1]


async def open_first(uow: UnitOfWork, theme: Theme, audience: int) -> None:
    """Opens the first layer of a theme that is launched; nothing for a theme without waves."""
    if waves := theme.definition.waves:
        await WaveStore(uow).open(theme.theme_id, 1, theme.version, *part_of(waves, 1, audience))


async def reach_of(uow: UnitOfWork, theme: Theme) -> Reach:
    """How far the theme's launch may go now; a version without waves is for everybody who is left."""
    waves, store = theme.definition.waves, WaveStore(uow)
    last = await store.last(theme.theme_id) if waves else None
    if waves is None or last is None:
        return EVERYBODY
    responded = await store.responded(theme.theme_id, MOST_RESPONDED) if waves.seeds else []
    return Reach(last.layer, last.persons, last.from_score, np.array(responded, np.int64))


class WaveWatch:
    """Judges the last layer of every running theme again and again. Any number of processes may."""

    def __init__(self, room: Room) -> None:
        self._room = room

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            try:
                await self.tick()
                await asyncio.sleep(LOOK_S)
            except Exception as error:
                if not is_operational(error):
                    log.exception("judging waves")
                await asyncio.sleep(RETRY_S)

    async def tick(self) -> None:
        """Judges each last layer once."""
        async with self._room.database.read() as uow:
            waiting = await WaveStore(uow).waiting()
        for theme_id in waiting:
            try:
                await self._judge(theme_id)
            except Exception as error:
                if is_operational(error):
                    raise
                # Of one theme; others are not kept waiting.
                log.exception("a wave cannot be judged", extra={"theme_id": theme_id})

    async def _judge(self, theme_id: ThemeId) -> None:
        async with self._room.database.read() as uow:
            theme = await ThemeStore(uow).deciding(theme_id)
        if theme is None:
            return
        waves, audience = theme.definition.waves, 0
        if waves is not None and waves.shares:
            # As it is now: a later layer is a share of those who are in it by then.
            audience = await self._room.tags.count(theme.definition.audience, "theme.audience")
        async with self._room.database.transaction() as uow:
            themes, store = ThemeStore(uow), WaveStore(uow)
            await themes.lock(theme_id)
            present, last = await themes.deciding(theme_id), await store.last(theme_id)
            if present != theme or theme.state is not ThemeState.RUNNING or last is None:
                return
            if waves is None:
                # The version that decides now is for everybody who is left.
                await store.hand_on(theme_id, theme.version)
                await store.go_on(theme_id)
            else:
                await self._follow(uow, theme, waves, last, audience)

    async def _follow(self, uow: UnitOfWork, theme: Theme, waves: Waves, last: Wave, audience: int) -> None:
        store = WaveStore(uow)
        now = (await uow.rows("SELECT now() AS now"))[0].now
        seen = await store.seen(theme.theme_id, last.layer, timedelta(hours=waves.response_hours), now)
        judged = judge(
            seen.pushes,
            seen.goals,
            target=waves.target_rate,
            least=waves.least_pushes,
            over=seen.over and not theme.launching,
        )
        words = judged.words(waves.target_rate, waves.least_pushes, last=last.layer >= waves.count)
        if theme.launching and judged.verdict in OPENS:
            # It goes on with this layer's own persons first.
            judged = replace(judged, verdict=Verdict.WAIT)
        await store.judge(last, theme.version, judged, words)
        if judged.verdict in STOPS:
            await store.stop(theme.theme_id)
            log.info("waves stopped", extra={"theme": theme.name, "layer": last.layer, "verdict": judged.verdict.name})
        elif judged.verdict in OPENS and last.layer < waves.count:
            await store.open(theme.theme_id, last.layer + 1, theme.version, *part_of(waves, last.layer + 1, audience))
            await store.go_on(theme.theme_id)
            log.info("wave opened", extra={"theme": theme.name, "layer": last.layer + 1})
