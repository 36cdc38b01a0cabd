"""A receiver as a process, and a small HTTP server that stands where touchpoints will stand."""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from standardwebhooks import Webhook

from tests.emulators.app_backend import AppBackend, AppConfig
from tests.emulators.dealer_backend import DealerBackend, DealerConfig
from tests.emulators.receiver import main
from tests.emulators.wechat import Wechat, WechatConfig

THEME = "themes/12"
PATIENCE_SECONDS = 15.0

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])

RECEIVERS: dict[str, tuple[Any, Any]] = {
    "app_backend": (AppBackend, AppConfig),
    "dealer_backend": (DealerBackend, DealerConfig),
    "wechat": (Wechat, WechatConfig),
}


@dataclass(frozen=True)
class Heard:
    """One request that the listener got."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class Listener:
    """Hears everything; `respond` decides the answer: status and body, or None to hang up without one."""

    url: str = ""
    heard: list[Heard] = field(default_factory=list)
    respond: Callable[[Heard], tuple[int, bytes] | None] = lambda _: (200, b'{"accepted":1,"rejected":[]}')

    def at(self, path: str) -> list[Heard]:
        return [heard for heard in list(self.heard) if heard.path == path]

    def events(self, path: str, secret: str) -> list[dict[str, Any]]:
        """The events of every batch on that path, each batch verified; a batch heard again under its id counts once."""
        batches = {}
        for heard in self.at(path):
            batches[heard.headers["webhook-id"]] = Webhook(secret).verify(heard.body, heard.headers)["events"]
        return [event for batch in batches.values() for event in batch]


@contextmanager
def listening() -> Iterator[Listener]:
    listener = Listener()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            heard = Heard(self.command, url.path, query, headers, body)
            listener.heard.append(heard)
            answer = listener.respond(heard)
            if answer is None:
                self.close_connection = True
                return
            self.send_response(answer[0])
            if 300 <= answer[0] < 400:
                self.send_header("location", self.path)
            self.send_header("content-length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    listener.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield listener
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Running:
    """A receiver that answers."""

    process: BaseProcess
    http: httpx.Client
    stderr: Path

    def post(self, path: str, content: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        return self.http.post(path, content=content, headers=headers)

    def judge(self) -> dict[str, Any]:
        report: dict[str, Any] = self.http.get("/__judge", params={"pushes": ""}).json()
        return report

    def control(self, **orders: Any) -> httpx.Response:
        return self.http.post("/__control", json=orders)

    def settled(self) -> dict[str, Any]:
        """The judge's report once nothing is pending any more."""
        report: dict[str, Any] = until(self.judge, lambda report: report["feedback_pending"] == 0)
        return report

    def stop(self) -> tuple[int | None, str]:
        """SIGTERM, and what came of it: exit code and stderr."""
        self.http.close()
        self.process.terminate()
        self.process.join(PATIENCE_SECONDS)
        return self.process.exitcode, self.stderr.read_text()


def until(ask: Callable[[], Any], holds: Callable[[Any], bool]) -> Any:
    """What `ask` answers as soon as it `holds`; fails with the last answer when patience ends."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds(answer := ask()):
        assert time.monotonic() < deadline, answer
        time.sleep(0.02)
    return answer


Start = Callable[..., Running]
"""Starts a receiver, given the configuration that differs from the usual one."""


def launch(directory: Path, module: str, config: dict[str, Any]) -> Running:
    """A receiver in a process of its own, on a free port, once it says that it is ready.

    It is forked from a server that has imported everything: a fresh interpreter would take a second for every test.
    """
    directory.mkdir()
    path, stderr = directory / "config.json", directory / "stderr"
    path.write_text(json.dumps(config))
    heard, said = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_become, args=(module, path, said, stderr), daemon=True)
    process.start()
    said.close()
    with open(heard.fileno(), closefd=False) as lines:
        ready = json.loads(lines.readline())
    url = f"http://{ready['host']}:{ready['port']}"
    return Running(process, httpx.Client(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False), stderr)


def _become(module: str, config: Path, stdout: Connection, stderr: Path) -> None:
    os.dup2(stdout.fileno(), 1)
    with stderr.open("w") as file:
        os.dup2(file.fileno(), 2)
    sys.argv = [module, "--port", "0", "--config", str(config)]
    main(*RECEIVERS[module])


def signed(secret: str, webhook_id: str, body: bytes, at: datetime | None = None) -> dict[str, str]:
    at = at or datetime.now(UTC)
    signature = Webhook(secret).sign(webhook_id, at, body.decode())
    return {
        "content-type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signature,
    }


def webhook(kind: str, data: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "timestamp": "2026-11-21T08:00:00Z", "data": data}, ensure_ascii=False).encode()
