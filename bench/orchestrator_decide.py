"""Part of bench orchestrator: Decide at 300 calls a second; 200 offers, each with an audience, 20 themes, a million persons.

The orchestrator is the real service with a real PostgreSQL of default durability; tags is a stand-in in a process of its own
that answers the same questions in the same packed form from arrays. Calls come in an open loop: a call's time begins when it
was due, not when it could be sent. Every tenth is an empty call (gRPC health) in the same window: the floor of door, loop and
machine. While it runs, feedback comes in, windows close, sums grow, and audiences are read over and over.

`python -m bench.orchestrator_decide [--quick]` prints the figures by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import orjson
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON
from troika.orchestrator.v1 import decide_service_pb2 as pb
from troika.orchestrator.v1 import offer_service_pb2 as offer_pb
from troika.orchestrator.v1.decide_service_pb2_grpc import DecisionServiceStub
from troika.orchestrator.v1.offer_service_pb2_grpc import OfferServiceStub
from troika.tags.v1 import tags_service_pb2 as tags_pb2
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceServicer, add_TagsServiceServicer_to_server

from bench.progress import say
from bench.servers import servers
from bench.service import ROOT, cpu, running
from chassis import rpc
from chassis.db import Database, UnitOfWork
from chassis.migrations import migrate
from local.embedded import free_port
from local.processes import Child
from services.orchestrator.offers.contexts import FEATURES
from services.orchestrator.offers.definitions import OfferId
from services.orchestrator.offers.offer_log import OfferLog
from services.orchestrator.themes.definitions import Band, Budget, Filling, Goal, Pacing, Schedule, ThemeDefinition
from services.orchestrator.themes.store import ThemeStore

PERSONS, OFFERS, THEMES, WORDS = 1_000_000, 200, 20, 40
RATE, EMPTY_SHARE = 300, 10
CALLERS = ("orchestrator", "operator", "touchpoints", "tags")


class Tags(TagsServiceServicer):
    """A tags service of one tag per audience and one of words: each audience holds a tenth to a half of all persons."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        shares = rng.uniform(0.1, 0.5, OFFERS)
        self._ids = {
            f"audience_{n}": np.flatnonzero(rng.random(PERSONS) < share).astype("<u4").tobytes()
            for n, share in enumerate(shares)
        }
        interest = rng.integers(0, WORDS, PERSONS)
        self._ids |= {f"interest = 'word {n}'": np.flatnonzero(interest == n).astype("<u4").tobytes() for n in range(WORDS)}

    async def ListTags(self, request: Any, context: Any) -> tags_pb2.ListTagsResponse:  # noqa: N802
        """See the contract."""
        tag = tags_pb2.Tag(name="interest", entity_kind=ENTITY_KIND_PERSON, type=tags_pb2.TAG_TYPE_CATEGORY)
        return tags_pb2.ListTagsResponse(tags=[tag])

    async def CountAudience(self, request: Any, context: Any) -> tags_pb2.CountAudienceResponse:  # noqa: N802
        """See the contract."""
        return tags_pb2.CountAudienceResponse(count=len(self._ids[request.predicate]) // 4, base=PERSONS)

    async def GetProfile(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Not asked for decisions."""
        raise NotImplementedError

    async def DescribeAudience(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Not asked for decisions."""
        raise NotImplementedError

    def StreamTagValues(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Not asked for decisions."""
        raise NotImplementedError

    async def StreamAudience(self, request: Any, context: Any) -> AsyncIterator[tags_pb2.StreamAudienceResponse]:  # noqa: N802
        """See the contract."""
        ids = self._ids[request.predicate]
        for start in range(0, max(len(ids), 1), 1_000_000):
            yield tags_pb2.StreamAudienceResponse(packed_ids=ids[start : start + 1_000_000])


async def serve_tags(port: int, hashes: dict[str, str]) -> None:
    """Answers until ended."""
    server = rpc.Server(hashes, {"troika.tags.v1.TagsService": frozenset({"orchestrator"})}, with_reflection=False)
    add_TagsServiceServicer_to_server(Tags(), server.aio)
    await server.start(f"127.0.0.1:{port}")
    await asyncio.Event().wait()


@asynccontextmanager
async def tags_stand_in(folder: Path, hashes: dict[str, str]) -> AsyncIterator[str]:
    """The stand-in in a process of its own."""
    port = free_port()
    argv = [sys.executable, "-m", "bench.orchestrator_decide", "tags", str(port), orjson.dumps(hashes).decode()]
    child = Child("tags", argv, folder / "tags.log", {}, ROOT)
    child.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await child.stop()


async def decide_p99_ms(quick: bool = False) -> dict[str, Any]:
    """Milliseconds of Decide and of an empty call in the same window, and what was done meanwhile."""
    tokens = {caller: f"{caller} {secrets.token_hex(16)}" for caller in CALLERS}
    hashes = {caller: hashlib.sha256(token.encode()).hexdigest() for caller, token in tokens.items()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        async with servers(folder) as (dsn, nats_url), tags_stand_in(folder, hashes) as tags_target:
            await migrate(dsn, "orchestrator", ROOT / "services" / "orchestrator" / "migrations")
            wanted = {
                "TAGS_TARGET": tags_target,
                "OFFER_WINDOW_MINUTES": "0.05",
                "OFFER_LATE_S": "1",
                "GLOBAL_HOLDOUT_SHARE": "0.02",
                "OMP_NUM_THREADS": "1",
            }
            async with running("orchestrator", dsn, nats_url, folder, wanted, tokens) as service:
                database = Database(dsn, "orchestrator")
                async with rpc.connect(service.target, "operator", tokens["operator"]) as channel:
                    await stock(channel, database)
                    figures = await load(channel, 8 if quick else 30, service.pid)
                rows = await database.fetch("SELECT count(*), count(*) FILTER (WHERE state >= 2) FROM offer_decision")
                await database.close()
            figures |= {"logged": rows[0][0], "learnt_meanwhile": rows[0][1]}
    return figures


async def stock(channel: Any, database: Database) -> None:
    """Offers through their door; themes and what was learnt before, as their rooms keep them."""
    rng, door = random.Random(0), OfferServiceStub(channel)
    began = Timestamp()
    began.FromDatetime(datetime.now(UTC) - timedelta(days=1))
    for n in range(OFFERS):
        variants = [
            offer_pb.OfferVariant(channel=name, language="en", title=f"Offer {n}", body="Come by")
            for name in ("app", "web", "car")
        ]
        await door.CreateOffer(
            offer_pb.CreateOfferRequest(
                offer=offer_pb.CatalogueOffer(
                    title=f"Offer {n}",
                    kind="product",
                    purpose="marketing",
                    content_tags=[f"word {w}" for w in rng.sample(range(WORDS), 3)],
                    valid_from=began,
                    audience=f"audience_{n}",
                    stock=1_000_000,
                    variants=variants,
                )
            )
        )
    async with database.transaction() as uow:
        for _ in range(THEMES):
            offers = [OfferId(number) for number in rng.sample(range(1, OFFERS + 1), 10)]
            await run_theme(uow, offers, 0.1, rng.randint(50, 500))
        await OfferLog(uow).add_to_sums(learnt_before())


async def run_theme(
    uow: UnitOfWork,
    offers: Sequence[OfferId],
    holdout_share: float,
    value_fen: int,
    audience: str = "FALSE",
    values: tuple[Filling, ...] = (),
) -> None:
    """A theme that runs already, for somebody who only looks at its offers, holdout, value and audience."""
    stated = ThemeDefinition(
        "Bench",
        "",
        audience,
        Goal("Order Placed", "", "", 30, value_fen),
        tuple(offers),
        "en",
        values,
        "marketing",
        (Band(0, ("app",)),),
        "purchase_intent",
        Budget(1, 0, None, {}, Pacing.ASAP),
        Schedule(None, None),
        500,
        holdout_share,
        None,
        None,
    )
    theme_id = await ThemeStore(uow).add(stated, "", "bench")
    await uow.execute("UPDATE theme SET approved_version = 1, state = 4, launched_at = now() WHERE theme_id = :id", id=theme_id)


def learnt_before() -> dict[int, Any]:
    """Sums as of 500 outcomes of each offer."""
    rng = np.random.default_rng(1)
    sums = {}
    for offer_id in range(1, OFFERS + 1):
        contexts = (rng.random((500, len(FEATURES))) < 0.2).astype(np.float64)
        contexts[:, 0] = 1
        rewards = (rng.random(500) < 0.02).astype(np.float64)
        sums[offer_id] = contexts.T @ contexts, contexts.T @ rewards
    return sums


class Load:
    """Calls, what they took in seconds since they were due, and what they answered."""

    def __init__(self, channel: Any) -> None:
        self._door = DecisionServiceStub(channel)
        self._empty: Any = health_pb2_grpc.HealthStub(channel)
        self._rng = random.Random(2)
        self.took: dict[str, list[float]] = {"decide": [], "empty": []}
        self.whys: Counter[str] = Counter()
        self._clicked: list[str] = []
        self.refused: Counter[str] = Counter()

    async def ready(self) -> None:
        """Waits until all audiences are read."""
        async with asyncio.timeout(120):
            while "AUDIENCE_UNKNOWN" in (reasons := await _explained(self._door)) or len(reasons) != OFFERS:
                await asyncio.sleep(0.5)

    async def call(self, due: float, number: int, counted: bool) -> None:
        """One call; every tenth asks nothing."""
        kind = "decide" if number % EMPTY_SHARE else "empty"
        try:
            if kind == "empty":
                await self._empty.Check(health_pb2.HealthCheckRequest())
            else:
                answer = await self._door.Decide(_question(self._rng))
                self.whys[answer.why] += 1
                if answer.offer and self._rng.random() < 0.05:
                    self._clicked.append(answer.decision)
        except grpc.aio.AioRpcError as error:
            self.refused[f"{kind} {error.code().name}"] += 1
            # What never came took as long as anybody would have waited.
            due = min(due, time.perf_counter() - rpc.DEFAULT_TIMEOUT_S)
        if counted:
            self.took[kind].append(time.perf_counter() - due)

    async def tell(self) -> None:
        """Feedback of one in twenty, every second."""
        while True:
            await asyncio.sleep(1)
            said = [pb.OfferFeedback(decision=name, outcome="clicked") for name in self._clicked]
            self._clicked.clear()
            if said:
                await self._door.RecordFeedback(pb.RecordFeedbackRequest(feedback=said))

    async def run(self, seconds: int, warm_s: int = 5) -> None:
        """Calls when calls are due."""
        telling = asyncio.create_task(self.tell())
        total, start = RATE * EMPTY_SHARE / (EMPTY_SHARE - 1), time.perf_counter() + 0.1
        tasks: set[asyncio.Task[None]] = set()
        for number in range(int((seconds + warm_s) * total)):
            due = start + number / total
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self.call(due, number, due > start + warm_s))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        telling.cancel()


async def load(channel: Any, seconds: int, pid: int) -> dict[str, Any]:
    """The figures of so many seconds."""
    calls = Load(channel)
    await calls.ready()
    say("decide: audiences are read")
    before = cpu(pid)
    await calls.run(seconds)
    used = cpu(pid) - before
    if calls.refused:
        say(f"decide: calls failed: {dict(calls.refused)}")
    found = {kind: np.percentile(np.array(took) * 1e3, [50, 99, 99.9]).round(2).tolist() for kind, took in calls.took.items()}
    return {
        "decide_p50_ms": found["decide"][0],
        "decide_p99_ms": found["decide"][1],
        "decide_p999_ms": found["decide"][2],
        "empty_p50_ms": found["empty"][0],
        "empty_p99_ms": found["empty"][1],
        "failed_calls": calls.refused.total(),
        "calls_per_s": round(len(calls.took["decide"]) / seconds, 1),
        # All that the process does, reading audiences and learning included.
        "service_cpu_ms_per_call": round(used * 1e3 / calls.whys.total(), 2),
        "drawn_share": round(calls.whys["drawn"] / calls.whys.total(), 3),
    }


async def _explained(door: Any) -> list[str]:
    """Why each offer does not stand for somebody, "" for those that do."""
    question = pb.DecideRequest(person_id=1, slot="warm_up", channel="app", language="en")
    try:
        decision = (await door.Decide(question)).decision
        answer = await door.ExplainOffer(pb.ExplainOfferRequest(decision=decision))
    except grpc.aio.AioRpcError:
        return []
    return [each.reason for each in answer.left_out] + [""] * answer.candidates


def _question(rng: random.Random) -> pb.DecideRequest:
    context = pb.SlotContext(
        place=rng.choice(["home", "work", "dealer", "road", ""]),
        vehicle_state=rng.choice(["parked", "driving", ""]),
        weather=rng.choice(["clear", "rain", "snow", ""]),
    )
    return pb.DecideRequest(
        person_id=rng.randint(1, PERSONS),
        slot="home_banner",
        channel="app",
        language="en",
        context=context,
        request_id=f"{rng.getrandbits(64):x}",
    )


def main() -> None:
    """Prints the figures, or is the stand-in."""
    if sys.argv[1:2] == ["tags"]:
        asyncio.run(serve_tags(int(sys.argv[2]), orjson.loads(sys.argv[3])))
        return
    for name, value in asyncio.run(decide_p99_ms("--quick" in sys.argv)).items():
        print(f"{name:20} {value}")


if __name__ == "__main__":
    main()
