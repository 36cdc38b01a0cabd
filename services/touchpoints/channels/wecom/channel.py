"""WeCom (CONVENTIONS 3.7): a task about a customer for those who serve them, as an app message to employees."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import orjson

from services.touchpoints.channels.contract import Lookup, Plan, Push
from services.touchpoints.channels.forms import CODE, Field, Form
from services.touchpoints.domain.deliveries import Accepted, Delivery, Outcome, Refused
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.vault import Vault
from services.touchpoints.wechat import accounts
from services.touchpoints.wechat.api import Api, Done
from services.touchpoints.wechat.errors import BAD_ADDRESS
from services.touchpoints.wechat.templates import plain
from services.touchpoints.wechat.tokens import account

log = logging.getLogger(__name__)

# Employees as WeCom writes them: "zhangsan|lisi".
_USERS = re.compile(r"[\w.@-]{1,64}(\|[\w.@-]{1,64}){0,99}")
MOST_TEXT_BYTES = 2048
DUPLICATE_CHECK_S = 1800


@lru_cache(maxsize=256)
def advisors(document: str) -> Mapping[str, str]:
    """Employees by dealer code; raises ValueError saying what is wrong."""
    try:
        given = orjson.loads(document or "{}")
    except orjson.JSONDecodeError as error:
        raise ValueError("must be JSON") from error
    if not isinstance(given, dict):
        raise ValueError("must be an object of dealer codes and their employees")
    for code, users in given.items():
        if not re.fullmatch(CODE, code) or not isinstance(users, str) or not _USERS.fullmatch(users):
            raise ValueError(f"{code}: must be a dealer code with its employees, divided by |")
    return given


def _wrong(document: str) -> str:
    try:
        advisors(document)
    except ValueError as error:
        return str(error)
    return ""


FORM = Form(
    Field("scope", "the corpid", pattern=CODE),
    settings=(
        Field("agent_id", "the AgentId of the app that writes", pattern="[0-9]{1,10}"),
        Field(
            "advisors",
            'a JSON object of dealer codes and who serves their customers, for example {"D001": "zhangsan|lisi"}',
            required=False,
            pattern=".{1,16000}",
            check=_wrong,
        ),
        Field("default_users", "employees for customers without a dealer here", required=False, pattern=_USERS.pattern),
    ),
    secrets=(
        Field("corp_secret", "the Secret of the app, which buys tokens"),
        # Only who wants to hear of contacts needs them, and WeCom knows no callbacks in clear.
        *(replace(field, required=False) for field in accounts.CALLBACK_SECRETS),
    ),
    default_url="https://qyapi.weixin.qq.com",
)


class WecomChannel:
    """All corporations that have an endpoint; the first that has somebody for the customer takes the task."""

    memory = None
    # WeCom drops a text that it had within half an hour; a task's text is its own.
    remembers_s = DUPLICATE_CHECK_S - 60.0

    def __init__(self, api: Api, vault: Vault) -> None:
        self._api, self._vault = api, vault

    def forbids(self, delivery: Delivery) -> str:
        """Nothing beyond consent."""
        return ""

    def plan(self, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        """Customers who are contacts there, else whoever has a number; nothing of either leaves this house."""
        routes = {d.delivery_id: next((e for e in endpoints if _users(e, d)), None) for d in deliveries}
        plan = Plan(unroutable={name: "no_advisor" for name, endpoint in routes.items() if endpoint is None})
        for endpoint in endpoints:
            if theirs := tuple((d, endpoint) for d in deliveries if routes[d.delivery_id] is endpoint):
                plan.lookups += [Lookup("crm_id", account(endpoint), theirs), Lookup("mobile", "", theirs)]
        return plan

    async def send(self, push: Push) -> Outcome:
        """One text. Its words are the same on each retry, which is how WeCom knows a repeat."""
        endpoint, delivery = push.endpoint, push.delivery
        reference = self._vault.reference(account(endpoint), delivery.person_id)
        about = [*delivery.reasons[:5], f"{reference} {delivery.delivery_id}"]
        users = _users(endpoint, delivery)
        body = {
            "touser": users,
            "msgtype": "text",
            "agentid": int(endpoint.settings["agent_id"]),
            "text": {"content": plain(delivery, MOST_TEXT_BYTES, "\n".join(about))},
            "safe": 0,
            "enable_duplicate_check": 1,
            "duplicate_check_interval": DUPLICATE_CHECK_S,
        }
        answer = await self._api.call(endpoint, "/cgi-bin/message/send", body, delivery.attempts)
        if not isinstance(answer, Done):
            return answer
        unknown = {user for user in str(answer.fields.get("invaliduser") or "").lower().split("|") if user}
        if unknown:
            log.warning("employees that WeCom does not know", extra={"endpoint": endpoint.name, "count": len(unknown)})
        if unknown >= set(users.lower().split("|")):
            # Errcode 0, and nobody got it.
            return Refused(BAD_ADDRESS)
        return Accepted(str(answer.fields.get("msgid") or ""))


def _users(endpoint: Endpoint, delivery: Delivery) -> str:
    known = advisors(endpoint.settings.get("advisors", ""))
    return known.get(delivery.dealer_code) or endpoint.settings.get("default_users", "")
