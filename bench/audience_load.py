"""Asking a running tags service, from a process of its own: counts at a steady rate, overlaps and ids one after the other.

Open loop: calls leave on a schedule whatever the answers do, so that waiting shows as latency.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import uvloop
from troika.identity.v1 import events_pb2 as identity
from troika.tags.v1 import tags_service_pb2 as pb
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub

from bench.audience_base import AUDIENCE, TAGS, name
from chassis import rpc

RATE, WARM_S, TURNS = 200, 3, 15
BESIDE = 4  # of so many counts one has an empty call beside it
TOKEN = "a" * 16
PERSON = identity.ENTITY_KIND_PERSON


async def counts(stub: Any, seconds: float) -> tuple[list[float], list[float]]:
    """Seconds that each count of three terms took, from when it was due, and each call that asks nothing of the index."""
    rng, taken, empty = random.Random(5), list[float](), list[float]()
    running: set[asyncio.Task[None]] = set()

    async def call(predicate: str, due: float) -> None:
        answer: pb.CountAudienceResponse = await stub.CountAudience(
            pb.CountAudienceRequest(entity_kind=PERSON, predicate=predicate), timeout=10
        )
        taken.append(time.perf_counter() - due)
        if not answer.base:
            raise AssertionError("an empty base")

    async def nothing(due: float) -> None:
        await stub.ListTags(pb.ListTagsRequest(page_size=1), timeout=10)
        empty.append(time.perf_counter() - due)

    begin = time.perf_counter() + 0.1
    for number in range(int(RATE * seconds)):
        due = begin + number / RATE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        predicate = " AND ".join(name(tag) for tag in rng.sample(range(TAGS // 2, TAGS), 3))
        calls = [call(predicate, due)] if number % BESIDE else [call(predicate, due), nothing(due)]
        for task in map(asyncio.create_task, calls):
            running.add(task)
            task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return sorted(taken), sorted(empty)


async def turns(ask: Callable[[], Awaitable[int]]) -> dict[str, float]:
    """Median milliseconds of a call, asked once before."""
    found, took = await ask(), []
    for _ in range(TURNS):
        begin = time.perf_counter()
        found = await ask()
        took.append(time.perf_counter() - begin)
    return {"p50_ms": round(statistics.median(took) * 1000, 2), "found": found}


async def hold(target: str, seconds: float) -> dict[str, Any]:
    """All figures of the door."""
    async with rpc.connect(target, "operator", TOKEN) as channel:
        stub: Any = TagsServiceStub(channel)

        async def overlap() -> int:
            request = pb.DescribeAudienceRequest(
                entity_kind=PERSON, predicate=name(AUDIENCE), overlap_all_tags=True, without_terms=True
            )
            return len((await stub.DescribeAudience(request, timeout=30)).tag_overlaps)

        async def ids() -> int:
            request = pb.StreamAudienceRequest(entity_kind=PERSON, predicate=name(AUDIENCE), packed=True)
            found = 0
            async for chunk in stub.StreamAudience(request, timeout=30):
                found += len(chunk.packed_ids) // 4 or len(chunk.entity_ids)
            return found

        await counts(stub, WARM_S)
        took, empty = await counts(stub, seconds)
        overlaps, streamed = await turns(overlap), await turns(ids)
    return {
        "rpc_count_p50_ms": round(statistics.median(took) * 1000, 3),
        "rpc_count_p99_ms": round(took[len(took) * 99 // 100] * 1000, 3),
        "rpc_empty_p50_ms": round(statistics.median(empty) * 1000, 3),
        "rpc_empty_p99_ms": round(empty[len(empty) * 99 // 100] * 1000, 3),
        "overlap_p50_ms": overlaps["p50_ms"],
        "overlap_values": overlaps["found"],
        "ids_1m_ms": streamed["p50_ms"],
        "ids": streamed["found"],
    }


def main() -> None:
    """The load, in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m bench.audience_load", description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=float, default=10)
    flags = parser.parse_args()
    sys.stdout.write(orjson.dumps(uvloop.run(hold(flags.target, flags.seconds))).decode() + "\n")


if __name__ == "__main__":
    main()
