"""Calls in flight: started one by one, limited in all, their outcomes collected for whoever notes them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import Counter, Histogram

from services.touchpoints.channels.contract import Channel, Push
from services.touchpoints.domain import deliveries as domain
from services.touchpoints.domain.deliveries import Change, Outcome, Refused, Retry
from services.touchpoints.endpoints import Endpoint

log = logging.getLogger(__name__)

PUSHES = Counter("touchpoints_pushes_total", "Pushes by what became of them.", ["channel", "outcome"])
CALL_SECONDS = Histogram("touchpoints_call_seconds", "Time of one provider call.", ["channel"])
# A call that takes longer than this holds a place that others could use.
SLOW_S = 1.0
# Who was called within this time is somebody who may suffer.
OTHERS_S = 60.0


@dataclass(frozen=True)
class Called:
    """One call that has ended."""

    push: Push
    change: Change
    outcome: Outcome
    seconds: float

    @property
    def endpoint(self) -> Endpoint:
        """Whom it went to."""
        return self.push.endpoint


class Calls:
    """Places for calls. Who has ended keeps the place until it is noted: nobody calls faster than can be written down."""

    def __init__(self, channels: Mapping[domain.Channel, Channel], most: int, attempts: int) -> None:
        self._channels, self._most, self._attempts = channels, most, attempts
        self._in_flight: defaultdict[str, dict[asyncio.Task[None], float]] = defaultdict(dict)
        # When each endpoint was called last.
        self._began: dict[str, float] = {}
        self._places = most
        self.ended: list[Called] = []
        self.changed = asyncio.Event()

    @property
    def free(self) -> int:
        """Places that nobody has."""
        return self._places

    def take(self, places: int) -> None:
        """Reserves places for pushes that may be called."""
        self._places -= places

    def give_back(self, places: int) -> None:
        """Returns them."""
        self._places += places
        self.changed.set()

    def crowded(self, endpoint: str) -> bool:
        """Whether an endpoint's slow calls have so many places that the others would suffer; nobody does where it is alone."""
        now = time.monotonic()
        if not any(now - began < OTHERS_S for name, began in self._began.items() if name != endpoint):
            return False
        before, slow = now - SLOW_S, 0
        for began in self._in_flight[endpoint].values():
            # In the order of their beginning.
            if began > before:
                break
            slow += 1
        return slow * 4 >= self._most

    def start(self, push: Push, attempts: int) -> None:
        """Begins one call, in a place that was taken."""
        calls, now = self._in_flight[push.endpoint.name], time.monotonic()
        self._began[push.endpoint.name] = now
        task = asyncio.create_task(self._call(push, attempts))
        calls[task] = now
        task.add_done_callback(lambda ended: calls.pop(ended, None))

    async def _call(self, push: Push, attempts: int) -> None:
        delivery, label, began = push.delivery, push.delivery.channel.label, time.perf_counter()
        try:
            outcome: Outcome = await self._channels[delivery.channel].send(push)
        except Exception:
            # A channel's bug must cost one push its turn, not the others of its batch theirs.
            log.exception("channel failed", extra={"channel": label, "delivery": delivery.delivery_id})
            outcome = Retry("channel_error")
        seconds = time.perf_counter() - began
        CALL_SECONDS.labels(label).observe(seconds)
        PUSHES.labels(label, type(outcome).__name__.lower()).inc()
        if isinstance(outcome, Refused) and outcome.disables_endpoint:
            log.error("endpoint disabled: its receiver is gone", extra={"endpoint": push.endpoint.name})
        change = domain.after_attempt(delivery, attempts, outcome, self._attempts, random.random())
        self.ended.append(Called(push, change, outcome, seconds))
        self.changed.set()

    async def all_noted(self) -> None:
        """Waits until every place was given back."""
        while self._places < self._most:
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Breaks off what is under way; leases will tell."""
        tasks = [task for calls in self._in_flight.values() for task in calls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
