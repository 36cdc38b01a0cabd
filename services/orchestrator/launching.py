"""The worker behind LaunchTheme: one pass over the audience, best first, chunk after chunk, whatever is killed in between.

A launch belongs to the worker whose lease runs. Each chunk is one transaction: it takes the arbiter's turn, gives up when the
lease went to somebody else, and commits decisions together with the pushes that go out. Whoever takes over asks anew and skips
those who were decided on. Memory: two chunks, and a bit for each person's number.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from chassis import telemetry
from chassis.errors import TroikaError, Unavailable, is_operational
from chassis.moments import to_us
from services.orchestrator.arbiter.asking import Asked, Asking
from services.orchestrator.arbiter.bits import Persons
from services.orchestrator.arbiter.deciding import NO_OFFER_YET
from services.orchestrator.arbiter.passing import Arbiter, Changed
from services.orchestrator.arbiter.proposing import LAUNCH
from services.orchestrator.arbiter.store import ArbiterStore
from services.orchestrator.domain.hashing import units
from services.orchestrator.handlers import Room
from services.orchestrator.offers.definitions import Offer
from services.orchestrator.store.launches import Claim, LaunchStore
from services.orchestrator.themes import states
from services.orchestrator.themes.handlers import offers_of
from services.orchestrator.themes.states import Theme, ThemeState
from services.orchestrator.themes.store import ThemeStore
from services.orchestrator.waves.opening import EVERYBODY, Reach, reach_of
from services.orchestrator.waves.store import WaveStore

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
# (persons, scores, probabilities), aligned.
Ranked = tuple[Ints, Floats, Floats]

CHUNK: Final = 5_000
# Persons read at a time by whoever takes a launch over.
KNOWN: Final = 100_000
IDLE_S: Final = 0.5
RETRY_S: Final = 1.0


class LeaseLost(Exception):
    """Another worker has taken this launch over; nothing of ours was stored."""


class Launcher:
    """One worker. Any number may run, in one process or many."""

    def __init__(self, room: Room, arbiter: Arbiter | None = None, chunk: int = CHUNK) -> None:
        self._room, self._chunk = room, chunk
        self._arbiter = arbiter or Arbiter(room.database, room.tags, room.scoring, room.settings)

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
            claim = await LaunchStore(uow).claim(worker, lease_s, ThemeState.RUNNING)
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
        """Decides for everybody; starts over when the theme changes on the way, and stops when it does not run any more."""
        while True:
            done = await self._decided(claim)
            async with self._room.database.read() as uow:
                theme = await ThemeStore(uow).deciding(claim.theme_id)
                offers = await offers_of(uow, theme) if theme else []
                reach = await reach_of(uow, theme) if theme else EVERYBODY
            if theme is None:
                raise LeaseLost
            if theme.state is not ThemeState.RUNNING:
                # Who finishes a theme ends its launch; who resumes it finds the launch free.
                await self._let_go(claim)
                return
            try:
                await self._decide(claim, theme, offers, done, reach)
            except Changed:
                continue
            except TroikaError as error:
                if isinstance(error, Unavailable):
                    raise
                await self._give_up(claim, theme, error.reason)
                return
            log.info("theme launched", extra={"theme": theme.name})
            return

    async def _decided(self, claim: Claim) -> Persons:
        """Whom those who held the launch before have decided on."""
        done, after = Persons(), 0
        while True:
            async with self._room.database.read() as uow:
                known = await ArbiterStore(uow).decided(claim.theme_id, after, KNOWN)
            if not len(known):
                return done
            done.add(known)
            after = int(known[-1])

    async def _decide(self, claim: Claim, theme: Theme, offers: Sequence[Offer], done: Persons, reach: Reach) -> None:
        """One pass over the audience; asks about the next chunk while one is decided."""
        ends_at = theme.definition.schedule.ends_at
        # The clock of this process only bounds the worst case; moments of decisions are the database's.
        ends_us = to_us(ends_at or datetime.now(UTC) + timedelta(days=self._room.settings.launch_lifetime_days))
        async with aclosing(chunks_of(self._room, theme, done, self._chunk, reach)) as chunks:
            ahead = asyncio.create_task(self._next(chunks, theme, offers, ends_us))
            try:
                while (asked := await ahead) is not None:
                    ahead = asyncio.create_task(self._next(chunks, theme, offers, ends_us))
                    await self._decide_chunk(claim, theme, asked, reach)
            finally:
                ahead.cancel()
                await asyncio.wait({ahead})
        async with self._room.database.transaction() as uow:
            if not await LaunchStore(uow).hold(claim):
                raise LeaseLost
            await LaunchStore(uow).finish(claim.theme_id)

    async def _next(self, chunks: AsyncIterator[Ranked], theme: Theme, offers: Sequence[Offer], ends_us: int) -> Asked | None:
        """The next chunk with all that other rooms know of it; None at the end."""
        ranked = await anext(chunks, None)
        return None if ranked is None else await asked_about(self._arbiter.asking, theme, offers, ranked, ends_us)

    async def _decide_chunk(self, claim: Claim, theme: Theme, asked: Asked, reach: Reach) -> None:
        async with self._arbiter.turn(theme.theme_id, theme.version) as turn:
            if not await LaunchStore(turn.uow).hold(claim):
                raise LeaseLost
            await self._arbiter.decide(turn, asked, anew=True)
            if reach.layer:
                await WaveStore(turn.uow).put(theme.theme_id, reach.layer, asked.person_id.tolist())

    async def _give_up(self, claim: Claim, theme: Theme, reason: str) -> None:
        """Gives a theme back of which nobody was decided on; one that has begun waits for its next version."""
        log.error("launch given up", extra={"theme": theme.name, "reason": reason})
        async with self._room.database.transaction() as uow:
            themes = ThemeStore(uow)
            await themes.lock(theme.theme_id)
            if not await LaunchStore(uow).hold(claim):
                raise LeaseLost
            current = await themes.deciding(theme.theme_id)
            if await LaunchStore(uow).forget(theme.theme_id) and current is not None:
                await themes.keep(states.given_back(current, reason))


async def asked_about(asking: Asking, theme: Theme, offers: Sequence[Offer], ranked: Ranked, ends_us: int) -> Asked:
    """A launch's proposals for some persons."""
    persons, scores, probabilities = ranked
    size = len(persons)
    return await asking.about(
        theme.definition,
        offers,
        persons,
        np.full(size, LAUNCH, np.int64),
        np.full(size, NO_OFFER_YET, np.int8),
        np.full(size, ends_us, np.int64),
        (scores, probabilities),
    )


async def chunks_of(
    room: Room, theme: Theme, done: Persons, size: int = CHUNK, reach: Reach = EVERYBODY
) -> AsyncGenerator[Ranked]:
    """An audience without those done, as far as the launch may go: who has a score best first, then who has none.

    All who come are done then.
    """
    held: Ranked = _nobody()
    left = reach.room_for(len(done))
    async with aclosing(_ranked(room, theme, size, reach.responded)) as ranking:
        async for persons, scores, probabilities in ranking:
            inside = reach.holds(scores)
            fresh = np.flatnonzero(~done.has(persons) & inside)[:left]
            left = None if left is None else left - len(fresh)
            # A person may move in the ranking while we read it.
            done.add(persons)
            held = _joined(held, (persons[fresh], scores[fresh], probabilities[fresh]))
            while len(held[0]) >= size:
                yield held[0][:size], held[1][:size], held[2][:size]
                held = held[0][size:], held[1][size:], held[2][size:]
            if left == 0 or not inside.all():
                break
    if len(held[0]):
        yield held


async def _ranked(room: Room, theme: Theme, size: int, responded: Ints) -> AsyncGenerator[Ranked]:
    stated = theme.definition
    if stated.waves and stated.waves.seeds:
        async for persons in _nearest(room, stated.audience, stated.waves.seeds, responded):
            for start in range(0, len(persons), size):
                part = persons[start : start + size]
                yield part, *await room.scoring.scores(stated.model, part, "theme.model")
        return
    if stated.model:
        async for chunk in room.scoring.rank(stated.model, stated.audience, "theme.model"):
            yield chunk
        async for persons in room.tags.stream_ids(stated.audience, "theme.audience"):
            yield _unscored(persons)
        return
    # Without scores nobody comes first: not who was known first, either. Four bytes for each person.
    parts = [part.astype(np.uint32) async for part in room.tags.stream_ids(stated.audience, "theme.audience")]
    everybody = np.concatenate([np.empty(0, np.uint32), *parts])
    everybody = everybody[np.argsort(units(everybody.astype(np.int64), theme.salt))]
    for start in range(0, len(everybody), size):
        yield _unscored(everybody[start : start + size].astype(np.int64))


async def _nearest(room: Room, audience: str, seeds: str, responded: Ints) -> AsyncGenerator[Ints]:
    """An audience: the seeds themselves, then who is most like them and those who responded, then who cannot be compared."""
    async for persons in room.tags.stream_ids(f"({audience}) AND ({seeds})", "theme.waves.seeds"):
        yield persons
    async for persons in room.scoring.alike(responded, seeds, audience, "theme.waves.seeds"):
        yield persons
    async for persons in room.tags.stream_ids(audience, "theme.audience"):
        yield persons


def _unscored(persons: Ints) -> Ranked:
    nothing = np.full(len(persons), -1.0)
    return persons, nothing, nothing


def _nobody() -> Ranked:
    return np.empty(0, np.int64), np.empty(0), np.empty(0)


def _joined(one: Ranked, other: Ranked) -> Ranked:
    return np.concatenate((one[0], other[0])), np.concatenate((one[1], other[1])), np.concatenate((one[2], other[2]))
