"""A receiver is one command: a line when it is ready, SIGTERM to stop it, a reason when its configuration is wrong."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tests.emulators.app_backend import AppConfig
from tests.emulators.dealer_backend import DealerConfig
from tests.emulators.ledger import COUNTS
from tests.emulators.webhooks import WebhookControl
from tests.emulators.wechat import WechatConfig, WechatControl

ROOT = Path(__file__).parents[3]
RECEIVERS: dict[str, dict[str, Any]] = {
    "app_backend": {"secrets": {"app": "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldY"}},
    "dealer_backend": {"secrets": {"D001": ["whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldY"]}},
    "wechat": {"secrets": {"wx1": "s"}, "callback_tokens": {"wx1": "t"}, "templates": {}},
}
WRONG = [
    ("app_backend", {"secrets": {"other": "whsec_QUJD"}}, "the app backend has the one endpoint 'app'"),
    ("wechat", {"callback_tokens": {}}, "callback_tokens: none for ['wx1']"),
    ("dealer_backend", {"unheard_of": 1}, "unheard_of"),
    ("app_backend", {"truth_file": "/nowhere.json"}, "/nowhere.json"),
    ("app_backend", {"failure_rates": {"418": 0.1}}, "failure_rates"),
]


def launch(directory: Path, module: str, config: dict[str, Any]) -> subprocess.Popen[str]:
    truth, path = directory / "truth.json", directory / "config.json"
    truth.write_text("{}")
    shared = {"truth_file": str(truth), "feedback_url": "http://127.0.0.1:1"}
    path.write_text(json.dumps(shared | RECEIVERS[module] | config))
    command = [sys.executable, "-m", f"tests.emulators.{module}", "--port", "0", "--config", str(path)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("module", RECEIVERS)
def test_a_receiver_says_one_line_when_it_is_ready_and_stops_in_order(tmp_path: Path, module: str) -> None:
    with launch(tmp_path, module, {}) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=15)
    expected = {"ready": True, "receiver": module, "host": "127.0.0.1", "port": ready["port"], "pid": process.pid}
    assert expected == ready
    assert (0, ("", "")) == (process.returncode, rest)


@pytest.mark.parametrize(("module", "config", "reason"), WRONG)
def test_a_wrong_configuration_ends_at_once_with_the_reason(
    tmp_path: Path, module: str, config: dict[str, Any], reason: str
) -> None:
    with launch(tmp_path, module, config) as process:
        out, err = process.communicate(timeout=15)
    assert (2, "") == (process.returncode, out)
    assert reason in err


@pytest.mark.parametrize("model", [AppConfig, DealerConfig, WechatConfig, WebhookControl, WechatControl])
def test_the_readme_tells_every_key_and_every_count(model: type[BaseModel]) -> None:
    readme = (ROOT / "tests/emulators/README.md").read_text()
    assert [] == [name for name in [*model.model_fields, *COUNTS] if f"`{name}`" not in readme]
