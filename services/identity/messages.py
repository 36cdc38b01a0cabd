"""Entities as protobuf, for the gRPC doors."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from troika.identity.v1 import events_pb2
from troika.identity.v1 import identity_service_pb2 as pb

from services.identity.domain.kinds import Space
from services.identity.domain.relations import Relation
from services.identity.entities import Entity


def timestamp(micros: int) -> Timestamp:
    """Microseconds since the epoch as protobuf has it."""
    stamp = Timestamp()
    stamp.FromMicroseconds(micros)
    return stamp


def entity_message(space: Space, entity_id: int, entity: Entity) -> pb.Entity:
    """An entity with its relations on the wire."""
    message = pb.Entity(
        entity_kind=events_pb2.EntityKind.ValueType(space),
        entity_id=entity_id,
        anchor_ids=entity.anchors,
        identifier_counts=entity.identifiers,
        code=entity.code,
    )
    for relation in entity.relations:
        _add(message, relation, (space, entity_id), entity.evidenced)
    return message


def _add(message: pb.Entity, relation: Relation, me: tuple[Space, int], evidenced: bool) -> None:
    other_space, other = relation.object if relation.subject == me else relation.subject
    counted = relation.support
    added = message.relations.add(
        kind=relation.kind,
        entity_kind=events_pb2.EntityKind.ValueType(other_space),
        entity_id=other,
        first_seen=timestamp(counted.first_us),
        last_seen=timestamp(counted.last_us or counted.first_us),
        valid_from=timestamp(relation.valid_from_us),
        valid_to=timestamp(relation.valid_to_us) if relation.valid_to_us else None,
        confidence=relation.confidence,
        stated=relation.stated,
    )
    if evidenced and counted.observations:
        added.evidence.reason = relation.reason
        added.evidence.observations = counted.observations
        added.evidence.days = counted.days
        added.evidence.sources.extend(counted.sources)
