"""The JetStream doors of journeys: events, audiences and scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import orjson
from troika.identity.v1 import events_pb2 as identity_pb2
from troika.scoring.v1 import events_pb2 as scoring_pb2
from troika.tags.v1 import events_pb2 as tags_pb2

from chassis.bus import Consumer, Message, parsed
from chassis.db import UnitOfWork
from chassis.moments import from_us
from services.orchestrator.events import AUDIENCES_CHANGED, EVENTS_RESOLVED, SCORES_CHANGED
from services.orchestrator.journeys.engine import House
from services.orchestrator.journeys.hearing import Ear, Happened
from services.orchestrator.journeys.referral import Referrals

EVENTS, AUDIENCES, SCORES = "orchestrator-journeys", "orchestrator-audiences", "orchestrator-scores"


def consumers(house: House, referrals: Referrals) -> list[Consumer]:
    """What journeys listen to."""

    async def events(uow: UnitOfWork, messages: Sequence[Message], /) -> None:
        await hear_events(uow, messages, house, referrals)

    async def audiences(uow: UnitOfWork, messages: Sequence[Message], /) -> None:
        await hear_audiences(uow, messages, house)

    async def scores(uow: UnitOfWork, messages: Sequence[Message], /) -> None:
        await hear_scores(uow, messages, house)

    return [
        Consumer(EVENTS, EVENTS_RESOLVED, events, batch=64),
        Consumer(AUDIENCES, AUDIENCES_CHANGED, audiences, batch=4),
        Consumer(SCORES, SCORES_CHANGED, scores, batch=8),
    ]


async def hear_events(uow: UnitOfWork, messages: Sequence[Message], house: House, referrals: Referrals) -> None:
    """Events that any journey listens for; and those that credit referrals, which journeys may listen for in turn."""
    ear = await Ear.of(uow, house)
    wanted = ear.names | {referrals.event}
    # Most batches hold nothing of interest; looking for the bare name is a hundred times cheaper than parsing.
    names = [name.encode() for name in wanted]
    found: list[Happened] = []
    for message in messages:
        if not any(name in message.data for name in names):
            continue
        if (batch := parsed(uow, EVENTS, message, identity_pb2.ResolvedBatch)) is None:
            continue
        for event in batch.events:
            if event.name not in wanted or not event.person.entity_id:
                continue
            try:
                found.append(_happened(event))
            except (orjson.JSONDecodeError, OverflowError, ValueError):
                alone = identity_pb2.ResolvedBatch(events=[event])
                uow.dead_letter(EVENTS, EVENTS_RESOLVED, alone.SerializeToString(), "INVALID_EVENT")
    if found:
        found += await referrals.credit(uow, [each for each in found if each.name == referrals.event], house.now())
        await ear.events(uow, found)


async def hear_audiences(uow: UnitOfWork, messages: Sequence[Message], house: House) -> None:
    """Who entered and left named audiences because tags changed; a new definition is nothing that people did."""
    ear = await Ear.of(uow, house)
    for message in messages:
        if (batch := parsed(uow, AUDIENCES, message, tags_pb2.AudiencesChanged)) is None:
            continue
        for change in batch.changes:
            if change.entity_kind != identity_pb2.ENTITY_KIND_PERSON or change.reason != "data":
                continue
            if len(change.entered) % 4 or len(change.left) % 4:
                alone = tags_pb2.AudiencesChanged(changes=[change])
                uow.dead_letter(AUDIENCES, AUDIENCES_CHANGED, alone.SerializeToString(), "INVALID_IDS")
                continue
            entered, left = (np.frombuffer(ids, "<u4").astype(np.int64) for ids in (change.entered, change.left))
            await ear.audience(uow, change.name, entered, left, from_us(change.at_us))


async def hear_scores(uow: UnitOfWork, messages: Sequence[Message], house: House) -> None:
    """Scores that cross a journey's line."""
    ear = await Ear.of(uow, house)
    by_model: dict[str, list[tuple[int, float, int]]] = {}
    for message in messages:
        if (changed := parsed(uow, SCORES, message, scoring_pb2.ScoresChanged)) is None:
            continue
        told = by_model.setdefault(changed.model, [])
        told += [(each.person_id, each.score, each.scored_at_us) for each in changed.scores if not each.label]
    for model, scores in by_model.items():
        await ear.scores(uow, model, scores)


def _happened(event: identity_pb2.ResolvedEvent) -> Happened:
    properties = orjson.loads(event.properties_json or b"{}")
    if not isinstance(properties, dict):
        raise ValueError("properties are no object")
    owner = event.person
    at = from_us(event.occurred_at_us)
    return Happened(event.name, owner.anchor_id, owner.entity_id, owner.version, event.vehicle.entity_id, at, properties)
