"""The service as a process of its own, with its database, on the session's servers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub

from chassis import rpc
from local.embedded import free_port
from tests.conftest import ROOT, Servers

TOKEN = "t" * 16


@dataclass
class Service:
    """How to start it and where it listens."""

    environment: dict[str, str]
    http_port: int
    grpc_port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def prepared(cls, dsn: str, servers: Servers, log: Path) -> Service:
        grpc_port, http_port = free_port(), free_port()
        own = {
            "POSTGRES_DSN": dsn,
            "NATS_URL": servers.nats_url,
            "GRPC_PORT": str(grpc_port),
            "HTTP_PORT": str(http_port),
            "CALLER_TOKEN": TOKEN,
            "CALLER_TOKEN_SHA256": json.dumps({"operator": hashlib.sha256(TOKEN.encode()).hexdigest()}),
        }
        environment = os.environ | {f"TROIKA_{name}": value for name, value in own.items()}
        return cls(environment | {"PYTHONPATH": f"{ROOT}:{ROOT}/gen"}, http_port, grpc_port, log)

    async def start(self) -> None:
        """Starts it and waits until it is ready."""
        self.process = self._launch()
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(self._ready):
                assert self.process.poll() is None, self.log.read_text()
                await asyncio.sleep(0.1)

    def _launch(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "services.tags", "serve"], env=self.environment, cwd=ROOT, stderr=out
            )

    def _ready(self) -> bool:
        try:
            return json.loads(self.get("/readyz"))["ready"] is True
        except OSError:
            return False

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=5) as answer:
            return answer.read().decode()

    def metric(self, name: str) -> float:
        """Value of a metric without labels, 0 when it was never set."""
        found = [line.split()[1] for line in self.get("/metrics").splitlines() if line.startswith(f"{name} ")]
        return float(found[0]) if found else 0.0

    def kill(self) -> None:
        """kill -9."""
        assert self.process
        self.process.kill()
        self.process.wait(20)

    def stub(self) -> TagsServiceStub:
        return TagsServiceStub(rpc.connect(f"127.0.0.1:{self.grpc_port}", "operator", TOKEN))
