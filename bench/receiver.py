"""The cheapest receiver of webhooks there is, in a process of its own: what it costs is not what is measured.

It counts distinct webhook ids and says 200. While told to it fails one call in ONE_IN: half of these it has not taken, of the
others the connection breaks after they were taken, so that nobody can know.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.sharedctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias, cast

import uvloop

from local.embedded import free_port

ONE_IN = 20
# Bare posts have one id for all, and repeat nothing.
BARE_ID = "msg_bare"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb"\r\nwebhook-id: *([^\r]*)", re.IGNORECASE)
_TAKEN, _REPEATED, _FAILS = range(3)
_OK, _BUSY = (b"HTTP/1.1 %s\r\ncontent-length: 0\r\n\r\n" % status for status in (b"200 OK", b"503 Service Unavailable"))
Counts: TypeAlias = "multiprocessing.sharedctypes.SynchronizedArray[int]"


class _Connection(asyncio.Protocol):
    """One connection of a sender; `seen` and `calls` are shared by all."""

    def __init__(self, counts: Counts, seen: set[bytes], calls: list[int]) -> None:
        self._counts, self._seen, self._calls, self._received = counts, seen, calls, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        received = self._received + data
        while (end := received.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(received, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(received) < whole:
                break
            found = _ID.search(received, 0, end)
            received = received[whole:]
            self._take(found[1] if found else b"")
        self._received = received

    def _take(self, name: bytes) -> None:
        counts, seen = self._counts, self._seen
        self._calls[0] += 1
        fails = counts[_FAILS] and self._calls[0] % ONE_IN == 0
        if fails and self._calls[0] % (2 * ONE_IN):
            self._transport.write(_BUSY)
            return
        if name in seen and name != BARE_ID.encode():
            counts[_REPEATED] += 1
        else:
            seen.add(name)
            counts[_TAKEN] = len(seen)
        if fails:
            self._transport.abort()
        else:
            self._transport.write(_OK)


async def _serve(port: int, counts: Counts) -> None:
    seen: set[bytes] = set()
    calls = [0]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(counts, seen, calls), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def serve(port: int, counts: Counts) -> None:
    """Runs until killed."""
    uvloop.run(_serve(port, counts))


@dataclass(frozen=True)
class Receiver:
    """One that runs."""

    url: str
    pid: int
    _counts: Counts

    @property
    def taken(self) -> int:
        """How many distinct webhooks came so far."""
        return int(self._counts[_TAKEN])

    @property
    def repeats(self) -> int:
        """How many came again."""
        return int(self._counts[_REPEATED])

    def fail(self, on: bool) -> None:
        """Makes it fail, or not."""
        self._counts[_FAILS] = int(on)


@contextmanager
def running() -> Iterator[Receiver]:
    """Until the block ends."""
    context = multiprocessing.get_context("spawn")
    counts = context.Array("i", 3)
    port = free_port()
    process = context.Process(target=serve, args=(port, counts), daemon=True)
    process.start()
    try:
        yield Receiver(f"http://127.0.0.1:{port}/push", process.pid or 0, counts)
    finally:
        process.kill()
        process.join()
