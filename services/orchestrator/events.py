"""Facts that the orchestrator states: pushes handed over to touchpoints, leads to dealers, tags that journeys write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from troika.orchestrator.v1 import events_pb2

from chassis.bus import Stream
from services.orchestrator.themes.words import Words

DELIVERIES_REQUESTED = "troika.deliveries.requested.v1"
TAGS_STATED = "troika.tags.stated.v1"
LEADS_ASSIGNED = "troika.leads.assigned.v1"
STREAMS = (
    Stream("DELIVERIES_REQUESTED", (DELIVERIES_REQUESTED,)),
    Stream("TAGS_STATED", (TAGS_STATED,)),
    Stream("LEADS_ASSIGNED", (LEADS_ASSIGNED,)),
)

# Subjects of other rooms that consumers.py reads.
DELIVERIES_UPDATED = "troika.deliveries.updated.v1"
CHANNELS_HEALTH = "troika.channels.health.v1"
EVENTS_RESOLVED = "troika.events.resolved.v1"
ENTITIES_CHANGED = "troika.entities.changed.v1"
AUDIENCES_CHANGED = "troika.audiences.changed.v1"
SCORES_CHANGED = "troika.scores.changed.v1"

MAX_REQUESTS = 500
MAX_BYTES = 512 * 1024


class Push(NamedTuple):
    """One push on its way out; moments in microseconds since the epoch."""

    delivery_id: str
    theme: str
    person_id: int
    channel: str
    words: Words
    score: float
    rank: int
    reasons: tuple[str, ...]
    fallback_channels: tuple[str, ...]
    dealer_code: str
    decided_at_us: int
    expires_at_us: int
    # What touchpoints asks again when it sends: hours on a zone's clock, and caps (channel or empty, pushes, days).
    quiet_hours: str = ""
    time_zone: str = ""
    caps: tuple[tuple[str, int, float], ...] = ()


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
        decided_at_us=push.decided_at_us,
        expires_at_us=push.expires_at_us,
        fallback_channels=push.fallback_channels,
        dealer_code=push.dealer_code,
        quiet_hours=push.quiet_hours,
        time_zone=push.time_zone if push.quiet_hours else "",
        caps=[events_pb2.PushCap(channel=channel, pushes=most, days=days) for channel, most, days in push.caps],
    )


# Numbers are those of the contract.
GIVEN, PASSED_ON, TAKEN = 1, 2, 3


class Handover(NamedTuple):
    """A lead that came to a dealer or left it; moments in microseconds since the epoch, 0 for none."""

    lead: str
    revision: int
    person_id: int
    dealer_code: str
    advisor: str
    kind: int
    reason: str
    interest: str
    occurred_at_us: int
    due_at_us: int
    delivery_id: str


def leads_assigned(handovers: Sequence[Handover]) -> Iterator[bytes]:
    """Bus payloads of at most MAX_REQUESTS handovers each."""
    for start in range(0, len(handovers), MAX_REQUESTS):
        chunk = handovers[start : start + MAX_REQUESTS]
        yield events_pb2.LeadsAssigned(
            handovers=[events_pb2.LeadHandover(**each._asdict()) for each in chunk]
        ).SerializeToString()
