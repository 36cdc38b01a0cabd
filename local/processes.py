"""Child processes that never outlive their supervisor, and the sweep that finds those that did."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

TETHER = Path(__file__).with_name("tether.py")
# Every child carries the folder of its run in this variable; the sweep kills nobody without it.
MARK = "TROIKA_RUN"
# A child that lived this long has started well; its next death is a new story.
SETTLED_S = 20.0
LONGEST_BACKOFF_S = 5.0


@dataclass
class Child:
    """One program under supervision: how to run it, and how it fares."""

    name: str
    argv: list[str]
    log: Path
    environment: Mapping[str, str]
    folder: Path
    stop_signal: signal.Signals = signal.SIGTERM
    uid: int | None = None
    # Whether it sees our own environment too.
    inherits: bool = True
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    wanted: bool = field(default=False, init=False)
    restarts: int = field(default=0, init=False)
    deaths_in_a_row: int = field(default=0, init=False)
    started_at: float = field(default=0.0, init=False)

    def start(self) -> None:
        """Starts it in a session of its own: a Ctrl-C at the terminal reaches the supervisor alone, which stops in order."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # A dozen processes import the same modules: compiled once, they start in a third of the time.
        ours = os.environ if self.inherits else {}
        inherited = {name: value for name, value in ours.items() if name != "PYTHONDONTWRITEBYTECODE"}
        uid = -1 if self.uid is None else self.uid
        tether = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), str(int(self.stop_signal)), str(uid)]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [*tether, *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**inherited, **self.environment},
                cwd=self.folder,
                start_new_session=True,
            )
        self.wanted, self.started_at = True, time.monotonic()

    @property
    def alive(self) -> bool:
        """Whether it runs now; reaps it when it does not."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Process id, 0 when it never ran."""
        return self.process.pid if self.process else 0

    def send(self, number: int) -> None:
        """Sends a signal; a dead child is left in peace."""
        if self.process and self.alive:
            self.process.send_signal(number)

    async def gone(self, patience_s: float) -> bool:
        """Waits until it is dead; False when it is not after `patience_s`."""
        deadline = time.monotonic() + patience_s
        while self.alive and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return not self.alive

    async def stop(self, patience_s: float = 30.0) -> None:
        """Asks it to end, then kills it."""
        self.wanted = False
        self.send(self.stop_signal)
        if not await self.gone(patience_s):
            self.send(signal.SIGKILL)
            await self.gone(patience_s)

    def note_death(self) -> float:
        """Counts a death nobody asked for and returns the seconds to wait before the next start."""
        settled = time.monotonic() - self.started_at > SETTLED_S
        self.deaths_in_a_row = 1 if settled else self.deaths_in_a_row + 1
        self.restarts += 1
        return float(min(LONGEST_BACKOFF_S, 0.1 * 2**self.deaths_in_a_row))

    def last_words(self, lines: int = 15) -> str:
        """The end of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class PidFile:
    """The process ids of one run, so that the next start finds what a killed supervisor left behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark = f"{MARK}={path.parent}".encode()

    def write(self, children: list[Child]) -> None:
        """Replaces the file at once."""
        scratch = self._path.with_suffix(".new")
        scratch.write_text(json.dumps({child.name: child.pid for child in children if child.pid}))
        scratch.replace(self._path)

    def sweep(self) -> list[str]:
        """Kills processes of this run that are still there and returns their names. Others that took a pid are safe."""
        if not self._path.exists():
            return []
        swept = []
        for name, pid in reversed(json.loads(self._path.read_text()).items()):
            if self._is_ours(pid):
                os.kill(pid, signal.SIGKILL)
                swept.append(name)
        deadline = time.monotonic() + 10
        while any(self._is_ours(pid) for pid in json.loads(self._path.read_text()).values()) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._path.unlink()
        return swept

    def _is_ours(self, pid: int) -> bool:
        try:
            return self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False
