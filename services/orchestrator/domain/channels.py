"""The channels that a push may take, as names, codes and bits of a mask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.orchestrator.domain.themes import MARKETING

Bits = NDArray[np.uint8]

CHANNELS: Final = ("app", "wechat", "dealer")
APP, WECHAT, DEALER = 0, 1, 2
NO_CHANNEL_CODE = -1
APP_BIT, WECHAT_BIT, DEALER_BIT = 1, 2, 4
CHANNEL_BITS: Final = {"app": APP_BIT, "wechat": WECHAT_BIT, "dealer": DEALER_BIT}
ALL_BITS = APP_BIT | WECHAT_BIT | DEALER_BIT


def may_carry(purpose: str) -> int:
    """Channels for a purpose: WeChat template messages must not carry marketing (CONVENTIONS trap 11)."""
    return ALL_BITS & ~WECHAT_BIT if purpose == MARKETING else ALL_BITS


def mask_of(names: Iterable[str]) -> int:
    """The bits of some channels."""
    return sum(CHANNEL_BITS[name] for name in set(names))


def names_of(mask: int) -> str:
    """The channels of a mask in words."""
    return ", ".join(name for code, name in enumerate(CHANNELS) if mask >> code & 1) or "none"
