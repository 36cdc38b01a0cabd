"""The models that scoring can train: one folder each, one line each in `MODELS`."""

from __future__ import annotations

from services.scoring.models import purchase_intent
from services.scoring.models.specification import Specification

MODELS: dict[str, Specification] = {purchase_intent.SPECIFICATION.name: purchase_intent.SPECIFICATION}
