"""The sender: claims pushes that are due, finds addresses, asks consent once more, calls providers, notes what came of it.

Three short transactions per batch, none open while anybody outside is called. A process that dies between call and note
leaves a lease behind; when it ends the push goes out again under the same idempotency key.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import grpc
from prometheus_client import Counter, Histogram

from chassis.db import Database, UnitOfWork
from chassis.errors import is_operational
from services.touchpoints import events, store
from services.touchpoints.addresses import Addresses
from services.touchpoints.channels.contract import Channel, Denied, Plan, Push, Settled
from services.touchpoints.domain import deliveries as domain
from services.touchpoints.domain.deliveries import Change, Delivery, Outcome, Refused, Retry, State
from services.touchpoints.endpoints import Endpoint, Endpoints
from services.touchpoints.events import Update
from services.touchpoints.settings import Settings
from services.touchpoints.store import consents, deliveries
from services.touchpoints.store.consents import Asked
from services.touchpoints.store.deliveries import Attempt

log = logging.getLogger(__name__)

PUSHES = Counter("touchpoints_pushes_total", "Pushes by what became of them.", ["channel", "outcome"])
CALL_SECONDS = Histogram("touchpoints_call_seconds", "Time of one provider call.", ["channel"])
IDLE_S = 0.2
ADDRESSES_RETRY_S = 2.0
# Outcomes are noted in groups: the first ones do not wait for the slowest receiver.
NOTE_EVERY_S = 0.25


class Sender:
    """Any number may run, in any number of processes: claims skip what others hold."""

    def __init__(
        self,
        database: Database,
        endpoints: Endpoints,
        addresses: Addresses,
        channels: Mapping[domain.Channel, Channel],
        settings: Settings,
    ) -> None:
        self._database, self._endpoints, self._addresses, self._channels = database, endpoints, addresses, channels
        self._settings = settings
        # Endpoint name → monotonic time until which nothing goes there.
        self._paused: dict[str, float] = {}

    async def run(self) -> None:
        """Sends until cancelled."""
        while True:
            try:
                if await self.round() == 0:
                    await asyncio.sleep(IDLE_S)
            except Exception as error:
                if not is_operational(error):
                    log.exception("sending failed")
                await asyncio.sleep(1)

    async def round(self) -> int:
        """Handles one batch of due pushes; returns its size."""
        async with self._database.transaction(traced=False) as uow:
            due, expired = await deliveries.claim(uow, self._settings.sender_batch, self._settings.send_lease_s)
            if expired:
                await self._conclude(uow, [Change(d.delivery_id, State.EXPIRED, "expired") for d in expired])
        by_channel: dict[domain.Channel, list[Delivery]] = defaultdict(list)
        for delivery in due:
            by_channel[delivery.channel].append(delivery)
        sends = [self._send_all(channel, batch) for channel, batch in by_channel.items()]
        # One channel's fault must not leave the others running behind our back.
        for result in await asyncio.gather(*sends, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        return len(due) + len(expired)

    async def _send_all(self, number: domain.Channel, batch: Sequence[Delivery]) -> None:
        channel = self._channels[number]
        forbidden = {d.delivery_id: why for d in batch if (why := channel.forbids(d))}
        lost = {d.delivery_id for d in batch if d.unsure_s is not None and d.unsure_s > channel.remembers_s}
        wanted = [d for d in batch if d.delivery_id not in forbidden and d.delivery_id not in lost]
        enabled = [e for e in await self._endpoints.all() if e.channel is number and not e.disabled]
        plan = channel.plan(wanted, enabled) if wanted else Plan()
        try:
            found = await self._addresses.find(plan)
        except grpc.aio.AioRpcError as error:
            # Nothing was sent: no need to let the lease run out.
            log.warning("no addresses now", extra={"code": error.code().name, "pushes": len(wanted)})
            async with self._database.transaction() as uow:
                await deliveries.defer(uow, dict.fromkeys((d.delivery_id for d in batch), ADDRESSES_RETRY_S))
            return
        pushes = [Push(d, *found[d.delivery_id]) for d in wanted if d.delivery_id in found]
        nowhere = {
            d.delivery_id: plan.unroutable.get(d.delivery_id, "no_address") for d in wanted if d.delivery_id not in found
        }
        # It may have arrived; once more could be once too often.
        nowhere |= dict.fromkeys(lost, "outcome_unknown")
        ready = await self._begin(channel, batch, forbidden, nowhere, pushes)
        calls = {asyncio.create_task(self._call(channel, push, attempts)) for push, attempts in ready}
        try:
            while calls:
                done, calls = await asyncio.wait(calls, timeout=NOTE_EVERY_S)
                if done:
                    settled = [task.result() for task in done]
                    async with self._database.transaction() as uow:
                        if channel.memory:
                            await channel.memory.settle(uow, settled)
                        await self._conclude(uow, [one.change for one in settled])
        finally:
            for call in calls:
                call.cancel()

    async def _begin(
        self,
        channel: Channel,
        batch: Sequence[Delivery],
        forbidden: Mapping[str, str],
        nowhere: Mapping[str, str],
        pushes: Sequence[Push],
    ) -> list[tuple[Push, int]]:
        """In one transaction: consent as it is now, what cannot be sent, and the attempts that are about to be made."""
        changes = [Change(name, State.SUPPRESSED, why) for name, why in forbidden.items()]
        by_id = {d.delivery_id: d for d in batch}
        now = time.monotonic()
        waits = {p.delivery.delivery_id: wait for p in pushes if (wait := self._paused.get(p.endpoint.name, 0.0) - now) > 0}
        async with self._database.transaction() as uow:
            asked = [
                Asked(p.delivery.delivery_id, p.delivery.person_id, p.anchor_id, p.delivery.purpose, p.delivery.channel)
                for p in pushes
            ]
            refused = await consents.forbidden(uow, asked, self._settings.consent_regimes) if asked else {}
            changes += [Change(name, State.SUPPRESSED, why) for name, why in sorted(refused.items())]
            going = [p for p in pushes if p.delivery.delivery_id not in refused and p.delivery.delivery_id not in waits]
            grants = await channel.memory.take(uow, going) if channel.memory and going else {}
            denied = {name: grant for name, grant in grants.items() if isinstance(grant, Denied)}
            attempts = [
                Attempt(p.delivery.delivery_id, p.endpoint.name, p.anchor_id)
                for p in going
                if p.delivery.delivery_id not in denied
            ]
            ends = {name: Denied(why, State.FAILED) for name, why in nowhere.items()} | denied
            others = [name for name in ends if by_id[name].attempts == 0 and by_id[name].fallback_channels]
            changes += [Change(name, end.state, end.reason) for name, end in ends.items() if name not in others]
            if others:
                await deliveries.fall_back(uow, others)
            if waits:
                await deliveries.defer(uow, {name: wait for name, wait in waits.items() if name not in refused})
            if changes:
                await self._conclude(uow, changes)
            begun = await deliveries.begin(uow, attempts, self._settings.send_lease_s) if attempts else {}
        return [
            (replace(p, grant=grants.get(p.delivery.delivery_id)), begun[p.delivery.delivery_id])
            for p in going
            if p.delivery.delivery_id in begun
        ]

    async def _call(self, channel: Channel, push: Push, attempts: int) -> Settled:
        label = push.delivery.channel.label
        try:
            with CALL_SECONDS.labels(label).time():
                outcome: Outcome = await channel.send(push)
        except Exception:
            # A channel's bug must cost one push its turn, not the others of its batch theirs.
            log.exception("channel failed", extra={"channel": label, "delivery": push.delivery.delivery_id})
            outcome = Retry("channel_error")
        PUSHES.labels(label, type(outcome).__name__.lower()).inc()
        if isinstance(outcome, Retry) and outcome.pauses_endpoint:
            self._paused[push.endpoint.name] = time.monotonic() + outcome.after_s
        if isinstance(outcome, Refused) and outcome.disables_endpoint:
            await self._disable(push.endpoint)
        most, luck = self._settings.send_attempts, random.random()
        return Settled(push, outcome, domain.after_attempt(push.delivery.delivery_id, attempts, outcome, most, luck))

    async def _disable(self, endpoint: Endpoint) -> None:
        log.error("endpoint disabled: its receiver is gone", extra={"endpoint": endpoint.name})
        async with self._database.transaction() as uow:
            await store.disable_endpoint(uow, endpoint.name)
        self._endpoints.forget()

    async def _conclude(self, uow: UnitOfWork, changes: Sequence[Change]) -> None:
        moved = await deliveries.conclude(uow, changes)
        updates = [Update(name, state, reason, when) for name, state, reason, when in moved]
        for payload in events.update_batches(updates):
            uow.publish(events.UPDATED, payload)
