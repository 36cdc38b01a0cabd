"""Attributes: what most probably is true of a person who has not said so, one model for each attribute."""

from __future__ import annotations

from chassis.consents import OPT_IN
from services.scoring.models.attributes.card import LIMITS, PURPOSE
from services.scoring.models.attributes.refusing import refuse_sensitive
from services.scoring.models.specification import Foretells, Specification

_TRAINING = "services.scoring.models.attributes.training"

# What may be inferred. Another attribute is one more name here; `refuse_sensitive` guards the tag that it is learnt from.
NAMES = ("age_band", "household_stage")
SPECIFICATIONS = tuple(
    Specification(f"inferred_{name}", PURPOSE.format(name=name), LIMITS, _TRAINING, Foretells.CLASS, OPT_IN) for name in NAMES
)

__all__ = ["NAMES", "SPECIFICATIONS", "refuse_sensitive"]
