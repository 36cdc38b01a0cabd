"""Facts that the orchestrator states: pushes handed over to touchpoints, tags that journeys write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from troika.orchestrator.v1 import events_pb2

from chassis.bus import Stream
from services.orchestrator.domain.themes import PersonId
from services.orchestrator.themes.words import Words

DELIVERIES_REQUESTED = "troika.deliveries.requested.v1"
TAGS_STATED = "troika.tags.stated.v1"
STREAMS = (Stream("DELIVERIES_REQUESTED", (DELIVERIES_REQUESTED,)), Stream("TAGS_STATED", (TAGS_STATED,)))

# Subjects of other rooms that consumers.py reads.
DELIVERIES_UPDATED = "troika.deliveries.updated.v1"
EVENTS_RESOLVED = "troika.events.resolved.v1"
ENTITIES_CHANGED = "troika.entities.changed.v1"

MAX_REQUESTS = 500
MAX_BYTES = 512 * 1024


@dataclass(frozen=True)
class Push:
    """One push on its way out; `not_before` None when it may go at once."""

    delivery_id: str
    theme: str
    person_id: PersonId
    channel: str
    words: Words
    score: float
    rank: int
    reasons: tuple[str, ...]
    fallback_channels: tuple[str, ...]
    dealer_code: str
    decided_at: datetime
    not_before: datetime | None
    expires_at: datetime


def deliveries_requested(pushes: Sequence[Push]) -> Iterator[bytes]:
    """Bus payloads of at most MAX_REQUESTS pushes and about MAX_BYTES each."""
    batch, size = events_pb2.DeliveriesRequested(), 0
    for push in pushes:
        request = _request(push)
        length = request.ByteSize() + 8
        if batch.requests and (len(batch.requests) == MAX_REQUESTS or size + length > MAX_BYTES):
            yield batch.SerializeToString()
            batch, size = events_pb2.DeliveriesRequested(), 0
        batch.requests.append(request)
        size += length
    if batch.requests:
        yield batch.SerializeToString()


def _request(push: Push) -> events_pb2.DeliveryRequest:
    return events_pb2.DeliveryRequest(
        delivery_id=push.delivery_id,
        theme=push.theme,
        person_id=push.person_id,
        channel=push.channel,
        offer=push.words.offer,
        title=push.words.title,
        body=push.words.body,
        purpose=push.words.purpose,
        score=push.score,
        rank=push.rank,
        reasons=push.reasons,
        decided_at_us=_micros(push.decided_at),
        expires_at_us=_micros(push.expires_at),
        fallback_channels=push.fallback_channels,
        dealer_code=push.dealer_code,
        not_before_us=_micros(push.not_before) if push.not_before else 0,
    )


def _micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)
