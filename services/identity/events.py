"""Facts of identity as protobuf on their subjects, cut so that each message stays below the bus's limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from google.protobuf.message import Message
from troika.identity.v1 import events_pb2

from chassis.bus import Stream
from chassis.db import UnitOfWork
from services.identity.domain.consents import SEPARATE, Statement
from services.identity.domain.kinds import Space
from services.identity.domain.observations import Observation
from services.identity.store import Owner

RESOLVED = Stream("EVENTS_RESOLVED", ("troika.events.resolved.v1",))
CHANGED = Stream("ENTITIES_CHANGED", ("troika.entities.changed.v1",))
STREAMS = (RESOLVED, CHANGED)

MAX_FACTS = 500
MAX_BYTES = 512 * 1024
ANCHORS_PER_ERASURE = 20_000

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


class RelationTold(NamedTuple):
    """A relation as it is told from now on; confidence 0 takes back what was told."""

    kind: str
    subject_kind: int
    subject_id: int
    object_kind: int
    object_id: int
    valid_from_us: int
    valid_to_us: int
    confidence: float
    stated: bool


def _owner(owner: Owner) -> events_pb2.AnchorOwner:
    return events_pb2.AnchorOwner(anchor_id=owner.anchor_id, entity_id=owner.entity_id, version=owner.version)


def publish_resolved(uow: UnitOfWork, resolved: Iterable[tuple[Observation, Owner, Owner]]) -> None:
    """events.resolved for observations with the owners of their person and vehicle anchors."""
    facts = [
        events_pb2.ResolvedEvent(
            event_id=o.event_id,
            source=o.source,
            name=o.event,
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


def publish_changed(uow: UnitOfWork, moves: Sequence[Move] = (), entries: Sequence[LedgerEntry] = ()) -> None:
    """entities.changed for moves and ledger entries."""
    moved = [events_pb2.AnchorMove(entity_kind=events_pb2.EntityKind.ValueType(m.space), owner=_owner(m.owner)) for m in moves]
    subject = CHANGED.subjects[0]
    for move_chunk in chunks(moved):
        uow.publish(subject, events_pb2.EntitiesChanged(anchor_moves=move_chunk).SerializeToString())
    for entry_chunk in chunks([cluster_change(entry) for entry in entries]):
        uow.publish(subject, events_pb2.EntitiesChanged(cluster_changes=entry_chunk).SerializeToString())


def publish_consents(uow: UnitOfWork, statements: Iterable[Statement], persons: Mapping[int, int]) -> None:
    """entities.changed for statements. `persons`: anchor → the person it belongs to."""
    changes = [
        events_pb2.ConsentChange(
            anchor_id=s.anchor_id,
            person_id=persons[s.anchor_id],
            channel=s.channel,
            opted_out=not s.given,
            stated_at_us=s.stated_us,
            purpose=s.purpose,
            kind=events_pb2.CONSENT_KIND_SEPARATE if s.kind == SEPARATE else events_pb2.CONSENT_KIND_GENERAL,
            expires_at_us=s.expires_us,
        )
        for s in statements
    ]
    for chunk in chunks(changes):
        uow.publish(CHANGED.subjects[0], events_pb2.EntitiesChanged(consent_changes=chunk).SerializeToString())


def publish_erased(uow: UnitOfWork, *, erasure_id: int, person_id: int, anchors: Sequence[int]) -> None:
    """entities.changed for an erased person: its anchors are to be forgotten."""
    # A person may have come through very many cookies.
    for start in range(0, max(len(anchors), 1), ANCHORS_PER_ERASURE):
        erased = events_pb2.Erasure(
            erasure_id=erasure_id, person_id=person_id, anchor_ids=anchors[start : start + ANCHORS_PER_ERASURE]
        )
        uow.publish(CHANGED.subjects[0], events_pb2.EntitiesChanged(erasures=[erased]).SerializeToString())


def publish_relations(uow: UnitOfWork, told: Iterable[RelationTold]) -> None:
    """entities.changed for relations."""
    changes = [
        events_pb2.RelationChange(
            **r._asdict()
            | {
                "subject_kind": events_pb2.EntityKind.ValueType(r.subject_kind),
                "object_kind": events_pb2.EntityKind.ValueType(r.object_kind),
            }
        )
        for r in told
    ]
    for chunk in chunks(changes):
        uow.publish(CHANGED.subjects[0], events_pb2.EntitiesChanged(relation_changes=chunk).SerializeToString())


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
