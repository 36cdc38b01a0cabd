"""What has to be looked at now and then, by any replica: turns, replays, the channels' health, old counts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Final

from prometheus_client import Gauge

from chassis.db import Database
from chassis.errors import is_operational
from services.touchpoints import events
from services.touchpoints.channels.contract import Channel, Credited
from services.touchpoints.domain import deliveries as domain
from services.touchpoints.domain.health import WINDOW_S, Health
from services.touchpoints.endpoints import Endpoints
from services.touchpoints.engine import health, replaying
from services.touchpoints.engine.store import pass_turns

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
# At most so often when something changed, and at least so often when nothing did.
REPORT_S: Final = 2.0
REPEAT_S: Final = 30.0
PURGE_S: Final = 600.0
# Quotas are counted by day.
KEEP_HOURS: Final = 26

SUCCESS = Gauge("touchpoints_channel_success_ratio", "Share of calls that did not fail, of the last minutes.", ["channel"])
LATENCY = Gauge("touchpoints_channel_latency_seconds", "Bound of 95 of 100 calls of the last minutes.", ["channel"])
FAILING = Gauge("touchpoints_channel_failing", "1 while a channel does not work.", ["channel"])
QUOTA = Gauge("touchpoints_channel_quota_left", "Pushes that a channel's providers still take today.", ["channel"])
CREDITS = Gauge("touchpoints_channel_credits", "Permissions for single pushes that a channel still has.", ["channel"])
ENDPOINTS = Gauge("touchpoints_endpoints_failing", "Endpoints that do not work: circuit open, paused or disabled.", ["channel"])
PARKED = Gauge("touchpoints_deliveries_parked", "Pushes that wait for somebody to replay them.", ["channel"])
OVERDUE = Gauge("touchpoints_delivery_overdue_seconds", "For how long the push that is due longest waits for a sender.")

BACKLOG = """
    SELECT channel, count(*) AS parked FROM delivery WHERE held NOT IN ('', 'turn') AND state <= 2 GROUP BY 1
"""
OLDEST = """
    SELECT coalesce(extract(epoch FROM now() - min(due_at)), 0)::double precision AS seconds FROM delivery
    WHERE state <= 2 AND due_at < now() AND held = ''
"""

# One replica speaks for all: whoever comes first when it is time.
SPEAK = """
    INSERT INTO health_report AS h (one, published_at, said) VALUES (true, now(), $1)
    ON CONFLICT (one) DO UPDATE SET published_at = now(), said = excluded.said
    WHERE (h.said <> excluded.said AND h.published_at < now() - make_interval(secs => $2))
        OR h.published_at < now() - make_interval(secs => $3)
    RETURNING one
"""


class Sweeper:
    """One per process."""

    def __init__(self, database: Database, endpoints: Endpoints, channels: Mapping[domain.Channel, Channel]) -> None:
        self._database, self._endpoints, self._channels = database, endpoints, channels
        self._reported = self._purged = time.monotonic()
        self._counted = -REPEAT_S

    async def run(self) -> None:
        """Sweeps until cancelled."""
        while True:
            try:
                await self.sweep()
            except Exception as error:
                if not is_operational(error):
                    log.exception("sweeping failed")
            await asyncio.sleep(EVERY_S)

    async def sweep(self) -> None:
        """Whatever is due."""
        async with self._database.transaction(traced=False) as uow:
            await pass_turns(uow, None)
        while await self._replay():
            pass
        now = time.monotonic()
        if now - self._reported >= REPORT_S:
            self._reported = now
            await self.report()
        if now - self._counted >= REPEAT_S:
            self._counted = now
            await self._count()
        if now - self._purged >= PURGE_S:
            self._purged = now
            async with self._database.transaction(traced=False) as uow:
                await uow.fetch("DELETE FROM call_slice WHERE slice < now() - make_interval(hours => $1)", KEEP_HOURS)

    async def _replay(self) -> bool:
        async with self._database.transaction(traced=False) as uow:
            return await replaying.work(uow)

    async def report(self) -> None:
        """Shows how channels do, and tells the others."""
        endpoints, channels = await self.health()
        for each in channels:
            _show(each)
            failing = sum(endpoint.fails for endpoint in endpoints if endpoint.channel is each.channel)
            ENDPOINTS.labels(each.channel.label).set(failing)
        said = ",".join(f"{each.channel.label} {each.condition if each.fails else 0} {each.reason}" for each in channels)
        async with self._database.transaction(traced=False) as uow:
            if await uow.fetch(SPEAK, said, REPORT_S, REPEAT_S):
                uow.publish(events.HEALTH, events.channels_health(channels))

    async def _count(self) -> None:
        parked = {row["channel"]: row["parked"] for row in await self._database.fetch(BACKLOG)}
        for channel in self._channels:
            PARKED.labels(channel.label).set(parked.get(int(channel), 0))
        [oldest] = await self._database.fetch(OLDEST)
        OVERDUE.set(oldest["seconds"])

    async def health(self, window_s: float = WINDOW_S) -> tuple[Sequence[Health], Sequence[Health]]:
        """(of every endpoint, of every channel that has one)."""
        permissions: dict[str, int] = {}
        for channel in self._channels.values():
            if isinstance(channel, Credited):
                permissions |= await channel.credits(self._database)
        return await health.read(self._database, await self._endpoints.all(), permissions, window_s)


def _show(each: Health) -> None:
    label = each.channel.label
    FAILING.labels(label).set(each.fails)
    for gauge, value in (
        (SUCCESS, each.tally.success),
        (LATENCY, each.tally.quantile_s(0.95)),
        (QUOTA, each.quota_left),
        (CREDITS, each.credits),
    ):
        if value is not None:
            gauge.labels(label).set(value)
