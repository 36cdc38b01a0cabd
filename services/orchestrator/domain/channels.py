"""The channels that a push may take, as names, codes and bits of a mask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.orchestrator.domain.themes import MARKETING

# Eight bits: one byte for each person.
Bits = NDArray[np.uint8]

CHANNELS: Final = ("app", "wechat", "dealer", "wechat_mini", "wecom", "sms", "push", "call_list")
APP, WECHAT, DEALER, WECHAT_MINI, WECOM, SMS, NOTIFICATION, CALL_LIST = range(8)
NO_CHANNEL_CODE = -1
CHANNEL_BITS: Final = {name: 1 << code for code, name in enumerate(CHANNELS)}
APP_BIT, WECHAT_BIT, DEALER_BIT = 1 << APP, 1 << WECHAT, 1 << DEALER
ALL_BITS = (1 << len(CHANNELS)) - 1

# Channels by what people allow or forbid, in identity's words: nobody thinks of a mini-program apart from WeChat, or of a
# notification apart from the app that shows it.
CONSENT_BITS: Final[Mapping[str, int]] = {
    "app": APP_BIT | 1 << NOTIFICATION,
    "wechat": WECHAT_BIT | 1 << WECHAT_MINI | 1 << WECOM,
    "dealer": DEALER_BIT,
    "sms": 1 << SMS,
    "phone": 1 << CALL_LIST,
}
# Templates must not carry marketing (CONVENTIONS 3.2 and trap 11): an account that advertises by them is closed.
SERVICE_ONLY: Final = frozenset({"wechat", "wechat_mini"})
# Each takes the time of somebody who speaks to the person: an advisor of her dealer, or the call centre.
PERSONAL: Final = frozenset({DEALER, WECOM, CALL_LIST})
# Whose time it is where no dealer serves the person. No dealer's code begins like this.
CALL_CENTER, ADVISORS = "@call_center", "@advisors"


def may_carry(purpose: str) -> int:
    """Channels for a purpose."""
    return ALL_BITS & ~mask_of(SERVICE_ONLY) if purpose == MARKETING else ALL_BITS


def desk(channel: int, dealer: str) -> str:
    """Whose time a personal channel takes for somebody whom a dealer (empty: none) serves."""
    return CALL_CENTER if channel == CALL_LIST else dealer or ADVISORS


def mask_of(names: Iterable[str]) -> int:
    """The bits of some channels."""
    return sum(CHANNEL_BITS[name] for name in set(names))


def names_of(mask: int) -> str:
    """The channels of a mask in words."""
    return ", ".join(name for code, name in enumerate(CHANNELS) if mask >> code & 1) or "none"
