"""Experiments behind their door, for tests: drafts, exposures that are two days old, events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import orjson
import pytest
from troika.identity.v1 import events_pb2 as identity_pb2
from troika.orchestrator.v1 import experiment_service_pb2 as pb
from troika.orchestrator.v1.experiment_service_pb2_grpc import (
    ExperimentServiceStub,
    add_ExperimentServiceServicer_to_server,
)

from chassis import rpc
from chassis.rpc import reason_of
from chassis.testing import DatabaseFactory
from services.orchestrator.experiments.handlers import Laboratory
from services.orchestrator.experiments.tag_door import ExperimentTags
from services.orchestrator.rpc_experiments import ExperimentRpc
from tests.integration.orchestrator.conftest import House, open_house
from tests.integration.orchestrator.test_feedback import ENTITIES, EVENTS
from tests.integration.orchestrator.world import HASHES, SECRET, People, peers

EVERYBODY = list(range(1, 1001))
HOUR_US = 3_600_000_000
ORDERED = pb.Metric(name="ordered", role=1, kind=1, event="Order Placed", window_hours=24)
SPENT = pb.Metric(name="spent", role=2, kind=2, event="Order Placed", property="price", window_hours=24)
PRICE = pb.Metric(name="price", role=2, kind=3, event="Order Placed", property="price", window_hours=24)
LEFT = pb.Metric(
    name="left", role=3, kind=1, event="Unsubscribed", property="channel", value="app", window_hours=24,
    lower_is_better=True, tolerated_harm=0.2,
)  # fmt: skip


class Lab:
    """The laboratory under test, as an operator sees it."""

    def __init__(self, house: House, door: Any) -> None:
        self.house, self.call = house, door
        self._events = 0

    async def make(self, **changes: Any) -> pb.Experiment:
        answer = await self.call.CreateExperiment(pb.CreateExperimentRequest(experiment=experiment(**changes)))
        made: pb.Experiment = answer.experiment
        return made

    async def started(self, **changes: Any) -> str:
        made = await self.make(**changes)
        await self.call.StartExperiment(pb.StartExperimentRequest(name=made.name))
        return str(made.name)

    async def assign(self, name: str, persons: Sequence[int]) -> list[str]:
        answer = await self.call.AssignVariants(pb.AssignVariantsRequest(name=name, person_ids=persons))
        return list(answer.variants)

    async def results(self, name: str) -> pb.GetExperimentResultsResponse:
        answer: pb.GetExperimentResultsResponse = await self.call.GetExperimentResults(
            pb.GetExperimentResultsRequest(name=name)
        )
        return answer

    async def two_days_pass(self) -> None:
        """Exposures are two days old."""
        async with self.house.transaction() as uow:
            await uow.execute("UPDATE exposure SET exposed_at = exposed_at - interval '48 hours'")

    async def happen(self, *events: identity_pb2.ResolvedEvent) -> None:
        await self.house.hear(EVENTS, identity_pb2.ResolvedBatch(events=events))

    def event(self, person: int, hours: float = 1, name: str = "Order Placed", **more: Any) -> identity_pb2.ResolvedEvent:
        """Something that happened so many hours after everybody was exposed, in a world where two days have passed."""
        self._events += 1
        anchor, properties = more.pop("anchor", person + 10_000), more.pop("properties", {"price": 100})
        version = more.pop("version", 1)
        stated: dict[str, Any] = {
            "event_id": self._events.to_bytes(16, "big"),
            "name": name,
            "occurred_at_us": time.time_ns() // 1000 + int((hours - 48) * HOUR_US),
            "person": identity_pb2.AnchorOwner(anchor_id=anchor, entity_id=person, version=version),
            "properties_json": orjson.dumps(properties),
        }
        return identity_pb2.ResolvedEvent(**(stated | more))

    async def changed(self, **changes: Any) -> None:
        await self.house.hear(ENTITIES, identity_pb2.EntitiesChanged(**changes))


def experiment(**changes: Any) -> pb.Experiment:
    stated: dict[str, Any] = {
        "title": "A shorter title",
        "layer": "offers",
        "bucket_from": 0,
        "bucket_to": 10_000,
        "variants": [pb.Variant(name="old", weight=1), pb.Variant(name="short", weight=1)],
        "metrics": [ORDERED],
        "planned_persons": 1000,
    }
    return pb.Experiment(**(stated | changes))


@asynccontextmanager
async def open_lab(databases: DatabaseFactory, **changes: Any) -> AsyncIterator[Lab]:
    """A laboratory with a door; nobody is held out unless settings say so."""
    people = People()
    chosen: dict[str, Any] = {"global_holdout_share": 0.0} | changes
    async with open_house(databases, people, **chosen) as house, peers(people) as target:
        async with rpc.connect(target, "orchestrator", SECRET) as to_tags:
            settings = house.room.settings
            server = rpc.Server(HASHES, settings.allowed_callers(), with_reflection=False)
            room = Laboratory(house.database, ExperimentTags(to_tags, settings.eligibility_age_s), settings)
            add_ExperimentServiceServicer_to_server(ExperimentRpc(room), server.aio)
            port = await server.start("127.0.0.1:0")
            async with rpc.connect(f"127.0.0.1:{port}", "operator", SECRET) as channel:
                yield Lab(house, ExperimentServiceStub(channel))
            await server.stop(0)


async def refused(call: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    reason, field = reason_of(error.value)
    return error.value.code(), reason, field


def totals(results: pb.GetExperimentResultsResponse, metric: int = 0) -> dict[str, tuple[int, float]]:
    return {each.variant: (each.persons, each.total) for each in results.metrics[metric].variants}
