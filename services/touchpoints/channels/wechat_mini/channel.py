"""WeChat mini-program (CONVENTIONS 3.2): subscription messages, each bought with one yes of the person, and
customer-service messages within the time that the person opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chassis.db import Reader
from services.touchpoints.channels.contract import Lookup, Plan, Push
from services.touchpoints.channels.forms import Field, Form
from services.touchpoints.channels.wechat_service.channel import MOST_TEXT_BYTES, concluded, template_of, with_query
from services.touchpoints.domain.deliveries import Channel, Delivery, Outcome, Refused
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.wechat import accounts
from services.touchpoints.wechat.api import Api
from services.touchpoints.wechat.choice import Choice
from services.touchpoints.wechat.memory import FollowerMemory
from services.touchpoints.wechat.templates import Form as Way
from services.touchpoints.wechat.templates import data, plain

FORM = Form(
    accounts.APPID,
    settings=(
        accounts.TEMPLATES,
        accounts.WINDOW,
        Field("page", "the page behind a message, with its query", required=False),
        Field("version", "which version opens: formal, trial or developer", required=False, pattern="formal|trial|developer"),
    ),
    secrets=accounts.SECRETS,
    default_url="https://api.weixin.qq.com",
)
WAYS = frozenset({Way.SUBSCRIPTION, Way.CUSTOM})
PATHS = {Way.SUBSCRIPTION: "/cgi-bin/message/subscribe/send", Way.CUSTOM: "/cgi-bin/message/custom/send"}


class MiniProgramChannel:
    """All mini-programs that have an endpoint."""

    # Nothing by which WeChat would know a repeat: what may have arrived is not sent again.
    remembers_s = 0.0

    def __init__(self, api: Api, memory: FollowerMemory) -> None:
        self._api, self._memory = api, memory

    @property
    def memory(self) -> FollowerMemory:
        """Permissions and windows of users."""
        return self._memory

    async def credits(self, reader: Reader) -> Mapping[str, int]:
        """Messages that people said yes to, by endpoint."""
        return await self._memory.credits(reader, Channel.WECHAT_MINI)

    def forbids(self, delivery: Delivery) -> str:
        """Nothing here: the memory knows what the person permitted."""
        return ""

    def plan(self, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        """Each mini-program is asked for the persons it may know."""
        if not endpoints:
            return Plan(unroutable={d.delivery_id: "no_endpoint" for d in deliveries})
        return Plan([Lookup("openid", e.scope, tuple((d, e) for d in deliveries)) for e in endpoints])

    async def send(self, push: Push) -> Outcome:
        """One message in the form that the memory chose."""
        choice: Choice = push.grant
        body = _message(push, choice)
        if body is None:
            return Refused("template_gone")
        return concluded(await self._api.call(push.endpoint, PATHS[choice.form], body, push.delivery.attempts), choice)


def _message(push: Push, choice: Choice) -> dict[str, Any] | None:
    if choice.form is Way.CUSTOM:
        return {"touser": push.address, "msgtype": "text", "text": {"content": plain(push.delivery, MOST_TEXT_BYTES)}}
    template, settings = template_of(push.endpoint, choice), push.endpoint.settings
    if template is None:
        return None
    body = {
        "touser": push.address,
        "template_id": template.id,
        "miniprogram_state": settings.get("version", "formal"),
        "lang": "zh_CN",
        "data": data(template, push.delivery),
    }
    return body | ({"page": with_query(settings["page"], push.delivery)} if "page" in settings else {})
