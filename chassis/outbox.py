"""Outbox and inbox: a fact is published if and only if the transaction that made it committed."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import orjson
from sqlalchemy import BigInteger, Column, DateTime, Identity, LargeBinary, MetaData, Table, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import telemetry
from chassis.errors import is_operational

if TYPE_CHECKING:
    from chassis.db import Database

log = logging.getLogger(__name__)

DEAD_LETTER_SUBJECT = "troika.deadletters"
# Rows published per round; with payloads of at most 512 KiB this bounds the relay's memory.
RELAY_BATCH = 64
# A crash between commit and publish leaves rows behind; another replica's relay finds them within this time.
SWEEP_S = 1.0
# Streams keep messages for a week; what is older cannot come again.
INBOX_DAYS = 8
PURGE_S = 3600.0


@dataclass(frozen=True)
class Outgoing:
    """A message on its way: id, subject, payload and headers (traceparent, CloudEvents attributes)."""

    message_id: str
    subject: str
    payload: bytes
    headers: Mapping[str, str]

    @classmethod
    def now(cls, subject: str, payload: bytes, **headers: str) -> Outgoing:
        """A message with a new id and the current trace."""
        message_id = uuid.uuid4().hex
        cloud_event = {"ce-specversion": "1.0", "ce-id": message_id, "ce-type": subject, "ce-source": "/troika"}
        return cls(message_id, subject, payload, cloud_event | telemetry.trace_headers() | headers)


# Stands where a row has no message.
NOTHING = Outgoing("", "", b"", {})


def dead_letter(consumer: str, origin: str, payload: bytes, reason: str) -> Outgoing:
    """A message for the dead-letter stream. `reason` is UPPER_SNAKE and free of personal data.

    `payload` is a whole bus message (a batch of one fact) for the subject `origin`, so that it can be replayed to
    that consumer; with an empty origin it can only be looked at.
    """
    telemetry.DEAD_LETTERS.labels(consumer, reason).inc()
    return Outgoing.now(f"{DEAD_LETTER_SUBJECT}.{consumer}", payload, **{"troika-reason": reason, "troika-origin": origin})


def add_tables(metadata: MetaData) -> None:
    """Adds the tables `outbox` and `inbox`; a service's first migration makes them with `CREATE_TABLES`."""
    Table(
        "outbox",
        metadata,
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("message_id", Text, nullable=False),
        Column("subject", Text, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Column("headers", JSONB, nullable=False),
    )
    Table(
        "inbox",
        metadata,
        Column("consumer", Text, primary_key=True),
        Column("message_id", Text, primary_key=True),
        Column("handled_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    )


CREATE_TABLES = (
    "CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY, message_id text NOT NULL, subject text NOT NULL,"
    " payload bytea NOT NULL, headers jsonb NOT NULL, CONSTRAINT pk_outbox PRIMARY KEY (id))",
    "CREATE TABLE inbox (consumer text NOT NULL, message_id text NOT NULL,"
    " handled_at timestamptz NOT NULL DEFAULT now(), CONSTRAINT pk_inbox PRIMARY KEY (consumer, message_id))",
)


async def store(connection: AsyncConnection, messages: Sequence[Outgoing]) -> None:
    """Writes messages on the caller's transaction."""
    await connection.execute(
        text(
            "INSERT INTO outbox (message_id, subject, payload, headers) SELECT * FROM"
            " unnest(CAST(:ids AS text[]), CAST(:subjects AS text[]), CAST(:payloads AS bytea[]), CAST(:headers AS jsonb[]))"
        ),
        dict(zip(("ids", "subjects", "payloads", "headers"), columns(messages), strict=True)),
    )


def columns(messages: Sequence[Outgoing]) -> tuple[list[str], list[str], list[bytes], list[str]]:
    """Messages as columns of the table: message_id, subject, payload, headers. For who writes them in a statement of its own,
    which nobody tells the relay: it finds them within SWEEP_S.
    """
    return (
        [m.message_id for m in messages],
        [m.subject for m in messages],
        [m.payload for m in messages],
        [orjson.dumps(dict(m.headers)).decode() for m in messages],
    )


class Publisher(Protocol):
    """What the relay needs of the bus."""

    async def publish_all(self, messages: Sequence[Outgoing]) -> None:
        """Publishes and awaits every acknowledgement; raises when one is missing."""


class Relay:
    """Publishes committed outbox rows and deletes them. Any number may run: rows are claimed with SKIP LOCKED."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self._database = database
        self._publisher = publisher

    async def run(self) -> None:
        """Runs until cancelled; wakes on each commit that published and every SWEEP_S."""
        purged = time.monotonic()
        while True:
            try:
                while await self.relay_once() == RELAY_BATCH:
                    pass
                if time.monotonic() - purged > PURGE_S:
                    purged = time.monotonic()
                    await self.purge_inbox()
            except Exception as error:
                if not is_operational(error):
                    log.exception("relay failed")
                await asyncio.sleep(SWEEP_S)
            wake = self._database.committed_outgoing
            try:
                async with asyncio.timeout(SWEEP_S):
                    await wake.wait()
            except TimeoutError:
                pass
            wake.clear()

    async def purge_inbox(self) -> int:
        """Forgets messages that cannot come again; returns how many."""
        async with self._database.transaction(traced=False) as uow:
            return await uow.execute(
                "DELETE FROM inbox WHERE handled_at < now() - make_interval(days => :days)", days=INBOX_DAYS
            )

    async def relay_once(self) -> int:
        """Publishes one batch and returns its size. A crash after publishing publishes again under the same message ids."""
        async with self._database.transaction(traced=False) as uow:
            rows = await uow.rows(
                "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT :n FOR UPDATE SKIP LOCKED)"
                " RETURNING id, message_id, subject, payload, headers",
                n=RELAY_BATCH,
            )
            messages = [
                Outgoing(r.message_id, r.subject, r.payload, r.headers) for r in sorted(rows, key=lambda row: int(row.id))
            ]
            if messages:
                await self._publisher.publish_all(messages)
        for message in messages:
            telemetry.RELAYED.labels(message.subject).inc()
        return len(messages)
