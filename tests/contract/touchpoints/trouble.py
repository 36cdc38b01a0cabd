"""A way to the service that fails as real ways do: requests are refused before they arrive, or arrive and nobody hears so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto

import aiohttp
from aiohttp import web


class Fate(Enum):
    """What becomes of one request; without one it passes."""

    # Answered with 503 and never forwarded.
    REFUSED = auto()
    # Forwarded and durable, but the client hears 503.
    UNHEARD = auto()


@dataclass
class Way:
    """`fates` of the next requests, in order; `answers` that clients heard."""

    url: str = ""
    fates: list[Fate] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)


@asynccontextmanager
async def way_to(target: str, *fates: Fate) -> AsyncIterator[Way]:
    """A server on a port of its own in front of another one."""
    way = Way(fates=list(fates))

    async def pass_on(request: web.Request) -> web.Response:
        body, fate = await request.read(), way.fates.pop(0) if way.fates else None
        status, answer, headers = 503, b'{"code":"unavailable","message":"try again"}', {"Content-Type": "application/json"}
        if fate is not Fate.REFUSED:
            kept = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "content-length", "connection")}
            async with session.request(request.method, target + str(request.rel_url), data=body, headers=kept) as heard:
                if fate is None:
                    status, answer = heard.status, await heard.read()
                    headers = {k: v for k, v in heard.headers.items() if k.lower() not in ("content-length", "date", "server")}
        way.answers.append(status)
        return web.Response(status=status, body=answer, headers=headers | {"Access-Control-Allow-Origin": "*"})

    application = web.Application(client_max_size=8 * 1024 * 1024)
    application.router.add_route("*", "/{path:.*}", pass_on)
    # Bytes pass as they are.
    runner = web.AppRunner(application, auto_decompress=False)
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1)
        await site.start()
        try:
            way.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield way
        finally:
            await runner.cleanup()
