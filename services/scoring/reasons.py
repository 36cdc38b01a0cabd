"""Why a score is what it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.scoring.artefact import ServedModel
from services.scoring.domain import score_of
from services.scoring.frame import Matrix


@dataclass(frozen=True)
class Reason:
    """What one tag does to a score: the points that would be lost if it were unknown (negative: won)."""

    tag: str
    value: str
    points: float


def explain(model: ServedModel, row: Matrix) -> tuple[float, list[Reason]]:
    """The score of one row, and a reason for each known feature, the largest gain first.

    Ablation of one feature at a time by the served model itself: exact for that question, but features that say the
    same thing share their points, so the points do not add up to the score.
    """
    known = np.flatnonzero(~np.isnan(row))
    rows = np.repeat(row[None, :], len(known) + 1, axis=0)
    rows[np.arange(len(known)) + 1, known] = np.nan
    scores = score_of(model.probability(rows))
    reasons = []
    for place, without in zip(known.tolist(), scores[1:].tolist(), strict=True):
        encoding = model.encodings[place]
        reasons.append(Reason(encoding.feature.tag, encoding.in_words(float(row[place])), float(scores[0]) - without))
    return float(scores[0]), sorted(reasons, key=lambda reason: (-reason.points, reason.tag))
