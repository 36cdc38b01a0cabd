"""Purchase intent: will this person say yes to the offer."""

from __future__ import annotations

from services.scoring.models.purchase_intent.card import PURPOSE
from services.scoring.models.purchase_intent.features import FEATURES
from services.scoring.models.specification import Specification

SPECIFICATION = Specification("purchase_intent", PURPOSE, FEATURES, "services.scoring.models.purchase_intent.training")
