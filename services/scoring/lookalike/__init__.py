"""Who is like these people: seeds in, everybody else ranked, with the tags that explain it. No database, no gRPC."""

from __future__ import annotations

from services.scoring.lookalike.choosing import TagTerm, choose_tags
from services.scoring.lookalike.likenesses import Likeness
from services.scoring.lookalike.model import BASE_SAMPLE, MIN_SEEDS, LookalikeModel, learn, similarity

__all__ = [
    "BASE_SAMPLE",
    "MIN_SEEDS",
    "Likeness",
    "LookalikeModel",
    "TagTerm",
    "choose_tags",
    "learn",
    "similarity",
]
