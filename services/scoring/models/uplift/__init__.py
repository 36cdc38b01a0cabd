"""Uplift: whom a push moves, not who would say yes anyway."""

from __future__ import annotations

from services.scoring.models.specification import Foretells, Specification
from services.scoring.models.uplift.card import LIMITS, PURPOSE

SPECIFICATION = Specification("uplift", PURPOSE, LIMITS, "services.scoring.models.uplift.training", Foretells.EFFECT)
