"""Makes facts as identity and scoring state them, and reads what tags made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from troika.identity.v1 import events_pb2 as identity
from troika.scoring.v1 import events_pb2 as scoring
from troika.tags.v1 import events_pb2 as pb

from chassis.bus import Message
from chassis.db import Database
from services.tags import consumers, events
from services.tags.catalogue import yaml_files
from services.tags.domain.catalogue import Kind
from services.tags.handlers import TagRules

RULES = TagRules(yaml_files.load())
RESOLVED, ENTITIES, SCORES, *_ = consumers.consumers(RULES)
Owner = tuple[int, int, int]  # anchor, entity, version


def event(
    number: int,
    name: str = "App Opened",
    *,
    source: str = "app",
    person: Owner = (0, 0, 0),
    vehicle: Owner = (0, 0, 0),
    relation: str = "",
    at: int | None = None,
    properties: Any = None,
    vehicle_properties: Any = None,
) -> identity.ResolvedEvent:
    """The event with this number; `at` are seconds."""
    at_us = (number if at is None else at) * 1_000_000
    return identity.ResolvedEvent(
        event_id=hashlib.sha256(str(number).encode()).digest()[:16],
        source=source,
        name=name,
        occurred_at_us=at_us,
        received_at_us=at_us + 5,
        person=owner(person),
        vehicle=owner(vehicle),
        relation=relation,
        properties_json=orjson.dumps(properties) if properties is not None else b"",
        vehicle_properties_json=orjson.dumps(vehicle_properties) if vehicle_properties is not None else b"",
    )


def owner(given: Owner) -> identity.AnchorOwner:
    anchor_id, entity_id, version = given
    return identity.AnchorOwner(anchor_id=anchor_id, entity_id=entity_id, version=version)


def move(kind: Kind, given: Owner) -> identity.AnchorMove:
    return identity.AnchorMove(entity_kind=int(kind), owner=owner(given))  # type: ignore[arg-type]


def moves(*made: identity.AnchorMove) -> identity.EntitiesChanged:
    return identity.EntitiesChanged(anchor_moves=made)


def batch(*stated: identity.ResolvedEvent) -> identity.ResolvedBatch:
    return identity.ResolvedBatch(events=stated)


def message(payload: Any) -> Message:
    return Message("m", "s", payload.SerializeToString(), {}, 1)


async def resolved(database: Database, *stated: identity.ResolvedEvent) -> None:
    async with database.transaction() as uow:
        await RESOLVED.handle(uow, [message(batch(*stated))])


async def moved(database: Database, *made: identity.AnchorMove) -> None:
    async with database.transaction() as uow:
        await ENTITIES.handle(uow, [message(moves(*made))])


async def changed(database: Database, *batches: identity.EntitiesChanged, first: int = 1) -> None:
    """Messages of identity in one transaction; `first` is the place of the first of them in the stream."""
    made = [
        Message(f"m{number}", "s", batch.SerializeToString(), {}, number) for number, batch in enumerate(batches, start=first)
    ]
    async with database.transaction() as uow:
        await ENTITIES.handle(uow, made)


def erasure(person: int, *anchors: int) -> identity.EntitiesChanged:
    return identity.EntitiesChanged(erasures=[identity.Erasure(erasure_id=1, person_id=person, anchor_ids=anchors)])


async def scored(database: Database, scores: Iterable[tuple[int, float, int]], model: str = "purchase_intent") -> None:
    """(person, score, second at which it was computed)."""
    made = [scoring.PersonScore(person_id=p, score=s, scored_at_us=at * 1_000_000) for p, s, at in scores]
    async with database.transaction() as uow:
        await SCORES.handle(uow, [message(scoring.ScoresChanged(model=model, scores=made))])


async def tags(database: Database, kind: Kind = Kind.PERSON) -> dict[int, dict[str, Any]]:
    """Tags of all entities that exist."""
    async with database.read() as uow:
        rows = await uow.rows(
            "SELECT entity_id, CAST(tags AS text) AS tags FROM entity WHERE entity_kind = :kind AND present", kind=int(kind)
        )
    return {row.entity_id: orjson.loads(row.tags) for row in rows}


async def relations(database: Database) -> set[tuple[int, int, str]]:
    async with database.read() as uow:
        rows = await uow.rows("SELECT subject_id, object_id, kind FROM entity_relation WHERE NOT removed")
    return {(row.subject_id, row.object_id, row.kind) for row in rows}


async def published(database: Database) -> Sequence[pb.TagsChanged]:
    """What waits in the outbox for TAGS_CHANGED."""
    async with database.read() as uow:
        rows = await uow.rows(
            "SELECT payload FROM outbox WHERE subject = :subject ORDER BY id", subject=events.TAGS_CHANGED.subjects[0]
        )
    return [pb.TagsChanged.FromString(row.payload) for row in rows]


async def dead_letters(database: Database) -> list[tuple[str, bytes]]:
    async with database.read() as uow:
        rows = await uow.rows(
            "SELECT headers ->> 'troika-reason' AS reason, payload FROM outbox WHERE subject LIKE 'troika.deadletters.%'"
        )
    return [(row.reason, row.payload) for row in rows]


async def empty(database: Database) -> None:
    async with database.transaction() as uow:
        await uow.execute("TRUNCATE anchor, entity, relation, entity_relation, told_relation, erased_anchor, outbox")


async def empty_outbox(database: Database) -> None:
    async with database.transaction() as uow:
        await uow.execute("DELETE FROM outbox")
