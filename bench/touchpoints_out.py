"""Pushes out: signed webhooks a second from one process that is the real service, beside bare posts through the same client.

PostgreSQL of default durability, NATS, the service, a stand-in for identity and the receiver, each a process of its own, on
this machine's cores. Queued deliveries wait in the database when the clock starts: claiming, routing, admission, consent,
signing, calling and noting are measured. Bare posts are the same bytes to the same receiver, with nothing before or after them.
In the last part the receiver fails one call in twenty, and afterwards says whom it had twice.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import orjson
import psutil
from troika.identity.v1 import identity_service_pb2 as pb
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceServicer, add_IdentityServiceServicer_to_server
from troika.touchpoints.v1 import touchpoints_service_pb2 as touchpoints_pb
from troika.touchpoints.v1.touchpoints_service_pb2_grpc import TouchpointsServiceStub

from bench import receiver
from bench.progress import say
from bench.receiver import BARE_ID
from bench.servers import servers
from bench.service import ROOT, cpu, running
from chassis import rpc
from chassis.db import Database
from chassis.testing import DatabaseFactory
from local.embedded import free_port
from local.processes import Child
from services.touchpoints import webhooks
from services.touchpoints.channels.http import Caller

QUEUED, DRAINED, BARE = 20_000, 100_000, 6_000
TOKENS = {name: f"secret-of-{name}-in-a-bench" for name in ("touchpoints", "identity", "operator")}
KEY = "ab" * 32
FILL = """
    INSERT INTO delivery (delivery_id, theme, person_id, channel, fallback_channels, offer, title, body, purpose, score, rank,
        reasons, dealer_code, decided_at, expires_at, state, due_at, updated_at, quiet_hours, time_zone, caps)
    SELECT md5(i::text), 'themes/12', i, 1, '{}', 'Test drive', 'Come and drive', 'The new one is here; let us show it',
        'service', 800, 0, '{}', '', now(), now() + interval '3 days', 1, now(), now(), '', '', '0 3 604800'
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) i
"""
LEFT = "SELECT count(*) AS n FROM delivery WHERE state < 3"
ATTEMPTS = "SELECT attempts, count(*) AS n FROM delivery WHERE person_id > $1 GROUP BY 1"
STATES = "SELECT state, count(*) AS n FROM delivery GROUP BY 1"


class Persons(IdentityServiceServicer):
    """Identity as far as the sender asks it: everybody has the address that their number says."""

    async def GetSealingKey(self, request: pb.GetSealingKeyRequest, context: Any) -> pb.GetSealingKeyResponse:  # noqa: N802, D102
        return pb.GetSealingKeyResponse(key_id="k1", public_key=bytes(range(32)))

    async def RevealAddresses(self, request: pb.RevealAddressesRequest, context: Any) -> pb.RevealAddressesResponse:  # noqa: N802, D102
        return pb.RevealAddressesResponse(
            addresses=[pb.Address(person_id=p, anchor_id=p, value=f"u{p}") for p in request.person_ids]
        )


@asynccontextmanager
async def identity(folder: Path) -> AsyncIterator[str]:
    """The address of the stand-in for identity."""
    port = free_port()
    child = Child(
        "identity",
        [sys.executable, "-m", "bench.touchpoints_out", str(port)],
        folder / "identity.log",
        {"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"},
        ROOT,
    )
    child.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await child.stop()


async def bare(url: str, posts: int, at_once: int = 256) -> tuple[float, float]:
    """(posts a second through the channels' own client and nothing else, microseconds of CPU of each)."""
    caller = Caller(15, allow_private=True)
    body = orjson.dumps(
        {
            "type": "message.push",
            "timestamp": "2026-11-22T08:00:00.000Z",
            "data": {"delivery_id": "d" * 32, "app_user_id": "u1234567", "theme": "themes/12", "offer": "Test drive"}
            | {"title": "Come and drive", "body": "The new one is here; let us show it", "purpose": "service"},
        }
    )
    headers = webhooks.signed_headers(webhooks.new_secret(), BARE_ID, body)
    numbers = iter(range(posts))

    async def work() -> None:
        for _ in numbers:
            await caller.post(url, body, headers)

    began, spent = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(at_once)))
    seconds, spent = time.perf_counter() - began, time.process_time() - spent
    await caller.close()
    return posts / seconds, 1e6 * spent / posts


async def measure(quick: bool) -> dict[str, Any]:
    """webhooks_per_s, webhooks_vs_bare, and how a queue drains past a receiver that fails."""
    scale = 10 if quick else 1
    with tempfile.TemporaryDirectory() as name, receiver.running() as got:
        folder = Path(name)
        async with servers(folder) as (dsn, nats_url), identity(folder) as target:
            address, _ = await DatabaseFactory(dsn, ROOT / "services").address("touchpoints")
            database = Database(address, "touchpoints")
            own = {
                "IDENTITY_TARGET": target,
                "SECRETS_KEY": KEY,
                "PUBLIC_URL": "http://127.0.0.1:1",
                "ALLOW_PRIVATE_ENDPOINTS": "true",
            }
            async with running("touchpoints", address, nats_url, folder, own, TOKENS) as service:
                channel = rpc.connect(service.target, "operator", TOKENS["operator"])
                stub: Any = TouchpointsServiceStub(channel)
                endpoint = touchpoints_pb.Endpoint(name="app", channel=touchpoints_pb.CHANNEL_APP, url=got.url)
                await stub.CreateEndpoint(touchpoints_pb.CreateEndpointRequest(endpoint=endpoint))
                parts = {"sender": service.pid, "receiver": got.pid}
                first = await bare(got.url, BARE // scale)
                before = got.taken
                figures, last = await drain(database, 1, QUEUED // scale, parts)
                # Before and after: a machine that is busy with other things is so for both.
                second = await bare(got.url, BARE // scale)
                posts, post_us = ((a + b) / 2 for a, b in zip(first, second, strict=True))
                clean = got.taken - before
                say("draining past a receiver that fails one in twenty")
                got.fail(True)
                failing, _ = await drain(database, last + 1, DRAINED // scale, parts)
                states = {row["state"]: row["n"] for row in await database.fetch(STATES)}
                attempts = {row["attempts"]: row["n"] for row in await database.fetch(ATTEMPTS, QUEUED // scale)}
                await channel.close()
            await database.close()
        taken, repeats = got.taken, got.repeats
    wanted = (QUEUED + DRAINED) // scale
    return {
        "webhooks_per_s": figures["per_s"],
        "webhooks_vs_bare": round(figures["per_s"] / posts, 3),
        "bare_posts_per_s": round(posts),
        # The share of the sender's CPU that the post itself takes; on idle cores the ratio above comes near it.
        "bare_us_vs_sender_us": round(post_us / figures["sender_us"], 3),
        "bare_us": round(post_us, 1),
        "out": figures | {"lost": QUEUED // scale - clean, "seconds": figures["seconds"]},
        "drained": failing
        | {
            "queued": DRAINED // scale,
            "accepted": states.get(3, 0) - QUEUED // scale,
            "lost": wanted - (taken - before),
            # Calls whose connection broke after they were taken: repeated under the same id, and recognised.
            "repeats_recognised": repeats,
            "attempts": {str(made): count for made, count in sorted(attempts.items())},
            "states": {str(state): count for state, count in sorted(states.items())},
        },
    }


async def drain(database: Database, first: int, pushes: int, parts: Mapping[str, int]) -> tuple[dict[str, Any], int]:
    """Queues pushes and waits until all have ended; (figures, number of the last). `parts`: processes by name."""
    last = first + pushes - 1
    async with database.transaction() as uow:
        await uow.execute(FILL, first=first, last=last)
    spent, began = spent_by(parts), time.perf_counter()
    while (await database.fetch(LEFT))[0]["n"]:
        await asyncio.sleep(0.05)
    seconds = time.perf_counter() - began
    us = {name: round(1e6 * (now - spent[name]) / pushes, 1) for name, now in spent_by(parts).items()}
    # What bounds it: the sender runs on one core, all the others together have the rest.
    figures = {
        "per_s": round(pushes / seconds),
        "seconds": round(seconds, 1),
        "sender_us": us["sender"],
        "all_us": sum(us.values()),
    }
    return figures | {"us_by_process": us}, last


def spent_by(parts: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds so far of named processes, of the database, the bus, and everybody else here."""
    left = {each.pid: each for each in psutil.Process().children()}
    found = {name: cpu(left.pop(pid).pid) for name, pid in parts.items()}
    for each in left.values():
        kind = next((kind for kind in ("postgres", "nats") if kind in each.cmdline()[0]), "identity")
        found[kind] = found.get(kind, 0.0) + cpu(each.pid)
    return found | {"bench": sum(psutil.Process().cpu_times()[:2])}


async def serve_identity(port: int) -> None:
    """Runs until killed."""
    server = grpc.aio.server()
    add_IdentityServiceServicer_to_server(Persons(), server)  # type: ignore[abstract]
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve_identity(int(sys.argv[1])))
