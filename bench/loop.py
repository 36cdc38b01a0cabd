"""The loop: events per second from the door to the tags index, how long one takes to be visible there, pushes per second.

All of it runs on this machine: five services, PostgreSQL with default durability, NATS, the load and the receiver.
Open loop: batches leave on a schedule whatever the answers do, so waiting shows as latency and not as less load.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import nats
import orjson
from httpx_aiohttp import AiohttpTransport
from troika.identity.v1 import identity_service_pb2 as identity
from troika.identity.v1 import identity_service_pb2_grpc as identity_stubs
from troika.orchestrator.v1 import events_pb2 as orchestrator
from troika.touchpoints.v1 import touchpoints_service_pb2 as touchpoints
from troika.touchpoints.v1 import touchpoints_service_pb2_grpc as touchpoints_stubs

from bench import receiver
from bench.metrics import Histogram, cpu_seconds, scrape
from local.supervisor import Suite

PERSONS = 5_000
BATCH = 100
RATES = (1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 8_000)
STEP_S = 15.0
PUSHES = 5_000
EVENTS = ("App Opened", "Model Viewed", "Price Calculated", "Test Drive Page Viewed")
MODELS = ("A3", "C5", "S7", "X1", "X5")


@dataclass(frozen=True)
class Step:
    """One rate, held for a while."""

    rate: int
    achieved: float
    visible: Histogram
    door_p99_ms: float
    cores: dict[str, float]

    @property
    def held(self) -> bool:
        """Whether the suite kept up: everything visible, 99 of 100 within a second."""
        return self.achieved >= 0.97 * self.rate and self.visible.quantile(0.99) <= 1.0


def batch_of_events(random_: random.Random) -> bytes:
    """A Segment batch of known users."""
    now = datetime.now(UTC).isoformat()
    events = [
        {
            "type": "track",
            "event": random_.choice(EVENTS),
            "userId": f"u{random_.randrange(PERSONS)}",
            "messageId": uuid.uuid4().hex,
            "timestamp": now,
            "properties": {"model": random_.choice(MODELS)},
        }
        for _ in range(BATCH)
    ]
    return orjson.dumps({"batch": events, "sentAt": now})


class Loop:
    """A running suite with people in it."""

    def __init__(self, suite: Suite, client: httpx.AsyncClient, key: str) -> None:
        self.suite, self.client, self.auth = suite, client, (key, "")
        self.door = suite.url("touchpoints")
        self.random = random.Random(2)

    async def tags(self) -> tuple[float, Histogram]:
        """(events tagged so far, histogram of door → visible)."""
        found = await scrape(self.client, self.suite.url("tags"))
        events, visible = found["troika_events_tagged"], found["troika_visible_seconds"]
        if not isinstance(events, float) or not isinstance(visible, Histogram):
            raise TypeError("tags has other metrics than this bench knows")
        return events, visible

    async def import_persons(self) -> None:
        """5,000 app accounts with a name and a mobile."""
        rows = [
            orjson.dumps(
                {
                    "record_id": f"u{number}",
                    "updated_at": "2026-01-01T00:00:00Z",
                    "identifiers": {"mobile": f"138{number:08d}"},
                    "attributes": {"age": 20 + number % 50, "job": "services"},
                }
            )
            for number in range(PERSONS)
        ]
        for start in range(0, PERSONS, 500):
            body = b"\n".join(rows[start : start + 500])
            answer = await self.client.post(f"{self.door}/v1/records", content=body, auth=self.auth)
            answer.raise_for_status()
        # Identity says of each that a mobile is known.
        await self.settled(2 * PERSONS)

    async def settled(self, events: float) -> None:
        """Waits until this many events have been tagged since the suite started."""
        async with asyncio.timeout(120):
            while (await self.tags())[0] < events:
                await asyncio.sleep(0.2)

    def cpu(self) -> dict[str, float]:
        """CPU seconds of each process of the suite, and of this one."""
        spent = {name: cpu_seconds(c.process.pid) for name, c in self.suite.children.items() if c.process}
        return spent | {"load": sum(os.times()[:2])}

    async def send(self) -> float:
        """Posts one batch; returns the seconds it took."""
        start = time.perf_counter()
        answer = await self.client.post(f"{self.door}/v1/batch", content=batch_of_events(self.random), auth=self.auth)
        answer.raise_for_status()
        return time.perf_counter() - start

    async def hold(self, rate: int, seconds: float) -> Step:
        """Sends at a rate for a while and looks how much became visible meanwhile."""
        events_before, visible_before = await self.tags()
        cpu_before, start = self.cpu(), time.perf_counter()
        sends: list[asyncio.Task[float]] = []
        for number in range(int(rate * seconds / BATCH)):
            await asyncio.sleep(max(0.0, start + number * BATCH / rate - time.perf_counter()))
            sends.append(asyncio.create_task(self.send()))
        door = await asyncio.gather(*sends)
        # Half a second of grace: the pipeline is never empty while it runs.
        await asyncio.sleep(0.5)
        events_after, _ = await self.tags()
        elapsed = time.perf_counter() - start - 0.5
        cpu_after = self.cpu()
        cores = {name: round((cpu_after[name] - spent) / elapsed, 2) for name, spent in cpu_before.items()}
        await self.settled(events_before + len(sends) * BATCH)
        _, visible_after = await self.tags()
        return Step(
            rate=rate,
            achieved=(events_after - events_before) / elapsed,
            visible=visible_after - visible_before,
            door_p99_ms=statistics.quantiles(door, n=100)[98] * 1000,
            cores=cores,
        )

    async def push(self, pushes: int) -> float:
        """Hands deliveries over on the bus as orchestrator does; returns pushes accepted by the receiver per second."""
        async with self.suite.operator_channel("identity") as channel:
            refs = [identity.IdentifierRef(kind="crm_id", scope="app", value=f"u{n}") for n in range(pushes)]
            answer = await identity_stubs.IdentityServiceStub(channel).ResolveIdentifiers(
                identity.ResolveIdentifiersRequest(identifiers=refs)
            )
        expires = int((time.time() + 3600) * 1e6)
        bus = await nats.connect(self.suite.nats_url)
        js = bus.jetstream()
        with receiver.running() as got:
            async with self.suite.operator_channel("touchpoints") as channel:
                endpoint = touchpoints.Endpoint(name="app", channel=touchpoints.CHANNEL_APP, url=got.url)
                await touchpoints_stubs.TouchpointsServiceStub(channel).CreateEndpoint(
                    touchpoints.CreateEndpointRequest(endpoint=endpoint)
                )
            start = time.perf_counter()
            for chunk in range(0, pushes, 500):
                requests = [
                    orchestrator.DeliveryRequest(
                        delivery_id=f"bench-{person}",
                        theme="themes/1",
                        person_id=person,
                        channel="app",
                        offer="bench",
                        title="bench",
                        body="bench",
                        purpose="service",
                        decided_at_us=int(time.time() * 1e6),
                        expires_at_us=expires,
                    )
                    for person in answer.entity_ids[chunk : chunk + 500]
                ]
                payload = orchestrator.DeliveriesRequested(requests=requests).SerializeToString()
                headers = {"Nats-Msg-Id": uuid.uuid4().hex}
                await js.publish("troika.deliveries.requested.v1", payload, headers=headers)
            async with asyncio.timeout(120):
                while got.taken < pushes:
                    await asyncio.sleep(0.05)
            elapsed = time.perf_counter() - start
        await bus.close()
        return pushes / elapsed


async def bare_publish_rate(url: str) -> float:
    """The limit beside it: the same batches, published to JetStream and acknowledged, and nothing else; events/s."""
    bus = await nats.connect(url)
    js = bus.jetstream()
    await js.add_stream(name="BENCH", subjects=["bench.events"])
    payload = batch_of_events(random.Random(3))
    start = time.perf_counter()
    for _ in range(20):
        await asyncio.gather(*(js.publish("bench.events", payload) for _ in range(50)))
    rate = 1_000 * BATCH / (time.perf_counter() - start)
    await js.delete_stream("BENCH")
    await bus.close()
    return rate


def say(what: str) -> None:
    """Progress, beside the figures and not among them."""
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {what}\n")


def bound_by(step: Step) -> str:
    """Who burned the cores at the highest rate, largest first."""
    ranked = sorted(step.cores.items(), key=lambda item: -item[1])
    total = sum(step.cores.values())
    return f"CPU: {total:.2f} cores busy, " + ", ".join(f"{name} {cores:.2f}" for name, cores in ranked)


async def measure(quick: bool) -> dict[str, object]:
    """All figures of the bench."""
    seconds = STEP_S / 10 if quick else STEP_S
    rates: Sequence[int] = RATES[:2] if quick else RATES
    with tempfile.TemporaryDirectory(prefix="troika-bench-") as folder:
        async with (
            Suite(Path(folder), fresh=True) as suite,
            httpx.AsyncClient(transport=AiohttpTransport(), timeout=60) as client,
        ):
            async with suite.operator_channel("touchpoints") as channel:
                source = touchpoints.Source(name="app", user_id_kind=touchpoints.USER_ID_KIND_CRM_ID)
                made = await touchpoints_stubs.TouchpointsServiceStub(channel).CreateSource(
                    touchpoints.CreateSourceRequest(source=source)
                )
            loop = Loop(suite, client, made.write_key)
            say("importing persons")
            await loop.import_persons()
            await loop.hold(500, 2.0)
            steps = []
            for rate in rates:
                say(f"{rate} events/s for {seconds:.0f} s")
                steps.append(await loop.hold(rate, seconds))
                if not steps[-1].held:
                    break
            best = max((step for step in steps if step.held), key=lambda step: step.rate, default=steps[0])
            say("pushing")
            pushes = await loop.push(PUSHES // 10 if quick else PUSHES)
            say("publishing to JetStream alone")
            bare = await bare_publish_rate(suite.nats_url)
    return {
        "events_per_s": best.rate if best.held else best.achieved,
        "visible_p50_ms": best.visible.quantile(0.5) * 1000,
        "visible_p99_ms": best.visible.quantile(0.99) * 1000,
        "pushes_per_s": pushes,
        "door_p99_ms": best.door_p99_ms,
        "events_vs_bare_jetstream": best.rate / bare,
        "steps": [
            {
                "rate": step.rate,
                "achieved": round(step.achieved),
                "visible_p50_ms": round(step.visible.quantile(0.5) * 1000, 1),
                "visible_p99_ms": round(step.visible.quantile(0.99) * 1000, 1),
                "held": step.held,
            }
            for step in steps
        ],
        "bound_by": bound_by(steps[-1]),
    }
