"""Dormant wake-up: will this silent customer come back when spoken to."""

from __future__ import annotations

from services.scoring.models.dormant_wake_up.card import LIMITS, PURPOSE
from services.scoring.models.specification import Specification

SPECIFICATION = Specification("dormant_wake_up", PURPOSE, LIMITS, "services.scoring.models.dormant_wake_up.training")
