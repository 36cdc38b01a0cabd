"""A receiver whose answers the test decides, push by push."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Receiver:
    """`answer(n, body)` gives (status, headers) of the n-th call, counted from 1."""

    url: str = ""
    calls: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    answer: Callable[[int, dict[str, Any]], tuple[int, dict[str, str]]] = lambda n, body: (200, {})
    hold: asyncio.Event | None = None
    # The endpoint's, where a test wants to answer under it.
    secret: str = ""

    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.calls]


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()

    async def take(request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        receiver.calls.append(({k.lower(): v for k, v in request.headers.items()}, body))
        status, headers = receiver.answer(len(receiver.calls), body)
        if receiver.hold:
            await receiver.hold.wait()
        return web.Response(status=status, headers=headers)

    app = web.Application()
    app.add_routes([web.post("/push", take)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/push"
    try:
        yield receiver
    finally:
        await runner.cleanup()
