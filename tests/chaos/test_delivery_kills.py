"""Touchpoints killed twenty times while it sends to receivers that fail in every way: every push ends, nobody gets one twice.

TROIKA_CHAOS_PUSHES and TROIKA_CHAOS_KILLS make it longer.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import orjson
from aiohttp import web
from standardwebhooks import Webhook
from troika.orchestrator.v1.events_pb2 import DeliveriesRequested, DeliveryRequest

from chassis.bus import Bus
from chassis.db import Database
from chassis.outbox import Outgoing
from chassis.testing import DatabaseFactory, drop_database
from services.touchpoints.domain.deliveries import Channel
from services.touchpoints.endpoints import Endpoint, Endpoints
from services.touchpoints.vault import Vault
from tests.chaos.lives import KEYLESS, live
from tests.conftest import Servers
from tests.integration.touchpoints.identity import Identity, serving
from tests.integration.touchpoints.room import NEIGHBOURS, request, settings_for

PUSHES = int(os.environ.get("TROIKA_CHAOS_PUSHES", "600"))
KILLS = int(os.environ.get("TROIKA_CHAOS_KILLS", "20"))
REPLICAS, PATIENCE_S = 2, 150
SKEW = timedelta(hours=1)


class Receiver:
    """Fails twice at most for each message, in a way drawn from its id; says what it had."""

    def __init__(self) -> None:
        self.url, self.secret = "", ""
        self.attempts: Counter[str] = Counter()
        # What became visible to somebody, by the key that the receiver knows a repeat by; and how often without keys.
        self.effects: Counter[str] = Counter()
        self.bare: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.unsigned = 0

    async def take(self, name: str, request: web.Request, effect: Counter[str], *, once: bool) -> web.Response:
        self.attempts[name] += 1
        draw = random.Random(f"{name} {self.attempts[name]}")
        fault = draw.choices(("", "500", "429", "hangs", "slow", "garbage", "breaks"), (50, 10, 10, 8, 8, 7, 7))[0]
        if self.attempts[name] > 2:
            fault = ""
        self.faults[fault] += 1
        if fault == "500":
            return web.Response(status=500)
        if fault == "429":
            # By a clock that is an hour ahead of everybody's.
            now = datetime.now(UTC) + SKEW
            moment = format_datetime(now + timedelta(seconds=1), usegmt=True)
            return web.Response(status=429, headers={"Retry-After": moment, "Date": format_datetime(now, usegmt=True)})
        if not once or not effect[name]:
            effect[name] += 1
        if fault == "hangs":
            await asyncio.sleep(1.5)
        elif fault == "slow":
            await asyncio.sleep(0.3)
        elif fault in ("garbage", "breaks") and request.transport is not None:
            if fault == "garbage":
                request.transport.write(b"HTTP/9.9 \xff\x00 nonsense\r\n\r\n")
            request.transport.close() if fault == "garbage" else request.transport.abort()
        return web.Response()

    async def push(self, request: web.Request) -> web.Response:
        body, headers = await request.read(), {k.lower(): v for k, v in request.headers.items()}
        try:
            Webhook(self.secret).verify(body, headers)
        except Exception:
            self.unsigned += 1
            return web.Response(status=401)
        return await self.take(headers["webhook-id"], request, self.effects, once=True)

    async def without_keys(self, request: web.Request) -> web.Response:
        return await self.take(orjson.loads(await request.read())["id"], request, self.bare, once=False)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver, app = Receiver(), web.Application()
    app.add_routes([web.post("/push", receiver.push), web.post("/bare", receiver.without_keys)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()


async def test_every_push_ends_and_none_is_doubled_whoever_is_killed_and_whatever_receivers_do(
    servers: Servers, databases: DatabaseFactory, bus: Bus
) -> None:
    dsn, name = await databases.address("touchpoints")
    await bus.declare(*NEIGHBOURS)
    identity = Identity()  # type: ignore[abstract]
    # Two persons in three have the app, the third one is reached without keys.
    for person in range(1, PUSHES + 1):
        identity.book[person, "crm_id", "app"] = (person, f"u{person}")
    async with serving(identity), receiving() as receiver:
        own = {"send_lease_s": 2.0, "send_timeout_s": 0.8, "unknown_wait_s": 2.0, "public_url": "http://127.0.0.1:1"}
        settings = settings_for(dsn, servers.nats_url, identity, **own)
        database = Database(dsn, "touchpoints")
        endpoints = Endpoints(database, Vault(bytes.fromhex("ab" * 32)))
        async with database.transaction() as uow:
            receiver.secret = await endpoints.register(uow, Endpoint("app", Channel.APP, "", f"{receiver.url}/push"), True)
            await endpoints.register(uow, Endpoint("bare", KEYLESS, "", f"{receiver.url}/bare"), False)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.chaos.lives"])
        draw = random.Random(5)
        killed = 0
        done = asyncio.Event()

        async def replica() -> None:
            """Lives again and again, a second or so each time, and then until the end."""
            nonlocal killed
            while not done.is_set():
                given = settings_for(dsn, servers.nats_url, identity, **own)
                values = {field: getattr(given, field) for field in type(settings).model_fields}
                process = context.Process(target=live, args=(values,), daemon=True)
                process.start()
                try:
                    if killed < KILLS:
                        await asyncio.sleep(draw.uniform(0.8, 2.0))
                        killed += 1
                    else:
                        await done.wait()
                finally:
                    process.kill()
                    await asyncio.to_thread(process.join)

        replicas = [asyncio.create_task(replica()) for _ in range(REPLICAS)]
        try:
            asked = [
                request(
                    f"d{n}",
                    n,
                    KEYLESS.label if n % 3 == 0 else "app",
                    # Every twentieth is hardly ever in time.
                    **({"expires_at_us": time.time_ns() // 1000 + 1_000_000} if n % 20 == 0 else {}),
                )
                for n in range(1, PUSHES + 1)
            ]
            async with asyncio.timeout(PATIENCE_S):
                await ask(bus, asked)
                while await left(database) or killed < KILLS:
                    await asyncio.sleep(0.1)
        finally:
            done.set()
            await asyncio.gather(*replicas, return_exceptions=True)
        rows = await database.fetch("SELECT delivery_id, channel, state, reason, attempts FROM delivery")
        await database.close()
    await drop_database(servers.postgres_dsn, name)
    assert KILLS <= killed
    assert PUSHES == len(rows)
    assert 0 == receiver.unsigned
    assert {"", "500", "429", "hangs", "slow", "garbage", "breaks"} == set(receiver.faults)
    ends = Counter((row["state"], row["reason"]) for row in rows)
    assert set(ends) <= {(3, ""), (9, "outcome_unknown"), (11, "expired")}, ends
    keyed = {f"msg_{row['delivery_id']}": row for row in rows if row["channel"] == Channel.APP}
    # At a receiver that knows keys nothing is unknown, nothing is shown twice, and what was accepted was shown.
    assert {name for name, row in keyed.items() if row["state"] == 3} <= set(receiver.effects) <= set(keyed)
    assert {1} == set(receiver.effects.values())
    assert all(row["reason"] != "outcome_unknown" for row in keyed.values())
    bare = {row["delivery_id"]: row for row in rows if row["channel"] == KEYLESS}
    # Where nobody knows keys, at most once: what nobody answered for is not sent again.
    assert {1} == set(receiver.bare.values())
    assert {name for name, row in bare.items() if row["state"] == 3} <= set(receiver.bare)
    assert any(row["reason"] == "outcome_unknown" for row in bare.values())


async def ask(bus: Bus, asked: list[DeliveryRequest]) -> None:
    """Requests come in while touchpoints dies."""
    for start in range(0, len(asked), 20):
        payload = DeliveriesRequested(requests=asked[start : start + 20]).SerializeToString()
        await bus.publish_all([Outgoing.now("troika.deliveries.requested.v1", payload)])
        await asyncio.sleep(0.2)


async def left(database: Database) -> int:
    """How many have not ended; all of them until the last one is there."""
    row = (await database.fetch("SELECT count(*) FILTER (WHERE state >= 3) AS ended FROM delivery"))[0]
    return PUSHES - int(row["ended"])
