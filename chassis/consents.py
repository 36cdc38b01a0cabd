"""Consent regimes: what must have been said before data may be used, as planner and sender must both understand it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

# Allowed until withdrawn; only once given; only once given by itself (PIPL 23, 25, 26, 29, 39).
OPT_OUT, OPT_IN, SEPARATE = "opt_out", "opt_in", "separate"
REGIMES = (OPT_OUT, OPT_IN, SEPARATE)
# Purposes of messages: what somebody means who unsubscribes and names no purpose.
MESSAGES = ("marketing", "service")
SHARING, DEALER = "dealer_sharing", "dealer"
# To be told apart by what is known of one.
PERSONALISATION = "personalisation"
ALL_CHANNELS = "all"

DEFAULT_REGIMES: Mapping[str, str] = {
    "marketing": OPT_IN,
    "marketing/app": OPT_OUT,
    "marketing/wechat": OPT_OUT,
    "marketing/dealer": OPT_OUT,
    "marketing/car": SEPARATE,
    "marketing/ads": SEPARATE,
    "service": OPT_OUT,
    # The law wants separate consent before a dealer learns of anybody; records that carry none would leave dealers without
    # leads, so that whoever has asked for it says so here.
    SHARING: OPT_OUT,
}


def _table(given: dict[str, str]) -> dict[str, str]:
    for use, regime in given.items():
        if not re.fullmatch("[a-z_]+(/[a-z]+)?", use):
            raise ValueError(f"{use!r} is no purpose and no purpose/channel")
        if regime not in REGIMES:
            raise ValueError(f"{use}: must be one of {', '.join(REGIMES)}")
    return given


# Purpose, or purpose/channel, to regime.
RegimeTable = Annotated[dict[str, str], AfterValidator(_table)]


def regime(table: Mapping[str, str], purpose: str, channel: str) -> str:
    """The regime of a use: that of purpose and channel, else of the purpose, else the strictest."""
    return table.get(f"{purpose}/{channel}", table.get(purpose, SEPARATE))


def uses(purpose: str, channel: str) -> tuple[str, ...]:
    """What a push of this purpose through this channel uses data for: a lead tells a dealer of somebody, too."""
    return (purpose, SHARING) if channel == DEALER else (purpose,)
