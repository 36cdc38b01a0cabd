"""The life of a service process: verbs, start in order, stop in reverse."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc
import uvloop
from fastapi import FastAPI
from pydantic import ValidationError

from chassis import rpc, telemetry, web
from chassis.bus import DEAD_LETTERS, Bus, Consumer, Stream
from chassis.db import Database
from chassis.errors import TroikaError, Unavailable
from chassis.outbox import Relay
from chassis.settings import ChassisSettings
from chassis.tls import Certificates
from chassis.vitals import CERTIFICATE, Vitals

if TYPE_CHECKING:
    from chassis.doctor import Check

log = logging.getLogger(__name__)


class Runtime:
    """What a composition root builds a service from. Finalisers run in reverse order of what was started."""

    def __init__(self, service: str, settings: ChassisSettings) -> None:
        self.service, self.settings = service, settings
        self.certificates = Certificates(settings.tls_folder) if settings.tls_folder else None
        self.database = Database(settings.postgres_dsn, service, settings.postgres_pool_size)
        self.bus = Bus(settings.nats_url, service, settings.nats_replicas, self.certificates, settings.nats_ca_file)
        # Set when the process is told to go; work that heeds it ends between two of its steps.
        self.stopping = asyncio.Event()
        # A service adds its own, for example that a projection has caught up.
        self.checks: dict[str, Callable[[], Awaitable[None]]] = {
            "postgres": self.database.check,
            "nats": self.bus.check,
            "stopping": self._check_staying,
        }
        self.app: FastAPI = web.new_app(f"Troika {service}", self.checks, settings.body_timeout_s)
        self._stack = AsyncExitStack()
        self._work: set[asyncio.Task[None]] = set()
        self._heeding: set[asyncio.Task[None]] = set()
        self._streams, self._consumers = [DEAD_LETTERS], list[Consumer]()
        if self.certificates:
            CERTIFICATE.set_function(self.certificates.ends_s)
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Runtime:
        self._stack.push_async_callback(self.database.close)
        await self.bus.connect()
        self._stack.push_async_callback(self.bus.close)
        self._stack.push_async_callback(self._stop_work)
        await self.bus.declare(DEAD_LETTERS)
        self.spawn(Vitals(self.database, self.bus, self._streams, self._consumers).run(), "vitals")
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._stack.aclose()

    def client(self, target: str) -> grpc.aio.Channel:
        """A channel to another service, closed with the runtime."""
        channel = rpc.connect(target, self.service, self.settings.caller_token, self.certificates)
        self._stack.push_async_callback(channel.close)
        return channel

    def at_end(self, close: Callable[[], Awaitable[None]]) -> None:
        """Has something closed when nothing works with it any more."""
        self._stack.push_async_callback(close)

    def spawn(self, work: Coroutine[Any, Any, None], name: str, *, heeds_stopping: bool = False) -> None:
        """Runs work until the end; when it raises, the whole process stops with that error.

        Work that `heeds_stopping` ends by itself after the event `stopping`; all other is cancelled where it stands.
        """
        task = asyncio.create_task(work, name=name)
        if heeds_stopping:
            self._heeding.add(task)

        def done(finished: asyncio.Task[None]) -> None:
            if not finished.cancelled() and (error := finished.exception()) and not self._failed.done():
                self._failed.set_exception(error)

        task.add_done_callback(done)
        self._work.add(task)

    async def publishes(self, *streams: Stream) -> None:
        """Declares the streams this service owns and starts the relay of its outbox."""
        await self.bus.declare(*streams)
        self._streams += streams
        self.spawn(Relay(self.database, self.bus).run(), "relay")

    def consumes(self, *consumers: Consumer) -> None:
        """Starts consumers, each on all its lanes."""
        self._consumers += consumers
        for consumer in consumers:
            for _ in range(consumer.lanes):
                self.spawn(self.bus.consume(consumer, self.database, self.stopping), consumer.name, heeds_stopping=True)

    async def serve(self, allowed: Mapping[str, frozenset[str]], register: Callable[[grpc.aio.Server], None]) -> None:
        """Opens both doors, says where, and waits for SIGTERM or SIGINT. `allowed`: RPC service → callers."""
        settings = self.settings
        # Work ends after the doors have closed and while the clients that it uses are still there.
        self._stack.push_async_callback(self._stop_work)
        server = rpc.Server(settings.caller_token_sha256, allowed, settings.grpc_reflection)
        register(server.aio)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stopping.set)
        tokens = f"{settings.bind_host}:{settings.token_grpc_port}" if settings.token_grpc_port else ""
        grpc_port = await server.start(f"{settings.bind_host}:{settings.grpc_port}", self.certificates, tokens)
        limits = settings.body_timeout_s, settings.http_connections
        site = web.WebServer(self.app, settings.bind_host, settings.http_port, settings.shutdown_grace_s, *limits)
        serving = asyncio.create_task(site.serve())

        async def let_go() -> None:
            """All at once: none of them needs another one to end, and together they must not take longer than one may."""
            self.stopping.set()
            await asyncio.gather(
                site.close(serving), server.stop(settings.shutdown_grace_s), self._end_heeding(settings.shutdown_grace_s)
            )

        self._stack.push_async_callback(let_go)
        spare_what_lives()
        log.info("serving", extra={"grpc_port": grpc_port, "http_port": settings.http_port})
        stopped = asyncio.create_task(self.stopping.wait())
        ends: set[asyncio.Future[Any]] = {stopped, serving, self._failed}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        log.info("stopping")
        if self._failed.done():
            self._failed.result()

    async def _end_heeding(self, patience_s: float) -> None:
        """Lets consumers finish their batch and calls to receivers end: who takes them over later would have to wait for it."""
        if self._heeding:
            await asyncio.wait(self._heeding, timeout=patience_s)

    async def _check_staying(self) -> None:
        if self.stopping.is_set():
            raise Unavailable("stopping")

    async def _stop_work(self) -> None:
        """Cancels until it works: on Python 3.11 `wait_for`, which nats-py uses, may swallow a cancellation."""
        while self._work:
            for task in self._work:
                task.cancel()
            _, self._work = await asyncio.wait(self._work, timeout=1)


def spare_what_lives() -> None:
    """Lets the collector of cycles look at new objects only, and seldom.

    A batch dies by its reference counts; what lives now, lives on. To look through it all over and over took half the time of
    busy consumers.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


S = TypeVar("S", bound=ChassisSettings)


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """Most verbs have none."""


@dataclass(frozen=True)
class Verb(Generic[S]):
    """A command of one service beside `serve` and `migrate`; `run` gets the settings and what `arguments` declared."""

    name: str
    help: str
    run: Callable[[S, argparse.Namespace], Coroutine[Any, Any, None]]
    arguments: Callable[[argparse.ArgumentParser], None] = _no_arguments


@dataclass(frozen=True)
class PlainVerb:
    """A command that needs no settings, hence runs anywhere; `run` returns the exit code."""

    name: str
    help: str
    run: Callable[[argparse.Namespace], int]
    arguments: Callable[[argparse.ArgumentParser], None] = _no_arguments


def main(
    service: str,
    settings_type: type[S],
    migrations: Path,
    serve: Callable[[S], Coroutine[Any, Any, None]],
    verbs: Sequence[Verb[S] | PlainVerb] = (),
    checks: Sequence[Check] = (),
) -> None:
    """Command line of a service: `serve` runs it, `migrate` prepares its schema, `verbs` are its own.

    `checks` are what `doctor` looks at beside what all services stand on.
    """
    parser = argparse.ArgumentParser(prog=f"python -m services.{service}", description=f"Troika {service}")
    words = parser.add_subparsers(dest="verb", required=True)
    words.add_parser("serve", help="run the service until SIGTERM")
    migrating = words.add_parser("migrate", help="make or upgrade the service's schema and role, then exit")
    migrating.add_argument("--post", action="store_true", help="also what code of the release before would not understand")
    examining = words.add_parser("doctor", help="look at what the service stands on, and say what to do about it")
    examining.add_argument("--json", action="store_true", help="print findings as JSON, for machines")
    for each in verbs:
        each.arguments(words.add_parser(each.name, help=each.help))
    arguments = parser.parse_args()
    verb = arguments.verb
    own = next((each for each in verbs if each.name == verb), None)
    if isinstance(own, PlainVerb):
        sys.exit(own.run(arguments))
    try:
        settings = settings_type()
    except ValidationError as error:
        # Only names and messages: the values may be secrets.
        wrong = [f"TROIKA_{'.'.join(str(p) for p in e['loc']).upper()}: {e['msg']}" for e in error.errors()]
        parser.error("settings are not valid\n  " + "\n  ".join(wrong))
    # What doctor says is for whoever asked, a machine perhaps, and no line of a log stands in it.
    if verb != "doctor":
        telemetry.configure(service, settings.log_level)
    try:
        if verb == "migrate":
            # What only this verb needs takes a fifth of a second to import.
            from chassis.migrations import migrate

            uvloop.run(migrate(settings.postgres_dsn, service, migrations, post=arguments.post))
        elif verb == "doctor":
            from chassis import doctor

            findings = uvloop.run(doctor.examine(service, settings, migrations, checks))
            sys.exit(doctor.show(findings, as_json=arguments.json))
        elif verb == "serve":
            uvloop.run(serve(settings))
        elif own is not None:
            uvloop.run(own.run(settings, arguments))
    except TroikaError as error:
        # What a person has to put right, said in one line.
        sys.exit(f"{error.reason}: {error.message}")
    finally:
        telemetry.shutdown()
