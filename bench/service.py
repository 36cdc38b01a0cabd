"""One service as a process of its own, as a deployment runs it."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import orjson
import psutil

from local.embedded import free_port
from local.processes import Child

ROOT = Path(__file__).resolve().parent.parent


class Running(NamedTuple):
    """Addresses of a service that is ready, its process id, and the seconds from its start until then."""

    target: str
    http: str
    pid: int
    boot_s: float


# Secrets without which a service does not start, and which no bench asks about.
_NEEDED: Mapping[str, Mapping[str, str]] = {"orchestrator": {"REFERRAL_DEVICE_KEY": "0" * 64}}


@asynccontextmanager
async def running(
    name: str, dsn: str, nats_url: str, folder: Path, settings: Mapping[str, str], tokens: Mapping[str, str]
) -> AsyncIterator[Running]:
    """Starts a service that knows callers by these tokens, and waits until it is ready; its log is in `folder`."""
    grpc_port, http_port = free_port(), free_port()
    hashes = {caller: hashlib.sha256(token.encode()).hexdigest() for caller, token in tokens.items()}
    own = {
        "POSTGRES_DSN": dsn,
        "NATS_URL": nats_url,
        "GRPC_PORT": str(grpc_port),
        "HTTP_PORT": str(http_port),
        "CALLER_TOKEN": tokens[name],
        "CALLER_TOKEN_SHA256": orjson.dumps(hashes).decode(),
        **_NEEDED.get(name, {}),
        **settings,
    }
    argv = [sys.executable, "-m", f"services.{name}", "serve"]
    child = Child(name, argv, folder / f"{name}.log", {f"TROIKA_{key}": value for key, value in own.items()}, ROOT)
    begin = time.perf_counter()
    child.start()
    try:
        async with asyncio.timeout(900), httpx.AsyncClient(trust_env=False) as client:
            while not await _ready(client, f"http://127.0.0.1:{http_port}/readyz"):
                if child.deaths_in_a_row > 2:
                    raise RuntimeError(f"{name} does not start: {child.log.read_text()[-1000:]}")
                await asyncio.sleep(0.05)
        boot_s = time.perf_counter() - begin
        yield Running(f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{http_port}", child.pid, boot_s)
    finally:
        await child.stop()


def family(pid: int) -> list[psutil.Process]:
    """A process and its children."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def cpu(pid: int) -> float:
    """CPU seconds of a process and its children so far."""
    return sum(sum(each.cpu_times()[:2]) for each in family(pid))


async def _ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.HTTPError:
        return False
