"""Starts receivers as the demo does, with a truth of few people, and stops them cleanly."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.emulators.world import Listener, Running, listening

ROOT = Path(__file__).parents[3]

TRUTH = {
    "app_users": {"a-yes": "yes", "a-no": "no", "a-silent": None, **{f"u{i}": "no" for i in range(300)}},
    "openids": {"o-yes": "yes", "o-no": "no", "o-silent": None},
    "mobiles": {
        "+8613800138000": [{"name": "张伟", "answer": "yes"}, {"name": "李娜", "answer": "no"}],
        "+8613800138001": [{"name": None, "answer": "no"}],
    },
}


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as listener:
        yield listener


@pytest.fixture
def truth_file(tmp_path: Path) -> str:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(TRUTH))
    return str(path)


@pytest.fixture
def start(tmp_path: Path, truth_file: str) -> Iterator[Callable[..., Running]]:
    """Start a receiver by module name and configuration; every one of them must stop with exit code 0."""
    started: list[Running] = []

    def start(module: str, **config: Any) -> Running:
        path = tmp_path / f"{module}{len(started)}.json"
        path.write_text(json.dumps({"truth_file": truth_file, "failure_rates": {}, **config}))
        command = [sys.executable, "-m", f"tests.emulators.{module}", "--port", "0", "--config", str(path)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ})
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        running = Running(process, f"http://{ready['host']}:{ready['port']}")
        started.append(running)
        return running

    yield start
    assert [0] * len(started) == [running.stop() for running in started]
