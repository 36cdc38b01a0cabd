"""Scoring 1,000,000 persons of 50 features in a batch, online and one by one; and who is like whom among them.

tags and scoring run as processes of their own, features are read over gRPC, scores go to PostgreSQL and the bus. The bare rate
is the same served model on the same rows in memory, chunk by chunk, in this process.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from troika.scoring.v1 import events_pb2, model_service_pb2, scoring_service_pb2
from troika.scoring.v1.model_service_pb2_grpc import ModelServiceStub
from troika.scoring.v1.scoring_service_pb2_grpc import ScoringServiceStub

from bench.progress import say
from bench.scoring_base import Base, catalogue_text, numbers
from bench.servers import servers
from bench.service import ROOT, Running, cpu, running
from chassis import rpc
from chassis.bus import Bus, Message, Stream
from chassis.db import Database
from chassis.outbox import Outgoing
from chassis.testing import DatabaseFactory
from services.scoring import artefact, events, store
from services.scoring.frame import matrix_of
from services.scoring.models import purchase_intent
from services.scoring.models.purchase_intent.training import train
from services.tags import events as tags_events
from services.tags.domain.catalogue import Kind
from services.tags.handlers import Changes, EntityChange
from services.tags.index.snapshots import Snapshots

PERSONS, TRAINED_ON, SEEDS = 1_000_000, 20_000, 5_000
CHUNK = 10_000
CHANGES_PER_S, MESSAGES_PER_S, SECONDS = 2_000, 50, 20.0
CALLS, CALLS_PER_S = 2_000, 200
MODEL = purchase_intent.SPECIFICATION.name
KEY = "k" * 32
TOKENS = {name: f"secret-of-{name}-in-a-bench" for name in ("tags", "scoring", "operator")}


async def measure(quick: bool) -> dict[str, Any]:
    """The figures of `scoring`."""
    base = Base.make(PERSONS // (10 if quick else 1))
    say("training")
    rows = np.random.default_rng(1).choice(base.persons, TRAINED_ON, replace=False)
    trained = train(base.cut(rows), lambda _: None)
    bare = _bare(base, trained.artefact)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with servers(folder) as (dsn, nats_url):
            figures = await _served(base, trained.artefact, dsn, nats_url, folder, SECONDS / (4 if quick else 1))
    # Before and after, for a busy machine must not make the limit look low.
    bare = max(bare, _bare(base, trained.artefact))
    rate = figures["persons_per_min"] / 60
    return figures | {
        "persons": base.persons,
        "features": len(base.tags),
        "bare_rows_per_s": round(bare),
        "batch_vs_bare": round(rate / bare, 3),
        "model_auc": round(trained.metrics["auc"], 3),
    }


def _bare(base: Base, fitted: bytes) -> float:
    """Rows a second of the model alone, the median over chunks."""
    model = artefact.ServedModel(MODEL, 1, fitted)
    rates = []
    for start in range(0, min(base.persons, 20 * CHUNK), CHUNK):
        matrix = matrix_of(model.encodings, base.frame(np.arange(start, start + CHUNK)))
        begin = time.perf_counter()
        model.probability(matrix)
        rates.append(CHUNK / (time.perf_counter() - begin))
    return statistics.median(rates)


async def _served(base: Base, fitted: bytes, dsn: str, nats_url: str, folder: Path, seconds: float) -> dict[str, Any]:
    bus = Bus(nats_url, "bench")
    await bus.connect()
    try:
        await bus.declare(*tags_events.STREAMS, *events.STREAMS)
        extent = await bus.extent(tags_events.TAGS_CHANGED.name)
        say("writing the index")
        await Snapshots(folder / "index", 1).write(base.index(), extent.created, extent.last)
        catalogue = folder / "catalogue.yaml"
        catalogue.write_text(catalogue_text())
        factory = DatabaseFactory(dsn, ROOT / "services")
        tags_dsn, _ = await factory.address("tags")
        scoring_dsn, _ = await factory.address("scoring")
        tags_settings = {
            "CATALOGUE": str(catalogue),
            "INDEX_FOLDER": str(folder / "index"),
            "INDEX_SNAPSHOT_S": "86400",
            "CALLERS": '["scoring", "operator"]',
        }
        say("booting")
        async with running("tags", tags_dsn, nats_url, folder, tags_settings, TOKENS) as tags:
            settings = {"TAGS_TARGET": tags.target, "MODEL_SIGNING_KEY": KEY}
            async with running("scoring", scoring_dsn, nats_url, folder, settings, TOKENS) as scoring:
                await _store(scoring_dsn, fitted)
                async with rpc.connect(scoring.target, "operator", TOKENS["operator"]) as channel:
                    figures = await _batch(channel, scoring, tags)
                    figures |= await _one_by_one(channel, base.persons)
                    figures |= await _online(bus, base, seconds)
                    figures |= await _lookalike(channel, base)
                return figures
    finally:
        await bus.close()


async def _store(dsn: str, fitted: bytes) -> None:
    """A version that is not in use yet, with the card that the product would write."""
    database = Database(dsn, "scoring")
    card: dict[str, Any] = {
        "purpose": purchase_intent.SPECIFICATION.purpose,
        "limits": purchase_intent.SPECIFICATION.limits,
        "foretells": purchase_intent.SPECIFICATION.foretells.value,
        "features": [],
        "training_persons": TRAINED_ON,
        "training_positives": TRAINED_ON // 10,
        "metrics": {},
        "wanted": {"cut_predicate": "", "goal_predicate": ""},
        "recalibrated_from": 0,
    }
    try:
        async with database.transaction() as uow:
            seal = artefact.seal(KEY.encode(), MODEL, 1, fitted)
            await store.add_version(uow, MODEL, 1, card=card, artefact=fitted, seal=seal)
    finally:
        await database.close()


async def _batch(channel: grpc.aio.Channel, scoring: Running, tags: Running) -> dict[str, Any]:
    """Everybody, from the promotion until the operation has ended, by its own record."""
    models = ModelServiceStub(channel)
    spent = cpu(scoring.pid), cpu(tags.pid)
    promote = model_service_pb2.PromoteVersionRequest(model=MODEL, version=1)
    operation = (await models.PromoteVersion(promote)).operation
    asked = model_service_pb2.GetOperationRequest(operation_id=operation.operation_id)
    while operation.state == model_service_pb2.OPERATION_STATE_RUNNING:
        say(f"scored {operation.persons_scored:,}")
        await asyncio.sleep(1)
        operation = (await models.GetOperation(asked)).operation
    if operation.state != model_service_pb2.OPERATION_STATE_SUCCEEDED:
        raise RuntimeError(operation.reason)
    seconds = operation.end_time.ToMicroseconds() / 1e6 - operation.create_time.ToMicroseconds() / 1e6
    return {
        "persons_per_min": round(60 * operation.persons_scored / seconds),
        "batch_s": round(seconds, 1),
        "batch_scoring_us": round(1e6 * (cpu(scoring.pid) - spent[0]) / operation.persons_scored, 1),
        "batch_tags_us": round(1e6 * (cpu(tags.pid) - spent[1]) / operation.persons_scored, 1),
    }


async def _one_by_one(channel: grpc.aio.Channel, persons: int) -> dict[str, Any]:
    """Single persons at a steady rate."""
    say("asking one by one")
    stub, rng, taken = ScoringServiceStub(channel), random.Random(2), []

    async def ask() -> None:
        asked = scoring_service_pb2.ScorePersonsRequest(model=MODEL, person_ids=[rng.randrange(1, persons)])
        begin = time.perf_counter()
        await stub.ScorePersons(asked)
        taken.append(time.perf_counter() - begin)

    begin, tasks = time.perf_counter(), []
    for number in range(CALLS):
        tasks.append(asyncio.create_task(ask()))
        await asyncio.sleep(max(0.0, begin + (number + 1) / CALLS_PER_S - time.perf_counter()))
    await asyncio.gather(*tasks)
    cuts = statistics.quantiles(taken, n=100)
    return {"one_person_p50_ms": round(1000 * cuts[49], 2), "one_person_p99_ms": round(1000 * cuts[98], 2)}


async def _online(bus: Bus, base: Base, seconds: float) -> dict[str, Any]:
    """Changes of features at a steady rate; how long until their scores are on the bus."""
    say("changing features")
    taken: list[float] = []
    heard = asyncio.Event()
    extent = await bus.extent(events.STREAMS[0].name)

    async def hear(message: Message) -> None:
        now = time.time()
        batch = events_pb2.ScoresChanged.FromString(message.data)
        taken.extend(now - score.received_at_us / 1e6 for score in batch.scores if score.received_at_us)

    following = asyncio.create_task(bus.follow(_scores(), extent.last, hear, heard))
    await heard.wait()
    rng, each, sent = random.Random(3), CHANGES_PER_S // MESSAGES_PER_S, 0
    begin = time.perf_counter()
    persons = rng.sample(range(1, base.persons + 1), int(CHANGES_PER_S * seconds))
    try:
        for number in range(int(MESSAGES_PER_S * seconds)):
            now_us, changes = time.time_ns() // 1000, Changes()
            for person in persons[number * each : (number + 1) * each]:
                changes.entities.append(
                    EntityChange(Kind.PERSON, person, 2, {rng.choice(numbers()[:8]): rng.gauss(0, 2)}, None, now_us)
                )
            told = [message.SerializeToString() for message in tags_events.messages(changes)]
            await bus.publish_all([Outgoing.now(tags_events.TAGS_CHANGED.subjects[0], data) for data in told])
            sent += each
            await asyncio.sleep(max(0.0, begin + (number + 1) / MESSAGES_PER_S - time.perf_counter()))
        await asyncio.sleep(3)
    finally:
        # nats-py waits by asyncio.wait_for, which in Python 3.11 may swallow a cancellation.
        while not following.done():
            following.cancel()
            await asyncio.wait({following}, timeout=1)
    cuts = statistics.quantiles(taken, n=100)
    return {
        "online_p50_ms": round(1000 * cuts[49]),
        "online_p99_ms": round(1000 * cuts[98]),
        "online_changes_per_s": CHANGES_PER_S,
        "online_scores": len(taken),
    }


def _scores() -> Stream:
    return events.STREAMS[0]


async def _lookalike(channel: grpc.aio.Channel, base: Base) -> dict[str, Any]:
    """Who is like five thousand of those who did it."""
    say("expanding an audience")
    rows = np.arange(min(base.persons, 100_000))
    seeds = (rows[base.cut(rows).labels == 1] + 1)[:SEEDS]
    asked = scoring_service_pb2.ExpandAudienceRequest(seed_ids=seeds.tolist(), limit=10_000, tags=base.tags)
    begin, found = time.perf_counter(), 0
    async for answer in ScoringServiceStub(channel).ExpandAudience(asked):
        found += len(answer.person_ids)
    return {"lookalike_1m_s": round(time.perf_counter() - begin, 2), "lookalike_found": found}
