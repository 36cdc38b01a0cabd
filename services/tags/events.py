"""Domain changes to protobuf and back, and the stream they travel on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from troika.tags.v1 import events_pb2 as pb

from chassis.bus import Stream
from chassis.db import UnitOfWork
from services.tags.domain.catalogue import Value
from services.tags.handlers import Changes, EntityChange

Ids = NDArray[np.uint32]
TAGS_CHANGED: Final = Stream("TAGS_CHANGED", ("troika.tags.changed.v1",))
AUDIENCES_CHANGED: Final = Stream("AUDIENCES_CHANGED", ("troika.audiences.changed.v1",))
STREAMS: Final = (TAGS_CHANGED, AUDIENCES_CHANGED)

MAX_CHANGES = 5_000
MAX_BYTES = 400 * 1024  # estimated; the limit of a bus message is 512 KiB
_CHANGE_BYTES, _RELATION_BYTES = 12, 40
# Of 4 bytes each, so that a message stays within its limit.
MAX_AUDIENCE_IDS = 100_000
_PRESENCES = {None: pb.PRESENCE_UNSPECIFIED, True: pb.PRESENCE_CAME, False: pb.PRESENCE_CEASED}
_PRESENT = {number: present for present, number in _PRESENCES.items()}


class Told(NamedTuple):
    """All that one version of an entity changed; as `handlers.EntityChange`, with the kind as the contract numbers it."""

    kind: int
    entity_id: int
    version: int
    tags: dict[str, Value | None]
    present: bool | None
    received_at_us: int


def publish(uow: UnitOfWork, changes: Changes) -> None:
    """Puts changes into the outbox, in messages within the limits. Changes of one entity stay together."""
    for message in messages(changes):
        uow.publish(TAGS_CHANGED.subjects[0], message.SerializeToString())


def messages(changes: Changes) -> Iterator[pb.TagsChanged]:
    """Changes as bus messages."""
    part: list[EntityChange] = []
    count = size = 0
    for change in changes.entities:
        tags = change.tags
        extra = _CHANGE_BYTES * (len(tags) + 3) + sum(_bytes(v) for v in tags.values() if type(v) is str or type(v) is list)
        if part and (count + len(tags) > MAX_CHANGES or size + extra > MAX_BYTES):
            yield message_of(part)
            part, count, size = [], 0, 0
        part.append(change)
        count, size = count + len(tags), size + extra
    message = message_of(part)
    for row in changes.relations:
        if count + 1 > MAX_CHANGES or size > MAX_BYTES:
            yield message
            message, count, size = pb.TagsChanged(), 0, 0
        count, size = count + 1, size + _RELATION_BYTES
        message.relation_changes.add(**row.pair._asdict(), removed=row.removed, version=row.version)
    if part or count:
        yield message


def message_of(changes: Sequence[EntityChange | Told]) -> pb.TagsChanged:
    """Changes of entities as one message."""
    message = pb.TagsChanged()
    if not changes:
        return message
    columns: dict[tuple[int, str], tuple[list[int], list[Any], list[int]]] = {}
    for row, (kind, _, _, tags, _, _) in enumerate(changes):
        for tag, value in tags.items():
            column = columns.get((kind, tag))
            if column is None:
                column = columns[kind, tag] = [], [], []
            if value is None:
                column[2].append(row)
            else:
                column[0].append(row)
                column[1].append(value)
    kinds, ids, versions, _, presences, received = zip(*changes, strict=True)
    message.entities.entity_kinds.extend(map(int, kinds))  # type: ignore[arg-type]  # of the contract
    message.entities.entity_ids.extend(ids)
    message.entities.versions.extend(versions)
    message.entities.received_at_us.extend(received)
    message.entities.presences.extend([_PRESENCES[present] for present in presences])
    for (kind, tag), (rows, values, gone) in columns.items():
        added = message.columns.add(entity_kind=int(kind), tag=tag, rows=rows, gone=gone)
        if values:
            _fill(added, values)
    return message


def told(message: pb.TagsChanged) -> list[Told]:
    """What a message says, entity by entity in its order. Raises ValueError when its columns do not fit together."""
    entities = message.entities
    presences = [_PRESENT.get(number) for number in entities.presences]
    columns = (entities.entity_kinds, entities.entity_ids, entities.versions, presences, entities.received_at_us)
    found = [Told(k, i, v, {}, p, r) for k, i, v, p, r in zip(*columns, strict=True)]
    for column in message.columns:
        tag = column.tag
        for row, value in zip(column.rows, values_of(column), strict=True):
            found[row].tags[tag] = value
        for row in column.gone:
            found[row].tags[tag] = None
    return found


def values_of(column: pb.TagChanges) -> Sequence[Value]:
    """The new values of a column, one per row."""
    if column.sets:
        return [list(each.words) for each in column.sets]
    return column.numbers or column.words or column.flags


def _fill(column: pb.TagChanges, values: Sequence[Any]) -> None:
    match values[0]:
        case bool():
            column.flags.extend(values)
        case str():
            column.words.extend(values)
        case list():
            column.sets.extend([pb.WordSet(words=words) for words in values])
        case _:
            column.numbers.extend(values)


def _bytes(value: str | list[str]) -> int:
    return 3 * len(value) if isinstance(value, str) else sum(3 * len(word) + 2 for word in value)


def to_value(value: Value | None) -> pb.TagValue | None:
    """A value as protobuf; None stays None (the entity has the tag no more)."""
    if value is None:
        return None
    if value is True or value is False:
        return pb.TagValue(boolean=value)
    if isinstance(value, list):
        return pb.TagValue(words=pb.WordSet(words=value))
    return pb.TagValue(category=value) if isinstance(value, str) else pb.TagValue(number=value)


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
