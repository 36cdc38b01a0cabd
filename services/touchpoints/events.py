"""Domain values ↔ protobuf, subjects and streams."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from troika.identity.v1.events_pb2 import CONSENT_KIND_SEPARATE, ENTITY_KIND_PERSON, EntitiesChanged
from troika.orchestrator.v1.events_pb2 import DeliveriesRequested, DeliveryRequest, LeadHandover, LeadsAssigned
from troika.touchpoints.v1.events_pb2 import (
    ChannelsHealth,
    ChannelState,
    DeliveriesUpdated,
    DeliveryUpdate,
    ObservedBatch,
    ObservedEvent,
)

from chassis.bus import Stream
from chassis.consents import MESSAGES
from chassis.moments import from_us, to_us
from chassis.quiet_hours import QuietHours, zone_of
from chassis.sealing import DataKey
from services.touchpoints import wire
from services.touchpoints.domain.consents import NO_END, Statement
from services.touchpoints.domain.deliveries import CHANNELS, Cap, Delivery
from services.touchpoints.domain.handovers import GIVEN, PASSED_ON, TAKEN, Handover
from services.touchpoints.domain.health import Health
from services.touchpoints.domain.observed import Observed

OBSERVED = "troika.events.observed.v1"
QUARANTINED = "troika.events.quarantined.v1"
UPDATED = "troika.deliveries.updated.v1"
HEALTH = "troika.channels.health.v1"
REQUESTED = "troika.deliveries.requested.v1"
ENTITIES = "troika.entities.changed.v1"
LEADS = "troika.leads.assigned.v1"
RESOLVED = "troika.events.resolved.v1"
STREAMS = (
    Stream("EVENTS_OBSERVED", (OBSERVED,)),
    Stream("EVENTS_QUARANTINED", (QUARANTINED,)),
    Stream("DELIVERIES_UPDATED", (UPDATED,)),
    Stream("CHANNELS_HEALTH", (HEALTH,)),
)

MOST_FACTS = 500
MOST_BYTES = 480 * 1024


def sealed_batch(observed: Iterable[Observed], key: DataKey, received_us: int) -> bytes:
    """Serialised ObservedBatch of events without the key: to be appended to `key_prefix`."""
    return b"".join(wire.sealed(event, key, received_us) for event in observed)


def key_prefix(key: DataKey) -> bytes:
    """Serialised ObservedBatch with the key alone. Serialised batches of events appended to it make one message."""
    batch = ObservedBatch()
    batch.sealed_key.key_id = key.key_id
    batch.sealed_key.ephemeral_public_key = key.ephemeral_public_key
    return batch.SerializeToString()


@dataclass(frozen=True)
class AnchorEvent:
    """An event about somebody whose anchor is known: feedback on a push."""

    event_id: bytes
    source: str
    name: str
    occurred_at_us: int
    anchor_id: int
    properties: bytes


def anchor_batches(events: Sequence[AnchorEvent], received_us: int) -> Iterator[bytes]:
    """Feedback as serialised ObservedBatches of at most 500."""
    for start in range(0, len(events), MOST_FACTS):
        chunk = events[start : start + MOST_FACTS]
        yield ObservedBatch(
            events=[
                ObservedEvent(
                    event_id=e.event_id,
                    source=e.source,
                    name=e.name,
                    occurred_at_us=e.occurred_at_us,
                    received_at_us=received_us,
                    anchor_id=e.anchor_id,
                    properties_json=e.properties,
                )
                for e in chunk
            ]
        ).SerializeToString()


@dataclass(frozen=True)
class Update:
    """A push changed its state."""

    delivery_id: str
    state: int
    reason: str
    occurred_at: datetime
    answer: str = ""


def update_batches(updates: Sequence[Update]) -> Iterator[bytes]:
    """Serialised DeliveriesUpdated of at most 500."""
    for start in range(0, len(updates), MOST_FACTS):
        yield DeliveriesUpdated(
            updates=[
                DeliveryUpdate(
                    delivery_id=u.delivery_id,
                    state=u.state,  # type: ignore[arg-type]  # the numbers are the contract's
                    reason=u.reason,
                    occurred_at_us=to_us(u.occurred_at),
                    answer=u.answer,
                )
                for u in updates[start : start + MOST_FACTS]
            ]
        ).SerializeToString()


def requests(payload: bytes) -> Iterable[DeliveryRequest]:
    """Requests of one bus message; raises DecodeError."""
    return DeliveriesRequested.FromString(payload).requests


def one_request(request: DeliveryRequest) -> bytes:
    """A bus message with this request alone, to be set aside."""
    return DeliveriesRequested(requests=[request]).SerializeToString()


def delivery(request: DeliveryRequest) -> Delivery:
    """A request as a push; raises ValueError with an UPPER_SNAKE reason when it can never be sent."""
    if not 0 < len(request.delivery_id) <= 100:
        raise ValueError("DELIVERY_ID_INVALID")
    if request.channel not in CHANNELS or any(c not in CHANNELS for c in request.fallback_channels):
        raise ValueError("CHANNEL_UNKNOWN")
    if request.purpose not in MESSAGES:
        raise ValueError("PURPOSE_UNKNOWN")
    if request.person_id <= 0:
        raise ValueError("PERSON_MISSING")
    if any(c.channel not in ("", *CHANNELS) or c.pushes < 1 or not 0 < c.days <= 3660 for c in request.caps):
        raise ValueError("CAP_INVALID")
    if request.quiet_hours and not _hours(request.quiet_hours, request.time_zone):
        raise ValueError("QUIET_HOURS_INVALID")
    texts = (request.delivery_id, request.theme, request.offer, request.title, request.body, request.dealer_code)
    if any("\0" in text for text in (*texts, *request.reasons)):
        raise ValueError("TEXT_INVALID")
    try:
        decided, expires, earliest = (
            from_us(us) for us in (request.decided_at_us, request.expires_at_us, request.not_before_us)
        )
    except OverflowError as error:
        raise ValueError("TIME_INVALID") from error
    return Delivery(
        request.delivery_id,
        request.theme,
        request.person_id,
        CHANNELS[request.channel],
        tuple(CHANNELS[c] for c in request.fallback_channels),
        request.offer,
        request.title,
        request.body,
        request.purpose,
        request.score,
        request.rank,
        tuple(request.reasons),
        request.dealer_code,
        decided,
        expires,
        earliest,
        quiet_hours=request.quiet_hours,
        time_zone=request.time_zone,
        caps=tuple(Cap(int(CHANNELS.get(c.channel, 0)), c.pushes, c.days * 86_400) for c in request.caps),
    )


def _hours(window: str, zone: str) -> bool:
    try:
        return zone_of(zone) is not None and QuietHours.parse(window, UTC) is not None
    except ValueError:
        return False


def channels_health(channels: Sequence[Health]) -> bytes:
    """Serialised ChannelsHealth as of now."""
    states = [
        ChannelState(
            channel=each.channel.label,
            failing=each.fails,
            reason=each.reason,
            success=1.0 if each.tally.success is None else each.tally.success,
            left=each.left,
        )
        for each in channels
    ]
    return ChannelsHealth(channels=states, at_us=time.time_ns() // 1000).SerializeToString()


def lead_handovers(payload: bytes) -> Iterable[LeadHandover]:
    """Handovers of one bus message; raises DecodeError."""
    return LeadsAssigned.FromString(payload).handovers


def one_handover(stated: LeadHandover) -> bytes:
    """A bus message with this handover alone, to be set aside."""
    return LeadsAssigned(handovers=[stated]).SerializeToString()


def handover(stated: LeadHandover) -> Handover:
    """A handover as the room understands it; raises ValueError with an UPPER_SNAKE reason when there is no telling it."""
    if not re.fullmatch("leads/[1-9][0-9]{0,17}", stated.lead) or not 0 < stated.revision < 10**6:
        raise ValueError("LEAD_INVALID")
    if stated.kind not in (GIVEN, PASSED_ON, TAKEN):
        raise ValueError("HANDOVER_KIND_UNKNOWN")
    if stated.person_id <= 0 or not stated.dealer_code:
        raise ValueError("PERSON_MISSING" if stated.dealer_code else "DEALER_MISSING")
    if any("\0" in text for text in (stated.dealer_code, stated.advisor, stated.reason, stated.interest, stated.delivery_id)):
        raise ValueError("TEXT_INVALID")
    try:
        at, due = from_us(stated.occurred_at_us), from_us(stated.due_at_us) if stated.due_at_us else None
    except OverflowError as error:
        raise ValueError("TIME_INVALID") from error
    return Handover(
        stated.lead,
        stated.revision,
        stated.person_id,
        stated.dealer_code,
        stated.advisor,
        stated.kind,
        stated.reason,
        stated.interest,
        at,
        due,
        stated.delivery_id,
    )


@dataclass(frozen=True)
class EntityFacts:
    """What one message of identity says that concerns pushes.

    Moves are (anchor, person, version), erased (person, its anchors), aliases (person, who it went into or None, entry).
    """

    consents: Sequence[Statement]
    moves: Sequence[tuple[int, int, int]]
    erased: Sequence[tuple[int, Sequence[int]]]
    aliases: Sequence[tuple[int, int | None, int]]


def entity_facts(payload: bytes) -> EntityFacts:
    """Statements of consent, persons' merges, splits, anchor moves and erasures of one bus message; raises DecodeError."""
    message = EntitiesChanged.FromString(payload)
    return EntityFacts(
        [
            Statement(
                c.anchor_id,
                c.person_id,
                purpose,
                c.channel,
                c.kind == CONSENT_KIND_SEPARATE,
                not c.opted_out,
                c.stated_at_us,
                c.expires_at_us or NO_END,
            )
            for c in message.consent_changes
            for purpose in ((c.purpose,) if c.purpose else MESSAGES)
        ],
        [
            (m.owner.anchor_id, m.owner.entity_id, m.owner.version)
            for m in message.anchor_moves
            if m.entity_kind == ENTITY_KIND_PERSON
        ],
        [(erasure.person_id, tuple(erasure.anchor_ids)) for erasure in message.erasures],
        [
            (c.other_id, c.survivor_id if c.operation == "merge" else None, c.op_id)
            for c in message.cluster_changes
            if c.entity_kind == ENTITY_KIND_PERSON
        ],
    )
