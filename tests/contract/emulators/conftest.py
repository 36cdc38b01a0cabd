"""Starts receivers as the demo does, with a truth of few people, and stops them cleanly."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.emulators.wechat_client import APPID, SECRET, TOKEN
from tests.contract.emulators.world import Listener, Running, Start, launch, listening

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
def start(tmp_path: Path, truth_file: str, listener: Listener) -> Iterator[Start]:
    """Start a receiver by module name and configuration; each must stop in order and without a word on stderr.

    The listener outlives them, so that they can hand over what is pending.
    """
    started: list[Running] = []

    def start(module: str, **config: Any) -> Running:
        config = {"truth_file": truth_file, "failure_rates": {}, **config}
        started.append(launch(tmp_path / f"{module}{len(started)}", module, config))
        return started[-1]

    yield start
    assert [(0, "")] * len(started) == [running.stop() for running in started]


@pytest.fixture
def wechat(start: Start, listener: Listener) -> Start:
    listener.respond = lambda _: (200, b"success")

    def wechat(**config: Any) -> Running:
        config = {
            "secrets": {APPID: SECRET},
            "callback_tokens": {APPID: TOKEN},
            "templates": {"tmpl-1": ["thing1", "phrase2"]},
            "feedback_url": listener.url + "/wechat/callback/{appid}",
            "not_following_rate": 0,
            "user_block_rate": 0,
            "callback_delay_ms": 0,
        } | config
        return start("wechat", **config)

    return wechat
