"""The channels, by the number they have in the contract."""

from __future__ import annotations

from collections.abc import Mapping

from services.touchpoints.channels.app.channel import AppChannel
from services.touchpoints.channels.contract import Channel
from services.touchpoints.channels.dealer.channel import DealerChannel
from services.touchpoints.channels.http import Caller
from services.touchpoints.channels.wechat.channel import WechatChannel
from services.touchpoints.domain import deliveries
from services.touchpoints.settings import Settings
from services.touchpoints.vault import Vault


def all_channels(settings: Settings, caller: Caller, vault: Vault) -> Mapping[deliveries.Channel, Channel]:
    """Every channel, ready to send."""
    return {
        deliveries.Channel.APP: AppChannel(caller, settings.app_source),
        deliveries.Channel.WECHAT: WechatChannel(caller, settings.message_page_url),
        deliveries.Channel.DEALER: DealerChannel(
            caller, vault, settings.public_url, settings.contact_hours, settings.default_dealer_endpoint
        ),
    }
