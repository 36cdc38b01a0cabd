"""WeChat service account (CONVENTIONS 3.2): template messages, which must not carry marketing, subscription notices, and
customer-service messages within the time that the person opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from services.touchpoints.channels.contract import Lookup, Plan, Push
from services.touchpoints.channels.forms import Field, Form
from services.touchpoints.domain.deliveries import Accepted, Delivery, Outcome, Refused, Retry
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.wechat import accounts
from services.touchpoints.wechat.api import Api, Done
from services.touchpoints.wechat.choice import Choice
from services.touchpoints.wechat.errors import OUTSIDE_WINDOW
from services.touchpoints.wechat.memory import FollowerMemory
from services.touchpoints.wechat.templates import Form as Way
from services.touchpoints.wechat.templates import Template, data, plain, templates

FORM = Form(
    accounts.APPID,
    settings=(
        Field(
            "template_id",
            "the id of a template with thing1 and thing2 for whatever serves, where templates has nothing better",
            required=False,
        ),
        accounts.TEMPLATES,
        accounts.WINDOW,
        accounts.WELCOME,
    ),
    secrets=accounts.SECRETS,
    default_url="https://api.weixin.qq.com",
)
WAYS = frozenset({Way.TEMPLATE, Way.SUBSCRIPTION, Way.CUSTOM})
PATHS = {
    Way.TEMPLATE: "/cgi-bin/message/template/send",
    Way.SUBSCRIPTION: "/cgi-bin/message/subscribe/bizsend",
    Way.CUSTOM: "/cgi-bin/message/custom/send",
}
MOST_TEXT_BYTES = 2048


class WechatChannel:
    """All accounts that have an endpoint; a person is reached through the first that knows them."""

    # WeChat promises ten minutes for client_msg_id; the call itself and both clocks need their share. The other forms have
    # no such number: the memory lets none of them go again whose outcome is not known.
    remembers_s = 540.0

    def __init__(self, api: Api, memory: FollowerMemory, page_url: str) -> None:
        self._api, self._memory, self._page_url = api, memory, page_url

    @property
    def memory(self) -> FollowerMemory:
        """Windows and permissions of followers."""
        return self._memory

    def forbids(self, delivery: Delivery) -> str:
        """Nothing here: which form is allowed depends on what the person permitted, and the memory knows that."""
        return ""

    def plan(self, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        """Each account is asked for the persons it may know."""
        if not endpoints:
            return Plan(unroutable={d.delivery_id: "no_endpoint" for d in deliveries})
        return Plan([Lookup("openid", e.scope, tuple((d, e) for d in deliveries)) for e in endpoints])

    async def send(self, push: Push) -> Outcome:
        """One message in the form that the memory chose."""
        choice: Choice = push.grant
        body = message(push, choice, self._page(push.delivery))
        if body is None:
            return Refused("template_gone")
        answer = await self._api.call(push.endpoint, PATHS[choice.form], body, push.delivery.attempts)
        return concluded(answer, choice)

    def _page(self, delivery: Delivery) -> str:
        return with_query(self._page_url, delivery) if self._page_url else ""


def with_query(page: str, delivery: Delivery) -> str:
    """A page that is told which push brought somebody there."""
    query = urlencode({"theme": delivery.theme, "delivery": delivery.delivery_id})
    return f"{page}{'&' if '?' in page else '?'}{query}"


def message(push: Push, choice: Choice, page: str) -> dict[str, Any] | None:
    """What is posted; None when the template that was chosen is among the account's no more."""
    if choice.form is Way.CUSTOM:
        return {"touser": push.address, "msgtype": "text", "text": {"content": plain(push.delivery, MOST_TEXT_BYTES, page)}}
    template = template_of(push.endpoint, choice)
    if template is None:
        return None
    body: dict[str, Any] = {"touser": push.address, "template_id": template.id, "data": data(template, push.delivery)}
    if choice.form is Way.TEMPLATE:
        # The same on each retry: WeChat sends it once.
        body["client_msg_id"] = push.delivery.delivery_id
    if page:
        body["url" if choice.form is Way.TEMPLATE else "page"] = page
    return body


def template_of(endpoint: Endpoint, choice: Choice) -> Template | None:
    """The template of a choice as the endpoint's settings have it now."""
    known = templates(endpoint.settings.get("templates", ""), endpoint.settings.get("template_id", ""))
    return next((t for t in known if t.id == choice.template and t.form is choice.form), None)


def concluded(answer: Done | Outcome, choice: Choice) -> Outcome:
    """The outcome of a call. Where the window was closed already or the permission used up, another form may do."""
    if isinstance(answer, Done):
        return Accepted(str(answer.fields.get("msgid") or ""))
    if isinstance(answer, Refused) and choice.pays and answer.reason in (OUTSIDE_WINDOW, "no_permission"):
        return Retry(answer.reason, sent_perhaps=False)
    return answer
