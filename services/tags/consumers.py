"""The bus doors: what others state becomes batches for the handlers. A bad fact is set aside alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from prometheus_client import Counter
from troika.identity.v1 import events_pb2 as identity
from troika.orchestrator.v1 import events_pb2 as orchestrator
from troika.scoring.v1 import events_pb2 as scoring

from chassis.bus import Consumer, Message
from chassis.consents import MESSAGES
from chassis.db import UnitOfWork
from services.tags import consents, erasing, events, handlers, relating, scores, texts
from services.tags.consents import Said
from services.tags.domain.catalogue import RELATIONS, Kind, TagType
from services.tags.domain.facts import BadEvent, Occurrence, Statement
from services.tags.erasure_store import Tombstone
from services.tags.handlers import Batch, Move, Sighting, TagRules
from services.tags.relating import Told
from services.tags.scores import Score
from services.tags.store import Pair

EVENTS_TAGGED = Counter("troika_events_tagged_total", "Resolved events whose tags are stored.")

EVENTS_RESOLVED: Final = "EVENTS_RESOLVED"
RESOLVED: Final = "tags-resolved"
ENTITIES: Final = "tags-entities"
SCORES: Final = "tags-scores"
TEXTS: Final = "tags-texts"
STATED_TAGS: Final = "tags-stated"
# What tags say of where they come from when journeys write them.
JOURNEYS: Final = "journeys"
STATED: Final = frozenset(RELATIONS[Kind.PERSON, Kind.VEHICLE])
_CONCERNING: Final = {(int(one), int(other)): kinds for (one, other), kinds in RELATIONS.items()}
_UNTAGGED: Final = frozenset({identity.ENTITY_KIND_HOUSEHOLD, identity.ENTITY_KIND_DEALER, identity.ENTITY_KIND_DEVICE})
# Messages hold up to 500 events; 4 of them make a transaction of some 100 ms.
MESSAGES_PER_BATCH: Final = 4
# One batch is folded while PostgreSQL works on the other.
LANES: Final = 2


def consumers(rules: TagRules) -> tuple[Consumer, ...]:
    """Everything that tags listens to."""
    return (
        Consumer(RESOLVED, "troika.events.resolved.v1", _Resolved(rules), MESSAGES_PER_BATCH, LANES),
        Consumer(ENTITIES, "troika.entities.changed.v1", _Entities(rules), MESSAGES_PER_BATCH),
        Consumer(SCORES, "troika.scores.changed.v1", _Scores(rules), MESSAGES_PER_BATCH),
        Consumer(TEXTS, "troika.texts.read.v1", _Texts(rules), MESSAGES_PER_BATCH),
        Consumer(STATED_TAGS, "troika.tags.stated.v1", _Stated(rules), MESSAGES_PER_BATCH),
    )


class _Resolved:
    """Events with the entities they belong to."""

    def __init__(self, rules: TagRules) -> None:
        self._rules = rules

    async def __call__(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Folds all events of the messages."""
        # Before anything is stated, so that all of it is stated and applied by one catalogue.
        await self._rules.hold(uow)
        batch, count = Batch(), 0
        for message in messages:
            withheld = self._withheld(message.sequence)
            for event in identity.ResolvedBatch.FromString(message.data).events:
                try:
                    self._add(batch, event, withheld)
                    count += 1
                except BadEvent as error:
                    alone = identity.ResolvedBatch(events=[event])
                    uow.dead_letter(RESOLVED, message.subject, alone.SerializeToString(), error.reason)
        await _apply(uow, self._rules, batch)
        EVENTS_TAGGED.inc(count)

    def _withheld(self, sequence: int) -> Mapping[Kind, Collection[str]]:
        """Tags that a message is too old to say something of."""
        return {kind: {tag for tag, cut in cuts.items() if sequence <= cut} for kind, cuts in self._rules.cuts.items()}

    def _add(self, batch: Batch, event: identity.ResolvedEvent, withheld: Mapping[Kind, Collection[str]]) -> None:
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
            if of_persons := withheld.get(Kind.PERSON):
                statements = [each for each in statements if each.tag not in of_persons]
        if vehicle_anchor:
            stated = facts.stated(Kind.VEHICLE, occurrence, event.vehicle_properties_json)
            if of_vehicles := withheld.get(Kind.VEHICLE):
                stated = [each for each in stated if each.tag not in of_vehicles]
            batch.sightings[Kind.VEHICLE].append(
                Sighting(vehicle_anchor, vehicle.entity_id, vehicle.version, occurrence, stated)
            )
        if person_anchor:
            batch.sightings[Kind.PERSON].append(
                Sighting(person_anchor, person.entity_id, person.version, occurrence, statements)
            )
            if vehicle_anchor and event.relation in STATED:
                batch.relations.add((person_anchor, vehicle_anchor, event.relation))


class _Entities:
    """Merges and splits, ended relations, erased persons, consents."""

    def __init__(self, rules: TagRules) -> None:
        self._rules = rules

    async def __call__(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Moves all anchors of the messages, follows relations, erases, and keeps what was said by those who are left."""
        batch = Batch()
        told: list[Told] = []
        erased: dict[int, Tombstone] = {}
        said: list[Said] = []
        for message in messages:
            changed = identity.EntitiesChanged.FromString(message.data)
            for move in changed.anchor_moves:
                self._add(uow, batch, move, message.subject)
            told += [_told(r, message.sequence) for r in changed.relation_changes if _concerns_us(r)]
            erased |= {anchor: Tombstone(anchor, e.person_id) for e in changed.erasures for anchor in e.anchor_ids}
            said += [each for c in changed.consent_changes for each in _said(c)]
        await _apply(uow, self._rules, batch)
        if told:
            events.publish(uow, await relating.follow(uow, told))
        if erased:
            events.publish(uow, await erasing.erase(uow, self._rules, list(erased.values())))
        if said:
            await consents.keep(uow, said)

    def _add(self, uow: UnitOfWork, batch: Batch, move: identity.AnchorMove, subject: str) -> None:
        owner = move.owner
        # Households, dealers and devices have no tags.
        if move.entity_kind in _UNTAGGED:
            return
        try:
            moves = batch.moves[Kind(move.entity_kind)]
        except ValueError:
            bad = identity.EntitiesChanged(anchor_moves=[move])
            uow.dead_letter(ENTITIES, subject, bad.SerializeToString(), "UNKNOWN_ENTITY_KIND")
            return
        moves.append(Move(owner.anchor_id, owner.entity_id, owner.version))


async def _apply(uow: UnitOfWork, rules: TagRules, batch: Batch) -> None:
    """Applies a batch; what turns out to be an erased person's only now is erased with it."""
    changes = await handlers.apply(uow, rules, batch)
    events.publish(uow, changes)
    if changes.overdue:
        events.publish(uow, await erasing.erase(uow, rules, changes.overdue))


def _concerns_us(change: identity.RelationChange) -> bool:
    return change.kind in _CONCERNING.get((change.subject_kind, change.object_kind), ())


def _said(change: identity.ConsentChange) -> list[Said]:
    """What a change says of what concerns us; without a purpose it is about messages of any."""
    purposes = [change.purpose] if change.purpose else [*MESSAGES]
    expires_us, separate = change.expires_at_us or consents.NO_END, change.kind == identity.CONSENT_KIND_SEPARATE
    return [
        Said(
            change.anchor_id,
            change.person_id,
            purpose,
            change.channel,
            separate,
            not change.opted_out,
            change.stated_at_us,
            expires_us,
        )
        for purpose in purposes
        if purpose in consents.PURPOSES
    ]


def _told(change: identity.RelationChange, sequence: int) -> Told:
    return Told(
        Pair(change.subject_kind, change.subject_id, change.object_kind, change.object_id, change.kind),
        change.valid_from_us,
        change.valid_to_us,
        change.confidence == 0,
        sequence,
    )


class _Scores:
    """Scores of models that a tag is made of."""

    def __init__(self, rules: TagRules) -> None:
        self._rules = rules

    async def __call__(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Keeps all scores of the messages whose model has a tag; other models concern others."""
        # Before anything is given to a tag, so that all of it goes by one catalogue.
        await self._rules.hold(uow)
        by_tag: dict[str, list[Score]] = {}
        for message in messages:
            changed = scoring.ScoresChanged.FromString(message.data)
            for tag in self._rules.score_tags.get(changed.model, ()):
                read = scores.of_label if tag.type is TagType.CATEGORY else scores.of_score
                by_tag.setdefault(tag.name, []).extend(map(read, changed.scores))
        for name, given in by_tag.items():
            events.publish(uow, await scores.apply(uow, self._rules, name, given))


class _Stated:
    """Tags that journeys write: kept as scores are, by person, the newest counting."""

    def __init__(self, rules: TagRules) -> None:
        self._rules = rules

    async def __call__(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Keeps what fits the catalogue."""
        await self._rules.hold(uow)
        types = {tag.name: tag.type for tag in self._rules.score_tags.get(JOURNEYS, ())}
        by_tag: dict[str, list[Score]] = {}
        for message in messages:
            for stated in orchestrator.TagsStated.FromString(message.data).tags:
                kind = stated.WhichOneof("value")
                wanted = {TagType.CATEGORY: "word", TagType.NUMBER: "number"}.get(types.get(stated.tag, TagType.TEXT))
                if wanted is None or kind not in (None, wanted) or stated.person_id <= 0:
                    alone = orchestrator.TagsStated(tags=[stated])
                    uow.dead_letter(STATED_TAGS, message.subject, alone.SerializeToString(), "TAG_NOT_OF_JOURNEYS")
                    continue
                value = None if kind is None else getattr(stated, kind)
                by_tag.setdefault(stated.tag, []).append(
                    Score(stated.person_id, value, stated.stated_at_us, stated.stated_at_us)
                )
        for name, given in by_tag.items():
            events.publish(uow, await scores.apply(uow, self._rules, name, given))


class _Texts:
    """What scoring has read in texts."""

    def __init__(self, rules: TagRules) -> None:
        self._rules = rules

    async def __call__(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Folds all texts of the messages."""
        await self._rules.hold(uow)
        told = [scoring.TextsRead.FromString(message.data) for message in messages]
        await _apply(uow, self._rules, texts.batch_of(self._rules.facts, told))
