"""What an arrival card asks: a base of vehicles, tags, scores and offers behind real gRPC doors, and a dealer's system."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import orjson
from aiohttp import web
from standardwebhooks import Webhook
from troika.identity.v1 import events_pb2 as entities
from troika.identity.v1 import holder_service_pb2 as holder_pb2
from troika.identity.v1 import identity_service_pb2 as identity_pb2
from troika.identity.v1.holder_service_pb2_grpc import HolderServiceServicer, add_HolderServiceServicer_to_server
from troika.identity.v1.identity_service_pb2_grpc import add_IdentityServiceServicer_to_server
from troika.orchestrator.v1 import decide_service_pb2 as decide_pb2
from troika.orchestrator.v1.decide_service_pb2_grpc import DecisionServiceServicer, add_DecisionServiceServicer_to_server
from troika.scoring.v1 import scoring_service_pb2 as scoring_pb2
from troika.scoring.v1.scoring_service_pb2_grpc import ScoringServiceServicer, add_ScoringServiceServicer_to_server
from troika.tags.v1 import tags_service_pb2 as tags_pb2
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceServicer, add_TagsServiceServicer_to_server

from services.touchpoints.arrivals.cards import VEHICLE_TAGS, VEHICLE_WORDS
from tests.integration.touchpoints.identity import Identity

PERSON, VEHICLE, DEALER = entities.ENTITY_KIND_PERSON, entities.ENTITY_KIND_VEHICLE, entities.ENTITY_KIND_DEALER
Key = tuple[str, str, str]


def related(kind: str, space: Any, number: int) -> identity_pb2.Relation:
    return identity_pb2.Relation(kind=kind, entity_kind=space, entity_id=number, confidence=1.0)


@dataclass
class Neighbours(Identity, HolderServiceServicer, TagsServiceServicer, ScoringServiceServicer, DecisionServiceServicer):
    """All of them on one port. `slow`: method → seconds that it takes; `down`: methods that fail."""

    known: dict[Key, int] = field(default_factory=dict)
    held: dict[str, holder_pb2.Holder] = field(default_factory=dict)
    entities: dict[tuple[int, int], identity_pb2.Entity] = field(default_factory=dict)
    tags: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    offers: dict[int, str] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    decided: list[decide_pb2.DecideRequest] = field(default_factory=list)

    def car(self, plate: str, vehicle: int, person: int, **tags: Any) -> None:
        """A car of somebody's, and what is known of both."""
        self.held[plate] = holder_pb2.Holder(vehicle_id=vehicle, person_id=person, relation="owns", serviced_by=71)
        self.entities[PERSON, person] = identity_pb2.Entity(
            anchor_ids=[person * 10], relations=[related("owns", VEHICLE, vehicle), related("advised_by", DEALER, 71)]
        )
        self.entities[DEALER, 71] = identity_pb2.Entity(code="D001")
        self.tags[vehicle] = tags
        self.scores[person], self.offers[person] = 873.0, "offers/12"
        self.book[person, "mobile", ""], self.names[person] = (person * 10, "+8613800138000"), "张伟"

    async def _asked(self, method: str, context: Any) -> None:
        self.asked.append(method)
        await asyncio.sleep(self.slow.get(method, 0))
        if method in self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")

    async def ResolveIdentifiers(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._asked("ResolveIdentifiers", context)
        found = [self.known.get((ref.kind, ref.scope, ref.value), 0) for ref in request.identifiers]
        return identity_pb2.ResolveIdentifiersResponse(entity_ids=found)

    async def GetEntity(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._asked("GetEntity", context)
        entity = self.entities.get((request.entity_kind, request.entity_id))
        if entity is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such entity")
        return identity_pb2.GetEntityResponse(entity=entity)

    async def FindHolders(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._asked("FindHolders", context)
        return holder_pb2.FindHoldersResponse(holders=[self.held.get(p, holder_pb2.Holder()) for p in request.plates])

    async def RevealNames(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._asked("RevealNames", context)
        assert "dealer_contact" == request.purpose
        named = [p for p in request.person_ids if p in self.names]
        return holder_pb2.RevealNamesResponse(names=[holder_pb2.PersonName(person_id=p, name=self.names[p]) for p in named])

    async def StreamTagValues(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        await self._asked("StreamTagValues", context)
        answer = tags_pb2.StreamTagValuesResponse(entity_ids=request.entity_ids)
        known = [self.tags.get(vehicle, {}) for vehicle in request.entity_ids]
        assert list(VEHICLE_TAGS) == list(request.tags)
        for tag in request.tags:
            if tag in VEHICLE_WORDS:
                words = sorted({each[tag] for each in known if tag in each})
                answer.columns.add(word_indexes=[words.index(each[tag]) if tag in each else -1 for each in known], words=words)
            else:
                answer.columns.add(numbers=[float(each.get(tag, "nan")) for each in known])
        yield answer

    async def ScorePersons(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._asked("ScorePersons", context)
        return scoring_pb2.ScorePersonsResponse(scores=[self.scores.get(p, -1.0) for p in request.person_ids])

    async def BatchDecide(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._asked("BatchDecide", context)
        self.decided += request.requests
        return decide_pb2.BatchDecideResponse(
            answers=[
                decide_pb2.DecideResponse(
                    decision="decisions/" + "0" * 32, offer=offer, title="延保" if offer else "", body="八折"
                )
                for offer in (self.offers.get(each.person_id, "") for each in request.requests)
            ]
        )


@asynccontextmanager
async def neighbourhood(neighbours: Neighbours) -> AsyncIterator[Neighbours]:
    server = grpc.aio.server()
    for add in (
        *(add_IdentityServiceServicer_to_server, add_HolderServiceServicer_to_server, add_TagsServiceServicer_to_server),
        *(add_ScoringServiceServicer_to_server, add_DecisionServiceServicer_to_server),
    ):
        add(neighbours, server)
    neighbours.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield neighbours
    finally:
        await server.stop(0)


@dataclass
class Dealer:
    """A dealer's system: takes cards that are signed, each id once. `refuse`: statuses for the next calls."""

    url: str
    secret: str = ""
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    refuse: list[int] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        Webhook(self.secret).verify(body, {k.lower(): v for k, v in request.headers.items()})
        number = request.headers["webhook-id"]
        self.calls.append(number)
        if self.refuse:
            return web.Response(status=self.refuse.pop(0))
        self.bodies.append(body)
        said = orjson.loads(body)
        assert "arrival.card" == said["type"]
        self.cards.setdefault(number, said["data"])
        return web.Response()


@asynccontextmanager
async def dealer_system() -> AsyncIterator[Dealer]:
    dealer = Dealer("")
    app = web.Application()
    app.router.add_post("/cards", dealer.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert runner.addresses
    dealer.url = f"http://127.0.0.1:{runner.addresses[0][1]}/cards"
    try:
        yield dealer
    finally:
        await runner.cleanup()
