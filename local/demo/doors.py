"""Into the product by its HTTP doors, as sources do: batches, a few at a time, again when the door is busy or away."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

# One bus message holds up to 500 facts, so a batch of 500 travels as one.
BATCH = 500
AT_ONCE = 4
PATIENCE_S = 120.0


@dataclass
class Accepted:
    """What the doors took, and what they refused by record with the reason."""

    records: int = 0
    events: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)
    retries: int = 0

    @property
    def total(self) -> int:
        """Records and events."""
        return self.records + self.events


class Doors:
    """The doors of touchpoints for sources with a write key."""

    def __init__(self, url: str, write_keys: dict[str, str]) -> None:
        self._client = httpx.AsyncClient(
            transport=AiohttpTransport(), base_url=url, timeout=30, trust_env=False, follow_redirects=False
        )
        self._write_keys = write_keys
        self.accepted = Accepted()

    async def __aenter__(self) -> Doors:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def records(self, source: str, records: Iterable[dict[str, Any]], done: Callable[[int], None]) -> None:
        """Imports records."""

        async def send(batch: list[dict[str, Any]]) -> None:
            body = b"\n".join(orjson.dumps(record) for record in batch)
            answer = await self._post("/v1/records", source, "application/x-ndjson", body)
            self.accepted.records += answer["accepted"]
            self.accepted.refused += [refused | {"source": source} for refused in answer["rejected"]]
            done(len(batch))

        await _spread(send, records)

    async def events(self, source: str, events: Iterable[dict[str, Any]], done: Callable[[int], None]) -> None:
        """Sends Segment calls."""

        async def send(batch: list[dict[str, Any]]) -> None:
            body = orjson.dumps({"batch": batch, "sentAt": datetime.now(UTC).isoformat()})
            await self._post("/v1/batch", source, "application/json", body)
            self.accepted.events += len(batch)
            done(len(batch))

        await _spread(send, events)

    async def _post(self, path: str, source: str, content_type: str, body: bytes) -> Any:
        """The JSON answer; the same bytes again while the door is busy or away, which the product takes as one."""
        authorization = "Basic " + base64.b64encode(f"{self._write_keys[source]}:".encode()).decode()
        headers = {"authorization": authorization, "content-type": content_type}
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                response = await self._client.post(path, content=body, headers=headers)
                if response.status_code == 200:
                    return orjson.loads(response.content)
                if response.status_code not in (429, 503):
                    raise RuntimeError(f"{path} answered {response.status_code}: {response.text[:500]}")
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} did not take a batch of {source} for {PATIENCE_S:.0f} s")
            self.accepted.retries += 1
            await asyncio.sleep(0.3)


async def _spread(send: Callable[[list[dict[str, Any]]], Any], items: Iterable[dict[str, Any]]) -> None:
    """Sends batches of an iterable, AT_ONCE in flight, never more of it in memory."""
    source: Iterator[dict[str, Any]] = iter(items)

    async def work() -> None:
        while batch := list(islice(source, BATCH)):
            await send(batch)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(work())
