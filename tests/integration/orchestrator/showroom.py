"""Decisions of slots behind their door, for tests: a catalogue, a stockroom read on demand, a learner that is told when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from troika.identity.v1 import events_pb2 as identity_pb2
from troika.orchestrator.v1 import decide_service_pb2 as pb
from troika.orchestrator.v1.decide_service_pb2_grpc import DecisionServiceStub, add_DecisionServiceServicer_to_server

from bench.orchestrator_decide import run_theme
from chassis import rpc
from chassis.bus import Message
from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.orchestrator.consumers import follow_entities
from services.orchestrator.events import ENTITIES_CHANGED, EVENTS_RESOLVED
from services.orchestrator.offers import hearing, store
from services.orchestrator.offers.arranging import Rules
from services.orchestrator.offers.catalogue import Catalogue
from services.orchestrator.offers.deciding import Decider
from services.orchestrator.offers.definitions import Definition, OfferId, Variant
from services.orchestrator.offers.learning import Learner
from services.orchestrator.offers.stockroom import Stockroom
from services.orchestrator.peers import Tags
from services.orchestrator.rpc_decide import DecisionRpc
from services.orchestrator.settings import Settings
from services.orchestrator.themes.definitions import Filling
from tests.integration.orchestrator.world import HASHES, SECRET, People, peers


class Showroom:
    """What the tests see."""

    def __init__(self, decider: Decider, people: People, catalogue: Catalogue, door: Any, touchpoints: Any) -> None:
        self.decider, self.people, self.catalogue = decider, people, catalogue
        self.call, self.touchpoints = door, touchpoints
        database = decider.database
        self.learner = Learner(database, 1.0, timedelta(days=400), late_s=0.0)

    @property
    def database(self) -> Database:
        return self.decider.database

    @property
    def stockroom(self) -> Stockroom:
        return self.decider.stockroom

    async def offer(self, **changes: Any) -> str:
        stated: dict[str, Any] = {
            "title": "Check-up",
            "kind": "service",
            "purpose": "service",
            "content_tags": (),
            "valid_from": datetime.now(UTC) - timedelta(days=1),
            "valid_to": None,
            "audience": "",
            "stock": None,
            "variants": tuple(Variant(channel, "en", "Hello", "Come by") for channel in ("app", "web", "car")),
        }
        return (await self.catalogue.create(Definition(**(stated | changes)), "", "operator")).name

    async def running_theme(
        self, offer: str, holdout_share: float, value_fen: int = 0, values: tuple[Filling, ...] = ()
    ) -> None:
        """A theme that runs, with no more than what decisions look at."""
        async with self.database.transaction() as uow:
            await run_theme(uow, [OfferId(int(offer.removeprefix("offers/")))], holdout_share, value_fen, values=values)

    async def rules(self, slot: str = "home", **told: list[str]) -> None:
        ids = {name: tuple(OfferId(int(offer.removeprefix("offers/"))) for offer in offers) for name, offers in told.items()}
        async with self.database.transaction() as uow:
            _, version = await store.rules_of(uow, slot)
            await store.set_rules(uow, slot, Rules(**ids), version, "operator")

    async def look(self) -> None:
        """The stockroom sees everything as it is now."""
        await self.stockroom.refresh()
        await self.stockroom.audiences.refresh(0, 1000)
        await self.stockroom.words.refresh(0, 1000)

    async def decide(self, person: int = 1, **changes: Any) -> pb.DecideResponse:
        stated: dict[str, Any] = {"person_id": person, "slot": "home", "channel": "app", "language": "en"}
        answer: pb.DecideResponse = await self.call.Decide(pb.DecideRequest(**(stated | changes)))
        return answer

    async def feedback(self, decision: str, outcome: str = "clicked", **changes: Any) -> str:
        said = pb.OfferFeedback(decision=decision, outcome=outcome, **changes)
        answer = await self.call.RecordFeedback(pb.RecordFeedbackRequest(feedback=[said]))
        return str(answer.refusals[0])

    async def close_windows(self) -> None:
        """All windows of shown offers are over."""
        async with self.database.transaction() as uow:
            await uow.execute("UPDATE offer_decision SET due_at = now() - interval '1 second'")

    async def hear(self, *events: identity_pb2.ResolvedEvent) -> None:
        data = identity_pb2.ResolvedBatch(events=events).SerializeToString()
        async with self.database.transaction() as uow:
            message = Message("1", EVENTS_RESOLVED, data, {}, 1)
            await hearing.keep_feedback(uow, [message], self.decider.settings.offer_successes)

    async def changed(self, **changes: Any) -> None:
        data = identity_pb2.EntitiesChanged(**changes).SerializeToString()
        async with self.database.transaction() as uow:
            await follow_entities(uow, [Message("1", ENTITIES_CHANGED, data, {}, 1)])

    async def rows(self, statement: str) -> Any:
        async with self.database.read() as uow:
            return await uow.rows(statement)


def settings(**changes: Any) -> Settings:
    stated: dict[str, Any] = {
        "postgres_dsn": "postgresql://unused",
        "referral_device_key": "0" * 64,
        "nats_url": "nats://unused",
        "grpc_port": 0,
        "http_port": 0,
        "caller_token": SECRET,
        "caller_token_sha256": HASHES | {"touchpoints": HASHES["operator"]},
        "global_holdout_share": 0.0,
    }
    return Settings(**(stated | changes))


@asynccontextmanager
async def open_showroom(databases: DatabaseFactory, people: People | None = None, **changes: Any) -> AsyncIterator[Showroom]:
    async with AsyncExitStack() as stack:
        chosen = settings(**changes)
        database = await stack.enter_async_context(databases.database("orchestrator"))
        people = people or People()
        target = await stack.enter_async_context(peers(people))
        tags = Tags(await stack.enter_async_context(rpc.connect(target, "orchestrator", SECRET)))
        decider = Decider(database, Stockroom(database, tags, chosen), chosen)
        lanes = [asyncio.create_task(lane) for lane in decider.lanes()]
        server = rpc.Server(chosen.caller_token_sha256, chosen.allowed_callers(), with_reflection=False)
        add_DecisionServiceServicer_to_server(DecisionRpc(decider), server.aio)
        port = await server.start("127.0.0.1:0")
        doors = [
            DecisionServiceStub(await stack.enter_async_context(rpc.connect(f"127.0.0.1:{port}", caller, SECRET)))
            for caller in ("operator", "touchpoints")
        ]
        try:
            yield Showroom(decider, people, Catalogue(database, tags), *doors)
        finally:
            await server.stop(0)
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
