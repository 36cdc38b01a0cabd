"""The way in: events a second through /v1/batch and the single calls, durable, beside FastAPI and JetStream alone.

Everything is on this machine: PostgreSQL, NATS, one process of touchpoints, the load. Requests are made beforehand and go
out as they are over kept connections, so that the load costs little of the two cores. Bare is an app that reads the same
bytes, publishes them to JetStream and answers when that is acknowledged.
"""

from __future__ import annotations

import asyncio
import base64
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import orjson
import psutil
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from troika.identity.v1 import identity_service_pb2 as identity
from troika.touchpoints.v1 import touchpoints_service_pb2 as pb
from troika.touchpoints.v1.touchpoints_service_pb2_grpc import TouchpointsServiceStub

from bench.metrics import cpu_seconds
from bench.progress import say
from bench.servers import servers
from bench.service import ROOT, running
from chassis import rpc
from local.embedded import free_port
from local.processes import Child

BATCH = 100
BATCHES, SINGLES = 1_600, 30_000
# What so many SDKs have on the way at once.
BATCH_CONNECTIONS, SINGLE_CONNECTIONS = 8, 64
HALF_LOAD_S = 10.0
ROUNDS = 3
TOKENS = {"touchpoints": "bench-token-of-touchpoints", "operator": "bench-token-of-operator"}
MODELS = ("A3", "C5", "S7", "X1", "X5")


@dataclass(frozen=True)
class Run:
    """Requests that were answered: how many a second, and how long each took (seconds)."""

    per_s: float
    took: Sequence[float]

    def p99_ms(self) -> float:
        """The 99th of a hundred."""
        return statistics.quantiles(self.took, n=100)[98] * 1000


@asynccontextmanager
async def sealing() -> AsyncIterator[str]:
    """The address of what answers touchpoints for identity: it has a sealing key, and nothing else is asked of it."""
    public = X25519PrivateKey.generate().public_key().public_bytes_raw()

    async def answer(request: identity.GetSealingKeyRequest, context: object) -> identity.GetSealingKeyResponse:
        return identity.GetSealingKeyResponse(key_id="k1", public_key=public)

    handler = grpc.unary_unary_rpc_method_handler(
        answer, identity.GetSealingKeyRequest.FromString, identity.GetSealingKeyResponse.SerializeToString
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("troika.identity.v1.IdentityService", {"GetSealingKey": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def bare(nats_url: str, folder: Path) -> AsyncIterator[tuple[str, int]]:
    """The address and the process of FastAPI with JetStream behind it."""
    port = free_port()
    child = Child("bare", [sys.executable, "-m", "bench.touchpoints_bare", nats_url, str(port)], folder / "bare.log", {}, ROOT)
    child.start()
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}", child.pid
    finally:
        await child.stop()


def event() -> dict[str, Any]:
    """What a web page says when somebody looks at a model, as Segment's SDK writes it."""
    number = uuid.uuid4()
    return {
        "type": "track",
        "event": "Model Viewed",
        "userId": f"u{number.int % 100_000}",
        "anonymousId": str(number),
        "messageId": number.hex,
        "timestamp": "2026-03-01T08:00:00.000Z",
        "properties": {"model": MODELS[number.int % 5], "price": 498_000, "page": "/models/x5", "seconds": 12.5},
        "context": {"library": {"name": "analytics-node", "version": "3.1.0"}, "device": {"id": number.hex}},
        "integrations": {},
    }


def request(path: str, body: bytes, key: str) -> bytes:
    """The bytes of a post."""
    shown = base64.b64encode(f"{key}:".encode()).decode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Basic {shown}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def batches(count: int, key: str) -> list[bytes]:
    """Posts of a hundred events each, none like another."""
    made = []
    for _ in range(count):
        body = orjson.dumps({"batch": [event() for _ in range(BATCH)], "sentAt": "2026-03-01T08:00:01.000Z"})
        made.append(request("/v1/batch", body, key))
    return made


def singles(count: int, key: str) -> list[bytes]:
    """Posts of one event each."""
    return [request("/v1/track", orjson.dumps(event() | {"sentAt": "2026-03-01T08:00:01.000Z"}), key) for _ in range(count)]


class Load:
    """Kept connections to one door."""

    def __init__(self, url: str, connections: int) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._connections = connections

    async def __aenter__(self) -> Load:
        for _ in range(self._connections):
            self._free.put_nowait(await asyncio.open_connection(self._host, self._port))
        return self

    async def __aexit__(self, *exc: object) -> None:
        while not self._free.empty():
            self._free.get_nowait()[1].close()

    async def _send(self, post: bytes) -> None:
        reader, writer = connection = await self._free.get()
        try:
            writer.write(post)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode(errors="replace"))
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        finally:
            self._free.put_nowait(connection)

    async def closed(self, posts: Sequence[bytes]) -> Run:
        """As fast as answers come."""
        waiting, took = iter(posts), []

        async def sender() -> None:
            for post in waiting:
                begin = time.perf_counter()
                await self._send(post)
                took.append(time.perf_counter() - begin)

        begin = time.perf_counter()
        await asyncio.gather(*(sender() for _ in range(self._connections)))
        return Run(len(posts) / (time.perf_counter() - begin), took)

    async def opened(self, posts: Sequence[bytes], per_s: float) -> Run:
        """At a rate, whatever the answers do: waiting shows in the times, which count from when a post was due."""
        took: list[float] = []
        begin = time.perf_counter()

        async def send(post: bytes, due: float) -> None:
            await self._send(post)
            took.append(time.perf_counter() - due)

        sending = []
        for number, post in enumerate(posts):
            due = begin + number / per_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sending.append(asyncio.create_task(send(post, due)))
        await asyncio.gather(*sending)
        return Run(len(posts) / (time.perf_counter() - begin), took)


async def measure(quick: bool) -> dict[str, object]:
    """All figures of the way in; those of touchpoints and of bare alternate, so that both have the same neighbours."""
    count, alone = (BATCHES // 10, SINGLES // 10) if quick else (BATCHES, SINGLES)
    with tempfile.TemporaryDirectory(prefix="troika-bench-") as name:
        folder = Path(name)
        async with servers(folder) as (dsn, nats_url), sealing() as identity_target:
            say("starting")
            await _migrate(dsn, folder)
            settings = {
                "IDENTITY_TARGET": identity_target,
                "SECRETS_KEY": "ab" * 32,
                "PUBLIC_URL": "http://127.0.0.1:1",
                "LOG_LEVEL": "WARNING",
            }
            service = running("touchpoints", dsn, nats_url, folder, settings, TOKENS)
            async with service as ours, bare(nats_url, folder) as beside:
                key = await _key(ours.target)
                doors = {"ours": (ours.http, ours.pid), "bare": beside}
                return await _figures(doors, key, count, alone)


async def _figures(doors: Mapping[str, tuple[str, int]], key: str, count: int, alone: int) -> dict[str, object]:
    ours, pid = doors["ours"]
    batched: dict[str, list[float]] = {name: [] for name in doors}
    single: dict[str, list[float]] = {name: [] for name in doors}
    cpu = dict.fromkeys((f"{name}_{kind}" for name in doors for kind in ("batch", "single")), 0.0)
    rss = []
    for url, _ in doors.values():
        async with Load(url, BATCH_CONNECTIONS) as load:
            await load.closed(batches(30, key))
    for number in range(ROUNDS):
        say(f"round {number + 1} of {ROUNDS}")
        for name, (url, process) in doors.items():
            before, posts = cpu_seconds(process), batches(count // ROUNDS, key)
            async with Load(url, BATCH_CONNECTIONS) as load:
                batched[name].append((await load.closed(posts)).per_s * BATCH)
            cpu[f"{name}_batch"] += (cpu_seconds(process) - before) / len(posts) / BATCH / ROUNDS
            before, posts = cpu_seconds(process), singles(alone // ROUNDS, key)
            async with Load(url, SINGLE_CONNECTIONS) as load:
                single[name].append((await load.closed(posts)).per_s)
            cpu[f"{name}_single"] += (cpu_seconds(process) - before) / len(posts) / ROUNDS
        rss.append(psutil.Process(pid).memory_info().rss / 2**20)
    batch_per_s, single_per_s = statistics.median(batched["ours"]), statistics.median(single["ours"])
    half = batch_per_s / 2 / BATCH
    say(f"half of that, {half * BATCH:.0f} events/s")
    async with Load(ours, 64) as load:
        loaded = await load.opened(batches(int(half * HALF_LOAD_S * count / BATCHES), key), half)
    rss.append(psutil.Process(pid).memory_info().rss / 2**20)
    return {
        "batch_events_per_s": round(batch_per_s),
        "batch_vs_bare": round(batch_per_s / statistics.median(batched["bare"]), 3),
        "single_events_per_s": round(single_per_s),
        "single_vs_bare": round(single_per_s / statistics.median(single["bare"]), 3),
        "half_load_events_per_s": round(loaded.per_s * BATCH),
        "half_load_p99_ms": round(loaded.p99_ms(), 1),
        "bare_batch_events_per_s": round(statistics.median(batched["bare"])),
        "bare_single_events_per_s": round(statistics.median(single["bare"])),
        "cpu_us_per_event": {name: round(1e6 * seconds, 1) for name, seconds in cpu.items()},
        "rss_mb": [round(each) for each in rss],
    }


async def _migrate(dsn: str, folder: Path) -> None:
    environment = os.environ | {
        f"TROIKA_{name}": value
        for name, value in {
            "POSTGRES_DSN": dsn,
            "NATS_URL": "nats://127.0.0.1:1",
            "GRPC_PORT": "0",
            "HTTP_PORT": "0",
            "CALLER_TOKEN": TOKENS["touchpoints"],
            "CALLER_TOKEN_SHA256": "{}",
            "IDENTITY_TARGET": "127.0.0.1:1",
            "SECRETS_KEY": "ab" * 32,
            "PUBLIC_URL": "http://127.0.0.1:1",
        }.items()
    }
    migrating = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.touchpoints", "migrate", env=environment, cwd=ROOT
    )
    if await migrating.wait():
        raise RuntimeError("touchpoints cannot be migrated")


async def _key(target: str) -> str:
    async with rpc.connect(target, "operator", TOKENS["operator"]) as channel:
        source = pb.Source(name="app", user_id_kind=pb.USER_ID_KIND_CRM_ID)
        stub: Any = TouchpointsServiceStub(channel)
        return str((await stub.CreateSource(pb.CreateSourceRequest(source=source))).write_key)
