"""Texts that come with events: read, counted by model of vehicle, and told without the words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import orjson
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from troika.identity.v1.events_pb2 import AnchorOwner, ResolvedBatch, ResolvedEvent
from troika.scoring.v1 import scoring_service_pb2 as pb
from troika.scoring.v1.events_pb2 import TextRead, TextsRead

from chassis.bus import Message
from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.scoring import artefact, consents, consumers, events, store, texts
from services.scoring.consents import Said
from services.scoring.models.feedback_text.training import train_text
from services.scoring.text.packing import FORMAT
from services.scoring.texts import TextReader
from tests.integration.scoring.conftest import KEY, World, refusal
from tests.unit.scoring.text_corpus import feedback

PROPERTIES = frozenset({"comment"})


@pytest.fixture(scope="session")
def fitted_text() -> bytes:
    """A text model of made-up feedback."""
    return train_text(feedback(400), lambda _: None).artefact


async def use(database: Database, fitted: bytes, key: bytes = KEY) -> None:
    """Puts a text model in use."""
    async with database.transaction() as uow:
        version = await store.next_version(uow, texts.MODEL)
        seal = artefact.seal(key, texts.MODEL, version, fitted, FORMAT)
        await store.add_version(uow, texts.MODEL, version, card={}, artefact=fitted, seal=seal)
        await store.put_in_use(uow, texts.MODEL, version)


@dataclass
class Room:
    """The consumer of texts on a database of its own."""

    database: Database
    reader: TextReader

    async def hear(self, *given: ResolvedEvent, rubbish: bool = False) -> list[TextRead]:
        """Handles one batch; returns what it tells others."""
        message = Message("m", events.EVENTS_RESOLVED, ResolvedBatch(events=given).SerializeToString(), {}, 1)
        bad = [Message("b", events.EVENTS_RESOLVED, b"\xff\xff", {}, 2)] if rubbish else []
        async with self.database.transaction() as uow:
            await uow.execute("DELETE FROM outbox")
            await consumers.events_resolved(self.reader, PROPERTIES).handle(uow, [message, *bad])
        async with self.database.read() as uow:
            rows = await uow.rows("SELECT payload FROM outbox WHERE subject = :subject ORDER BY 1", subject=events.TEXTS_READ)
        return [text for row in rows for text in TextsRead.FromString(bytes(row.payload)).texts]


@pytest.fixture
async def room(databases: DatabaseFactory) -> AsyncIterator[Room]:
    async with databases.database("scoring") as database:
        yield Room(database, TextReader(KEY))


def event(person: int, comment: object, **properties: object) -> ResolvedEvent:
    """A survey's answer."""
    return ResolvedEvent(
        event_id=person.to_bytes(16, "big"),
        name="Survey Answered",
        occurred_at_us=1_790_000_000_000_000,
        received_at_us=1_790_000_000_000_001,
        person=AnchorOwner(anchor_id=person + 1000, entity_id=person, version=1),
        properties_json=orjson.dumps({"comment": comment, **properties}),
    )


async def test_what_is_read_is_counted_and_told_without_the_words(room: Room, fitted_text: bytes) -> None:
    words = "油耗太高了受不了，内饰做工精致漂亮"
    assert [] == await room.hear(event(1, words, model="X1"))
    await use(room.database, fitted_text)
    silent = event(5, 7)
    told = await room.hear(event(1, words, model="X1"), event(2, words), event(3, "   "), silent, rubbish=True)
    assert [1, 2] == [text.person.entity_id for text in told]
    assert {("油耗", -1), ("内饰", 1)} == {(topic.topic, topic.sentiment) for topic in told[0].topics}
    assert ("X1", "") == (told[0].vehicle_model, told[1].vehicle_model)
    assert words.encode() not in b"".join(text.SerializeToString() for text in told)
    async with room.database.read() as uow:
        found = [tuple(row) for row in await texts.opinions(uow, "", None)]
        assert {("X1", "内饰", 1, 0, 0), ("X1", "油耗", 0, 0, 1)} == set(found)
        assert [] == list(await texts.opinions(uow, "X5", None))
        reasons = await uow.rows("SELECT headers ->> 'troika-reason' AS reason FROM outbox WHERE headers ? 'troika-reason'")
    assert ["NOT_A_RESOLVED_BATCH"] == [row.reason for row in reasons]


async def test_who_switched_personalisation_off_is_not_named_and_the_erased_are_not_read(
    room: Room, fitted_text: bytes
) -> None:
    await use(room.database, fitted_text)
    async with room.database.transaction() as uow:
        await consents.keep(uow, [Said(1001, 1, False, 5, consents.NO_END)], [])
        await store.erase(uow, [2])
    [told] = await room.hear(event(1, "特别省油", model="X1"), event(2, "特别省油", model="X1"))
    assert not told.HasField("person")
    async with room.database.read() as uow:
        assert [("X1", "油耗", 1, 0, 0)] == [tuple(row) for row in await texts.opinions(uow, "X1", None)]


async def test_the_door_reads_texts_and_refuses_what_is_too_long_or_has_no_model(world: World, fitted_text: bytes) -> None:
    asked = pb.ClassifyTextRequest(texts=["油耗太高了受不了", ""])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.stub.ClassifyText(asked)
    assert (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_NOT_TRAINED") == refusal(caught.value)[:2]
    await use(world.database, fitted_text)
    answer = await world.stub.ClassifyText(asked)
    [opinion] = answer.readings[0].opinions
    assert ("complaint", "油耗", -1, 1) == (answer.readings[0].kind, opinion.topic, opinion.sentiment, answer.model_version)
    assert opinion.spans and all(0 <= place <= 8 for place in opinion.spans)
    assert ("other", 0) == (answer.readings[1].kind, len(answer.readings[1].opinions))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.stub.ClassifyText(pb.ClassifyTextRequest(texts=["好"] * 70 + ["好" * 10_001]))
    assert (grpc.StatusCode.INVALID_ARGUMENT, "TEXT_TOO_LONG", "texts[70]") == refusal(caught.value)


async def test_opinions_are_listed_by_model_of_vehicle_and_since_when(world: World) -> None:
    async with world.database.transaction() as uow:
        await uow.execute(
            "INSERT INTO opinion (vehicle_model, topic, sentiment, day, texts) VALUES ('X1', 'a', 1, '2026-01-01', 3),"
            " ('X1', 'a', -1, '2026-02-01', 2), ('X5', 'b', 0, '2026-02-01', 9)"
        )

    async def listed(**asked: Any) -> list[tuple[str, str, int, int, int]]:
        answer = await world.stub.ListOpinions(pb.ListOpinionsRequest(**asked))
        return [(o.vehicle_model, o.topic, o.positive, o.neutral, o.negative) for o in answer.opinions]

    assert [("X5", "b", 0, 9, 0), ("X1", "a", 3, 0, 2)] == await listed()
    assert [("X1", "a", 3, 0, 2)] == await listed(vehicle_model="X1")
    since = Timestamp()
    since.FromJsonString("2026-01-15T00:00:00Z")
    assert [("X1", "a", 0, 0, 2)] == await listed(vehicle_model="X1", since=since)
    since.nanos = -1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await listed(since=since)
    assert (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TIME", "since") == refusal(caught.value)


async def test_a_text_model_with_a_false_seal_is_not_opened(room: Room, fitted_text: bytes) -> None:
    await use(room.database, fitted_text, b"x" * 32)
    async with room.database.read() as uow:
        with pytest.raises(artefact.ArtefactRefused):
            await room.reader.in_use(uow)
