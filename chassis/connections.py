"""HTTP connections that nobody holds for nothing: a head that does not end in time, and one connection too many, are closed.

A client that says one byte a minute costs nothing to be, and a descriptor to have; uvicorn waits for it for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CLOSED = Counter("troika_http_connections_closed_total", "HTTP connections closed by us for their own fault.", ["why"])


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with a clock from the connection, and from each request's first byte, to the end of its head."""

    def __init__(self, head_timeout_s: float, most_connections: int, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_timeout_s, self._most_connections = head_timeout_s, most_connections
        self._clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begins the clock, or closes what is one too many."""
        super().connection_made(transport)
        if len(self.connections) > self._most_connections:
            CLOSED.labels("too_many").inc()
            transport.abort()
            return
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the clock."""
        self._end()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begins the clock."""
        super().on_message_begin()
        self._begin()

    def on_headers_complete(self) -> None:
        """Ends the clock: bodies have one of their own, for doors know how long theirs may take."""
        self._end()
        super().on_headers_complete()

    def _begin(self) -> None:
        self._end()
        self._clock = self.loop.call_later(self._head_timeout_s, self._late)

    def _end(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        CLOSED.labels("slow_head").inc()
        self.transport.abort()
