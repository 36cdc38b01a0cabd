"""What people write: read where it comes by, counted by model of vehicle, told to others without the words themselves."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

import numpy as np
import orjson
from troika.identity.v1.events_pb2 import ResolvedEvent
from troika.scoring.v1 import events_pb2

from chassis.consents import OPT_OUT
from chassis.db import UnitOfWork
from chassis.errors import FailedPrecondition
from services.scoring import consents, store
from services.scoring.artefact import check_seal
from services.scoring.text.model import TextModel
from services.scoring.text.packing import FORMAT
from services.scoring.text.reading import MAX_CHARACTERS, Reading

log = logging.getLogger(__name__)

MODEL: Final = "feedback_text"
# Texts of one message on the bus.
MAX_TEXTS: Final = 500
# What a model of vehicles may be called.
MAX_NAME: Final = 200


@dataclass(frozen=True)
class Written:
    """A text that came with an event."""

    event: ResolvedEvent
    text: str
    vehicle_model: str


class TextReader:
    """The text model in use, loaded once per version and process."""

    def __init__(self, signing_key: bytes) -> None:
        self._key = signing_key
        self._loaded: tuple[int, TextModel] | None = None

    async def in_use(self, uow: UnitOfWork) -> tuple[int, TextModel] | None:
        """(version, model), None before the first training; raises ArtefactRefused when it has a false seal."""
        version = (await store.versions_in_use(uow, FORMAT)).get(MODEL)
        if version is None:
            return None
        if self._loaded is None or self._loaded[0] != version:
            stored = await store.read_model(uow, MODEL, version)
            if stored is None:
                return None
            check_seal(self._key, MODEL, version, stored.artefact, stored.seal, FORMAT)
            self._loaded = version, await asyncio.to_thread(TextModel.open, stored.artefact)
        return self._loaded

    async def classify(self, found: tuple[int, TextModel] | None, texts: Sequence[str]) -> tuple[int, list[Reading]]:
        """(version, one reading per text) by what `in_use` found; raises FailedPrecondition when it is None, TextTooLong."""
        if found is None:
            raise FailedPrecondition("no text model has been trained yet", reason="MODEL_NOT_TRAINED")
        version, model = found
        return version, await asyncio.to_thread(model.classify, texts)


def written(events: Sequence[ResolvedEvent], properties: Collection[str]) -> Iterator[Written]:
    """Texts among the properties of events. What is no JSON object is for others to complain about."""
    marks = [f'"{name}"'.encode() for name in properties]
    for event in events:
        # Most events carry no text: looking for the name is far cheaper than parsing.
        if not any(mark in event.properties_json for mark in marks):
            continue
        given = _object(event.properties_json)
        texts = [given[name] for name in properties if isinstance(given.get(name), str) and given[name].strip()]
        if texts:
            about = given.get("model") or _object(event.vehicle_properties_json).get("model")
            model = about[:MAX_NAME] if isinstance(about, str) else ""
            yield Written(event, "\n".join(texts)[:MAX_CHARACTERS], model)


async def keep(uow: UnitOfWork, given: Sequence[Written], readings: Sequence[Reading]) -> list[events_pb2.TextsRead]:
    """Counts opinions by model of vehicles; returns what others are told, without persons who switched personalisation off."""
    counts: Counter[tuple[str, str, int, date]] = Counter()
    for each, reading in zip(given, readings, strict=True):
        day = datetime.fromtimestamp(each.event.occurred_at_us / 1e6, UTC).date()
        if each.vehicle_model:
            counts.update((each.vehicle_model, opinion.topic, opinion.sentiment, day) for opinion in reading.opinions)
    if counts:
        models, topics, sentiments, days = (list(column) for column in zip(*sorted(counts), strict=True))
        await uow.execute(
            "INSERT INTO opinion AS o (vehicle_model, topic, sentiment, day, texts)"
            " SELECT * FROM unnest(CAST(:models AS text[]), CAST(:topics AS text[]), CAST(:sentiments AS smallint[]),"
            " CAST(:days AS date[]), CAST(:texts AS bigint[]))"
            " ON CONFLICT (vehicle_model, topic, sentiment, day) DO UPDATE SET texts = o.texts + excluded.texts",
            models=models,
            topics=topics,
            sentiments=sentiments,
            days=days,
            texts=[counts[key] for key in sorted(counts)],
        )
    persons = np.array([each.event.person.entity_id for each in given], np.int64)
    silent = await consents.silent(uow, persons, OPT_OUT, datetime.now(UTC)) if len(persons) else np.empty(0, np.bool_)
    told = [_told(*each) for each in zip(given, readings, silent.tolist(), strict=True)]
    return [events_pb2.TextsRead(texts=told[start : start + MAX_TEXTS]) for start in range(0, len(told), MAX_TEXTS)]


async def opinions(uow: UnitOfWork, vehicle_model: str, since: date | None) -> Sequence[Any]:
    """(vehicle_model, topic, positive, neutral, negative), the most talked about first, at most 1,000."""
    return await uow.rows(
        "SELECT vehicle_model, topic, CAST(coalesce(sum(texts) FILTER (WHERE sentiment = 1), 0) AS bigint) AS positive,"
        " CAST(coalesce(sum(texts) FILTER (WHERE sentiment = 0), 0) AS bigint) AS neutral,"
        " CAST(coalesce(sum(texts) FILTER (WHERE sentiment = -1), 0) AS bigint) AS negative FROM opinion"
        " WHERE (:model = '' OR vehicle_model = :model) AND (CAST(:since AS date) IS NULL OR day >= CAST(:since AS date))"
        " GROUP BY 1, 2 ORDER BY sum(texts) DESC, 1, 2 LIMIT 1000",
        model=vehicle_model,
        since=since,
    )


def _told(each: Written, reading: Reading, silent: bool) -> events_pb2.TextRead:
    event = each.event
    told = events_pb2.TextRead(
        event_id=event.event_id,
        occurred_at_us=event.occurred_at_us,
        received_at_us=event.received_at_us,
        vehicle_model=each.vehicle_model,
        kind=reading.kind,
        topics=[events_pb2.TopicRead(topic=o.topic, sentiment=o.sentiment) for o in reading.opinions],
    )
    if event.person.anchor_id and not silent:
        told.person.CopyFrom(event.person)
    if event.vehicle.anchor_id:
        told.vehicle.CopyFrom(event.vehicle)
    return told


def _object(json: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(json) if json else {}
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
