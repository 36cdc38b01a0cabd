"""What touchpoints does while something it needs is down."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import grpc
import pytest

from chassis.bus import DEAD_LETTERS, Bus
from chassis.testing import DatabaseFactory, drop_database
from local.embedded import Nats
from local.processes import Child
from services.touchpoints.channels.http import Caller, PublicOnly
from services.touchpoints.domain.deliveries import Refused, Retry
from tests.conftest import Servers
from tests.integration.touchpoints.identity import Identity, serving
from tests.integration.touchpoints.receivers import APP
from tests.integration.touchpoints.receiving import receiving
from tests.integration.touchpoints.room import NEIGHBOURS, Room, basic, eventually, free_port, request, running, settings_for

EVENT = {"type": "track", "event": "x", "userId": "u", "messageId": "m"}


async def test_without_the_bus_nothing_is_accepted_and_the_repeat_is_in_the_stream_once(
    servers: Servers, databases: DatabaseFactory, identity: Identity, tmp_path: Path
) -> None:
    nats = Nats(tmp_path / "nats")
    server = Child("nats", nats.command().argv, tmp_path / "nats.log", {}, tmp_path)
    server.start()
    await nats.ready()
    bus = Bus(nats.url, "test")
    await bus.connect()
    await bus.declare(DEAD_LETTERS, *NEIGHBOURS)
    dsn, name = await databases.address("touchpoints")
    settings = settings_for(dsn, nats.url, identity, publish_timeout_s=0.5)
    async with running(settings, identity, bus, nats.url) as room:
        key = await room.source("app")

        async def post() -> int:
            answer = await room.http.post("/v1/batch", content=json.dumps({"batch": [EVENT]}), headers=basic(key))
            if answer.status_code == 503:
                assert "bus_unavailable" == answer.json()["code"]
                assert int(answer.headers["Retry-After"]) >= 1
            return answer.status_code

        await server.stop()
        assert [503, 503] == [await post(), await post()]
        server.start()
        await nats.ready()
        await eventually(post, lambda status: status == 200)
        assert 1 == len(await room.observed())
    await bus.close()
    await server.stop()
    await drop_database(servers.postgres_dsn, name)


async def test_the_door_waits_for_its_first_key_and_then_needs_identity_no_more(
    servers: Servers, databases: DatabaseFactory, bus: Bus
) -> None:
    port = free_port()
    identity = Identity(target=f"127.0.0.1:{port}")
    await bus.declare(*NEIGHBOURS)
    dsn, name = await databases.address("touchpoints")
    settings = settings_for(dsn, servers.nats_url, identity)
    async with running(settings, identity, bus, servers.nats_url, keyless=True) as room:
        assert {"sealing key": "Unavailable"} == (await room.http.get("/readyz")).json()["down"]
        key = await room.source("app")

        async def post(message: str) -> tuple[int, str]:
            body = json.dumps({"batch": [EVENT | {"messageId": message}]})
            answer = await room.http.post("/v1/batch", content=body, headers=basic(key))
            return answer.status_code, answer.json().get("code", "")

        assert (503, "no_sealing_key") == await post("m1")
        async with serving(identity, port):
            await eventually(lambda: post("m2"), lambda answer: answer[0] == 200)
        assert (200, "") == await post("m3")
        assert 2 == len(await room.observed())
    await drop_database(servers.postgres_dsn, name)


async def test_pushes_wait_for_identity_and_go_on_soon_after(room: Room) -> None:
    async def busy(asked: object, context: grpc.aio.ServicerContext[object, object]) -> None:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "busy")

    room.identity.reveal = busy
    room.identity.book[1, "crm_id", "app"] = (101, "u1")
    async with receiving() as receiver:
        await room.endpoint("app", APP, receiver.url)
        started = time.monotonic()
        await room.request(request("d1", 1, "app"))
        assert 1 == (await room.in_state("d1", 3)).attempts
        assert room.identity.reveal is None
        assert time.monotonic() - started < room.settings.send_lease_s / 3


async def test_nothing_is_sent_into_our_own_network() -> None:
    caller, asked = Caller(2, allow_private=False), []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert Retry("connection_failed", faults_endpoint=True) == await caller.post(f"https://localhost:{port}/", b"{}", {})
    for host in ("127.0.0.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]"):
        assert Refused("forbidden_address", mendable=True) == await caller.post(f"https://{host}:{port}/", b"{}", {})
    with pytest.raises(OSError, match="private address"):
        await PublicOnly().resolve("localhost")
    assert [] == asked
    server.close()
    await caller.close()
