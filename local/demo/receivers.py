"""The three receivers of tests/emulators as processes, known by name only, and the questions to their judge doors."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from local.demo.stage import Stage
from local.overlay import WECHAT_APPID, Overlay
from local.ports import free_ports
from local.processes import Child
from local.supervisor import ROOT

NAMES = ("app_backend", "dealer_backend", "wechat")
WECHAT_SECRET = "demo-app-secret-0123456789abcdef"  # noqa: S105  # of an account that the emulator invents
WECHAT_TOKEN = "demoCallbackToken"  # noqa: S105
WECHAT_TEMPLATE = "demo-template-offer"


@dataclass(frozen=True)
class Judgement:
    """What the receivers say reached them."""

    pushes: int
    pending: int
    pushed_twice: list[Any]
    bad_signatures: int
    reports: dict[str, Any]


class Receivers:
    """App backend, all dealers' backends, WeChat."""

    def __init__(self, suite: Stage, folder: Path, seed: int) -> None:
        self._suite, self._folder, self._seed = suite, folder, seed
        self._ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
        self._client = httpx.AsyncClient(trust_env=False, timeout=30)

    def url(self, name: str) -> str:
        """Base address of a receiver."""
        return f"http://127.0.0.1:{self._ports[name]}"

    def write_truth(self, overlay: Overlay) -> None:
        """Tells the receivers who exists and what each person really answered."""
        app_users, openids, mobiles = {}, {}, dict[str, list[dict[str, str]]]()
        for person in overlay.truth.persons():
            answer = "yes" if person.answer else "no"
            app_users.update(dict.fromkeys(person.app_ids, answer))
            openids.update(dict.fromkeys(person.openids, answer))
            for mobile in (person.mobile, *person.relative_mobiles):
                mobiles.setdefault(mobile, []).append({"name": person.name, "answer": answer})
        self._folder.mkdir(parents=True, exist_ok=True)
        self._truth.write_bytes(orjson.dumps({"app_users": app_users, "openids": openids, "mobiles": mobiles}))

    def start(self, touchpoints_url: str, app_secret: str, dealer_secrets: dict[str, str]) -> None:
        """Starts them; `dealer_secrets` by dealer code."""
        self._start("app_backend", f"{touchpoints_url}/webhooks/app", secrets={"app": app_secret})
        self._start("dealer_backend", f"{touchpoints_url}/webhooks/dealer-{{lower}}", secrets=dealer_secrets)
        self._start(
            "wechat",
            f"{touchpoints_url}/wechat/callback/{{appid}}",
            secrets={WECHAT_APPID: WECHAT_SECRET},
            callback_tokens={WECHAT_APPID: WECHAT_TOKEN},
            templates={WECHAT_TEMPLATE: ["thing1", "thing2"]},
        )

    async def judge(self) -> Judgement:
        """What all three say now."""
        reports = {name: (await self._client.get(f"{self.url(name)}/__judge")).json() for name in NAMES}
        return Judgement(
            pushes=sum(report["pushes"] for report in reports.values()),
            pending=sum(report["feedback_pending"] for report in reports.values()),
            pushed_twice=[twice for report in reports.values() for twice in report["pushed_twice"]],
            bad_signatures=sum(report["bad_signatures"] for report in reports.values()),
            reports=reports,
        )

    async def answers(self, name: str) -> bool:
        """Whether a receiver answers yet."""
        try:
            return (await self._client.get(f"{self.url(name)}/__judge")).status_code == 200
        except httpx.TransportError:
            return False

    async def pushes(self) -> list[dict[str, Any]]:
        """Every push that reached anybody: endpoint, person, theme, delivery_id."""
        found = []
        for name in NAMES:
            found += (await self._client.get(f"{self.url(name)}/__judge", params={"pushes": ""})).json()["all_pushes"]
        return found

    async def close(self) -> None:
        """Closes the client; the suite stops the processes."""
        await self._client.aclose()

    @property
    def _truth(self) -> Path:
        return self._folder / "truth.json"

    def _start(self, name: str, feedback_url: str, **particular: Any) -> None:
        config = self._folder / f"{name}.json"
        common = {"feedback_url": feedback_url, "truth_file": str(self._truth), "seed": self._seed}
        config.touch(0o600)
        config.write_bytes(orjson.dumps(common | particular))
        command = [sys.executable, "-m", f"tests.emulators.{name}", "--port", str(self._ports[name]), "--config", str(config)]
        self._suite.adopt(Child(name, command, self._suite.logs / f"{name}.log", self._suite.mark, ROOT))
