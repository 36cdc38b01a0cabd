"""The whole suite on one machine: two servers and five services as processes, started in order, kept alive, stopped in order.

async with Suite(folder) as suite:
    suite.address("tags", "http")          # "127.0.0.1:…"
    channel = suite.operator_channel("tags")
    await suite.kill("identity")           # comes back by itself
    await suite.ready()
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import grpc
import httpx

from chassis import rpc
from chassis.migrations import migrate
from local import keys, plan
from local.embedded import Command, Nats, Postgres
from local.ports import free_ports, preferred
from local.processes import MARK, Child, PidFile

ROOT = Path(__file__).resolve().parent.parent
SERVERS = ("postgres", "nats")
WATCH_S = 0.1
READY_S = 180.0
# So many quick deaths in a row before anything was ever ready mean that it will not start at all.
HOPELESS = 5


class StartError(RuntimeError):
    """Something did not come up; the message ends with its last log lines."""


class Suite:
    """Everything that runs, in one folder: data, logs, secrets, process ids."""

    def __init__(
        self,
        folder: Path,
        *,
        fresh: bool = False,
        usual_ports: bool = False,
        environment: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda _: None,
        program: Callable[[str], list[str]] | None = None,
    ) -> None:
        """`fresh` forgets earlier data; `environment` is added to every service's; `say` hears what happens.

        `program`: the command that serves a service, when it is not the one of this tree.
        """
        self._program = program or (lambda service: [sys.executable, "-m", f"services.{service}", "serve"])
        self.folder = folder.resolve()
        self._fresh, self._usual_ports, self._environment, self._say = fresh, usual_ports, dict(environment or {}), say
        self.children: dict[str, Child] = {}
        self._guests: list[Child] = []
        self._servers: dict[str, Postgres | Nats] = {}
        self._watch: asyncio.Task[None] | None = None
        self._lock: IO[str] | None = None

    async def __aenter__(self) -> Suite:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stop()

    # What is where

    @property
    def logs(self) -> Path:
        """Folder of all logs."""
        return self.folder / "logs"

    def token_file(self, person: str = keys.OPERATOR) -> Path:
        """File with the token of a person, for grpcurl and the like."""
        return self.folder / f"{person}.token"

    def address(self, service: str, door: plan.Door) -> str:
        """`host:port` of a service's door."""
        return self.ports.address(service, door)

    def url(self, service: str) -> str:
        """Base address of a service's HTTP door."""
        return f"http://{self.address(service, 'http')}"

    @property
    def mark(self) -> dict[str, str]:
        """What the environment of every process of this run holds."""
        return {MARK: str(self.folder)}

    def operator_channel(self, service: str, person: str = keys.OPERATOR) -> grpc.aio.Channel:
        """A gRPC channel to a service in the name of the operator or of another person; the caller closes it."""
        return rpc.connect(self.address(service, "grpc"), person, self.keys.tokens[person])

    # What may be done to it

    def adopt(self, child: Child) -> None:
        """Starts a program beside the suite: nobody brings it back when it dies, and it stops before everything else."""
        child.start()
        child.wanted = False
        self._guests.append(child)
        self._note_pids()

    async def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Sends a signal to a service, "postgres" or "nats" and waits for its death; the supervisor brings it back.

        One that is just being brought back is waited for: it dies too.
        """
        child = self.children[name]
        while not child.alive:
            await asyncio.sleep(0.01)
        process = child.process
        child.send(number)
        while process is not None and process.poll() is None:
            await asyncio.sleep(0.01)

    async def restart(self, name: str) -> None:
        """Stops one process in order, starts it again and waits until it is ready."""
        child = self.children[name]
        await child.stop()
        child.start()
        self._note_pids()
        await self.ready(name)

    async def ready(self, *names: str) -> None:
        """Waits until the named ones (default: all) answer; raises StartError when they never will."""
        async with asyncio.timeout(READY_S):
            for name in names or tuple(self.children):
                while not await self._answers(name):
                    self._give_up_on_the_hopeless()
                    await asyncio.sleep(0.05)

    # Inside

    async def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise StartError(f"another suite is running in {self.folder}") from None
        self._lock = lock
        self._pids = PidFile(self.folder / "processes.json")
        if swept := self._pids.sweep():
            self._say(f"killed what an earlier run left behind: {', '.join(swept)}")
        wanted = len(plan.USUAL_PORTS)
        self.ports = plan.lay_out(preferred(plan.USUAL_PORTS) if self._usual_ports else free_ports(wanted))
        if self._fresh:
            for part in ("logs", "nats", "lake"):
                shutil.rmtree(self.folder / part, ignore_errors=True)
        self.keys = keys.load_or_make(self.folder / "secrets.json", plan.SERVICES, plan.SECRETS)
        self._write_tokens()
        self._watch = asyncio.create_task(self._keep_alive(), name="supervisor")
        await self._start_servers()
        await self._migrate()
        for service in plan.SERVICES:
            self._add(service, Command(self._program(service)), signal.SIGTERM)
        await self.ready()

    async def _start_servers(self) -> None:
        """Sets `postgres_dsn` and `nats_url`: the embedded servers', or those that the environment names."""
        if dsn := os.environ.get("TROIKA_POSTGRES_DSN"):
            self.postgres_dsn = dsn
        else:
            postgres = await asyncio.to_thread(self._new_postgres)
            self._servers["postgres"], self.postgres_dsn = postgres, postgres.dsn
            self._add("postgres", postgres.command(), signal.SIGINT)
        if url := os.environ.get("TROIKA_NATS_URL"):
            self.nats_url = url
        else:
            nats = Nats(self.folder / "nats", self.ports.nats)
            self._servers["nats"], self.nats_url = nats, nats.url
            self._add("nats", nats.command(), signal.SIGTERM)
        await self.ready(*self._servers)

    def _new_postgres(self) -> Postgres:
        postgres = Postgres(self.folder / "postgres", self.ports.postgres)
        # Asked of the server because, as root, its data may lie elsewhere.
        if self._fresh and (postgres.folder / "used").exists():
            shutil.rmtree(postgres.folder)
            postgres = Postgres(self.folder / "postgres", self.ports.postgres)
        (postgres.folder / "used").touch()
        return postgres

    async def _migrate(self) -> None:
        """Here and not by each service's verb: five processes would start to say a few dozen statements each."""
        for service in plan.SERVICES:
            try:
                await migrate(self.postgres_dsn, service, ROOT / "services" / service / "migrations")
            except Exception as error:
                raise StartError(f"migrating {service} failed: {error}") from error

    def _child(self, name: str, command: Command, stop_signal: signal.Signals) -> Child:
        settings = {}
        if name in plan.SERVICES:
            settings = plan.settings_of(name, self.ports, self.postgres_dsn, self.nats_url, self.keys)
            settings["TROIKA_LAKE"] = str(self.folder / "lake")
        environment = settings | self._environment | self.mark
        # Servers may run as another user, who may not be able to enter our folder.
        folder = ROOT if command.uid is None else Path("/")
        return Child(name, command.argv, self.logs / f"{name}.log", environment, folder, stop_signal, command.uid)

    def _add(self, name: str, command: Command, stop_signal: signal.Signals) -> None:
        child = self.children[name] = self._child(name, command, stop_signal)
        child.start()
        self._note_pids()

    async def _keep_alive(self) -> None:
        """Brings back whoever dies uncalled, later each time it dies young."""
        due: dict[str, float] = {}
        while True:
            await asyncio.sleep(WATCH_S)
            for name, child in list(self.children.items()):
                if not child.wanted or child.alive:
                    continue
                if name not in due:
                    code = child.process.returncode if child.process else None
                    pause = child.note_death()
                    due[name] = time.monotonic() + pause
                    self._say(f"{name} died (exit {code}), back in {pause:.1f} s; see {child.log}")
                elif time.monotonic() >= due[name]:
                    del due[name]
                    child.start()
                    self._note_pids()

    def _note_pids(self) -> None:
        self._pids.write([*self.children.values(), *self._guests])

    def _give_up_on_the_hopeless(self) -> None:
        for child in self.children.values():
            if child.deaths_in_a_row >= HOPELESS:
                raise StartError(f"{child.name} does not start:\n{child.last_words()}")

    async def _answers(self, name: str) -> bool:
        if not self.children[name].alive:
            return False
        if name in self._servers:
            await self._servers[name].ready()
            return True
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=3) as client:
                return (await client.get(f"{self.url(name)}/readyz")).status_code == 200
        except httpx.HTTPError:
            return False

    def _write_tokens(self) -> None:
        for person in keys.PEOPLE:
            file = self.token_file(person)
            file.touch(0o600)
            file.write_text(f"{person}.{self.keys.tokens[person]}\n")

    async def _stop(self) -> None:
        """Services first (all at once, they do not need each other to stop), then the servers under them."""
        if self._watch:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await asyncio.gather(*(guest.stop() for guest in self._guests))
        services = [child for name, child in reversed(self.children.items()) if name not in SERVERS]
        await asyncio.gather(*(child.stop() for child in services))
        for name in reversed(SERVERS):
            if name in self.children:
                await self.children[name].stop()
        if self._lock:
            if not any(child.alive for child in self.children.values()):
                (self.folder / "processes.json").unlink(missing_ok=True)
            self._lock.close()
