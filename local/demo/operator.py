"""The operator at the gRPC doors, and who approves: asks, and asks again while a service is being restarted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from troika.orchestrator.v1.offer_service_pb2_grpc import OfferServiceStub
from troika.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub
from troika.scoring.v1.model_service_pb2_grpc import ModelServiceStub
from troika.scoring.v1.scoring_service_pb2_grpc import ScoringServiceStub
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub
from troika.touchpoints.v1.touchpoints_service_pb2_grpc import TouchpointsServiceStub

from chassis.errors import is_operational
from local.demo.stage import Stage
from local.keys import APPROVER

Answer = TypeVar("Answer")
# Longer than any restart takes; after that somebody should look.
PATIENCE_S = 90.0
POLL_S = 0.5
LONGEST_PAUSE_S = 10.0


class NeverCameError(TimeoutError):
    """Something that must happen by itself did not; the message says what was seen last."""


class Operator:
    """Stubs of all five services."""

    def __init__(self, suite: Stage) -> None:
        self._channels = [
            suite.operator_channel(name) for name in ("identity", "tags", "scoring", "orchestrator", "touchpoints")
        ]
        identity, tags, scoring, orchestrator, touchpoints = self._channels
        self._channels.append(approver := suite.operator_channel("orchestrator", APPROVER))
        # A second person, for what nobody may approve of their own.
        self.approver = OrchestratorServiceStub(approver)
        self.identity = IdentityServiceStub(identity)
        self.tags = TagsServiceStub(tags)
        self.scoring = ScoringServiceStub(scoring)
        self.models = ModelServiceStub(scoring)
        self.orchestrator = OrchestratorServiceStub(orchestrator)
        self.offers = OfferServiceStub(orchestrator)
        self.touchpoints = TouchpointsServiceStub(touchpoints)

    async def __aenter__(self) -> Operator:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close()

    async def ask(self, method: Callable[..., Awaitable[Answer]], request: object, timeout: float = 30.0) -> Answer:
        """The answer to a question or an idempotent command."""

        async def once() -> Answer:
            return await method(request, timeout=timeout)

        return await _patiently(once)

    async def read(self, method: Callable[..., AsyncIterable[Any]], request: object) -> list[Any]:
        """All chunks of a stream."""

        async def once() -> list[Any]:
            return [chunk async for chunk in method(request)]

        return await _patiently(once)


async def _patiently(once: Callable[[], Awaitable[Answer]]) -> Answer:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await once()
        except grpc.aio.AioRpcError as error:
            if not is_operational(error) or time.monotonic() > deadline:
                raise
        await asyncio.sleep(POLL_S)


async def until(
    look: Callable[[], Awaitable[Answer]], holds: Callable[[Answer], bool], seconds: float, every: float = POLL_S
) -> Answer:
    """Looks again and again until it holds; raises NeverCameError when nothing was new for `seconds`."""
    news = time.monotonic()
    before: Answer | None = None
    while True:
        began = time.monotonic()
        seen = await look()
        now = time.monotonic()
        if holds(seen):
            return seen
        if seen != before:
            before, news = seen, now
        if now - news > seconds:
            raise NeverCameError(f"nothing moved for {seconds:.0f} s; last seen: {seen}")
        # Watching must not slow down what is watched: at most a tenth of the time goes into looking. A look that waited for a
        # service to come back says nothing about its price.
        await asyncio.sleep(max(every, min(9 * (now - began), LONGEST_PAUSE_S)))
