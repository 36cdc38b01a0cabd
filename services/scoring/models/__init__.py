"""The models that scoring can train: one folder each, one line each in `MODELS`."""

from __future__ import annotations

from services.scoring.models import attributes, churn, dormant_wake_up, next_best_offer, purchase_intent, repurchase, uplift
from services.scoring.models.specification import Specification

_ALL = (
    *attributes.SPECIFICATIONS,
    churn.SPECIFICATION,
    dormant_wake_up.SPECIFICATION,
    next_best_offer.SPECIFICATION,
    purchase_intent.SPECIFICATION,
    repurchase.SPECIFICATION,
    uplift.SPECIFICATION,
)
MODELS: dict[str, Specification] = {specification.name: specification for specification in _ALL}
