"""What goes on while something is done to a release: events in, questions, pushes out; each failure is kept, none retried."""

from __future__ import annotations

import asyncio
import base64
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import grpc
import httpx
import orjson
from aiohttp import web
from troika.identity.v1.identity_service_pb2 import GetStatisticsRequest, IdentifierRef, ResolveIdentifiersRequest
from troika.orchestrator.v1.events_pb2 import DeliveriesRequested, DeliveryRequest
from troika.orchestrator.v1.orchestrator_service_pb2 import ListThemesRequest
from troika.scoring.v1.model_service_pb2 import ListModelsRequest
from troika.tags.v1.tags_service_pb2 import ListTagsRequest
from troika.touchpoints.v1 import touchpoints_service_pb2 as pb

from chassis.bus import Bus
from chassis.outbox import Outgoing
from local.demo.operator import Operator, until

PEOPLE: Final = 60
SOURCE: Final = "app"
REQUESTED: Final = "troika.deliveries.requested.v1"
# Longer than a push is under way: a sender that breaks calls off is seen to.
RECEIVER_S: Final = 0.3
PAUSE_S: Final = 0.25


def pushed(number: int) -> str:
    """By what the receiver knows a push."""
    return f"msg_load-{number}"


@dataclass
class Load:
    """Counts of what was asked and what came of it; `failures` is what a client would have had to ask again."""

    operator: Operator = field(init=False)
    bus: Bus = field(init=False)
    door: str = field(init=False)
    key: str = ""
    persons: list[int] = field(default_factory=list)
    accepted: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    pushed: int = 0
    received: Counter[str] = field(default_factory=Counter)
    _events: int = 0
    _before: int = 0

    def at(self, operator: Operator, bus: Bus, door: str) -> Load:
        """From now on it goes there."""
        self.operator, self.bus, self.door = operator, bus, door
        return self

    async def begin(self, receiver: str) -> None:
        """A source, an endpoint, and people whom both know; what the release has seen before does not count."""
        before = await self.operator.ask(self.operator.identity.GetStatistics, GetStatisticsRequest())
        self._before = before.observations
        source = pb.Source(name=SOURCE, user_id_kind=pb.USER_ID_KIND_CRM_ID)
        self.key = (
            await self.operator.ask(self.operator.touchpoints.CreateSource, pb.CreateSourceRequest(source=source))
        ).write_key
        endpoint = pb.Endpoint(name="app", channel=pb.CHANNEL_APP, url=f"{receiver}/push")
        await self.operator.ask(self.operator.touchpoints.CreateEndpoint, pb.CreateEndpointRequest(endpoint=endpoint))
        async with httpx.AsyncClient(base_url=self.door, trust_env=False) as client:
            # The new source's key is known to every door within two seconds.
            while not (await self._post(client, [self._event() for _ in range(PEOPLE)])):
                await asyncio.sleep(0.2)
        await self.arrived(self.accepted, range(0))
        refs = [IdentifierRef(kind="crm_id", scope=SOURCE, value=f"u{n}") for n in range(PEOPLE)]
        answer = await self.operator.ask(self.operator.identity.ResolveIdentifiers, ResolveIdentifiersRequest(identifiers=refs))
        self.persons = list(answer.entity_ids)
        assert all(self.persons)

    async def everything_arrived(self) -> None:
        """Waits until every accepted event is an observation and every requested push was received."""
        await self.arrived(self.accepted, range(self.pushed))

    async def arrived(self, events: int, pushes: range) -> int:
        """Waits for at least so many observations and these pushes; returns how many observations there are."""

        async def look() -> tuple[int, int]:
            statistics = await self.operator.ask(self.operator.identity.GetStatistics, GetStatisticsRequest())
            return statistics.observations - self._before, sum(pushed(n) in self.received for n in pushes)

        return (await until(look, lambda seen: seen[0] >= events and seen[1] == len(pushes), 60, every=0.2))[0]

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Runs until the end of the block."""
        operator = self.operator
        stopped = asyncio.Event()
        asks: dict[str, Callable[[], Awaitable[Any]]] = {
            "identity": lambda: operator.identity.GetStatistics(GetStatisticsRequest(), timeout=10),
            "tags": lambda: operator.tags.ListTags(ListTagsRequest(), timeout=10),
            "scoring": lambda: operator.models.ListModels(ListModelsRequest(), timeout=10),
            "orchestrator": lambda: operator.orchestrator.ListThemes(ListThemesRequest(), timeout=10),
            "touchpoints": lambda: operator.touchpoints.GetDeliveryStatistics(
                pb.GetDeliveryStatisticsRequest(theme="themes/1"), timeout=10
            ),
        }
        async with asyncio.TaskGroup() as tasks:
            for name, ask in asks.items():
                tasks.create_task(self._ask(name, ask, stopped))
            for _ in range(3):
                tasks.create_task(self._send(stopped))
            tasks.create_task(self._push(stopped))
            try:
                yield
            finally:
                stopped.set()

    async def _ask(self, name: str, ask: Callable[[], Awaitable[Any]], stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            try:
                await ask()
                self.answered[name] += 1
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{name}: {error.code().name} {error.details()}")
            await asyncio.sleep(PAUSE_S)

    async def _send(self, stopped: asyncio.Event) -> None:
        async with httpx.AsyncClient(base_url=self.door, trust_env=False, timeout=15) as client:
            while not stopped.is_set():
                if not await self._post(client, [self._event() for _ in range(5)]):
                    self.failures.append("events: refused")
                await asyncio.sleep(PAUSE_S)

    async def _post(self, client: httpx.AsyncClient, events: list[dict[str, Any]]) -> bool:
        headers = {"authorization": "Basic " + base64.b64encode(f"{self.key}:".encode()).decode()}
        try:
            response = await client.post("/v1/batch", content=orjson.dumps({"batch": events}), headers=headers)
        except httpx.HTTPError as error:
            self.failures.append(f"events: {error!r}")
            return True
        if response.is_success:
            self.accepted += len(events)
        return response.is_success

    def _event(self) -> dict[str, Any]:
        self._events += 1
        # Once all are known somebody new comes with every tenth event.
        user = f"n{self._events}" if self.persons and self._events % 10 == 0 else f"u{self._events % PEOPLE}"
        return {
            "type": "track",
            "event": "Page Viewed",
            "messageId": f"load-{self._events}",
            "userId": user,
            "timestamp": datetime.now(UTC).isoformat(),
        }

    async def _push(self, stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            now = time.time_ns() // 1000
            requests = [
                DeliveryRequest(
                    delivery_id=f"load-{self.pushed + n}",
                    theme="themes/1",
                    person_id=self.persons[(self.pushed + n) % PEOPLE],
                    channel="app",
                    offer="Test drive",
                    title="试驾邀请",
                    body="欢迎试驾",
                    purpose="service",
                    decided_at_us=now,
                    expires_at_us=now + 3_600_000_000,
                )
                for n in range(3)
            ]
            self.pushed += len(requests)
            await self.bus.publish_all([Outgoing.now(REQUESTED, DeliveriesRequested(requests=requests).SerializeToString())])
            await asyncio.sleep(2 * PAUSE_S)

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[str]:
        """The app's backend; gives its address."""

        async def push(request: web.Request) -> web.Response:
            await request.read()
            self.received[request.headers["webhook-id"]] += 1
            await asyncio.sleep(RECEIVER_S)
            return web.Response()

        app = web.Application()
        app.add_routes([web.post("/push", push)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()
