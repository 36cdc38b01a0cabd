"""The table of channels: what an endpoint of each consists of, and how the channel is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from chassis.db import Database
from services.touchpoints.channels.ads import channel as ads
from services.touchpoints.channels.app import channel as app
from services.touchpoints.channels.call_list import channel as call_list
from services.touchpoints.channels.contract import Channel, Plan, Push
from services.touchpoints.channels.dealer import channel as dealer
from services.touchpoints.channels.forms import Form
from services.touchpoints.channels.http import Caller
from services.touchpoints.channels.http2 import Http2
from services.touchpoints.channels.push import channel as push
from services.touchpoints.channels.sms import channel as sms
from services.touchpoints.channels.wechat_mini import channel as wechat_mini
from services.touchpoints.channels.wechat_service import channel as wechat_service
from services.touchpoints.channels.wecom import channel as wecom
from services.touchpoints.domain import deliveries
from services.touchpoints.domain.deliveries import Delivery, Outcome, Refused
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.optouts.links import Links
from services.touchpoints.settings import Settings
from services.touchpoints.vault import Vault
from services.touchpoints.wechat.api import Api
from services.touchpoints.wechat.errors import RULES, WECOM_RULES, Rules
from services.touchpoints.wechat.memory import FollowerMemory
from services.touchpoints.wechat.tokens import Tokens


@dataclass(frozen=True)
class Parts:
    """What channels are made of."""

    settings: Settings
    caller: Caller
    http2: Http2
    vault: Vault
    database: Database


@dataclass(frozen=True)
class Row:
    """One channel."""

    form: Form
    make: Callable[[Parts], Channel]


def _wechat(parts: Parts, rules: Rules = RULES) -> Api:
    return Api(parts.caller, Tokens(parts.database, parts.vault, parts.caller), rules)


TABLE: Mapping[deliveries.Channel, Row] = {
    deliveries.Channel.APP: Row(
        app.FORM, lambda p: app.AppChannel(p.caller, p.settings.app_source, Links(p.vault, p.settings.public_url))
    ),
    deliveries.Channel.WECHAT: Row(
        wechat_service.FORM,
        lambda p: wechat_service.WechatChannel(
            _wechat(p), FollowerMemory(p.vault, wechat_service.WAYS), p.settings.message_page_url
        ),
    ),
    deliveries.Channel.WECOM: Row(wecom.FORM, lambda p: wecom.WecomChannel(_wechat(p, WECOM_RULES), p.vault)),
    deliveries.Channel.WECHAT_MINI: Row(
        wechat_mini.FORM, lambda p: wechat_mini.MiniProgramChannel(_wechat(p), FollowerMemory(p.vault, wechat_mini.WAYS))
    ),
    deliveries.Channel.DEALER: Row(
        dealer.FORM,
        lambda p: dealer.DealerChannel(
            p.caller, p.vault, p.settings.public_url, p.settings.contact_hours, p.settings.default_dealer_endpoint
        ),
    ),
    deliveries.Channel.CALL_LIST: Row(call_list.FORM, lambda _: call_list.CallListChannel()),
    deliveries.Channel.SMS: Row(sms.FORM, lambda p: sms.SmsChannel(p.caller)),
    deliveries.Channel.ADS: Row(ads.FORM, lambda p: ads.AdsChannel(p.caller, p.vault)),
    deliveries.Channel.PUSH: Row(push.FORM, lambda p: push.PushChannel(p.caller, p.http2, p.vault, p.settings.app_source)),
}


class Absent:
    """A channel of the contract without a row in the table: nothing goes there, whoever asks."""

    memory = None
    remembers_s = 0.0

    def forbids(self, delivery: Delivery) -> str:
        """No rule: there is nobody to make one."""
        return ""

    def plan(self, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        """There can be no endpoint, so that what has another channel to fall back to takes it."""
        return Plan(unroutable={d.delivery_id: "no_endpoint" for d in deliveries})

    async def send(self, push: Push) -> Outcome:
        """Refuses; nothing is ever planned to come here."""
        return Refused("no_endpoint")


def all_channels(parts: Parts) -> Mapping[deliveries.Channel, Channel]:
    """Every channel of the contract, ready to send."""
    return {number: TABLE[number].make(parts) if number in TABLE else Absent() for number in deliveries.Channel}
