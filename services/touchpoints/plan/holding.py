"""Takes what the doors set aside into the table where it can be counted, read and replayed."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter
from troika.touchpoints.v1.quarantine_pb2 import QuarantinedBatch

from chassis.bus import Consumer, Message
from chassis.db import UnitOfWork
from chassis.moments import from_us
from services.touchpoints.events import QUARANTINED
from services.touchpoints.plan import quarantine_store as store
from services.touchpoints.plan.quarantine_store import Row

HELD = Counter("touchpoints_held_events_total", "Events that were set aside, by reason.", ["reason"])


async def hold(uow: UnitOfWork, messages: Sequence[Message], /) -> None:
    """Adds the events of bus messages; those that are held already change nothing. Raises DecodeError."""
    rows: dict[bytes, Row] = {}
    for message in messages:
        for e in QuarantinedBatch.FromString(message.data).events:
            at = from_us(e.received_at_us)
            rows.setdefault(
                e.event_id, (e.event_id, e.source, e.name, e.reason, e.field, e.message, e.schema_path, at, e.sealed_message)
            )
    if rows:
        # In one order everywhere: two batches with the same events do not wait for each other in a circle.
        await store.hold(uow, [rows[number] for number in sorted(rows)])
    for _, _, _, reason, *_ in rows.values():
        HELD.labels(reason).inc()


CONSUMER = Consumer("touchpoints-quarantined", QUARANTINED, hold)
