"""Child processes: none outlives its supervisor, none that is not ours is touched."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from local.keys import load_or_make
from local.ports import free_ports, is_free
from local.processes import MARK, Child, PidFile

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]


def child(folder: Path, command: list[str] = SLEEP) -> Child:
    return Child("sleeper", command, folder / "sleeper.log", {MARK: str(folder)}, folder)


def holds_within(seconds: float, check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not check() and time.monotonic() < deadline:
        time.sleep(0.01)
    return check()


def is_alive(pid: int) -> bool:
    try:
        return "Z" != Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


async def test_a_child_stops_when_asked(tmp_path: Path) -> None:
    sleeper = child(tmp_path)
    sleeper.start()
    assert sleeper.alive
    await sleeper.stop()
    assert not sleeper.alive


async def test_a_child_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    sleeper = child(tmp_path, [sys.executable, "-S", "-c", stubborn])
    sleeper.start()
    while "deaf" not in sleeper.last_words():
        await asyncio.sleep(0.01)
    await sleeper.stop(patience_s=0.2)
    assert sleeper.process is not None and -signal.SIGKILL == sleeper.process.returncode


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import time
from pathlib import Path
from tests.integration.local.test_processes import child
sleeper = child(Path({str(tmp_path)!r}))
sleeper.start()
print(sleeper.pid, flush=True)
time.sleep(60)
"""
    root = Path(__file__).resolve().parents[3]
    supervisor = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=root)
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    assert is_alive(pid)
    supervisor.kill()
    supervisor.wait()
    assert holds_within(5, lambda: not is_alive(pid))


def test_the_sweep_kills_what_an_earlier_run_left_and_nothing_else(tmp_path: Path) -> None:
    ours = subprocess.Popen(SLEEP, env={**os.environ, MARK: str(tmp_path)})
    stranger = subprocess.Popen(SLEEP)
    pids = PidFile(tmp_path / "processes.json")
    (tmp_path / "processes.json").write_text(f'{{"left": {ours.pid}, "reused": {stranger.pid}, "gone": 999999}}')
    try:
        assert holds_within(5, lambda: MARK.encode() in Path(f"/proc/{ours.pid}/environ").read_bytes())
        # Nobody but the parent can reap it, and the sweep waits until it is gone.
        reaper = threading.Thread(target=ours.wait)
        reaper.start()
        assert ["left"] == pids.sweep()
        reaper.join(5)
        assert -signal.SIGKILL == ours.returncode
        assert stranger.poll() is None
        assert [] == pids.sweep()
    finally:
        stranger.kill()
        stranger.wait()
        ours.kill()


def test_a_child_that_keeps_dying_waits_longer_each_time(tmp_path: Path) -> None:
    sleeper = child(tmp_path)
    sleeper.started_at = time.monotonic()
    pauses = [sleeper.note_death() for _ in range(8)]
    assert sorted(pauses) == pauses and pauses[0] < 0.5 and 5.0 == pauses[-1]


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    wanted = {"identity": {"vault_key": "base64"}}
    first = load_or_make(tmp_path / "secrets.json", ("identity",), wanted)  # type: ignore[arg-type]
    more = load_or_make(tmp_path / "secrets.json", ("identity", "tags"), wanted)  # type: ignore[arg-type]
    assert first.settings == more.settings and first.tokens["identity"] == more.tokens["identity"]
    assert {"identity", "tags", "operator", "approver"} == set(more.tokens)
    assert 0o600 == stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode)


def test_free_ports_are_free_and_different() -> None:
    ports = free_ports(20)
    assert 20 == len(set(ports)) and all(map(is_free, ports))
