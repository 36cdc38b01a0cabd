"""Purchase intent: will this person say yes to the offer."""

from __future__ import annotations

from services.scoring.models.purchase_intent.card import LIMITS, PURPOSE
from services.scoring.models.specification import Specification

SPECIFICATION = Specification("purchase_intent", PURPOSE, LIMITS, "services.scoring.models.purchase_intent.training")
