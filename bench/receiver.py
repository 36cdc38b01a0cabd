"""The cheapest receiver there is, in a process of its own: counts distinct webhook ids and says 200."""

from __future__ import annotations

import multiprocessing
import multiprocessing.sharedctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from local.embedded import free_port


def serve(port: int, counter: multiprocessing.sharedctypes.Synchronized[int]) -> None:
    """Runs until killed."""
    seen: set[str] = set()

    async def push(request: web.Request) -> web.Response:
        await request.read()
        seen.add(request.headers["webhook-id"])
        counter.value = len(seen)
        return web.Response()

    app = web.Application()
    app.router.add_post("/push", push)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


@contextmanager
def running() -> Iterator[tuple[str, Callable[[], int]]]:
    """(address, function that says how many distinct pushes came so far)."""
    context = multiprocessing.get_context("spawn")
    counter = context.Value("i", 0)
    port = free_port()
    process = context.Process(target=serve, args=(port, counter), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port}/push", lambda: int(counter.value)
    finally:
        process.kill()
        process.join()
