"""Who sends slowly, or never, holds nobody up and nothing for long: real connections to a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest
from fastapi import Request

from chassis import web
from local.embedded import free_port

PATIENCE_S, MOST = 0.4, 12


@dataclass
class Site:
    port: int
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def trickle(self, head: bytes) -> bytes:
        """Sends a head, then a byte now and then for ten times as long as anybody waits; what came back until the end."""
        reader, writer = await self.connect()
        writer.write(head)
        came = bytearray()

        async def read() -> None:
            while piece := await reader.read(65536):
                came.extend(piece)

        reading = asyncio.create_task(read())
        async with asyncio.timeout(PATIENCE_S * 10):
            while not reading.done():
                writer.write(b"x")
                await asyncio.wait([reading], timeout=PATIENCE_S / 10)
        # However it was closed.
        await asyncio.gather(reading, return_exceptions=True)
        return bytes(came)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    app, port = web.new_app("test", {}, PATIENCE_S), free_port()

    @app.post("/read")
    async def read(request: Request) -> dict[str, int]:
        return {"size": len(await web.read_body(request, 10_000))}

    server = web.WebServer(app, "127.0.0.1", port, 1, PATIENCE_S, MOST)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    made = Site(port)
    yield made
    for writer in made.writers:
        writer.close()
    server.should_exit = True
    await serving


async def test_a_body_that_trickles_is_answered_408_and_its_connection_closed(site: Site) -> None:
    head = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n"
    chunked = b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2328\r\n"
    stuck = [asyncio.create_task(site.trickle(each)) for each in (head, chunked)]
    # Meanwhile others are served; a body that comes in time, in pieces, is one.
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{site.port}", trust_env=False) as client:

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x" * 5
                await asyncio.sleep(PATIENCE_S / 20)

        assert {"size": 15} == (await client.post("/read", content=pieces())).json()
        for answer in await asyncio.gather(*stuck):
            assert answer.startswith(b"HTTP/1.1 408 ") and b'"code":"body_too_slow"' in answer and b'"field":"body"' in answer
        assert 200 == (await client.get("/livez")).status_code


async def test_a_head_that_never_ends_and_a_silent_connection_are_closed(site: Site) -> None:
    first = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    heads = (b"", b"POST /read HTTP/1.1\r\nX-Slow: ", first + b"GET /livez HTTP/1.1\r\nX-Slow: ")
    closed = await asyncio.gather(*(site.trickle(head) for head in heads))
    # The first request of a connection that then says no more was answered.
    assert [False, False, True] == [answer.startswith(b"HTTP/1.1 200 ") for answer in closed]


async def test_one_connection_too_many_is_closed_and_makes_room_for_no_one_elses_end(site: Site) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{site.port}", trust_env=False) as client:
        assert 200 == (await client.get("/livez")).status_code
        silent = [await site.connect() for _ in range(MOST + 3)]
        ended = [asyncio.ensure_future(reader.read()) for reader, _ in silent]
        done, _ = await asyncio.wait(ended, timeout=PATIENCE_S / 2)
        assert 4 == len(done)
        # Who is connected already is served all the same, and soon all are.
        assert 200 == (await client.get("/livez")).status_code
        await asyncio.gather(*ended, return_exceptions=True)
        async with httpx.AsyncClient(base_url=str(client.base_url), trust_env=False) as other:
            assert 200 == (await other.get("/livez")).status_code
