"""The bus doors: what others state becomes batches for the handlers. A bad fact is set aside alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from prometheus_client import Counter
from troika.identity.v1 import events_pb2 as identity
from troika.scoring.v1 import events_pb2 as scoring

from chassis.bus import Consumer, Message
from chassis.db import UnitOfWork
from services.tags import events, handlers
from services.tags.domain.catalogue import Kind
from services.tags.domain.facts import BadEvent, Occurrence, Statement
from services.tags.handlers import Batch, Move, Score, Sighting, TagRules

EVENTS_TAGGED = Counter("troika_events_tagged_total", "Resolved events whose tags are stored.")

RESOLVED: Final = "tags-resolved"
ENTITIES: Final = "tags-entities"
SCORES: Final = "tags-scores"
RELATIONS: Final = frozenset({"owns", "drives"})
# Messages hold up to 500 events; 4 of them make a transaction of some 100 ms.
MESSAGES_PER_BATCH: Final = 4


def consumers(rules: TagRules) -> tuple[Consumer, ...]:
    """Everything that tags listens to."""
    return (
        Consumer(RESOLVED, "troika.events.resolved.v1", _Resolved(rules), MESSAGES_PER_BATCH),
        Consumer(ENTITIES, "troika.entities.changed.v1", _Entities(rules), MESSAGES_PER_BATCH),
        Consumer(SCORES, "troika.scores.changed.v1", _Scores(rules), MESSAGES_PER_BATCH),
    )


class _Resolved:
    """Events with the entities they belong to."""

    def __init__(self, rules: TagRules) -> None:
        self._rules = rules

    async def __call__(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Folds all events of the messages."""
        batch, count = Batch(), 0
        for message in messages:
            for event in identity.ResolvedBatch.FromString(message.data).events:
                try:
                    self._add(batch, event)
                    count += 1
                except BadEvent as error:
                    alone = identity.ResolvedBatch(events=[event])
                    uow.dead_letter(RESOLVED, message.subject, alone.SerializeToString(), error.reason)
        events.publish(uow, await handlers.apply(uow, self._rules, batch))
        EVENTS_TAGGED.inc(count)

    def _add(self, batch: Batch, event: identity.ResolvedEvent) -> None:
        facts = self._rules.facts
        occurrence = Occurrence(
            event.source,
            event.name,
            event.occurred_at_us,
            int.from_bytes(event.event_id[:8], "big") >> 1,
            event.received_at_us,
        )
        person, vehicle = event.person, event.vehicle
        person_anchor, vehicle_anchor = person.anchor_id, vehicle.anchor_id
        statements: list[Statement] = []
        if person_anchor:
            statements = facts.stated(Kind.PERSON, occurrence, event.properties_json)
        if vehicle_anchor:
            stated = facts.stated(Kind.VEHICLE, occurrence, event.vehicle_properties_json)
            batch.sightings[Kind.VEHICLE].append(
                Sighting(vehicle_anchor, vehicle.entity_id, vehicle.version, occurrence, stated)
            )
        if person_anchor:
            batch.sightings[Kind.PERSON].append(
                Sighting(person_anchor, person.entity_id, person.version, occurrence, statements)
            )
            if vehicle_anchor and event.relation in RELATIONS:
                batch.relations.add((person_anchor, vehicle_anchor, event.relation))


class _Entities:
    """Merges and splits: anchors that belong to another entity now."""

    def __init__(self, rules: TagRules) -> None:
        self._rules = rules

    async def __call__(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Moves all anchors of the messages."""
        batch = Batch()
        for message in messages:
            for move in identity.EntitiesChanged.FromString(message.data).anchor_moves:
                owner = move.owner
                try:
                    moves = batch.moves[Kind(move.entity_kind)]
                except ValueError:
                    bad = identity.EntitiesChanged(anchor_moves=[move])
                    uow.dead_letter(ENTITIES, message.subject, bad.SerializeToString(), "UNKNOWN_ENTITY_KIND")
                    continue
                moves.append(Move(owner.anchor_id, owner.entity_id, owner.version))
        events.publish(uow, await handlers.apply(uow, self._rules, batch))


class _Scores:
    """Scores of models that a tag is made of."""

    def __init__(self, rules: TagRules) -> None:
        self._rules = rules

    async def __call__(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Keeps all scores of the messages whose model has a tag; other models concern others."""
        by_tag: dict[str, list[Score]] = {}
        for message in messages:
            changed = scoring.ScoresChanged.FromString(message.data)
            if (tag := self._rules.score_tags.get(changed.model)) is not None:
                by_tag.setdefault(tag, []).extend(
                    Score(s.person_id, s.score, s.scored_at_us, s.received_at_us) for s in changed.scores
                )
        for tag, scores in by_tag.items():
            events.publish(uow, await handlers.apply_scores(uow, self._rules, tag, scores))
