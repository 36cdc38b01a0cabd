"""What the three receivers share: configuration, truth, control and judge doors, background work, process life."""

import argparse
import asyncio
import json
import os
import signal
import socket
import struct
import sys
import traceback
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import aiohttp
import orjson
import uvloop
from aiohttp import web
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tests.emulators.ledger import Kind, Ledger

Answer = Literal["yes", "no"] | None
Secrets = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
"""One or several secrets of one endpoint: any of them verifies, so that a secret can be rotated."""

Item = TypeVar("Item")


def _at_most_one(rates: dict[Kind, float]) -> dict[Kind, float]:
    if any(rate < 0 for rate in rates.values()) or sum(rates.values()) > 1:
        raise ValueError("failure rates are shares of the attempts: none negative, one in all at most")
    return rates


Rates = Annotated[dict[Kind, float], AfterValidator(_at_most_one)]


class NamedAnswer(BaseModel):
    """One of the persons who use a mobile number, with the answer that person really gave."""

    model_config = ConfigDict(frozen=True)
    name: str | None = None
    answer: Answer


class Truth(BaseModel):
    """Who exists and what they really answered; null is a person who never answers."""

    model_config = ConfigDict(frozen=True)
    app_users: dict[str, Answer] = {}
    openids: dict[str, Answer] = {}
    mobiles: dict[str, Annotated[list[NamedAnswer], Field(min_length=1)]] = {}

    def behind(self, mobile: str, name: str | None) -> NamedAnswer | None:
        """The person of that name on that number, else the first on it; None for a number nobody has."""
        persons = self.mobiles.get(mobile, [])
        named = (person for person in persons if name and _plain(person.name) == _plain(name))
        return next(named, persons[0] if persons else None)


def _plain(name: str | None) -> str:
    return "".join(unicodedata.normalize("NFKC", name or "").split()).casefold()


class ReceiverConfig(BaseModel):
    """The keys that every receiver takes; README.md lists them all."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    secrets: dict[str, Secrets]
    feedback_url: str
    truth_file: Path
    seed: int = 0
    drain_seconds: float = 10.0
    feedback_timeout_seconds: float = 15.0


class Control(BaseModel):
    """What a test may change in a running receiver; a key left out stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    outage: bool | None = None
    unsubscribe: str | None = None


class WorkQueue(Generic[Item]):
    """Jobs that wait for a limited number of workers."""

    def __init__(self, work: Callable[[Item], Awaitable[None]], workers: int, counts: Counter[str]) -> None:
        self._work = work
        self._workers = workers
        self._counts = counts
        self._jobs: asyncio.Queue[Item] = asyncio.Queue()
        self.pending = 0

    def put(self, item: Item, delay: float = 0.0) -> None:
        """Enqueue now, to be worked on `delay` seconds later at the earliest."""
        self.pending += 1
        asyncio.get_running_loop().call_later(delay, self._jobs.put_nowait, item)

    async def run(self) -> None:
        await asyncio.gather(*(self._worker() for _ in range(self._workers)))

    async def _worker(self) -> None:
        while True:
            item = await self._jobs.get()
            try:
                await self._work(item)
            except Exception:
                self._counts["internal_errors"] += 1
                traceback.print_exc()
            finally:
                self.pending -= 1


def refusal(status: int, code: str, message: str, field: str | None = None) -> web.Response:
    """The error body of the house, with the `Retry-After` that goes with its status."""
    body = {"code": code, "message": message} | ({"field": field} if field else {})
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return web.json_response(body, status=status, headers=headers)


def reset(request: web.Request) -> None:
    """Drop the connection under the answer: the sender sees a reset and cannot know what became of its request."""
    if request.transport is not None:
        connection: socket.socket = request.transport.get_extra_info("socket")
        # Lingering for zero seconds makes the kernel send RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()


class Receiver(ABC):
    """A receiver: its doors, its background work, and what is still on its way back to the product."""

    name: ClassVar[str]
    control_model: ClassVar[type[Control]] = Control

    def __init__(self, config: ReceiverConfig, truth: Truth) -> None:
        self.truth = truth
        self.ledger = Ledger()
        self.outage = False
        timeout = aiohttp.ClientTimeout(total=config.feedback_timeout_seconds)
        self.session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))

    @abstractmethod
    def routes(self) -> list[web.RouteDef]: ...

    @abstractmethod
    def background(self) -> list[Coroutine[Any, Any, None]]: ...

    @abstractmethod
    def pending(self) -> int:
        """Events, contacts and callbacks that the product has not acknowledged yet."""

    @abstractmethod
    def change(self, control: Any) -> web.Response | None:
        """Do what a control request of this receiver's `control_model` asks; a response refuses it."""

    async def _control(self, request: web.Request) -> web.Response:
        try:
            control = self.control_model.model_validate_json(await request.read())
        except ValidationError as error:
            return invalid(error)
        if control.outage is not None:
            self.outage = control.outage
        return self.change(control) or await self._judge(request)

    async def _judge(self, request: web.Request) -> web.Response:
        report = {"receiver": self.name, "feedback_pending": self.pending(), **self.ledger.report()}
        if "pushes" in request.query:
            report["all_pushes"] = [asdict(push) for push in self.ledger.pushes.values()]
        return web.Response(body=orjson.dumps(report), content_type="application/json")

    async def serve(self, port: int, drain_seconds: float) -> None:
        """Answer on 127.0.0.1 until SIGTERM, then send what is pending for `drain_seconds` at most."""
        app = web.Application()
        app.add_routes(self.routes())
        app.add_routes([web.get("/__judge", self._judge), web.post("/__control", self._control)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        stop = asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        tasks = [asyncio.create_task(work) for work in self.background()]
        site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
        await site.start()
        host, bound, *_ = runner.addresses[0]
        print(
            json.dumps({"ready": True, "receiver": self.name, "host": host, "port": bound, "pid": os.getpid()}),
            flush=True,
        )
        await stop.wait()
        await runner.cleanup()
        await self._drain(drain_seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.session.close()

    async def _drain(self, seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while self.pending() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        if left := self.pending():
            print(f"{self.name}: stopped with {left} pending", file=sys.stderr)


def invalid(error: ValidationError) -> web.Response:
    """400 that names the first wrong field and never repeats its value."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # Of a choice of messages the path begins with the type that was chosen.
    path = (str(part) for part in first["loc"] if "." not in str(part))
    return refusal(400, "invalid_request", first["msg"], ".".join(path) or None)


Config = TypeVar("Config", bound=ReceiverConfig)


def main(receiver: Callable[[Config, Truth], Receiver], config_model: type[Config]) -> None:
    """`--port P --config FILE.json`: one JSON line on stdout when ready; exit code 2 for a bad configuration."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True, help="0 takes any free port; the ready line tells which")
    parser.add_argument("--config", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        config = config_model.model_validate_json(arguments.config.read_bytes())
        truth = Truth.model_validate_json(config.truth_file.read_bytes())
    except (ValidationError, OSError) as error:
        parser.error(str(error))

    async def serve() -> None:
        await receiver(config, truth).serve(arguments.port, config.drain_seconds)

    uvloop.run(serve())
