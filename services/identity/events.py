"""Facts of identity as protobuf on their subjects, cut so that each message stays below the bus's limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from google.protobuf.message import Message
from troika.identity.v1 import events_pb2

from chassis.bus import Stream
from chassis.db import UnitOfWork
from services.identity.domain.kinds import Space
from services.identity.domain.observations import Observation
from services.identity.store import Owner

RESOLVED = Stream("EVENTS_RESOLVED", ("troika.events.resolved.v1",))
CHANGED = Stream("ENTITIES_CHANGED", ("troika.entities.changed.v1",))
STREAMS = (RESOLVED, CHANGED)

MAX_FACTS = 500
MAX_BYTES = 512 * 1024

M = TypeVar("M", bound=Message)


class Move(NamedTuple):
    """An anchor that changed hands."""

    space: Space
    owner: Owner


class LedgerEntry(NamedTuple):
    """A merge or split as the ledger holds it."""

    op_id: int
    space: Space
    operation: str
    survivor_id: int
    other_id: int
    reason: str


class Statement(NamedTuple):
    """A consent given or withdrawn through an anchor."""

    anchor_id: int
    person_id: int
    channel: str
    opted_out: bool
    stated_us: int


def _owner(owner: Owner) -> events_pb2.AnchorOwner:
    return events_pb2.AnchorOwner(anchor_id=owner.anchor_id, entity_id=owner.entity_id, version=owner.version)


def publish_resolved(uow: UnitOfWork, resolved: Iterable[tuple[Observation, Owner, Owner]]) -> None:
    """events.resolved for observations with the owners of their person and vehicle anchors."""
    facts = [
        events_pb2.ResolvedEvent(
            event_id=o.event_id,
            source=o.source,
            name=o.name,
            occurred_at_us=o.occurred_us,
            received_at_us=o.received_us,
            person=_owner(person) if person.anchor_id else None,
            vehicle=_owner(vehicle) if vehicle.anchor_id else None,
            relation=o.relation if person.anchor_id and vehicle.anchor_id else "",
            properties_json=o.properties,
            vehicle_properties_json=o.vehicle_properties,
        )
        for o, person, vehicle in resolved
    ]
    for chunk in chunks(facts):
        uow.publish(RESOLVED.subjects[0], events_pb2.ResolvedBatch(events=chunk).SerializeToString())


def cluster_change(entry: LedgerEntry) -> events_pb2.ClusterChange:
    """A ledger entry as callers see it."""
    return events_pb2.ClusterChange(
        op_id=entry.op_id,
        entity_kind=events_pb2.EntityKind.ValueType(entry.space),
        operation=entry.operation,
        survivor_id=entry.survivor_id,
        other_id=entry.other_id,
        reason=entry.reason,
    )


def publish_changed(
    uow: UnitOfWork, moves: Sequence[Move] = (), entries: Sequence[LedgerEntry] = (), statements: Sequence[Statement] = ()
) -> None:
    """entities.changed for moves, ledger entries and consents."""
    moved = [events_pb2.AnchorMove(entity_kind=events_pb2.EntityKind.ValueType(m.space), owner=_owner(m.owner)) for m in moves]
    consents = [
        events_pb2.ConsentChange(
            anchor_id=s.anchor_id,
            person_id=s.person_id,
            channel=s.channel,
            opted_out=s.opted_out,
            stated_at_us=s.stated_us,
        )
        for s in statements
    ]
    subject = CHANGED.subjects[0]
    for move_chunk in chunks(moved):
        uow.publish(subject, events_pb2.EntitiesChanged(anchor_moves=move_chunk).SerializeToString())
    for entry_chunk in chunks([cluster_change(entry) for entry in entries]):
        uow.publish(subject, events_pb2.EntitiesChanged(cluster_changes=entry_chunk).SerializeToString())
    for consent_chunk in chunks(consents):
        uow.publish(subject, events_pb2.EntitiesChanged(consent_changes=consent_chunk).SerializeToString())


def chunks(facts: Sequence[M]) -> Iterator[list[M]]:
    """Facts in runs of at most 500 and about half a MiB; a single larger fact travels alone."""
    chunk: list[M] = []
    size = 0
    for fact in facts:
        # Tag and length of a repeated field take at most 6 bytes.
        bytes_of = fact.ByteSize() + 6
        if chunk and (len(chunk) == MAX_FACTS or size + bytes_of > MAX_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(fact)
        size += bytes_of
    if chunk:
        yield chunk
