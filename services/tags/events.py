"""Domain changes to protobuf and back, and the stream they travel on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from troika.identity.v1.events_pb2 import EntityKind
from troika.tags.v1 import events_pb2 as pb

from chassis.bus import Stream
from chassis.db import UnitOfWork
from services.tags.domain.catalogue import Value
from services.tags.handlers import Changes

Ids = NDArray[np.uint32]
TAGS_CHANGED: Final = Stream("TAGS_CHANGED", ("troika.tags.changed.v1",))
AUDIENCES_CHANGED: Final = Stream("AUDIENCES_CHANGED", ("troika.audiences.changed.v1",))
STREAMS: Final = (TAGS_CHANGED, AUDIENCES_CHANGED)

MAX_CHANGES = 5_000
MAX_BYTES = 400 * 1024  # estimated; the limit of a bus message is 512 KiB
_CHANGE_BYTES = 40
# Of 4 bytes each, so that a message stays within its limit.
MAX_AUDIENCE_IDS = 100_000


def publish(uow: UnitOfWork, changes: Changes) -> None:
    """Puts changes into the outbox, in messages within the limits. Changes of one entity stay together."""
    for message in messages(changes):
        uow.publish(TAGS_CHANGED.subjects[0], message.SerializeToString())


def messages(changes: Changes) -> Iterator[pb.TagsChanged]:
    """Changes as bus messages."""
    message, count, size = pb.TagsChanged(), 0, 0
    for change in changes.entities:
        extra = sum(_CHANGE_BYTES + len(tag) + (3 * len(v) if isinstance(v, str) else 0) for tag, v in change.tags.items())
        if count and (count + len(change.tags) + 1 > MAX_CHANGES or size + extra > MAX_BYTES):
            yield message
            message, count, size = pb.TagsChanged(), 0, 0
        count, size = count + len(change.tags) + 1, size + extra + _CHANGE_BYTES
        kind, entity_id, version, tags, present, received = change
        number = EntityKind.ValueType(kind)
        message.changes.extend(
            [
                pb.TagChange(
                    entity_kind=number,
                    entity_id=entity_id,
                    tag=tag,
                    value=to_value(value),
                    version=version,
                    received_at_us=received,
                )
                for tag, value in tags.items()
            ]
        )
        if present is not None:
            message.presence_changes.add(entity_kind=number, entity_id=entity_id, present=present, version=version)
    for row in changes.relations:
        if count + 1 > MAX_CHANGES or size > MAX_BYTES:
            yield message
            message, count, size = pb.TagsChanged(), 0, 0
        count, size = count + 1, size + _CHANGE_BYTES
        message.relation_changes.add(**row.pair._asdict(), removed=row.removed, version=row.version)
    if count:
        yield message


def to_value(value: Value | None) -> pb.TagValue | None:
    """A value as protobuf; None stays None (the entity has the tag no more)."""
    if value is None:
        return None
    if value is True or value is False:
        return pb.TagValue(boolean=value)
    if isinstance(value, list):
        return pb.TagValue(words=pb.WordSet(words=value))
    return pb.TagValue(category=value) if isinstance(value, str) else pb.TagValue(number=value)


def from_value(message: pb.TagValue) -> Value | None:
    """A protobuf value as a domain value, None when none is set."""
    which = message.WhichOneof("kind")
    if which == "number":
        return message.number
    if which == "category":
        return message.category
    if which == "words":
        return list(message.words.words)
    return message.boolean if which else None


def publish_audience(uow: UnitOfWork, told: pb.AudienceChange, entered: Ids, left: Ids) -> None:
    """Puts a change of an audience into the outbox, in as many parts as its ids need."""
    both = np.concatenate([entered, left])
    for start in range(0, max(len(both), 1), MAX_AUDIENCE_IDS):
        end, border = start + MAX_AUDIENCE_IDS, len(entered)
        part = pb.AudienceChange()
        part.CopyFrom(told)
        part.entered, part.left = packed(entered[start:end]), packed(left[max(0, start - border) : max(0, end - border)])
        part.more = end < len(both)
        uow.publish(AUDIENCES_CHANGED.subjects[0], pb.AudiencesChanged(changes=[part]).SerializeToString())


def packed(ids: Ids) -> bytes:
    """Ids as little-endian unsigned 32-bit numbers."""
    return ids.astype("<u4", copy=False).tobytes()
