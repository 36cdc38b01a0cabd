"""WeChat's side of official accounts and mini-programs: tokens, messages, callbacks; HTTP 200 always, the errcode tells."""

import time
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import orjson
from aiohttp import web
from pydantic import Field, model_validator

from tests.emulators.ledger import FailurePlan, Push, draw
from tests.emulators.receiver import Control, Rates, Receiver, ReceiverConfig, Truth, WorkQueue, main, refusal, reset
from tests.emulators.wechat_callbacks import FIRST_MSGID, Callback, CallbackCaller, Console, Mode
from tests.emulators.wechat_permissions import Act, Permissions
from tests.emulators.wechat_rules import ESCAPED, TokenOffice, WechatError, check_data

WechatFailure = Literal["busy", "closed"]
"""`busy`: errcode -1. `closed`: the message is sent, then the connection is reset."""


USUAL_FAILURES: dict[WechatFailure, float] = {"busy": 0.02, "closed": 0.005}

MINUTE_SECONDS = 60.0
MOST_TEXT_BYTES = 2048
FORMS = {
    "/cgi-bin/message/template/send": "template",
    "/cgi-bin/message/subscribe/bizsend": "subscription",
    "/cgi-bin/message/subscribe/send": "subscription",
    "/cgi-bin/message/custom/send": "custom",
}


class WechatConfig(ReceiverConfig):
    """Configuration of WeChat: `secrets` are app secrets by appid; `{appid}` in `feedback_url` is replaced by it."""

    callback_tokens: dict[str, str]
    templates: dict[str, list[str]]
    failure_rates: Rates[WechatFailure] = USUAL_FAILURES
    not_following_rate: float = Field(default=0.01, ge=0, le=1)
    user_block_rate: float = Field(default=0.01, ge=0, le=1)
    token_expires_in: float = Field(default=7200.0, gt=0)
    token_overlap: float = Field(default=300.0, ge=0)
    client_msg_id_seconds: float = Field(default=600.0, gt=0)
    per_minute_limit: int | None = Field(default=None, ge=1)
    feedback_timeout_seconds: float = 5.0
    callback_attempts: int = Field(default=60, ge=1)
    callback_delay_ms: int = Field(default=200, ge=0)
    callback_concurrency: int = Field(default=32, ge=1)
    url_check: bool = False
    callback_mode: Mode = "plain"
    callback_json: bool = False
    encoding_aes_keys: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _token_per_app(self) -> "WechatConfig":
        if missing := self.secrets.keys() - self.callback_tokens.keys():
            raise ValueError(f"callback_tokens: none for {sorted(missing)}")
        if self.callback_mode != "plain" and (missing := self.secrets.keys() - self.encoding_aes_keys.keys()):
            raise ValueError(f"encoding_aes_keys: none for {sorted(missing)}")
        return self


class WechatControl(Control):
    """Control of WeChat."""

    failure_rates: Rates[WechatFailure] | None = None
    per_minute_limit: int | None = Field(default=None, ge=0, description="0 lifts the limit")
    expire_tokens: bool = False
    revoke_tokens: bool = False
    acts: list[Act] = Field(default_factory=list)


class Wechat(Receiver):
    """One WeChat for all accounts of the configuration; every openid of the truth follows, but for a seeded few."""

    name = "wechat"
    control_model = WechatControl

    def __init__(self, config: WechatConfig, truth: Truth) -> None:
        super().__init__(config, truth)
        self.config = config
        self.plan = FailurePlan[WechatFailure](config.seed, config.failure_rates)
        self.tokens = TokenOffice(config.token_expires_in, config.token_overlap)
        self._unsubscribed: set[str] = set()
        self._msgids: dict[str, tuple[int, float]] = {}
        self._minute_limit = config.per_minute_limit
        self._calls: dict[str, deque[float]] = {}
        self._caller = CallbackCaller(
            self.session, config.feedback_url, config.callback_tokens, config.callback_attempts, self.ledger,
            Console(config.callback_mode, config.callback_json, config.encoding_aes_keys),
        )  # fmt: skip
        self._permissions = Permissions()
        self._callbacks = WorkQueue(self._call_back, config.callback_concurrency, self.ledger.counts)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.route("*", "/cgi-bin/stable_token", self._stable_token),
            *(web.route("*", path, self._send) for path in FORMS),
        ]

    def background(self) -> list[Coroutine[Any, Any, None]]:
        return [self._callbacks.run(), *([self._check_urls()] if self.config.url_check else [])]

    def pending(self) -> int:
        return self._callbacks.pending

    async def _check_urls(self) -> None:
        for appid in self.config.secrets:
            checked = await self._caller.check_url(appid)
            self.ledger.counts["url_checks_passed" if checked else "url_checks_failed"] += 1

    async def _call_back(self, callbacks: tuple[Callback, ...]) -> None:
        for callback in callbacks:
            await self._caller.send(callback)

    async def _stable_token(self, request: web.Request) -> web.Response:
        try:
            return _json(self._token(request.method, await request.read()))
        except WechatError as error:
            return self._error(error)

    async def _send(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            form = FORMS[request.path]
            msgid, failure = self._accept(form, request.method, request.query.get("access_token"), body)
        except WechatError as error:
            return self._error(error)
        if failure == "closed":
            reset(request)
        return _json({"errcode": 0, "errmsg": "ok"} | ({"msgid": msgid} if form != "custom" else {}))

    def _error(self, error: WechatError) -> web.Response:
        self.ledger.counts[f"errcode_{error.errcode}"] += 1
        return _json(error.body())

    def _token(self, method: str, body: bytes) -> dict[str, Any]:
        self._check_outage()
        asked = self._request(method, body)
        if asked.get("grant_type") != "client_credential":
            raise WechatError(40002)
        appid, secret = asked.get("appid"), asked.get("secret")
        if not appid:
            raise WechatError(41002)
        if not secret:
            raise WechatError(41004)
        if appid not in self.config.secrets:
            raise WechatError(40013)
        if secret not in self.config.secrets[appid]:
            self.ledger.counts["bad_signatures"] += 1
            raise WechatError(40125)
        force = asked.get("force_refresh") is True
        self.ledger.counts["force_refreshes"] += force
        return self.tokens.issue(appid, force=force)

    def _check_outage(self) -> None:
        if self.outage:
            self.ledger.failures["outage"] += 1
            raise WechatError(-1)

    def _request(self, method: str, body: bytes) -> dict[str, Any]:
        if method != "POST":
            raise WechatError(43002)
        if ESCAPED.search(body):
            raise WechatError(40033)
        try:
            asked = orjson.loads(body)
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            self.ledger.counts["malformed"] += 1
            raise WechatError(47001)
        return asked

    def _accept(self, form: str, method: str, access_token: str | None, body: bytes) -> tuple[int, WechatFailure | None]:
        """The msgid of a message that is on its way to the person, and how its answer shall be lost, if at all."""
        self._check_outage()
        appid = self.tokens.appid_of(access_token)
        asked = self._request(method, body)
        openid, template, given = asked.get("touser"), asked.get("template_id"), asked.get("client_msg_id")
        page = _page(asked)
        # Only template messages have a number by which a repeat is known.
        key = f"{appid}/{openid}/{given if form == 'template' else page or len(self.ledger.pushes)}"
        if form == "template" and given and (msgid := self._sent_before(key)):
            self.ledger.counts["repeats"] += 1
            return msgid, None
        self._limit(appid)
        if not isinstance(openid, str) or openid not in self.truth.openids:
            raise WechatError(40003)
        pays = self._check_content(form, appid, openid, asked)
        if openid in self._unsubscribed or self._of_the_few("not following", openid, self.config.not_following_rate):
            raise WechatError(43004)
        failure = self.plan.failure(key, self.ledger.attempt(key))
        if failure is not None:
            self.ledger.failures[failure] += 1
        if failure == "busy":
            raise WechatError(-1)
        if form == "subscription":
            self._permissions.spend_credit(appid, openid, str(template))
        elif form == "custom":
            self._permissions.spend_window(appid, openid, pays)
        msgid = FIRST_MSGID + len(self.ledger.pushes) + 1
        self._msgids[key] = msgid, time.monotonic()
        delivery = given or page.get("delivery")
        self.ledger.accept(str(msgid), Push(appid, openid, page.get("theme") or str(template), str(delivery or msgid)))
        self.ledger.counts[f"sent_{form}"] += 1
        self._answer(form, appid, openid, msgid, delivery, str(template))
        return msgid, failure

    def _check_content(self, form: str, appid: str, openid: str, asked: Mapping[str, Any]) -> str:
        """What is wrong with a message of this form, and without permission; returns the window that pays."""
        if form == "custom":
            text = asked.get("text")
            content = text.get("content") if isinstance(text, Mapping) else None
            if asked.get("msgtype") != "text" or not isinstance(content, str) or not content:
                raise WechatError(44004)
            if len(content.encode()) > MOST_TEXT_BYTES:
                raise WechatError(45002)
            return self._permissions.check_window(appid, openid)
        template = asked.get("template_id")
        if not isinstance(template, str) or template not in self.config.templates:
            raise WechatError(40037)
        check_data(self.config.templates[template], asked.get("data"))
        if form == "subscription":
            self._permissions.check_credit(appid, openid, template)
        return ""

    def _sent_before(self, key: str) -> int | None:
        """The msgid under which this client_msg_id went to this openid; WeChat remembers it for 10 minutes only."""
        msgid, at = self._msgids.get(key, (None, 0.0))
        return msgid if time.monotonic() - at < self.config.client_msg_id_seconds else None

    def _limit(self, appid: str) -> None:
        calls, now = self._calls.setdefault(appid, deque()), time.monotonic()
        while calls and now - calls[0] >= MINUTE_SECONDS:
            calls.popleft()
        if self._minute_limit and len(calls) >= self._minute_limit:
            raise WechatError(45011)
        calls.append(now)

    def _of_the_few(self, what: str, openid: str, rate: float) -> bool:
        return draw(self.plan.seed, what, openid) < rate

    def _answer(self, form: str, appid: str, openid: str, msgid: int, delivery: object, template: str) -> None:
        """Call back: how the message arrived, then what the person clicked, if they got it and answer at all."""
        now = int(time.time())
        blocked = self._of_the_few("user block", openid, self.config.user_block_rate)
        status = "failed:user block" if blocked else "success"
        callbacks = []
        if form == "template":
            callbacks = [Callback(appid, openid, "TEMPLATESENDJOBFINISH", now, (("MsgID", msgid), ("Status", status)))]
        elif form == "subscription":
            fate = (("TemplateId", template), ("MsgID", str(msgid)), ("ErrorCode", "0"), ("ErrorStatus", "success"))
            part = ("SubscribeMsgSentEvent", (("List", fate),))
            callbacks = [Callback(appid, openid, "subscribe_msg_sent_event", now, (part,))]
        answer = self.truth.openids[openid]
        if answer and delivery and not blocked:
            self._permissions.open(appid, openid, "click")
            callbacks.append(Callback(appid, openid, "CLICK", now, (("EventKey", f"answer:{answer}:{delivery}"),)))
        self._callbacks.put(tuple(callbacks), self.config.callback_delay_ms / 1000)

    def change(self, control: WechatControl) -> web.Response | None:
        if control.failure_rates is not None:
            self.plan = FailurePlan[WechatFailure](self.plan.seed, control.failure_rates)
        if control.per_minute_limit is not None:
            self._minute_limit = control.per_minute_limit
        if control.expire_tokens:
            self.tokens.expire_all()
        if control.revoke_tokens:
            self.tokens.revoke_all()
        for act in control.acts:
            self._callbacks.put((self._permissions.act(act),))
        openid = control.unsubscribe
        if openid is None:
            return None
        if openid not in self.truth.openids:
            return refusal(404, "not_found", "no such follower", "unsubscribe")
        self._unsubscribed.add(openid)
        push = self.ledger.latest(openid)
        appid = push.endpoint if push else next(iter(self.config.secrets))
        self._callbacks.put((Callback(appid, openid, "unsubscribe", int(time.time()), (("EventKey", ""),)),))
        return None


def _page(asked: Mapping[str, Any]) -> dict[str, str]:
    """The query of the message's page, which says the theme and the delivery: no form has a field of its own for them."""
    program, text = asked.get("miniprogram"), asked.get("text")
    pages = [asked.get("url"), asked.get("page"), program.get("pagepath") if isinstance(program, dict) else None]
    if isinstance(text, dict):
        pages.append(str(text.get("content")).rpartition("\n")[2])
    for page in pages:
        if isinstance(page, str) and (query := parse_qs(urlsplit(page).query)):
            return {name: values[0] for name, values in query.items()}
    return {}


def _json(body: Mapping[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")


if __name__ == "__main__":
    main(Wechat, WechatConfig)
