"""Reading while nothing else happens: `GetEntity` and `ResolveIdentifiers` of a running identity process, at a steady rate.

Open loop: calls leave on a schedule whatever the answers do, so that waiting shows as latency. The load comes from a process
of its own; latency is what its caller sees, gRPC's client included. Beside it, in turns, the same process is asked at the same
rate for what it has in memory: what gRPC and the machine take, which no call can beat. Figures are the median turn's.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import uvloop
from troika.identity.v1 import events_pb2
from troika.identity.v1 import identity_service_pb2 as pb
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceStub

from chassis import rpc
from chassis.db import Database
from local.embedded import free_port
from local.processes import Child
from services.identity.domain.observations import Observation
from services.identity.queries import PERSON_KINDS

ROOT = Path(__file__).resolve().parent.parent
RATE, SECONDS, WARM_S, TURNS = 500, 6, 3, 5
# Values in one question; a door that pushes asks for several.
ASKED = 4
TOKEN = "s" * 16
# Observations for 200,000 identifiers and more.
OBSERVATIONS = 100_000


def settings(dsn: str, nats_url: str, ports: Sequence[int]) -> dict[str, str]:
    """The environment of a process with the keys of the bench's vault."""

    def key(byte: bytes) -> str:
        return base64.b64encode(byte * 32).decode()

    own = {
        "POSTGRES_DSN": dsn,
        "NATS_URL": nats_url,
        "GRPC_PORT": str(ports[0]),
        "HTTP_PORT": str(ports[1]),
        "CALLER_TOKEN": TOKEN,
        "CALLER_TOKEN_SHA256": orjson.dumps({"operator": hashlib.sha256(TOKEN.encode()).hexdigest()}).decode(),
        "SEALING_PRIVATE_KEYS": orjson.dumps({"k1": key(b"x")}).decode(),
        "TOKEN_KEYS": orjson.dumps({"1": key(b"t")}).decode(),
        "HASH_KEY": key(b"h"),
        "KEKS": orjson.dumps({"k1": key(b"v")}).decode(),
    }
    return {f"TROIKA_{name}": value for name, value in own.items()}


@asynccontextmanager
async def process(dsn: str, nats_url: str, folder: Path) -> AsyncIterator[str]:
    """A running identity; the address of its gRPC door."""
    ports = free_port(), free_port()
    argv = [sys.executable, "-m", "services.identity", "serve"]
    child = Child("identity", argv, folder / "identity.log", settings(dsn, nats_url, ports), ROOT)
    child.start()
    try:
        async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    if (await client.get(f"http://127.0.0.1:{ports[1]}/readyz")).status_code == 200:
                        break
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.1)
        yield f"127.0.0.1:{ports[0]}"
    finally:
        await child.stop()


async def measure(database: Database, dsn: str, nats_url: str, folder: Path, seen: Sequence[Observation]) -> dict[str, Any]:
    """Latencies on a store that the resolver filled with `seen`."""
    async with database.transaction() as uow:
        rows = await uow.fetch("SELECT count(*) FROM identifier")
        persons = await uow.fetch(
            "SELECT entity_id FROM identifier WHERE anchor AND kind = ANY($1::smallint[]) ORDER BY token LIMIT 20000",
            PERSON_KINDS,
        )
    for table in ("identifier", "link", "relation_evidence", "device"):
        async with database.transaction() as uow:
            await uow.execute(f"ANALYZE {table}")
    rng = random.Random(3)
    known = [k for o in rng.sample(list(seen), min(20_000, len(seen))) for k in o.persons]
    asked = {
        "persons": [int(row[0]) for row in persons],
        "values": [[k.kind.name.lower(), k.scope, k.value] for k in known],
    }
    questions = folder / "questions.json"
    questions.write_bytes(orjson.dumps(asked))
    async with process(dsn, nats_url, folder) as target:
        await _settled(database)
        load = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.identity_reads", target, str(questions)), stdout=asyncio.subprocess.PIPE
        )
        told, _ = await load.communicate()
        if load.returncode:
            raise RuntimeError(f"the load ended with {load.returncode}")
    return {"read_identifiers": int(rows[0][0]), **orjson.loads(told)}


async def _settled(database: Database) -> None:
    """Waits until the process has told all that was resolved and inferred what follows: a stream is measured elsewhere."""
    async with asyncio.timeout(600):
        while True:
            async with database.read() as uow:
                rows = await uow.fetch("SELECT EXISTS (SELECT 1 FROM outbox) OR EXISTS (SELECT 1 FROM inference_queue)")
            if not rows[0][0]:
                return
            await asyncio.sleep(0.5)


async def hold(target: str, asked: dict[str, Any], rate: int, seconds: float, turns: int) -> dict[str, Any]:
    """Calls at a rate, in turns of so many seconds: for what is in memory, and half for entities, half for whose values are."""
    rng = random.Random(4)
    async with rpc.connect(target, "operator", TOKEN) as channel:
        stub = IdentityServiceStub(channel)
        values = [pb.IdentifierRef(kind=kind, scope=scope, value=value) for kind, scope, value in asked["values"]]

        async def empty() -> Any:
            return (await stub.GetSealingKey(pb.GetSealingKeyRequest())).public_key

        async def entity() -> Any:
            person = rng.choice(asked["persons"])
            request = pb.GetEntityRequest(entity_kind=events_pb2.ENTITY_KIND_PERSON, entity_id=person)
            return (await stub.GetEntity(request)).entity.anchor_ids

        async def resolve() -> Any:
            return (
                await stub.ResolveIdentifiers(pb.ResolveIdentifiersRequest(identifiers=rng.sample(values, ASKED)))
            ).entity_ids

        await _turn((entity, resolve), rate, WARM_S)
        took: list[dict[str, float]] = []
        for _ in range(turns):
            nothing = (await _turn((empty,), rate, seconds))[0]
            entities, resolved = await _turn((entity, resolve), rate, seconds)
            both = [*entities, *resolved]
            took.append(
                {
                    "read_p50_ms": _ms(both, 50),
                    "read_p99_ms": _ms(both, 99),
                    "read_get_entity_p99_ms": _ms(entities, 99),
                    "read_resolve_identifiers_p99_ms": _ms(resolved, 99),
                    "empty_call_p50_ms": _ms(nothing, 50),
                    "empty_call_p99_ms": _ms(nothing, 99),
                    "read_vs_empty_call_p99": _ms(both, 99) / _ms(nothing, 99),
                }
            )
    return {name: round(statistics.median(turn[name] for turn in took), 3) for name in took[0]}


async def _turn(calls: Sequence[Callable[[], Awaitable[Any]]], rate: int, seconds: float) -> list[list[float]]:
    """Seconds that each call took, by kind of call; one leaves every 1/rate, each kind in its turn."""
    taken: list[list[float]] = [[] for _ in calls]
    running: set[asyncio.Task[None]] = set()

    async def call(kind: int, due: float) -> None:
        found = await calls[kind]()
        # From when it was due: a call that could not leave in time has waited, too.
        taken[kind].append(time.perf_counter() - due)
        if not found:
            raise AssertionError("an empty answer")

    begin = time.perf_counter() + 0.1
    for number in range(int(rate * seconds)):
        due = begin + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(call(number % len(calls), due))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return taken


def _ms(seconds: Sequence[float], percent: int) -> float:
    return round(statistics.quantiles(seconds, n=100)[percent - 1] * 1000, 3)


async def _load(target: str, asked: dict[str, Any], rate: int, seconds: float, turns: int) -> None:
    sys.stdout.write(orjson.dumps(await hold(target, asked, rate, seconds, turns)).decode() + "\n")


def main() -> None:
    """The load, in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m bench.identity_reads", description=__doc__)
    parser.add_argument("target")
    parser.add_argument("questions", type=Path)
    parser.add_argument("--rate", type=int, default=RATE)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--turns", type=int, default=TURNS)
    flags = parser.parse_args()
    uvloop.run(_load(flags.target, orjson.loads(flags.questions.read_bytes()), flags.rate, flags.seconds, flags.turns))


if __name__ == "__main__":
    main()
