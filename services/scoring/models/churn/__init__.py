"""Churn: will this customer leave."""

from __future__ import annotations

from services.scoring.models.churn.card import LIMITS, PURPOSE
from services.scoring.models.specification import Specification

SPECIFICATION = Specification("churn", PURPOSE, LIMITS, "services.scoring.models.churn.training")
