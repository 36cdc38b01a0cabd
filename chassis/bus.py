"""NATS JetStream: streams, publishing with acknowledgement, and micro-batch consumers that are exactly-once in effect.

A consumer pulls up to `batch` messages, opens one transaction, drops those its inbox has seen, hands the rest to the
handler, commits, then acknowledges. Operational faults (database or bus down, deadlock) retry the batch; any other
error isolates the message that causes it, and that one alone goes to the dead-letter stream.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

import nats
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Proto
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError
from opentelemetry.trace import SpanKind

from chassis import telemetry
from chassis.db import Database, UnitOfWork
from chassis.errors import is_operational
from chassis.outbox import DEAD_LETTER_SUBJECT, Outgoing, dead_letter
from chassis.tls import Certificates

log = logging.getLogger(__name__)

P = TypeVar("P", bound=Proto)

KEEP = timedelta(days=7)
# The relay may publish a row twice (crash between publish and delete); JetStream drops the copy within this window,
# the consumers' inboxes drop it after.
DUPLICATE_WINDOW = timedelta(minutes=10)
# What a killed replica held comes back after this; a batch takes far less, and a slow one is guarded by the inbox.
ACK_WAIT = timedelta(seconds=10)
FETCH_WAIT_S = 1.0
RETRY_S = 0.5
# On a replayed message: the consumer it is for. The others of its subject have handled it long ago.
ONLY = "troika-only"
PUBLISH_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Stream:
    """A stream and its subjects, declared by the service that publishes to it (in its events.py)."""

    name: str
    subjects: tuple[str, ...]


@dataclass(frozen=True)
class Extent:
    """When a stream was made, and the sequences of its oldest and newest message; an empty one's oldest is still to come."""

    created: str
    first: int
    last: int

    def continues(self, created: str, sequence: int) -> bool:
        """True when everything after that sequence of the stream made at that time is still there."""
        return self.created == created and self.first - 1 <= sequence <= self.last


DEAD_LETTERS = Stream("DEADLETTERS", (f"{DEAD_LETTER_SUBJECT}.>",))


@dataclass(frozen=True)
class Message:
    """A message as a handler sees it."""

    id: str
    subject: str
    data: bytes
    headers: Mapping[str, str]
    sequence: int


def parsed(uow: UnitOfWork, consumer: str, message: Message, kind: type[P]) -> P | None:
    """A message as protobuf; None when it is none, which sets it aside."""
    try:
        return kind.FromString(message.data)
    except DecodeError:
        uow.dead_letter(consumer, message.subject, message.data, "UNREADABLE")
        return None


class Handler(Protocol):
    """Handles one micro-batch inside the caller's transaction."""

    async def __call__(self, uow: UnitOfWork, messages: Sequence[Message], /) -> None:
        """Must be idempotent only within the transaction: the inbox keeps repeats away."""


@dataclass(frozen=True)
class Consumer:
    """A durable, shared position on one subject. Replicas with the same name share the work."""

    name: str
    subject: str
    handle: Handler
    batch: int = 16
    # How many batches one process works on at once, each in a transaction of its own: one computes while another one's
    # statements run. They share the work as replicas do, so the handler must not mind the order of batches.
    lanes: int = 1
    # How long a first message may wait for others; well below ACK_WAIT.
    gather_s: float = 0.0


class Bus:
    """One connection to NATS; it reconnects for as long as it lives."""

    def __init__(
        self, url: str, service: str, replicas: int = 1, certificates: Certificates | None = None, ca_file: str = ""
    ) -> None:
        """`certificates` are shown where the address is tls://; `ca_file`: who signs the server's, beside their authorities."""
        self._url, self._service, self._replicas = url, service, replicas
        self._tls: ssl.SSLContext | None = None
        if url.startswith("tls://"):
            self._tls = certificates.client_context() if certificates else ssl.create_default_context()
            if ca_file:
                self._tls.load_verify_locations(ca_file)
        self._client = Client()

    async def connect(self) -> None:
        """Connects, waiting for the server for as long as it takes."""
        await self._client.connect(
            self._url,
            name=self._service,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            error_cb=_log_error,
            tls=self._tls,
        )
        self._js = self._client.jetstream(timeout=PUBLISH_TIMEOUT_S, publish_async_max_pending=4096)

    async def declare(self, *streams: Stream) -> None:
        """Makes or updates streams that this service publishes to."""
        for stream in streams:
            config = api.StreamConfig(
                name=stream.name,
                subjects=list(stream.subjects),
                storage=api.StorageType.FILE,
                max_age=KEEP.total_seconds(),
                duplicate_window=DUPLICATE_WINDOW.total_seconds(),
                num_replicas=self._replicas,
            )
            try:
                await self._js.update_stream(config)
            except NotFoundError:
                await self._js.add_stream(config)

    async def publish_all(self, messages: Sequence[Outgoing]) -> None:
        """Publishes all at once and awaits every acknowledgement; raises the first failure."""
        await asyncio.gather(
            *(self._js.publish(m.subject, m.payload, headers={"Nats-Msg-Id": m.message_id, **m.headers}) for m in messages)
        )

    async def extent(self, stream: str) -> Extent:
        """Which stretch of a stream is still there."""
        info = await self._js.stream_info(stream)
        return Extent(str(info.created), info.state.first_seq, info.state.last_seq)

    async def waiting(self, consumer: Consumer) -> int:
        """Messages that no replica has handled yet, those in somebody's hands included."""
        stream = await self._js.find_stream_name_by_subject(consumer.subject)
        info = await self._js.consumer_info(stream, consumer.name)
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def size(self, stream: str) -> tuple[int, int]:
        """Messages and bytes that a stream holds."""
        state = (await self._js.stream_info(stream)).state
        return state.messages, state.bytes

    async def streams(self) -> list[tuple[str, int, int]]:
        """Name, copies and messages of every stream."""
        infos = await self._js.streams_info()
        return sorted((str(i.config.name), i.config.num_replicas or 1, i.state.messages) for i in infos)

    async def readers(self, prefix: str) -> list[tuple[str, int, int]]:
        """Durable consumers with such a name: messages that wait, and how many ask for them now."""
        found = []
        for stream, _, _ in await self.streams():
            for info in await self._js.consumers_info(stream):
                if info.name.startswith(prefix):
                    waiting = (info.num_pending or 0) + (info.num_ack_pending or 0)
                    found.append((info.name, waiting, info.num_waiting or 0))
        return sorted(found)

    async def clock(self) -> float:
        """The server's time, seconds since the epoch."""
        answer = await self._client.request(f"$JS.API.STREAM.INFO.{DEAD_LETTERS.name}", b"", timeout=PUBLISH_TIMEOUT_S)
        told = json.loads(answer.data)
        if "ts" not in told:
            raise NotFoundError
        return datetime.fromisoformat(told["ts"]).timestamp()

    async def has_handled(self, stream: str, consumer: str, sequence: int) -> bool:
        """Whether a durable consumer, over all its replicas, has acknowledged everything up to a sequence."""
        try:
            info = await self._js.consumer_info(stream, consumer)
        except NotFoundError:
            return False
        floor = info.ack_floor.stream_seq if info.ack_floor else 0
        # What expired unseen is acknowledged by nobody.
        return floor >= sequence or (info.num_pending == 0 and info.num_ack_pending == 0)

    async def follow(
        self, stream: Stream, after: int, handle: Callable[[Message], Awaitable[None]], caught_up: asyncio.Event | None = None
    ) -> None:
        """Reads a one-subject stream after a sequence, in order, for a replica's own projection; runs until cancelled.

        `caught_up` is set once nothing is pending. Lost connections resume behind the last message handled.
        """
        while True:
            try:
                config = api.ConsumerConfig(
                    deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=after + 1,
                    ack_policy=api.AckPolicy.NONE,
                    inactive_threshold=60.0,
                )
                subscription = await self._js.pull_subscribe(stream.subjects[0], stream=stream.name, config=config)
                if caught_up and (await subscription.consumer_info()).num_pending == 0:
                    caught_up.set()
                while True:
                    for raw in await _fetch(subscription, 64):
                        message = _message(raw)
                        await handle(message)
                        after = message.sequence
                        if caught_up and raw.metadata.num_pending == 0:
                            caught_up.set()
            except Exception as error:
                if not is_operational(error):
                    log.exception("projection failed", extra={"stream": stream.name})
                await asyncio.sleep(RETRY_S)

    async def consume(self, consumer: Consumer, database: Database, stopping: asyncio.Event | None = None) -> None:
        """Runs one lane of a consumer until cancelled; resubscribes in its own task whenever the bus was away.

        After `stopping` it ends behind the batch that it has: what is fetched and left waits out ACK_WAIT before others get it.
        """
        stopping = stopping or asyncio.Event()
        while not stopping.is_set():
            try:
                subscription = await self._js.pull_subscribe(consumer.subject, durable=consumer.name, config=_durable(consumer))
                while not stopping.is_set():
                    if messages := await _fetch(subscription, consumer.batch):
                        if consumer.gather_s and len(messages) < consumer.batch:
                            await asyncio.sleep(consumer.gather_s)
                            messages += await _fetch(subscription, consumer.batch - len(messages))
                        await self._handle(consumer, database, messages)
            except Exception as error:
                # The stream may not exist yet: its publisher may start later than we do.
                if not (is_operational(error) or isinstance(error, NotFoundError)):
                    log.exception("consumer failed", extra={"consumer": consumer.name})
                await asyncio.sleep(RETRY_S)

    async def _handle(self, consumer: Consumer, database: Database, raws: Sequence[Msg]) -> None:
        try:
            await self._transact(consumer, database, raws)
        except Exception as error:
            if is_operational(error):
                log.warning("batch retried", extra={"consumer": consumer.name, "error": type(error).__name__})
                for raw in raws:
                    await raw.nak(delay=RETRY_S)
                return
            if len(raws) > 1:
                for raw in raws:
                    await self._handle(consumer, database, [raw])
                return
            log.exception("message set aside", extra={"consumer": consumer.name})
            telemetry.MESSAGES.labels(consumer.name, "dead").inc()
            letter = dead_letter(consumer.name, raws[0].subject, raws[0].data, f"UNHANDLED_{type(error).__name__}".upper())
            await self.publish_all([letter])
        for raw in raws:
            await raw.ack()

    async def _transact(self, consumer: Consumer, database: Database, raws: Sequence[Msg]) -> None:
        messages = [_message(raw) for raw in raws]
        attributes: dict[str, str | int] = {
            "messaging.system": "nats",
            "messaging.destination.name": consumer.subject,
            "messaging.consumer.group.name": consumer.name,
            "messaging.batch.message_count": len(messages),
        }
        carriers = [m.headers for m in messages]
        with (
            telemetry.BATCH_SECONDS.labels(consumer.name).time(),
            telemetry.span(f"{consumer.name} handle", SpanKind.CONSUMER, carriers, attributes),
        ):
            async with database.transaction() as uow:
                fresh = await uow.fresh(consumer.name, [m.id for m in messages])
                if wanted := [m for m in messages if m.id in fresh and m.headers.get(ONLY, consumer.name) == consumer.name]:
                    await consumer.handle(uow, wanted)
        telemetry.MESSAGES.labels(consumer.name, "handled").inc(len(messages))
        oldest = min(raw.metadata.timestamp.timestamp() for raw in raws)
        telemetry.AGE_SECONDS.labels(consumer.name).observe(max(0.0, time.time() - oldest))

    async def dead_letters(self, limit: int, wanted: Callable[[Message], bool] = lambda _: True) -> list[Message]:
        """The oldest wanted messages on the dead-letter stream, at most `limit`."""
        state = (await self._js.stream_info(DEAD_LETTERS.name)).state
        found: list[Message] = []
        for sequence in range(state.first_seq, state.last_seq + 1):
            if len(found) == limit:
                break
            try:
                raw = await self._js.get_msg(DEAD_LETTERS.name, sequence)
            except NotFoundError:
                continue
            headers = {key: str(value) for key, value in (raw.headers or {}).items()}
            letter = Message(headers.get("Nats-Msg-Id", ""), raw.subject or "", raw.data or b"", headers, sequence)
            if wanted(letter):
                found.append(letter)
        return found

    async def replay(self, letter: Message) -> None:
        """Publishes a dead letter again for the consumer that set it aside, and only for it, and takes it off the stream."""
        await self.publish_all([replayed(letter)])
        await self._js.delete_msg(DEAD_LETTERS.name, letter.sequence)

    async def delete_streams(self) -> None:
        """Deletes every stream on the server; for tests."""
        for info in await self._js.streams_info():
            await self._js.delete_stream(str(info.config.name))

    async def check(self) -> None:
        """Raises when the bus does not answer."""
        await self._client.flush(timeout=2)

    async def close(self) -> None:
        """Closes the connection."""
        await self._client.close()


def replayed(letter: Message) -> Outgoing:
    """A dead letter as the message it was; its id follows from the letter's, so that a repeated replay is a duplicate."""
    only = {ONLY: letter.subject.removeprefix(f"{DEAD_LETTER_SUBJECT}.")}
    message = Outgoing.now(letter.headers["troika-origin"], letter.data, **only)
    return dataclasses.replace(message, message_id=f"replay-{letter.id}")


def _durable(consumer: Consumer) -> api.ConsumerConfig:
    return api.ConsumerConfig(
        durable_name=consumer.name,
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT.total_seconds(),
        max_ack_pending=4096,
    )


async def _fetch(subscription: JetStreamContext.PullSubscription, batch: int) -> list[Msg]:
    """Up to `batch` messages, as soon as there is one; empty when none came in time."""
    try:
        return await subscription.fetch(batch, timeout=FETCH_WAIT_S)
    except (TimeoutError, nats.errors.TimeoutError):
        return []


def _message(raw: Msg) -> Message:
    headers = {key: str(value) for key, value in (raw.headers or {}).items()}
    sequence = raw.metadata.sequence.stream
    # A message without an id can only come from a foreign publisher; its place in the stream names it as well.
    message_id = headers.get("Nats-Msg-Id") or f"{raw.metadata.stream}:{sequence}"
    return Message(message_id, raw.subject, raw.data, headers, sequence)


async def _log_error(error: Exception) -> None:
    log.warning("bus error", extra={"error": type(error).__name__})
