"""What a process tells of the servers it stands on, for dashboards and alerts that need no exporters of theirs.

Every replica tells the same; whoever reads takes the largest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from nats.js.errors import NotFoundError
from prometheus_client import Gauge

from chassis.bus import Bus, Consumer, Stream
from chassis.db import Database
from chassis.errors import is_operational

log = logging.getLogger(__name__)

EVERY_S: Final = 15.0

WAITING = Gauge("troika_consumer_waiting", "Messages that no replica of a consumer has handled yet.", ["consumer"])
STREAM_MESSAGES = Gauge("troika_stream_messages", "Messages that a stream holds.", ["stream"])
STREAM_BYTES = Gauge("troika_stream_bytes", "Bytes that a stream holds.", ["stream"])
OUTBOX = Gauge("troika_outbox_waiting", "Rows of the outbox that wait for the relay, at most 10,000.")
CONNECTIONS = Gauge("troika_postgres_connections", "Connections to the database, whosever they are.")
MOST_CONNECTIONS = Gauge("troika_postgres_connections_most", "Connections that the server takes.")
BYTES = Gauge("troika_postgres_bytes", "Size of the database.")
DEADLOCKS = Gauge("troika_postgres_deadlocks", "Deadlocks that the database has broken since its statistics began.")
CERTIFICATE = Gauge("troika_certificate_expiry_timestamp_seconds", "When this process' certificate ends; 0: it has none.")

# Where nobody but the owner may connect, roles are not told the size.
_READ = """
    SELECT d.numbackends, current_setting('max_connections')::int AS most, d.deadlocks,
        CASE WHEN has_database_privilege(d.datid, 'CONNECT') THEN pg_database_size(d.datid) ELSE 0 END AS bytes,
        (SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT 10000) AS waiting) AS outbox
    FROM pg_stat_database d WHERE d.datname = current_database()
"""


class Vitals:
    """Looks every EVERY_S; `streams` and `consumers` are those that the service named up to then."""

    def __init__(self, database: Database, bus: Bus, streams: Sequence[Stream], consumers: Sequence[Consumer]) -> None:
        self._database, self._bus, self._streams, self._consumers = database, bus, streams, consumers

    async def run(self) -> None:
        """Until cancelled; what is away tells nothing until it is back."""
        while True:
            try:
                await self.look()
            except Exception as error:
                if not is_operational(error):
                    log.exception("vital signs not read")
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Once."""
        [row] = await self._database.fetch(_READ)
        for gauge, name in (
            (CONNECTIONS, "numbackends"),
            (MOST_CONNECTIONS, "most"),
            (BYTES, "bytes"),
            (DEADLOCKS, "deadlocks"),
            (OUTBOX, "outbox"),
        ):
            gauge.set(row[name])
        for stream in self._streams:
            messages, size = await self._bus.size(stream.name)
            STREAM_MESSAGES.labels(stream.name).set(messages)
            STREAM_BYTES.labels(stream.name).set(size)
        for consumer in {each.name: each for each in self._consumers}.values():
            try:
                WAITING.labels(consumer.name).set(await self._bus.waiting(consumer))
            except NotFoundError:
                # Its stream is still to come.
                continue
