"""Facts on the bus: scores that scoring states, tag changes that it follows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from google.protobuf.message import DecodeError
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON, EntitiesChanged, ResolvedBatch, ResolvedEvent
from troika.scoring.v1 import events_pb2
from troika.tags.v1 import events_pb2 as tags_pb2

from chassis.bus import Message, Stream
from services.scoring import consents
from services.scoring.consents import Move, Said
from services.scoring.domain import PersonScore
from services.scoring.frame import Value

SCORES_CHANGED = "troika.scores.changed.v1"
TAGS_CHANGED = "troika.tags.changed.v1"
ENTITIES_CHANGED = "troika.entities.changed.v1"
TEXTS_READ = "troika.texts.read.v1"
EVENTS_RESOLVED = "troika.events.resolved.v1"
STREAMS = (Stream("SCORES_CHANGED", (SCORES_CHANGED,)), Stream("TEXTS_READ", (TEXTS_READ,)))
MAX_SCORES = 5000


@dataclass
class Change:
    """What a batch says of one person: the newest value and version of each tag, and the newest event behind them."""

    values: dict[str, tuple[int, Value]]
    received_at_us: int = 0


def scores_changed(model: str, version: int, scores: Sequence[PersonScore], scored_at: datetime) -> Iterable[bytes]:
    """Serialised messages of at most 5,000 scores."""
    at_us = int(scored_at.timestamp() * 1e6)
    for start in range(0, len(scores), MAX_SCORES):
        chunk = [
            events_pb2.PersonScore(
                person_id=s.person_id,
                score=s.score,
                probability=s.probability,
                scored_at_us=at_us,
                received_at_us=s.received_at_us,
                label=s.label,
            )
            for s in scores[start : start + MAX_SCORES]
        ]
        yield events_pb2.ScoresChanged(model=model, model_version=version, scores=chunk).SerializeToString()


def feature_changes(messages: Sequence[Message], tags: Collection[str]) -> tuple[dict[int, Change], list[Message]]:
    """Changes of these person tags by person, and the messages that are not TagsChanged at all."""
    persons: dict[int, Change] = {}
    unreadable = []
    for message in messages:
        try:
            batch = tags_pb2.TagsChanged.FromString(message.data)
        except DecodeError:
            unreadable.append(message)
            continue
        entities = batch.entities
        for column in batch.columns:
            if column.tag not in tags or column.entity_kind != ENTITY_KIND_PERSON:
                continue
            nothing: list[Value] = [None] * len(column.gone)
            for row, value in zip((*column.rows, *column.gone), (*_values(column), *nothing), strict=True):
                person = persons.get(entities.entity_ids[row])
                if person is None:
                    person = persons[entities.entity_ids[row]] = Change({})
                known, version = person.values.get(column.tag), entities.versions[row]
                if known is None or known[0] < version:
                    person.values[column.tag] = version, value
                person.received_at_us = max(person.received_at_us, entities.received_at_us[row])
    return persons, unreadable


@dataclass
class EntitiesHeard:
    """What a batch says of persons as far as scores need it."""

    erased: list[int] = field(default_factory=list)
    # Anchors of the erased, each with the place of its message in the stream.
    erased_anchors: dict[int, int] = field(default_factory=dict)
    said: list[Said] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    unreadable: list[Message] = field(default_factory=list)


def entities_changes(messages: Sequence[Message]) -> EntitiesHeard:
    """Erasures, what was said of personalisation, and whose anchors are, of messages; those that say nothing readable apart."""
    heard = EntitiesHeard()
    for message in messages:
        try:
            changed = EntitiesChanged.FromString(message.data)
        except DecodeError:
            heard.unreadable.append(message)
            continue
        for erasure in changed.erasures:
            heard.erased.append(erasure.person_id)
            heard.erased_anchors |= dict.fromkeys(erasure.anchor_ids, message.sequence)
        heard.said += [
            Said(
                c.anchor_id,
                c.person_id,
                not c.opted_out,
                c.stated_at_us,
                c.expires_at_us or consents.NO_END,
                message.sequence,
            )
            for c in changed.consent_changes
            if c.purpose == consents.PURPOSE
        ]
        heard.moves += [
            Move(move.owner.anchor_id, move.owner.entity_id, move.owner.version)
            for move in changed.anchor_moves
            if move.entity_kind == ENTITY_KIND_PERSON
        ]
    return heard


def resolved_events(messages: Sequence[Message]) -> tuple[list[ResolvedEvent], list[Message]]:
    """Events of messages, and the messages that are no ResolvedBatch at all."""
    events: list[ResolvedEvent] = []
    unreadable = []
    for message in messages:
        try:
            events += ResolvedBatch.FromString(message.data).events
        except DecodeError:
            unreadable.append(message)
    return events, unreadable


def _values(column: tags_pb2.TagChanges) -> Sequence[Value]:
    """The new values of a tag; sets of words are no features."""
    return column.numbers or column.words or column.flags or [None] * len(column.sets)
