"""WeChat service account: template messages (CONVENTIONS 3.2), which must not carry marketing."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import urlencode

import orjson

from services.touchpoints.channels.contract import Lookup, Plan, Push
from services.touchpoints.channels.forms import CODE, Field, Form
from services.touchpoints.channels.http import Answer, Caller
from services.touchpoints.domain.deliveries import Accepted, Delivery, Outcome, Retry
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.wechat.errors import Action, outcome, rule
from services.touchpoints.wechat.tokens import Tokens, TokenUnavailable, read

log = logging.getLogger(__name__)

FORM = Form(
    Field("scope", "the account's appid", pattern=CODE),
    settings=(Field("template_id", "the id of the template that pushes use"),),
    secrets=(
        Field("app_secret", "the account's AppSecret, which buys tokens"),
        Field("callback_token", "the Token of the server configuration, which signs callbacks"),
    ),
    default_url="https://api.weixin.qq.com",
)

# A `thing` value holds 20 characters at most, control characters none: JSON would write those as \u, which WeChat refuses.
THING_LENGTH = 20
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


class WechatChannel:
    """All accounts that have an endpoint; a person is reached through the first that knows them."""

    memory = None
    # WeChat promises ten minutes for client_msg_id; the call itself and both clocks need their share.
    remembers_s = 540.0

    def __init__(self, caller: Caller, page_url: str) -> None:
        self._caller, self._page_url = caller, page_url
        self._tokens = Tokens(caller)

    def forbids(self, delivery: Delivery) -> str:
        """Template messages are for service; marketing through them costs the account."""
        return "purpose_not_allowed" if delivery.purpose == "marketing" else ""

    def plan(self, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        """Each account is asked for the persons it may know."""
        if not endpoints:
            return Plan(unroutable={d.delivery_id: "no_endpoint" for d in deliveries})
        return Plan([Lookup("openid", e.scope, tuple((d, e) for d in deliveries)) for e in endpoints])

    async def send(self, push: Push) -> Outcome:
        """One template message; a refused token is fetched once more, and the message sent once more."""
        answer, token = await self._post(push)
        if isinstance(answer, int) and rule(answer).action is Action.REFRESH_TOKEN:
            self._tokens.drop(push.endpoint, token)
            answer, _ = await self._post(push)
        return _loud(push.endpoint, answer) if isinstance(answer, int) else answer

    async def _post(self, push: Push) -> tuple[int | Outcome, str]:
        """(errcode, or the outcome when there is nothing to look up; the token it was tried with)."""
        endpoint = push.endpoint
        try:
            token = await self._tokens.of(endpoint)
        except TokenUnavailable as error:
            return (Retry("wechat_token", sent_perhaps=False) if error.errcode is None else error.errcode), ""
        url = endpoint.url.rstrip("/") + "/cgi-bin/message/template/send?" + urlencode({"access_token": token})
        answer = await self._caller.post(url, self._body(push), {"content-type": "application/json; charset=utf-8"})
        given = read(answer)
        if given is None:
            return (Retry("wechat_unreadable") if isinstance(answer, Answer) else answer), token
        errcode = given.get("errcode")
        if not isinstance(errcode, int):
            return Retry("wechat_unreadable"), token
        if rule(errcode).action is Action.DONE:
            return Accepted(str(given.get("msgid") or "")), token
        return errcode, token

    def _body(self, push: Push) -> bytes:
        delivery = push.delivery
        message = {
            "touser": push.address,
            "template_id": push.endpoint.settings["template_id"],
            # The same on each retry: WeChat sends it once.
            "client_msg_id": delivery.delivery_id,
            "data": {"thing1": {"value": _thing(delivery.title)}, "thing2": {"value": _thing(delivery.body)}},
        }
        if self._page_url:
            query = urlencode({"theme": delivery.theme, "delivery": delivery.delivery_id})
            message["url"] = f"{self._page_url}{'&' if '?' in self._page_url else '?'}{query}"
        return orjson.dumps(message)


def _thing(text: str) -> str:
    plain = _CONTROL.sub(" ", text).strip() or "-"
    return plain if len(plain) <= THING_LENGTH else plain[: THING_LENGTH - 1] + "…"


def _loud(endpoint: Endpoint, errcode: int) -> Outcome:
    """The outcome of an errcode; one that stops the account is an error that somebody must see."""
    result = outcome(rule(errcode), datetime.now(UTC))
    if isinstance(result, Retry) and result.pauses_endpoint:
        log.error("wechat account paused", extra={"endpoint": endpoint.name, "errcode": errcode, "pause_s": result.after_s})
    return result
