"""The sender: claims pushes that are due, lets them through, asks consent as the last thing, calls, and has outcomes noted.

Short transactions, none open while anybody outside is called. A process that dies between call and note leaves a lease behind;
when it ends the push goes out again under the same idempotency key, or, where the provider knows no keys, never again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from chassis.db import Database
from chassis.errors import is_operational
from services.touchpoints.addresses import Addresses
from services.touchpoints.channels.contract import Channel, Push, Reconciles
from services.touchpoints.domain import deliveries as domain
from services.touchpoints.domain.deliveries import Accepted, Change, Delivery, Refused, State
from services.touchpoints.endpoints import Endpoints
from services.touchpoints.engine import store
from services.touchpoints.engine.admission import Admission, Limits, conclude
from services.touchpoints.engine.calling import Calls
from services.touchpoints.engine.noting import Notes
from services.touchpoints.engine.routing import OUTCOME_UNKNOWN, Router
from services.touchpoints.engine.store import Claimed
from services.touchpoints.settings import Settings
from services.touchpoints.store.consents import Asked, forbidden

log = logging.getLogger(__name__)

IDLE_S: Final = 0.1
RETRY_S: Final = 1.0
# How often a provider is asked what became of a call.
ASK_S: Final = 15.0


class Sender:
    """One per process; any number of processes: claims skip what others hold."""

    def __init__(
        self,
        database: Database,
        endpoints: Endpoints,
        addresses: Addresses,
        channels: Mapping[domain.Channel, Channel],
        settings: Settings,
    ) -> None:
        self._database, self._endpoints, self._channels, self._settings = database, endpoints, channels, settings
        self._router = Router(endpoints, addresses, channels)
        self._calls = Calls(channels, settings.sender_in_flight, settings.send_attempts)
        limits = Limits(settings.send_lease_s, settings.park_after_s, settings.provider_rates)
        self._admission = Admission(database, channels, limits, self._calls.crowded)
        self._notes = Notes(database, endpoints, channels, self._calls, settings.breaker_failures)

    async def run(self, stopping: asyncio.Event | None = None) -> None:
        """Sends until cancelled; after `stopping` it begins no call, and ends when those under way are noted."""
        stopping = stopping or asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                noting = group.create_task(self._notes.run())
                feeds = [group.create_task(self._feed(stopping)) for _ in range(self._settings.sender_workers)]
                await asyncio.wait(feeds)
                await self._calls.all_noted()
                noting.cancel()
        finally:
            await self._calls.stop()

    async def _feed(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            batch = min(self._settings.sender_batch, self._calls.free)
            # A few places are not worth a round through the database.
            if batch < min(self._settings.sender_batch, self._settings.sender_in_flight) // 2:
                await asyncio.sleep(IDLE_S / 10)
                continue
            self._calls.take(batch)
            called: set[str] = set()
            claimed = 0
            try:
                claimed = await self._round(batch, called)
            except Exception as error:
                if not is_operational(error):
                    log.exception("sending failed")
                await asyncio.sleep(RETRY_S)
            finally:
                self._calls.give_back(batch - len(called))
            if not claimed:
                await asyncio.sleep(IDLE_S)

    async def _round(self, batch: int, called: set[str]) -> int:
        """Handles one batch of due pushes and returns how many; those whose calls have begun are added to `called`."""
        async with self._database.transaction(traced=False) as uow:
            due, expired = await store.claim(uow, batch, self._settings.send_lease_s)
            if expired:
                await conclude(uow, [Change(name, State.EXPIRED, "expired") for name in expired])
        if due:
            routed = await self._router.route(due)
            known = await self._reconcile(routed.unknown)
            try:
                await self._start(await self._admission.admit(routed, known), called)
            except Exception:
                await self._take_back([route.delivery for route in routed.routes if route.delivery.delivery_id not in called])
                raise
        return len(due) + len(expired)

    async def _start(self, calls: Sequence[tuple[Push, int]], called: set[str]) -> None:
        """Begins calls, but for those that somebody has forbidden until now."""
        if not calls:
            return
        refused = await refusals(self._database, [push for push, _ in calls], self._settings.consent_regimes)
        for push, attempts in calls:
            if push.delivery.delivery_id not in refused:
                self._calls.start(push, attempts)
                called.add(push.delivery.delivery_id)
        if refused:
            changes = [Change(name, State.SUPPRESSED, why, sure=True) for name, why in sorted(refused.items())]
            async with self._database.transaction() as uow:
                await conclude(uow, changes)

    async def _take_back(self, deliveries: Sequence[Delivery]) -> None:
        """These were not called, whatever was noted. Until the database hears of it, others take them for perhaps sent."""
        while deliveries:
            try:
                async with self._database.transaction(traced=False) as uow:
                    await store.take_back(uow, deliveries)
                return
            except Exception as error:
                if not is_operational(error):
                    raise
                await asyncio.sleep(RETRY_S)

    async def _reconcile(self, unknown: Sequence[Claimed]) -> list[Change]:
        """What is to become of pushes whose last call came to an end that nobody knows; they are never simply sent again."""
        if not unknown:
            return []
        named = {endpoint.name: endpoint for endpoint in await self._endpoints.all()}

        async def one(claimed: Claimed) -> Change:
            delivery, channel = claimed.delivery, self._channels[claimed.delivery.channel]
            endpoint, waited = named.get(claimed.endpoint), delivery.unsure_s or 0.0
            asks = isinstance(channel, Reconciles)
            said = await channel.outcome(delivery, endpoint) if isinstance(channel, Reconciles) and endpoint else None
            rests = partial(Change, delivery.delivery_id, attempts=delivery.attempts, channel=delivery.channel)
            match said:
                case Accepted():
                    return Change(delivery.delivery_id, State.ACCEPTED, provider_id=said.provider_id)
                case Refused():
                    return domain.unsent(delivery, said.reason, delivery.attempts, sure=True)
                case domain.Retry(sent_perhaps=False):
                    return rests(State.SENDING, said.reason, due_in_s=said.after_s, sure=True)
            left = max(self._settings.unknown_wait_s if channel.remembers_s == 0 or asks else 0.0, channel.remembers_s) - waited
            if left <= 0:
                return rests(State.FAILED, OUTCOME_UNKNOWN)
            return rests(State.SENDING, OUTCOME_UNKNOWN, due_in_s=min(left, ASK_S) if asks else left)

        return list(await asyncio.gather(*(one(claimed) for claimed in unknown)))


async def refusals(database: Database, pushes: Sequence[Push], regimes: Mapping[str, str]) -> dict[str, str]:
    """Of pushes that are about to go those that may not, with the reason, as of the moment that this is asked.

    That moment is the instant of sending: the statement sees every opt-out that was accepted before it, and what it lets
    through is called next, with nothing to wait for in between.
    """
    asked = [
        Asked(p.delivery.delivery_id, p.delivery.person_id, p.anchor_id, p.delivery.purpose, p.delivery.channel)
        for p in pushes
        if p.delivery.kind not in domain.NOTICES
    ]
    return await forbidden(database, asked, regimes) if asked else {}
