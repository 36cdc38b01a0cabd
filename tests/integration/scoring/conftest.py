"""A scoring service in this process, on real PostgreSQL and NATS, beside a tags port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from troika.scoring.v1 import events_pb2, scoring_service_pb2
from troika.scoring.v1 import model_service_pb2 as pb
from troika.scoring.v1.model_service_pb2_grpc import ModelServiceStub, add_ModelServiceServicer_to_server
from troika.scoring.v1.scoring_service_pb2_grpc import ScoringServiceStub, add_ScoringServiceServicer_to_server

from chassis import rpc
from chassis.bus import Bus, Message, Stream
from chassis.db import Database
from chassis.outbox import Relay
from chassis.testing import DatabaseFactory
from local.data.bank_marketing import Contacts, load
from services.scoring import artefact, consumers, events, operations, store
from services.scoring.evaluating import Evaluation
from services.scoring.everybody import Everybody
from services.scoring.handlers import Scorer
from services.scoring.learning.cut import Trained
from services.scoring.models import MODELS
from services.scoring.models.purchase_intent.training import train
from services.scoring.registry import Registry
from services.scoring.rpc import ScoringRpc
from services.scoring.rpc_models import ModelRpc
from services.scoring.settings import Settings
from services.scoring.tag_door import TagDoor
from services.scoring.texts import TextReader
from services.scoring.training import Training
from services.scoring.trials import Trial
from services.scoring.working import Work, Worker
from tests.integration.scoring.tags_port import CUT, FEATURES, GOAL, HASHES, TOKEN, TagsPort, serving
from tests.unit.scoring.bank_frame import cut_of

KEY = b"k" * 32
MODEL = "purchase_intent"
CARD = {
    "purpose": "test",
    "limits": "",
    "features": [],
    "training_persons": 10,
    "training_positives": 1,
    "metrics": {},
    "wanted": {"cut_predicate": CUT, "goal_predicate": GOAL},
    "recalibrated_from": 0,
}
TAGS_STREAM = Stream("TAGS_CHANGED", (events.TAGS_CHANGED,))


@dataclass
class World:
    database: Database
    bus: Bus
    tags: TagsPort
    scorer: Scorer
    worker: Worker
    stub: ScoringServiceStub
    models: ModelServiceStub
    # Every score on the bus, in order.
    published: list[tuple[int, events_pb2.PersonScore]]
    # host:port of the doors.
    target: str

    async def store(self, fitted: Trained, model: str = MODEL, **card: Any) -> int:
        """Stores a model that was fitted before; returns its version."""
        return await store_version(self.database, fitted.artefact, model, **card)

    async def adopt(self, fitted: Trained, model: str = MODEL, **card: Any) -> pb.Operation:
        """Puts a model in use that was fitted before, and waits until everybody is scored."""
        version = await self.store(fitted, model, **card)
        asked = pb.PromoteVersionRequest(model=model, version=version)
        return await self.ended((await self.models.PromoteVersion(asked)).operation.operation_id)

    async def train(self, goal: str = GOAL) -> pb.Operation:
        """Trains and waits for the end."""
        asked = pb.TrainModelRequest(model=MODEL, cut_predicate=CUT, goal_predicate=goal, features=FEATURES)
        return await self.ended((await self.models.TrainModel(asked)).operation.operation_id)

    async def ended(self, operation_id: int) -> pb.Operation:
        async with asyncio.timeout(120):
            while True:
                asked = pb.GetOperationRequest(operation_id=operation_id)
                operation = (await self.models.GetOperation(asked)).operation
                if operation.state != pb.OPERATION_STATE_RUNNING:
                    return operation
                await asyncio.sleep(0.05)

    async def scores(self, *persons: int) -> list[float]:
        return list(
            (await self.stub.ScorePersons(scoring_service_pb2.ScorePersonsRequest(model=MODEL, person_ids=persons))).scores
        )


async def store_version(database: Database, fitted: bytes, model: str = MODEL, **card: Any) -> int:
    """Stores a version without putting it in use; returns its number."""
    async with database.transaction() as uow:
        version = await store.next_version(uow, model)
        seal = artefact.seal(KEY, model, version, fitted)
        await store.add_version(uow, model, version, card=CARD | card, artefact=fitted, seal=seal)
    return version


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
        everybody = Everybody(database, door, registry, 0)
        works: dict[operations.Kind, Work] = {
            operations.Kind.TRAIN: Training(database, door, MODELS, everybody, KEY),
            operations.Kind.SCORE: everybody,
            operations.Kind.EVALUATE: Evaluation(database, door, registry, everybody, KEY),
            operations.Kind.TRIAL: Trial(database, door, registry, look_at_most_every_s=0.2),
        }
        worker = Worker(database, works, 3)
        callers = frozenset({"scoring", "operator"})
        server = rpc.Server(
            HASHES | {"operator": HASHES["scoring"]},
            {Settings.rpc_service: callers, "troika.scoring.v1.ModelService": callers},
            with_reflection=False,
        )
        add_ScoringServiceServicer_to_server(ScoringRpc(database, registry, door, TextReader(KEY), MODELS), server.aio)
        add_ModelServiceServicer_to_server(ModelRpc(database, door, registry, worker, MODELS), server.aio)
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
                worker.run(),
            )
        ]
        try:
            yield World(
                database,
                bus,
                tags,
                scorer,
                worker,
                ScoringServiceStub(own),
                ModelServiceStub(own),
                published,
                f"127.0.0.1:{port}",
            )
        finally:
            await stop(tasks)


@pytest.fixture(scope="session")
def contacts() -> Contacts:
    return load()


@pytest.fixture(scope="session")
def fitted(contacts: Contacts) -> Trained:
    """A model of the last 4,000 contacts, fitted in this process."""
    rows = np.arange(len(contacts) - 4000, len(contacts))
    return train(cut_of(contacts, rows), lambda _: None)


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
