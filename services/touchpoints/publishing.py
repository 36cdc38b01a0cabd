"""Events straight to JetStream: what a door acknowledged is durable, what it could not publish it refuses."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from chassis.bus import Bus
from chassis.errors import Unavailable, is_operational
from chassis.outbox import Outgoing
from chassis.sealing import DataKey
from services.touchpoints import events, wire
from services.touchpoints.domain.observed import Observed

# Smaller requests travel together while an earlier publish is on its way.
SMALL = 64
MOST_IN_FLIGHT = 2


@dataclass
class _Waiting:
    """Small requests that wait for the next publish under one data key."""

    events: list[bytes] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    error: BaseException | None = None


class Publisher:
    """Seals, chunks, publishes and awaits the acknowledgements."""

    def __init__(self, bus: Bus, timeout_s: float) -> None:
        self._bus, self._timeout_s = bus, timeout_s
        self._waiting: dict[bytes, _Waiting] = {}
        self._in_flight = 0
        # The loop itself holds tasks only weakly.
        self._releasing: set[asyncio.Task[None]] = set()

    async def publish(
        self,
        observed: Sequence[Observed],
        aside: Sequence[Outgoing],
        key: DataKey,
        received_us: int,
        *,
        alone: bool = False,
    ) -> None:
        """Returns once everything is durable; raises Unavailable when it may not be (a repeat is de-duplicated).

        `alone`: in messages of its own, so that a repeat makes the same messages however few the events are.
        """
        prefix = events.key_prefix(key)
        # A serialised batch of one event is that event with its tag: batches are put together by appending bytes.
        facts = [wire.sealed(e, key, received_us) for e in observed]
        ids = [e.event_id for e in observed]
        if not aside and not alone and 0 < len(facts) <= SMALL:
            await self._together(prefix, facts, ids)
        else:
            await self._send([*chunks(prefix, facts, ids), *aside])

    async def _together(self, prefix: bytes, facts: list[bytes], ids: list[bytes]) -> None:
        if self._in_flight < MOST_IN_FLIGHT and prefix not in self._waiting:
            await self._counted([*chunks(prefix, facts, ids)])
            return
        waiting = self._waiting.setdefault(prefix, _Waiting())
        waiting.events += facts
        waiting.ids += ids
        await waiting.done.wait()
        if waiting.error:
            raise waiting.error

    async def _counted(self, messages: Sequence[Outgoing]) -> None:
        self._in_flight += 1
        try:
            await self._send(messages)
        finally:
            self._in_flight -= 1
            for prefix in list(self._waiting):
                task = asyncio.create_task(self._release(prefix, self._waiting.pop(prefix)))
                self._releasing.add(task)
                task.add_done_callback(self._releasing.discard)

    async def _release(self, prefix: bytes, waiting: _Waiting) -> None:
        try:
            await self._counted([*chunks(prefix, waiting.events, waiting.ids)])
        except BaseException as error:
            waiting.error = error
        finally:
            waiting.done.set()

    async def _send(self, messages: Sequence[Outgoing]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._bus.publish_all(messages)
        except Exception as error:
            if not is_operational(error):
                raise
            raise Unavailable("events cannot be stored now, try again", reason="BUS_UNAVAILABLE") from error


def chunks(prefix: bytes, facts: Sequence[bytes], ids: Sequence[bytes]) -> list[Outgoing]:
    """Serialised events behind their key as bus messages of at most 500 events and half a megabyte."""
    messages, start, size = [], 0, 0
    for index, fact in enumerate(facts):
        if index > start and (index - start == events.MOST_FACTS or size + len(fact) > events.MOST_BYTES):
            messages.append(_message(prefix, facts[start:index], ids[start:index]))
            start, size = index, 0
        size += len(fact)
    if facts:
        messages.append(_message(prefix, facts[start:], ids[start:]))
    return messages


def _message(prefix: bytes, facts: Sequence[bytes], ids: Sequence[bytes]) -> Outgoing:
    message = Outgoing.now(events.OBSERVED, prefix + b"".join(facts))
    # A client that repeats its request repeats these ids: the stream drops the second copy.
    return dataclasses.replace(message, message_id=hashlib.sha256(b"".join(ids)).hexdigest()[:32])
