"""The whole service as it runs, inside the test's loop: real doors, database and bus."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import httpx
import nats
from nats.js import api
from troika.orchestrator.v1.events_pb2 import DeliveriesRequested, DeliveryRequest
from troika.touchpoints.v1 import touchpoints_service_pb2 as pb
from troika.touchpoints.v1.events_pb2 import DeliveriesUpdated, DeliveryUpdate, ObservedBatch, ObservedEvent
from troika.touchpoints.v1.touchpoints_service_pb2_grpc import TouchpointsServiceStub

from chassis import rpc
from chassis.bus import Bus, Stream
from chassis.db import Database
from chassis.outbox import Outgoing
from services.touchpoints.__main__ import serve
from services.touchpoints.settings import Settings
from tests.integration.touchpoints.identity import Identity

TOKEN = "operator-token-of-the-test"
PATIENCE_S = 20
NEIGHBOURS = (
    Stream("DELIVERIES_REQUESTED", ("troika.deliveries.requested.v1",)),
    Stream("ENTITIES_CHANGED", ("troika.entities.changed.v1",)),
    Stream("LEADS_ASSIGNED", ("troika.leads.assigned.v1",)),
)
T = TypeVar("T")


async def eventually(read: Callable[[], Awaitable[T]], wanted: Callable[[T], bool]) -> T:
    """What `read` gives once it is as wanted; fails with the last thing it gave."""
    value = await read()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not wanted(value):
                await asyncio.sleep(0.02)
                value = await read()
    except TimeoutError:
        raise AssertionError(f"never came: {value!r}") from None
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def basic(key: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()}


@dataclass
class Room:
    """A running touchpoints and its surroundings."""

    settings: Settings
    identity: Identity
    bus: Bus
    http: httpx.AsyncClient
    rpc: Any
    database: Database
    nats_url: str
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.settings.public_url

    async def source(self, name: str, kind: int = pb.USER_ID_KIND_CRM_ID, appid: str = "", server_side: bool = False) -> str:
        source = pb.Source(name=name, user_id_kind=kind, appid=appid)
        answer = await self.rpc.CreateSource(pb.CreateSourceRequest(source=source, server_side=server_side))
        self.keys[name] = answer.write_key
        return str(answer.write_key)

    async def endpoint(self, name: str, channel: int, url: str, scope: str = "", **particular: Any) -> str:
        given = pb.Endpoint(name=name, channel=channel, url=url, scope=scope, **particular)
        answer = await self.rpc.CreateEndpoint(pb.CreateEndpointRequest(endpoint=given))
        return str(answer.secret)

    async def request(self, *requests: DeliveryRequest) -> None:
        payload = DeliveriesRequested(requests=requests).SerializeToString()
        await self.bus.publish_all([Outgoing.now("troika.deliveries.requested.v1", payload)])

    async def delivery(self, delivery_id: str) -> pb.Delivery | None:
        try:
            answer = await self.rpc.GetDelivery(pb.GetDeliveryRequest(delivery_id=delivery_id))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return answer.delivery

    async def in_state(self, delivery_id: str, state: int) -> pb.Delivery:
        read = await eventually(lambda: self.delivery(delivery_id), lambda d: d is not None and d.state == state)
        assert read is not None
        return read

    async def parked(self, delivery_id: str, why: str) -> pb.Delivery:
        read = await eventually(lambda: self.delivery(delivery_id), lambda d: d is not None and d.reason == why)
        assert read is not None
        return read

    async def messages(self, stream: str) -> list[bytes]:
        """Everything in a stream, in order."""
        client = await nats.connect(self.nats_url)
        try:
            js = client.jetstream()
            count = (await js.stream_info(stream)).state.messages
            if not count:
                return []
            config = api.ConsumerConfig(ack_policy=api.AckPolicy.NONE)
            subscription = await js.pull_subscribe(">" if stream == "DEADLETTERS" else "", stream=stream, config=config)
            got: list[bytes] = []
            while len(got) < count:
                got += [m.data for m in await subscription.fetch(count - len(got), timeout=5)]
            return got
        finally:
            await client.close()

    async def observed(self) -> list[tuple[ObservedBatch, ObservedEvent]]:
        batches = [ObservedBatch.FromString(data) for data in await self.messages("EVENTS_OBSERVED")]
        return [(batch, event) for batch in batches for event in batch.events]

    async def dead(self) -> list[tuple[ObservedBatch, ObservedEvent]]:
        batches = [ObservedBatch.FromString(data) for data in await self.messages("DEADLETTERS")]
        return [(batch, event) for batch in batches for event in batch.events]

    async def updates(self) -> list[DeliveryUpdate]:
        return [u for data in await self.messages("DELIVERIES_UPDATED") for u in DeliveriesUpdated.FromString(data).updates]


@asynccontextmanager
async def running(
    settings: Settings, identity: Identity, bus: Bus, nats_url: str, keyless: bool = False
) -> AsyncIterator[Room]:
    """Serves until the block ends; `keyless`: identity is away, so readiness is not waited for to the end."""
    task = asyncio.create_task(serve(settings))
    channel = rpc.connect(f"127.0.0.1:{settings.grpc_port}", "operator", TOKEN)
    database = Database(settings.postgres_dsn, "touchpoints")
    async with httpx.AsyncClient(base_url=settings.public_url, timeout=20, trust_env=False) as http:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    if task.done():
                        task.result()
                    try:
                        # Without identity there is no sealing key; the other doors are open all the same.
                        if set((await http.get("/readyz")).json()["down"]) <= ({"sealing key"} if keyless else set()):
                            break
                    except httpx.TransportError:
                        pass
                    await asyncio.sleep(0.02)
            yield Room(settings, identity, bus, http, TouchpointsServiceStub(channel), database, nats_url)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await channel.close()
            await database.close()


def settings_for(dsn: str, nats_url: str, identity: Identity, **changes: Any) -> Settings:
    http = free_port()
    values: dict[str, Any] = {
        "postgres_dsn": dsn,
        "nats_url": nats_url,
        "grpc_port": free_port(),
        "http_port": http,
        "caller_token": "touchpoints-token-of-the-test",
        "caller_token_sha256": {"operator": hashlib.sha256(TOKEN.encode()).hexdigest()},
        "identity_target": identity.target,
        "secrets_key": "ab" * 32,
        "public_url": f"http://127.0.0.1:{http}",
        "allow_private_endpoints": True,
        "message_page_url": "https://page.example/offer",
        "shutdown_grace_s": 0.2,
    }
    return Settings(**(values | changes))


def request(delivery_id: str, person: int, channel: str, **changes: Any) -> DeliveryRequest:
    now = time.time_ns() // 1000
    values: dict[str, Any] = {
        "delivery_id": delivery_id,
        "theme": "themes/12",
        "person_id": person,
        "channel": channel,
        "offer": "Test drive",
        "title": "试驾邀请",
        "body": "新款 X5 到店，欢迎试驾",
        "purpose": "service",
        "score": 873.0,
        "rank": 17,
        "reasons": ["previous_outcome = success"],
        "decided_at_us": now,
        "expires_at_us": now + 3_600_000_000,
        "dealer_code": "D001" if channel == "dealer" else "",
    }
    return DeliveryRequest(**(values | changes))
