"""Next best offer: which of several offers would this person say yes to."""

from __future__ import annotations

from services.scoring.models.next_best_offer.card import LIMITS, PURPOSE
from services.scoring.models.specification import Foretells, Specification

SPECIFICATION = Specification(
    "next_best_offer", PURPOSE, LIMITS, "services.scoring.models.next_best_offer.training", Foretells.CLASS
)
