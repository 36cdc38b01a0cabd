"""Part of bench touchpoints: 50 cars a second arrive; how long from the camera's request until the dealer has the card.

All five services are the real ones, with PostgreSQL of default durability and NATS, on this machine's cores, with a base of
cars, their owners, tags, scores of a trained model and an offer. Cameras post what cameras post: XML and two pictures, 160 kB.
Arrivals come in an open loop: a time begins when the car was due, not when its post could be sent, and ends when the dealer's
system has read the card. Four figures of one run, each with the CPU that an arrival took in every process:

- `one`: one car after the other, each when the card of the one before is there;
- `idle`: 50 a second and nothing else;
- `loop`: beside events at half of what all five services together share two cores for, which all of them work on;
- `door`: beside events at half of what one process of touchpoints takes in. Identity is kept from reading them, so that only
  the door works: the two cores are not enough for what would follow.

The main figures are of `loop`. `python -m bench.touchpoints_arrivals [--quick]` prints them by themselves.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import nats
import numpy as np
import orjson
from aiohttp import web
from google.protobuf.timestamp_pb2 import Timestamp
from httpx_aiohttp import AiohttpTransport
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON, ENTITY_KIND_VEHICLE
from troika.orchestrator.v1 import offer_service_pb2 as offers
from troika.orchestrator.v1.offer_service_pb2_grpc import OfferServiceStub
from troika.scoring.v1 import model_service_pb2 as models
from troika.scoring.v1.model_service_pb2_grpc import ModelServiceStub
from troika.tags.v1.tags_service_pb2 import CountAudienceRequest
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub
from troika.touchpoints.v1 import arrivals_service_pb2 as arrivals
from troika.touchpoints.v1 import touchpoints_service_pb2 as touchpoints
from troika.touchpoints.v1.arrivals_service_pb2_grpc import ArrivalsServiceStub
from troika.touchpoints.v1.touchpoints_service_pb2_grpc import TouchpointsServiceStub

from bench.metrics import cpu_seconds
from bench.progress import say
from local.embedded import free_port
from local.processes import Child
from local.supervisor import Suite

CARS, DOORS, RATE, SECONDS = 5_000, 5, 50, 40.0
# Half of the 3,000 events a second that the five services share two cores for, and of the 8,000 that the door takes.
LOOP_PER_S, DOOR_PER_S, BATCH = 1_500, 4_000, 100
PICTURE = b"\xff\xd8\xff\xe0" + random.Random(4).randbytes(80_000)
XML = (
    '<?xml version="1.0" encoding="UTF-8"?><EventNotificationAlert version="2.0" xmlns="http://www.isapi.org/ver20/XMLSchema">'
    "<channelID>1</channelID><dateTime>{time}</dateTime><activePostCount>1</activePostCount><eventType>ANPR</eventType>"
    "<eventState>active</eventState><deviceID>88</deviceID><ANPR><licensePlate>{plate}</licensePlate><direction>forward</direction>"
    "<confidenceLevel>97</confidenceLevel></ANPR><UUID>{uuid}</UUID></EventNotificationAlert>"
)
# This process.
_LOAD = "cameras and dealer"
ROOT = Path(__file__).resolve().parent.parent


def plate(car: int) -> str:
    """The last three characters are what a card shows: they come again after a thousand cars, 20 seconds later."""
    return f"京A{10_000 + car}"


def post(car: int) -> bytes:
    """What a camera sends when it has read a plate."""
    now = datetime.now(timezone(timedelta(hours=8))).isoformat(timespec="milliseconds")
    text = XML.format(time=now, plate=plate(car), uuid=uuid.uuid4()).encode()
    parts = [('name="anpr.xml"; filename="anpr.xml"', "text/xml", text)]
    parts += [(f'name="{name}.jpg"; filename="{name}.jpg"', "image/jpeg", PICTURE) for name in ("licensePlate", "detection")]
    body = b"".join(
        f"--7e139\r\nContent-Disposition: form-data; {head}\r\nContent-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"
        for head, kind, content in parts
    )
    return body + b"--7e139--\r\n"


def records() -> list[bytes]:
    """Cars with their owners; a third is overdue for service."""
    rng = np.random.default_rng(3)
    lines = []
    for car in range(CARS):
        vehicle = {
            "plate": plate(car),
            "relation": "owns",
            "attributes": {
                "model": ["X5", "X3", "A4"][car % 3],
                "mileage_km": int(rng.integers(5_000, 120_000)),
                "sold_on": ["2020-03-01", "2023-06-01", "2026-08-01"][car % 3],
            },
        }
        who = {"mobile": f"1390{1_000_000 + car}", "name": "张伟" if car % 2 else "李娜"}
        attributes = {"age": int(rng.integers(20, 80)), "job": ["services", "student", "retired"][car % 3]}
        line = {"record_id": f"c{car}", "updated_at": "2026-01-01T00:00:00Z", "identifiers": who}
        lines.append(orjson.dumps(line | {"vehicle": vehicle, "attributes": attributes}))
    return lines


def answers() -> list[dict[str, Any]]:
    """What half of the owners once answered, more often yes when they are older."""
    rng = random.Random(5)
    return [
        {
            "type": "track",
            "event": "Offer Answered",
            "userId": f"c{car}",
            "messageId": f"answer-{car}",
            "timestamp": datetime.now(UTC).isoformat(),
            "properties": {"answer": "yes" if rng.random() < 0.1 + 0.2 * (car % 3 == 2) else "no"},
        }
        for car in range(0, CARS, 2)
    ]


class Forecourts:
    """A running suite with a base, doors, and a dealer who notes when which card came."""

    def __init__(self, suite: Suite, client: httpx.AsyncClient, key: str, doors: Sequence[str]) -> None:
        self.suite, self.client, self.key, self.doors = suite, client, key, doors
        self.url = suite.url("touchpoints")
        # Tail of a plate → when the car was due, and how long its card took.
        self.due: dict[str, float] = {}
        self.took: list[float] = []
        self.answered: list[float] = []
        self.left_out: dict[str, int] = {}
        self.came = asyncio.Event()
        # Cores that each process takes while nothing arrives.
        self.rest: dict[str, float] = {}

    async def look_at_rest(self, seconds: float) -> None:
        """How much nothing costs."""
        spent, begin = self.cpu(), time.perf_counter()
        await asyncio.sleep(seconds)
        elapsed = time.perf_counter() - begin
        self.rest = {name: (now - spent[name]) / elapsed for name, now in self.cpu().items() if name in spent}

    def card(self, body: bytes) -> None:
        """Takes a card."""
        data = orjson.loads(body)["data"]
        due = self.due.pop(data["vehicle"]["plate_tail"], None)
        if due is not None:
            self.took.append(time.perf_counter() - due)
            self.came.set()
            for left in data["left_out"]:
                what = f"{left['part']}: {left['reason']}"
                self.left_out[what] = self.left_out.get(what, 0) + 1

    async def load(self, rows: Sequence[bytes], path: str) -> None:
        """Posts in pieces of 500."""
        for start in range(0, len(rows), 500):
            body = b"\n".join(rows[start : start + 500]) if path == "/v1/records" else rows[start]
            answer = await self.client.post(self.url + path, content=body, auth=(self.key, ""))
            answer.raise_for_status()

    async def arrive(self, first: int, seconds: float) -> dict[str, Any]:
        """Cars one after another, from number `first` on; the figures."""
        spent, begin = self._forget()
        posts: set[asyncio.Task[None]] = set()
        total = int(seconds * RATE)
        for number in range(total):
            due = begin + number / RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            posts.add(task := asyncio.create_task(self._post((first + number) % CARS, due)))
            task.add_done_callback(posts.discard)
        await asyncio.sleep(3)
        return self._figures(total, spent, begin)

    async def one_by_one(self, first: int, total: int) -> dict[str, Any]:
        """Each car when the card of the one before is there; the figures."""
        spent, begin = self._forget()
        for car in range(first, first + total):
            self.came.clear()
            await self._post(car % CARS, time.perf_counter())
            async with asyncio.timeout(10):
                await self.came.wait()
        # Their events take another moment.
        await asyncio.sleep(2)
        return self._figures(total, spent, begin)

    def _forget(self) -> tuple[Mapping[str, float], float]:
        self.due.clear()
        self.took, self.answered, self.left_out = [], [], {}
        return self.cpu(), time.perf_counter()

    def _figures(self, total: int, spent: Mapping[str, float], begin: float) -> dict[str, Any]:
        elapsed = time.perf_counter() - begin
        used = {name: now - spent[name] for name, now in self.cpu().items() if name in spent}
        cores = {name: round(used_s / elapsed, 2) for name, used_s in used.items()}
        p50, p99 = (float(np.percentile(self.took, q)) * 1000 for q in (50, 99)) if self.took else (float("nan"),) * 2
        # Without what the processes burn when nobody comes.
        each = {
            name: round(max(0.0, used_s - self.rest.get(name, 0.0) * elapsed) / total * 1000, 1)
            for name, used_s in used.items()
        }
        return {
            "p50_ms": round(p50, 1),
            "p99_ms": round(p99, 1),
            "within_100_ms": round(float(np.mean(np.array(self.took) <= 0.1)), 4) if self.took else 0.0,
            "camera_answered_p99_ms": round(float(np.percentile(self.answered, 99)) * 1000, 1) if self.answered else None,
            "arrivals": total,
            "cards": len(self.took),
            "left_out": self.left_out,
            "cores": cores,
            "cpu_ms_per_arrival": each | {"all services": round(sum(ms for name, ms in each.items() if name != _LOAD), 1)},
        }

    async def _post(self, car: int, due: float) -> None:
        self.due[plate(car)[-3:]] = due
        headers = {"content-type": "multipart/form-data; boundary=7e139"}
        url, content = self.doors[car % len(self.doors)], post(car)
        try:
            answer = await self.client.post(url, content=content, headers=headers)
        except httpx.TransportError:
            # The connection was about to be closed for want of use. Cameras send again as well.
            answer = await self.client.post(url, content=content, headers=headers)
        answer.raise_for_status()
        self.answered.append(time.perf_counter() - due)

    def cpu(self) -> dict[str, float]:
        """CPU seconds of each process of the suite, and of this one."""
        found = {name: cpu_seconds(c.process.pid) for name, c in self.suite.children.items() if c.process}
        return found | {_LOAD: sum(os.times()[:2])}


@asynccontextmanager
async def dealer(forecourts: list[Forecourts]) -> AsyncIterator[str]:
    """The dealer's system: says 200 and notes the time."""

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        for each in forecourts:
            each.card(body)
        return web.Response()

    app = web.Application()
    app.router.add_post("/cards", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}/cards"
    finally:
        await runner.cleanup()


async def prepare(forecourts: Forecourts) -> None:
    """Puts cars, owners, answers, scores and an offer into the services."""
    suite = forecourts.suite
    say(f"{CARS} cars and their owners")
    await forecourts.load(records(), "/v1/records")
    said = answers()
    batches = [orjson.dumps({"batch": said[start : start + 500]}) for start in range(0, len(said), 500)]
    for body in batches:
        (await forecourts.client.post(f"{forecourts.url}/v1/batch", content=body, auth=(forecourts.key, ""))).raise_for_status()
    async with suite.operator_channel("tags") as channel:
        tags = TagsServiceStub(channel)
        wanted = [(ENTITY_KIND_VEHICLE, "", CARS), (ENTITY_KIND_PERSON, "offer_answer IS NOT NULL", len(said))]
        async with asyncio.timeout(180):
            for kind, predicate, number in wanted:
                request = CountAudienceRequest(entity_kind=kind, predicate=predicate)
                while (await tags.CountAudience(request)).count < number:
                    await asyncio.sleep(0.5)
    say("training and scoring")
    async with suite.operator_channel("scoring") as channel:
        await train(ModelServiceStub(channel))
    async with suite.operator_channel("orchestrator") as channel:
        variant = offers.OfferVariant(channel="dealer", language="zh", title="延保", body="今日八折")
        offer = offers.CatalogueOffer(title="Warranty", kind="service", purpose="service", variants=[variant])
        offer.valid_from.CopyFrom(Timestamp(seconds=int(time.time()) - 60))
        await OfferServiceStub(channel).CreateOffer(offers.CreateOfferRequest(offer=offer))


async def train(door: Any) -> None:
    """A model of purchase intent on the answers, and everybody's score by it."""
    request = models.TrainModelRequest(
        model="purchase_intent",
        cut_predicate="offer_answer IS NOT NULL",
        goal_predicate="offer_answer = 'yes'",
        features=["age", "job"],
    )
    number = (await door.TrainModel(request)).operation.operation_id
    async with asyncio.timeout(300):
        while True:
            operation = (await door.GetOperation(models.GetOperationRequest(operation_id=number))).operation
            if operation.state != models.OPERATION_STATE_RUNNING:
                break
            await asyncio.sleep(0.5)
    if operation.state != models.OPERATION_STATE_SUCCEEDED:
        raise RuntimeError(f"training failed: {operation.reason} {operation.detail}")


async def ingest(url: str, key: str, per_s: int) -> None:
    """Sends events at the rate until killed; the process beside the cameras."""
    random_ = random.Random(2)
    async with httpx.AsyncClient(transport=AiohttpTransport(), timeout=60) as client:
        begin, number, sends = time.perf_counter(), 0, set[asyncio.Task[Any]]()
        while True:
            await asyncio.sleep(max(0.0, begin + number * BATCH / per_s - time.perf_counter()))
            number += 1
            events = [
                {
                    "type": "track",
                    "event": random_.choice(("App Opened", "Model Viewed", "Price Calculated")),
                    "userId": f"c{random_.randrange(CARS)}",
                    "messageId": uuid.uuid4().hex,
                    "timestamp": datetime.now(UTC).isoformat(),
                    "properties": {"model": "X5"},
                }
                for _ in range(BATCH)
            ]
            body = orjson.dumps({"batch": events})
            sends.add(task := asyncio.create_task(client.post(f"{url}/v1/batch", content=body, auth=(key, ""))))
            task.add_done_callback(sends.discard)


async def open_doors(suite: Suite, cards: str) -> tuple[str, list[str]]:
    """(write key, addresses of doors) of a dealer whose system is at `cards`."""
    async with suite.operator_channel("touchpoints") as channel:
        door, register = ArrivalsServiceStub(channel), TouchpointsServiceStub(channel)
        source = touchpoints.Source(name="app", user_id_kind=touchpoints.USER_ID_KIND_CRM_ID)
        key = (await register.CreateSource(touchpoints.CreateSourceRequest(source=source))).write_key
        endpoint = touchpoints.Endpoint(name="dealer", channel=touchpoints.CHANNEL_DEALER, url=cards, scope="D001")
        await register.CreateEndpoint(touchpoints.CreateEndpointRequest(endpoint=endpoint))
        gates = [arrivals.ArrivalDoor(name=f"gate-{n}", dealer_code="D001", repeat_minutes=1) for n in range(DOORS)]
        made = [await door.CreateArrivalDoor(arrivals.CreateArrivalDoorRequest(door=gate)) for gate in gates]
    return str(key), [str(each.url) for each in made]


def bound_by(cores: Mapping[str, float]) -> str:
    """Who burned the cores, largest first."""
    ranked = sorted(cores.items(), key=lambda item: -item[1])
    return f"CPU: {sum(cores.values()):.2f} cores busy, " + ", ".join(f"{name} {share:.2f}" for name, share in ranked)


@asynccontextmanager
async def events(folder: Path, forecourts: Forecourts, per_s: int) -> AsyncIterator[None]:
    """So many events a second from a process of its own, once they have come for a while."""
    argv = [sys.executable, "-m", "bench.touchpoints_arrivals", "ingest", forecourts.url, forecourts.key, str(per_s)]
    child = Child("ingest", argv, folder / f"ingest_{per_s}.log", {}, ROOT)
    child.start()
    try:
        await forecourts.look_at_rest(5.0)
        yield
    finally:
        await child.stop()


async def hold_back(suite: Suite) -> None:
    """Keeps identity from reading events for as long as this run may last."""
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    client = await nats.connect(suite.nats_url)
    try:
        subject = "$JS.API.CONSUMER.PAUSE.EVENTS_OBSERVED.identity-observed"
        answer = orjson.loads((await client.request(subject, orjson.dumps({"pause_until": until}), timeout=5)).data)
        if not answer.get("paused"):
            raise RuntimeError(f"identity cannot be held back: {answer}")
    finally:
        await client.close()


async def measure(quick: bool) -> dict[str, Any]:
    """The figures of this part."""
    seconds = SECONDS / (4 if quick else 1)
    with tempfile.TemporaryDirectory(prefix="troika-bench-") as folder:
        known: list[Forecourts] = []
        async with (
            # More cars than any dealer's day has.
            Suite(Path(folder), fresh=True, environment={"TROIKA_ARRIVAL_PLATES_PER_DAY": "100000"}) as suite,
            httpx.AsyncClient(transport=AiohttpTransport(), timeout=60) as client,
            dealer(known) as cards,
        ):
            key, doors = await open_doors(suite, cards)
            forecourts = Forecourts(suite, client, key, doors)
            known.append(forecourts)
            await prepare(forecourts)
            say("arrivals to warm up, one after the other, then alone")
            await forecourts.arrive(0, 3.0)
            await forecourts.look_at_rest(5.0)
            one = await forecourts.one_by_one(200, 60)
            idle = await forecourts.arrive(500, seconds / 2)
            say(f"arrivals beside {LOOP_PER_S} events/s through all services")
            async with events(Path(folder), forecourts, LOOP_PER_S):
                loop = await forecourts.arrive(1_500, seconds)
            say(f"arrivals beside {DOOR_PER_S} events/s at the door")
            await hold_back(suite)
            async with events(Path(folder), forecourts, DOOR_PER_S):
                door = await forecourts.arrive(3_500, seconds / 2)
    return {
        "arrival_one_p50_ms": one["p50_ms"],
        "arrival_one_p99_ms": one["p99_ms"],
        "arrival_idle_p50_ms": idle["p50_ms"],
        "arrival_idle_p99_ms": idle["p99_ms"],
        "arrival_p50_ms": loop["p50_ms"],
        "arrival_p99_ms": loop["p99_ms"],
        "arrival_door_p50_ms": door["p50_ms"],
        "arrival_door_p99_ms": door["p99_ms"],
        "arrival_cpu_ms": {
            name: each["cpu_ms_per_arrival"]["all services"]
            for name, each in (("one", one), ("idle", idle), ("loop", loop), ("door", door))
        },
        "arrivals_per_s": RATE,
        "arrival_loop_events_per_s": LOOP_PER_S,
        "arrival_door_events_per_s": DOOR_PER_S,
        "arrival_one": one,
        "arrival_idle": idle,
        "arrival_loop": loop,
        "arrival_door": door,
        "arrival_bound_by": bound_by(loop["cores"]),
        "arrival_door_bound_by": bound_by(door["cores"]),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["ingest"]:
        asyncio.run(ingest(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        sys.stdout.write(orjson.dumps(asyncio.run(measure("--quick" in sys.argv)), option=orjson.OPT_INDENT_2).decode() + "\n")
