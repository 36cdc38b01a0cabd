"""A whole orchestrator in the test's own loop: real database, real gRPC doors, stand-ins for its peers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.message import Message as Proto
from troika.orchestrator.v1 import events_pb2
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb
from troika.orchestrator.v1.orchestrator_service_pb2_grpc import (
    OrchestratorServiceStub,
    add_OrchestratorServiceServicer_to_server,
)

from chassis import rpc
from chassis.bus import Message
from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.orchestrator.consumers import consumers
from services.orchestrator.handlers import Room
from services.orchestrator.launching import Launcher
from services.orchestrator.offers.catalogue import Catalogue
from services.orchestrator.offers.definitions import Definition, Variant
from services.orchestrator.peers import Scoring, Tags
from services.orchestrator.rpc import OrchestratorRpc
from services.orchestrator.settings import Settings
from tests.integration.orchestrator.world import HASHES, MODEL, SECRET, People, peers


@dataclass
class House:
    """The orchestrator under test, as its callers (`second` is who approves) and its bus see it."""

    room: Room
    people: People
    call: Any
    second: Any
    target: str

    @property
    def database(self) -> Database:
        return self.room.database

    async def stated(self, **changes: Any) -> pb.Theme:
        """What a theme states, with an offer of its purpose in the catalogue."""
        stated = theme(**changes)
        if not stated.offers:
            stated.offers.append(await self.offer(stated.purpose))
        return stated

    async def offer(self, purpose: str, **changes: Any) -> str:
        """An offer's name; one per purpose unless something is changed."""
        catalogue = Catalogue(self.database, self.room.tags)
        made = await catalogue.create(offer(purpose, **changes), "" if changes else purpose, "operator")
        return made.name

    async def make(self, **changes: Any) -> str:
        """A new theme's name; budgets and shares may be changed."""
        answer = await self.call.CreateTheme(pb.CreateThemeRequest(theme=await self.stated(**changes)))
        return str(answer.theme.name)

    async def ready(self, **changes: Any) -> str:
        """An approved theme's name."""
        name = await self.make(**changes)
        await self.call.SubmitTheme(pb.SubmitThemeRequest(name=name, version=1, confirm_everybody=True))
        await self.second.ApproveTheme(pb.ApproveThemeRequest(name=name, version=1))
        return name

    async def launch(self, **changes: Any) -> str:
        """A theme, launched to the end."""
        name = await self.ready(**changes)
        await self.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
        assert await Launcher(self.room).work_once()
        return name

    async def report(self, name: str) -> pb.GetThemeReportResponse:
        answer: pb.GetThemeReportResponse = await self.call.GetThemeReport(pb.GetThemeReportRequest(name=name))
        return answer

    async def decisions(self, name: str) -> list[pb.Decision]:
        answer = await self.call.ListDecisions(pb.ListDecisionsRequest(name=name, page_size=10_000))
        return list(answer.decisions)

    async def pushes(self) -> list[events_pb2.DeliveryRequest]:
        """Everything in the outbox, in order; no relay runs in these tests."""
        async with self.database.read() as uow:
            rows = await uow.rows("SELECT payload FROM outbox WHERE subject = 'troika.deliveries.requested.v1' ORDER BY id")
        return [r for row in rows for r in events_pb2.DeliveriesRequested.FromString(row.payload).requests]

    async def dead_letters(self) -> int:
        async with self.database.read() as uow:
            return int((await uow.rows("SELECT count(*) FROM outbox WHERE subject LIKE 'troika.deadletters.%'"))[0][0])

    async def hear(self, subject: str, *batches: Proto | bytes) -> None:
        """Gives messages to whoever consumes the subject, in one transaction, as the bus does."""
        [consumer] = [c for c in consumers() if c.subject == subject]
        data = [b if isinstance(b, bytes) else b.SerializeToString() for b in batches]
        async with self.database.transaction() as uow:
            await consumer.handle(uow, [Message(str(i), subject, d, {}, i + 1) for i, d in enumerate(data)])

    async def rows(self, statement: str) -> Any:
        async with self.database.read() as uow:
            return await uow.rows(statement)

    def transaction(self) -> Any:
        return self.database.transaction()


def offer(purpose: str, **changes: Any) -> Definition:
    """A check-up without end for everybody, in words that fit each channel that may carry the purpose."""
    channels = ("app", "dealer", *(("wechat",) if purpose == "service" else ()))
    stated = Definition(
        title="Check-up",
        kind="service",
        purpose=purpose,
        content_tags=(),
        valid_from=datetime.now(UTC) - timedelta(days=1),
        valid_to=None,
        audience="",
        stock=None,
        variants=tuple(Variant(channel, "en", "Free check-up", "Come by") for channel in channels),
    )
    return replace(stated, **changes)


def theme(**changes: Any) -> pb.Theme:
    digital = ["app", "wechat"] if changes.get("purpose") != "marketing" else ["app"]
    stated: dict[str, Any] = {
        "title": "Spring service",
        "audience": "offer_answer IS NULL",
        "goal": pb.Goal(event="Offer Answered", property="answer", value="yes", window_days=30),
        "language": "en",
        "purpose": "service",
        "bands": [
            pb.ScoreBand(from_score=0, channels=[*digital, "dealer"]),
            pb.ScoreBand(from_score=800, channels=["dealer", *digital]),
        ],
        "budget": pb.Budget(max_contacts=300, max_calls=40, unit_cost_fen={"app": 1, "wechat": 2, "dealer": 500}),
        "holdout_share": 0.1,
        "model": MODEL,
    }
    return pb.Theme(**(stated | changes))


def settings(**changes: Any) -> Settings:
    stated: dict[str, Any] = {
        "postgres_dsn": "postgresql://unused",
        "referral_device_key": "0" * 64,
        "nats_url": "nats://unused",
        "grpc_port": 0,
        "http_port": 0,
        "caller_token": SECRET,
        "caller_token_sha256": HASHES,
        "quiet_hours": "",
    }
    return Settings(**(stated | changes))


@asynccontextmanager
async def open_house(databases: DatabaseFactory, people: People, **changes: Any) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        chosen = settings(**changes)
        database = await stack.enter_async_context(databases.database("orchestrator"))
        target = await stack.enter_async_context(peers(people))
        to_peers = await stack.enter_async_context(rpc.connect(target, "orchestrator", SECRET))
        room = Room(database, Tags(to_peers), Scoring(to_peers), chosen)
        server = rpc.Server(HASHES, chosen.allowed_callers(), with_reflection=False)
        add_OrchestratorServiceServicer_to_server(OrchestratorRpc(room), server.aio)
        port = await server.start("127.0.0.1:0")
        stack.push_async_callback(server.stop, 0)
        stubs = [
            OrchestratorServiceStub(await stack.enter_async_context(rpc.connect(f"127.0.0.1:{port}", caller, SECRET)))
            for caller in ("operator", "approver")
        ]
        yield House(room, people, *stubs, f"127.0.0.1:{port}")


@pytest.fixture
async def house(databases: DatabaseFactory) -> AsyncIterator[House]:
    async with open_house(databases, People()) as house:
        yield house
