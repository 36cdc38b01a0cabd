"""Leads behind their door over a real database, with stand-ins for tags and scoring; nothing of launches is needed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from google.protobuf.message import Message as Proto
from google.protobuf.timestamp_pb2 import Timestamp
from troika.identity.v1 import events_pb2 as identity_pb2
from troika.orchestrator.v1 import lead_service_pb2 as pb
from troika.orchestrator.v1.lead_service_pb2_grpc import LeadServiceStub, add_LeadServiceServicer_to_server
from troika.orchestrator.v1.target_service_pb2_grpc import TargetServiceStub, add_TargetServiceServicer_to_server
from troika.scoring.v1 import scoring_service_pb2 as scoring_pb2
from troika.scoring.v1.scoring_service_pb2_grpc import add_ScoringServiceServicer_to_server

from chassis import rpc
from chassis.bus import Message
from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.orchestrator.consumers import consumers
from services.orchestrator.leads.assigning import Distributor
from services.orchestrator.leads.handlers import Counter
from services.orchestrator.rpc_leads import LeadRpc
from services.orchestrator.rpc_targets import TargetRpc
from services.orchestrator.settings import Settings
from services.orchestrator.targets.handlers import Board
from services.orchestrator.targets.scoring_door import RankingDoor
from tests.integration.orchestrator.world import HASHES, MODEL, SECRET, People, Scoring, score

EVENTS, ENTITIES = "troika.events.resolved.v1", "troika.entities.changed.v1"
DAY_US = 24 * 3600 * 1_000_000


class Ranking(Scoring):
    """Stands in for scoring, with what leads and targets ask of it; `explained` are persons whom it was asked to explain."""

    def __init__(self, people: People) -> None:
        super().__init__(people)
        self._table, self.rankings = people, 0
        self.explained: list[int] = []

    async def RankAudience(self, request: Any, context: Any) -> AsyncIterator[scoring_pb2.RankAudienceResponse]:  # noqa: N802
        self._require(request.model)
        self.rankings += 1
        rows = self._table.select("id, probability", request.predicate)
        found = sorted((-score(p), person) for person, p in rows if p is not None)[: request.limit or None]
        yield scoring_pb2.RankAudienceResponse(
            person_ids=[person for _, person in found], scores=[-points for points, _ in found], model_version=1
        )

    async def ExplainScore(self, request: Any, context: Any) -> scoring_pb2.ExplainScoreResponse:  # noqa: N802
        self._require(request.model)
        self.explained.append(request.person_id)
        reasons = [
            scoring_pb2.ScoreReason(tag="job", value="x", points=points, sentence=f"reason of {points:.0f} points")
            for points in (30, 20, 10, 5, -4)
        ]
        return scoring_pb2.ExplainScoreResponse(score=1, reasons=reasons)

    async def RankOffers(self, request: Any, context: Any) -> scoring_pb2.RankOffersResponse:  # noqa: N802
        self._require(request.model)
        return scoring_pb2.RankOffersResponse()


@dataclass
class LeadHouse:
    """The room of leads, as its callers and its bus see it."""

    database: Database
    settings: Settings
    people: People
    distributor: Distributor
    ranking: RankingDoor
    call: Any
    board: Board
    scoring: Ranking
    target: Any
    address: str

    async def hear(self, subject: str, *batches: Proto) -> None:
        """Gives messages to whoever consumes the subject, in one transaction, as the bus does."""
        [consumer] = [c for c in consumers() if c.subject == subject]
        async with self.database.transaction() as uow:
            data = [Message(str(i), subject, b.SerializeToString(), {}, i + 1) for i, b in enumerate(batches)]
            await consumer.handle(uow, data)

    async def tell(self, *events: identity_pb2.ResolvedEvent) -> None:
        await self.hear(EVENTS, identity_pb2.ResolvedBatch(events=events))

    async def change(self, **changed: Any) -> None:
        await self.hear(ENTITIES, identity_pb2.EntitiesChanged(**changed))

    async def leads(self, **wanted: Any) -> list[pb.Lead]:
        return list((await self.call.ListLeads(pb.ListLeadsRequest(**wanted))).leads)

    async def lead(self, person: int) -> pb.Lead:
        [found] = await self.leads(person_id=person)
        return found

    async def tasks(self, **wanted: Any) -> list[pb.LeadTask]:
        return list((await self.call.ListTasks(pb.ListTasksRequest(**wanted))).tasks)

    async def create(self, person: int, **more: Any) -> pb.Lead:
        made: pb.Lead = (await self.call.CreateLead(pb.CreateLeadRequest(person_id=person, **more))).lead
        return made

    async def dealer(self, code: str, *advisors: str, **more: Any) -> pb.Dealer:
        stated: dict[str, Any] = {"dealer_code": code, "capacity_per_day": 100}
        staff = [pb.Advisor(advisor=each, capacity_per_day=50) for each in advisors]
        request = pb.RegisterDealerRequest(dealer=pb.Dealer(advisors=staff, **(stated | more)))
        made: pb.Dealer = (await self.call.RegisterDealer(request)).dealer
        return made

    async def rows(self, statement: str, **given: Any) -> Any:
        async with self.database.read() as uow:
            return await uow.rows(statement, **given)

    async def later(self, minutes: float) -> Any:
        """A round of distribution as it will be then."""
        return await self.distributor.work_once(datetime.now(UTC) + timedelta(minutes=minutes))


def stamp(at: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(at)
    return made


def event(
    number: int,
    name: str,
    person: int,
    days_ago: float = 0,
    *,
    anchor: int = 0,
    version: int = 1,
    source: str = "app",
    **said: Any,
) -> identity_pb2.ResolvedEvent:
    """An event with a number of its own, of an anchor that is person + 10,000 unless stated."""
    return identity_pb2.ResolvedEvent(
        event_id=number.to_bytes(16, "big"),
        source=source,
        name=name,
        occurred_at_us=time.time_ns() // 1000 - round(days_ago * DAY_US),
        person=identity_pb2.AnchorOwner(anchor_id=anchor or person + 10_000, entity_id=person, version=version),
        properties_json=orjson.dumps(said),
    )


def merged(survivor: int, other: int, op_id: int, operation: str = "merge") -> identity_pb2.ClusterChange:
    return identity_pb2.ClusterChange(op_id=op_id, entity_kind=1, operation=operation, survivor_id=survivor, other_id=other)


def moved(anchor: int, person: int, version: int) -> identity_pb2.AnchorMove:
    owner = identity_pb2.AnchorOwner(anchor_id=anchor, entity_id=person, version=version)
    return identity_pb2.AnchorMove(entity_kind=1, owner=owner)


def withdrawn(person: int, purpose: str, channel: str = "dealer", opted_out: bool = True) -> identity_pb2.ConsentChange:
    return identity_pb2.ConsentChange(
        anchor_id=person + 10_000,
        person_id=person,
        channel=channel,
        opted_out=opted_out,
        stated_at_us=time.time_ns() // 1000,
        purpose=purpose,
    )


@asynccontextmanager
async def open_lead_house(databases: DatabaseFactory, people: People, **changes: Any) -> AsyncIterator[LeadHouse]:
    stated: dict[str, Any] = {
        "postgres_dsn": "postgresql://unused",
        "referral_device_key": "0" * 64,
        "nats_url": "nats://unused",
        "grpc_port": 0,
        "http_port": 0,
        "caller_token": SECRET,
        "caller_token_sha256": HASHES,
        "quiet_hours": "",
        "dormant_model": MODEL,
    }
    async with AsyncExitStack() as stack:
        settings = Settings(**(stated | changes))
        database = await stack.enter_async_context(databases.database("orchestrator"))
        scoring = Ranking(people)
        allowed = {"troika.scoring.v1.ScoringService": frozenset({"orchestrator"})}
        peer = rpc.Server(HASHES, allowed, with_reflection=False)
        add_ScoringServiceServicer_to_server(scoring, peer.aio)
        target = f"127.0.0.1:{await peer.start('127.0.0.1:0')}"
        stack.push_async_callback(peer.stop, 0)
        to_peers = await stack.enter_async_context(rpc.connect(target, "orchestrator", SECRET))
        distributor, ranking = Distributor(database, settings), RankingDoor(to_peers)
        server = rpc.Server(HASHES, settings.allowed_callers(), with_reflection=False)
        add_LeadServiceServicer_to_server(LeadRpc(Counter(database, settings, distributor), ranking), server.aio)
        board = Board(database, ranking, settings)
        add_TargetServiceServicer_to_server(TargetRpc(board), server.aio)
        port = await server.start("127.0.0.1:0")
        stack.push_async_callback(server.stop, 0)
        channel = await stack.enter_async_context(rpc.connect(f"127.0.0.1:{port}", "operator", SECRET))
        lead_stub, target_stub = LeadServiceStub(channel), TargetServiceStub(channel)
        yield LeadHouse(
            database, settings, people, distributor, ranking, lead_stub, board, scoring, target_stub, f"127.0.0.1:{port}"
        )
