"""Notices to dealers for tests that call the room's functions themselves."""

from __future__ import annotations

from chassis.consents import DEFAULT_REGIMES
from services.touchpoints.channels.dealer.notices import DealerNotices
from services.touchpoints.vault import Vault

NOTICES = DealerNotices(Vault(bytes(32)), DEFAULT_REGIMES)
