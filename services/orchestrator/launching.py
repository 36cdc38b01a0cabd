"""The worker behind LaunchTheme: plans a theme once and hands its pushes over once, whatever is killed in between.

A launch belongs to the worker whose lease runs. Every transaction first locks the launch's row and gives up when the
lease went to somebody else; the plan and each handed-over batch commit whole, together with their outbox rows.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from chassis import telemetry
from chassis.errors import TroikaError, Unavailable, is_operational
from services.orchestrator import planning
from services.orchestrator.domain.deciding import CHANNELS, DEALER, fallbacks
from services.orchestrator.domain.merging import superfluous
from services.orchestrator.domain.themes import PersonId
from services.orchestrator.events import DELIVERIES_REQUESTED, MAX_REQUESTS, Push, deliveries_requested
from services.orchestrator.handlers import Room
from services.orchestrator.store.erasures import ErasureStore
from services.orchestrator.store.launches import Claim, LaunchStore
from services.orchestrator.themes.definitions import ThemeDefinition
from services.orchestrator.themes.handlers import offers_of
from services.orchestrator.themes.states import Theme, given_back
from services.orchestrator.themes.store import ThemeStore
from services.orchestrator.themes.words import reading_alike, words_of

log = logging.getLogger(__name__)

IDLE_S = 0.5
RETRY_S = 1.0


class LeaseLost(Exception):
    """Another worker has taken this launch over; nothing of ours was stored."""


class Launcher:
    """One worker. Any number may run, in one process or many."""

    def __init__(self, room: Room) -> None:
        self._room = room

    async def run(self) -> None:
        """Works on launches until cancelled."""
        while True:
            try:
                while await self.work_once():
                    pass
                await asyncio.sleep(IDLE_S)
            except LeaseLost:
                log.warning("launch taken over by another worker")
            except Exception as error:
                if not is_operational(error):
                    log.exception("launch failed")
                await asyncio.sleep(RETRY_S)

    async def work_once(self) -> bool:
        """Claims one launch and brings it to its end; False when there is none. Every attempt is a worker of its own."""
        worker, lease_s = secrets.token_hex(8), self._room.settings.lease_s
        async with self._room.database.transaction(traced=False) as uow:
            claim = await LaunchStore(uow).claim(worker, lease_s)
        if claim is None:
            return False
        beat = asyncio.create_task(self._keep_alive(claim))
        try:
            with telemetry.span("launch", carriers=[{"traceparent": claim.traceparent}], attributes={"theme": claim.theme_id}):
                await self._launch(claim)
        except (Exception, asyncio.CancelledError) as error:
            # A launch that fails by itself keeps its lease for a while, so that those behind it get their turn.
            if is_operational(error) or isinstance(error, asyncio.CancelledError):
                await self._let_go(claim)
            raise
        finally:
            beat.cancel()
        return True

    async def _let_go(self, claim: Claim) -> None:
        with suppress(Exception):
            async with self._room.database.transaction() as uow:
                await LaunchStore(uow).release(claim)

    async def _keep_alive(self, claim: Claim) -> None:
        """Renews the lease; a database that is away is no reason to stop trying."""
        lease_s = self._room.settings.lease_s
        while True:
            await asyncio.sleep(lease_s / 3)
            with suppress(Exception):
                async with self._room.database.transaction(traced=False) as uow:
                    if not await LaunchStore(uow).renew(claim, lease_s):
                        return

    async def _launch(self, claim: Claim) -> None:
        async with self._room.database.read() as uow:
            theme = await ThemeStore(uow).deciding(claim.theme_id)
        if theme is None:
            raise LeaseLost
        if not claim.planned and not await self._plan(claim, theme):
            return
        while await self._hand_over(claim, theme):
            pass
        log.info("theme launched", extra={"theme": theme.name})

    async def _plan(self, claim: Claim, theme: Theme) -> bool:
        """Decides for everybody and stores it; False when the theme can never be planned as it is."""
        room = self._room
        try:
            audience = await planning.gather(room.tags, room.scoring, theme.definition)
        except TroikaError as error:
            if isinstance(error, Unavailable):
                raise
            await self._give_up(claim, theme, error.reason)
            return False
        async with room.database.transaction() as uow:
            launches = LaunchStore(uow)
            held = await launches.hold(claim)
            if held is None or held.planned_at is not None:
                raise LeaseLost
            await launches.serialise()
            now = datetime.now(UTC)
            window = room.settings.frequency_window()
            decided = await planning.decide_for(
                uow,
                audience,
                theme,
                now,
                frequency_cap=held.frequency_cap,
                window=window,
                regimes=room.settings.consent_regimes,
            )
            await launches.keep_plan(theme.theme_id, await asyncio.to_thread(planning.records, theme, decided, now))
            erasures = ErasureStore(uow)
            if erased := await erasures.planned(theme.theme_id):
                await erasures.erase([], erased)
        return True

    async def _give_up(self, claim: Claim, theme: Theme, reason: str) -> None:
        log.error("launch given up", extra={"theme": theme.name, "reason": reason})
        async with self._room.database.transaction() as uow:
            if await LaunchStore(uow).hold(claim) is None:
                raise LeaseLost
            themes = ThemeStore(uow)
            await themes.lock(theme.theme_id)
            if given := await themes.deciding(theme.theme_id):
                await themes.keep(given_back(given, reason))
            await LaunchStore(uow).forget(theme.theme_id)

    async def _hand_over(self, claim: Claim, theme: Theme) -> bool:
        """Hands the next batch of pushes over; False when that was the end and the theme runs."""
        settings = self._room.settings
        async with self._room.database.transaction() as uow:
            launches = LaunchStore(uow)
            held = await launches.hold(claim)
            if held is None or held.finished_at is not None:
                raise LeaseLost
            if twice := superfluous(*await launches.merged_since_plan(theme.theme_id)):
                await launches.drop(theme.theme_id, sorted(twice))
            now = datetime.now(UTC)
            rows = await launches.hand_over(theme.theme_id, MAX_REQUESTS, now)
            if not rows:
                await launches.finish(theme.theme_id)
                return False
            quiet = settings.quiet()
            earliest = quiet.earliest(now) if quiet else now
            expires = earliest + timedelta(hours=settings.push_lifetime_hours)
            stated = theme.definition
            words = words_of(stated, await offers_of(uow, theme), settings.clock())
            pushes = [
                Push(
                    row.delivery_id,
                    theme.name,
                    PersonId(row.person_id),
                    row.channel,
                    words[row.channel],
                    row.score,
                    row.call_rank,
                    _reasons(row.score, row.call_rank, row.channel),
                    _fallbacks(stated, row, reading_alike(words, row.channel)),
                    row.dealer_code if row.channel == CHANNELS[DEALER] else "",
                    row.decided_at,
                    earliest if earliest > now else None,
                    expires,
                )
                for row in rows
            ]
            for payload in deliveries_requested(pushes):
                uow.publish(DELIVERIES_REQUESTED, payload)
        return True


def _fallbacks(stated: ThemeDefinition, row: Any, alike: frozenset[str]) -> tuple[str, ...]:
    """Further channels of the person's band that may carry the very same words."""
    preferred = [CHANNELS.index(channel) for channel in stated.band(row.score).channels if channel in alike]
    return tuple(fallbacks(CHANNELS.index(row.channel), preferred, row.channels, row.opted_out, stated.purpose))


def _reasons(score: float, call_rank: int, channel: str) -> tuple[str, ...]:
    """What a salesperson may be told; the app and WeChat have nobody to tell."""
    if channel != CHANNELS[DEALER]:
        return ()
    return (f"score {score:.0f} of 1000", f"place {call_rank} of this dealer's calls")
