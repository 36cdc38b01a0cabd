"""A scoring service in this process, on real PostgreSQL and NATS, beside a tags port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
from services.scoring.trainer import Trainer
from troika.scoring.v1 import events_pb2
from troika.scoring.v1 import scoring_service_pb2 as pb
from troika.scoring.v1.scoring_service_pb2_grpc import ScoringServiceStub, add_ScoringServiceServicer_to_server

from chassis import rpc
from chassis.bus import Bus, Message, Stream
from chassis.db import Database
from chassis.outbox import Relay
from chassis.testing import DatabaseFactory
from local.data.bank_marketing import Contacts, load
from services.scoring import artefact, consumers, events, store, trainings
from services.scoring.handlers import Scorer
from services.scoring.learning.cut import Trained
from services.scoring.models import MODELS
from services.scoring.models.purchase_intent.training import train
from services.scoring.registry import Registry
from services.scoring.rpc import ScoringRpc
from services.scoring.settings import Settings
from services.scoring.tag_door import TagDoor
from tests.integration.scoring.tags_port import CUT, GOAL, HASHES, TOKEN, TagsPort, serving
from tests.unit.scoring.bank_frame import frame_of

KEY = b"k" * 32
MODEL = "purchase_intent"
CARD = {"purpose": "test", "features": [], "training_persons": 1, "training_positives": 1, "metrics": {}}
TAGS_STREAM = Stream("TAGS_CHANGED", (events.TAGS_CHANGED,))


@dataclass
class World:
    database: Database
    bus: Bus
    tags: TagsPort
    scorer: Scorer
    trainer: Trainer
    stub: ScoringServiceStub
    # Every score on the bus, in order.
    published: list[tuple[int, events_pb2.PersonScore]]

    async def adopt(self, fitted: Trained) -> pb.Training:
        """Puts a model in use that was fitted before, and waits until everybody is scored."""
        async with self.database.transaction() as uow:
            version = await store.next_version(uow, MODEL)
            seal = artefact.seal(KEY, MODEL, version, fitted.artefact)
            await store.put_in_use(uow, MODEL, version, card=CARD, artefact=fitted.artefact, seal=seal)
            training = await trainings.start(uow, MODEL, CUT, GOAL)
            await uow.execute("UPDATE training SET version = :version WHERE state = 'RUNNING'", version=version)
        self.trainer.wake.set()
        return await self.ended(training.training_id)

    async def train(self, goal: str = GOAL) -> pb.Training:
        """Trains and waits for the end."""
        asked = pb.TrainModelRequest(model=MODEL, cut_predicate=CUT, goal_predicate=goal)
        training = (await self.stub.TrainModel(asked)).training
        return await self.ended(training.training_id)

    async def ended(self, training_id: int) -> pb.Training:
        async with asyncio.timeout(120):
            while True:
                training = (await self.stub.GetTraining(pb.GetTrainingRequest(training_id=training_id))).training
                if training.state != pb.TRAINING_STATE_RUNNING:
                    return training
                await asyncio.sleep(0.05)

    async def scores(self, *persons: int) -> list[float]:
        return list((await self.stub.ScorePersons(pb.ScorePersonsRequest(model=MODEL, person_ids=persons))).scores)


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await check():
            await asyncio.sleep(0.02)


async def stop(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancels until they end: nats-py waits by asyncio.wait_for, which in Python 3.11 may swallow a cancellation."""
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=2)
        for task in running:
            task.print_stack()


@asynccontextmanager
async def open_world(databases: DatabaseFactory, bus: Bus, tags: TagsPort) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(databases.database("scoring"))
        channel = rpc.connect(await stack.enter_async_context(serving(tags)), "scoring", TOKEN)
        stack.push_async_callback(channel.close)
        await bus.declare(TAGS_STREAM, *events.STREAMS)
        door, registry = TagDoor(channel), Registry(KEY)
        scorer = Scorer(database, door, registry, 0.2)
        trainer = Trainer(database, door, registry, MODELS, signing_key=KEY, lease_s=3, settle_s=0)
        server = rpc.Server(HASHES, {Settings.rpc_service: frozenset({"scoring"})}, with_reflection=False)
        add_ScoringServiceServicer_to_server(ScoringRpc(database, registry, door, trainer, MODELS), server.aio)
        port = await server.start("127.0.0.1:0")
        stack.push_async_callback(server.stop, 0)
        own = rpc.connect(f"127.0.0.1:{port}", "scoring", TOKEN)
        stack.push_async_callback(own.close)
        published: list[tuple[int, events_pb2.PersonScore]] = []

        async def collect(message: Message) -> None:
            batch = events_pb2.ScoresChanged.FromString(message.data)
            assert len(batch.scores) <= events.MAX_SCORES
            published.extend((batch.model_version, score) for score in batch.scores)

        tasks = [
            asyncio.create_task(work, name=work.__qualname__)
            for work in (
                Relay(database, bus).run(),
                bus.consume(consumers.tags_changed(scorer), database),
                bus.follow(events.STREAMS[0], 0, collect),
                scorer.run(),
                trainer.run(),
            )
        ]
        try:
            yield World(database, bus, tags, scorer, trainer, ScoringServiceStub(own), published)
        finally:
            await stop(tasks)


@pytest.fixture(scope="session")
def contacts() -> Contacts:
    return load()


@pytest.fixture(scope="session")
def fitted(contacts: Contacts) -> Trained:
    """A model of the last 4,000 contacts, fitted in this process."""
    rows = np.arange(len(contacts) - 4000, len(contacts))
    return train(frame_of(contacts, rows), np.array(contacts.answers)[rows], lambda _: None)


@pytest.fixture
async def world(databases: DatabaseFactory, bus: Bus, contacts: Contacts) -> AsyncIterator[World]:
    """3,000 persons, two thirds of whom have answered; nothing trained yet."""
    first = len(contacts) - 3000
    rows = range(first, len(contacts))
    async with open_world(databases, bus, TagsPort.of(contacts, rows, range(first, first + 2000))) as world:
        yield world


def refusal(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str, str]:
    """(code, reason, field) of a refused call."""
    return (error.code(), *rpc.reason_of(error))
