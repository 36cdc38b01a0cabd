"""What people permit an account: windows for customer-service messages and one message for each yes to a template."""

import time
from collections import Counter
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tests.emulators.wechat_callbacks import Callback
from tests.emulators.wechat_rules import WechatError

WINDOWS = {"message": (172_800.0, 5), "click": (60.0, 3), "follow": (60.0, 3), "scan": (60.0, 3), "session": (60.0, 2)}
EVENTS = {"click": "CLICK", "follow": "subscribe", "scan": "SCAN", "session": "user_enter_tempsession"}


class Act(BaseModel):
    """Something a person does; `templates` are the answers of a popup or the settings page: accept or not."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    appid: str
    openid: str
    do: Literal["message", "click", "follow", "scan", "session", "popup", "change"]
    templates: dict[str, bool] = {}
    text: str = "hello"


class Permissions:
    """The ledger that WeChat keeps, and against which it judges."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], dict[str, tuple[float, int]]] = {}
        self._credits: Counter[tuple[str, str, str]] = Counter()
        self._acts = 0

    def act(self, act: Act) -> Callback:
        """Notes what a person did, and returns the callback that tells of it."""
        self._acts += 1
        who = (act.appid, act.openid)
        if act.do in WINDOWS:
            self.open(act.appid, act.openid, act.do)
        now = int(time.time())
        if act.do == "message":
            fields = (("Content", act.text), ("MsgId", 7_000_000_000_000_000_000 + self._acts))
            return Callback(act.appid, act.openid, "", now, fields, kind="text")
        if act.do in EVENTS:
            # Never the key of an answer.
            return Callback(act.appid, act.openid, EVENTS[act.do], now, (("EventKey", f"act_{self._acts}"),))
        for template, accepted in act.templates.items():
            key = (*who, template)
            if not accepted:
                del self._credits[key]
            elif act.do == "popup":
                self._credits[key] += 1
        part = "SubscribeMsgPopupEvent" if act.do == "popup" else "SubscribeMsgChangeEvent"
        answers = tuple(
            ("List", (("TemplateId", template), ("SubscribeStatusString", "accept" if accepted else "reject")))
            for template, accepted in act.templates.items()
        )
        return Callback(act.appid, act.openid, f"subscribe_msg_{act.do}_event", now, ((part, answers),))

    def open(self, appid: str, openid: str, kind: str) -> None:
        """Opens a window, or opens it anew."""
        seconds, messages = WINDOWS[kind]
        self._windows.setdefault((appid, openid), {})[kind] = (time.monotonic() + seconds, messages)

    def check_credit(self, appid: str, openid: str, template: str) -> None:
        """43101 without a yes that is left."""
        if not self._credits[appid, openid, template]:
            raise WechatError(43101)

    def spend_credit(self, appid: str, openid: str, template: str) -> None:
        self._credits[appid, openid, template] -= 1

    def check_window(self, appid: str, openid: str) -> str:
        """The window that pays; 45015 when all are closed, 45047 when they are used up."""
        alive = {k: left for k, (until, left) in self._windows.get((appid, openid), {}).items() if until > time.monotonic()}
        if not alive:
            raise WechatError(45015)
        usable = [kind for kind, left in alive.items() if left > 0]
        if not usable:
            raise WechatError(45047)
        return min(usable, key=lambda kind: self._windows[appid, openid][kind])

    def spend_window(self, appid: str, openid: str, kind: str) -> None:
        until, left = self._windows[appid, openid][kind]
        self._windows[appid, openid][kind] = (until, left - 1)
