"""Observed events straight to JetStream: what a door acknowledged is durable, what it could not publish it refuses."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from troika.touchpoints.v1.events_pb2 import ObservedBatch, ObservedEvent

from chassis.bus import Bus
from chassis.errors import Unavailable, is_operational
from chassis.outbox import Outgoing, dead_letter
from chassis.sealing import DataKey, seal
from services.touchpoints import events
from services.touchpoints.domain.observed import Invalid, Observed, event_id

# Smaller requests travel together while an earlier publish is on its way.
SMALL = 64
MOST_IN_FLIGHT = 2


@dataclass(frozen=True)
class Quarantined:
    """An event that cannot be taken, with what was wrong; its bytes may hold anything, so they travel sealed."""

    source: str
    raw: bytes
    error: Invalid


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
        bad: Sequence[Quarantined],
        key: DataKey,
        received_us: int,
        *,
        alone: bool = False,
    ) -> None:
        """Returns once everything is durable; raises Unavailable when it may not be (a repeat is de-duplicated).

        `alone`: in messages of its own, so that a repeat makes the same messages however few the events are.
        """
        prefix = events.key_prefix(key)
        letters = _letters(bad, key, received_us)
        # A serialised batch of one event is that event with its tag: batches are put together by appending bytes.
        facts = [events.sealed_batch([e], key, received_us) for e in observed]
        ids = [e.event_id for e in observed]
        if not letters and not alone and 0 < len(facts) <= SMALL:
            await self._together(prefix, facts, ids)
        else:
            await self._send([*_chunks(prefix, facts, ids), *letters])

    async def _together(self, prefix: bytes, facts: list[bytes], ids: list[bytes]) -> None:
        if self._in_flight < MOST_IN_FLIGHT and prefix not in self._waiting:
            await self._counted([*_chunks(prefix, facts, ids)])
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
            await self._counted([*_chunks(prefix, waiting.events, waiting.ids)])
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


def _chunks(prefix: bytes, facts: Sequence[bytes], ids: Sequence[bytes]) -> list[Outgoing]:
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


def _letters(bad: Sequence[Quarantined], key: DataKey, received_us: int) -> list[Outgoing]:
    """Dead letters, one for each reason and chunk: an ObservedBatch whose sealed part is the event as it came."""
    by_reason: dict[str, list[Quarantined]] = defaultdict(list)
    for one in bad:
        by_reason[one.error.reason].append(one)
    letters = []
    for reason, group in by_reason.items():
        facts, ids = [], []
        for index, one in enumerate(group):
            ids.append(event_id(one.source, hashlib.sha256(one.raw).hexdigest() + str(index)))
            fact = ObservedEvent(event_id=ids[-1], source=one.source, name="Quarantined", received_at_us=received_us)
            fact.properties_json = f'{{"field":"{one.error.field}","reason":"{reason}"}}'.encode()
            fact.sealed_identifiers = seal(key, ids[-1], one.raw[: events.MOST_BYTES])
            facts.append(ObservedBatch(events=[fact]).SerializeToString())
        for chunk in _chunks(events.key_prefix(key), facts, ids):
            # No consumer could make more of it than the door did: it can be looked at, not replayed.
            letter = dead_letter("touchpoints-ingest", "", chunk.payload, reason)
            letters.append(dataclasses.replace(letter, message_id="dead" + chunk.message_id))
    return letters
