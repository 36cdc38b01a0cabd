"""Repurchase: will this owner buy again."""

from __future__ import annotations

from services.scoring.models.repurchase.card import LIMITS, PURPOSE
from services.scoring.models.specification import Specification

SPECIFICATION = Specification("repurchase", PURPOSE, LIMITS, "services.scoring.models.repurchase.training")
