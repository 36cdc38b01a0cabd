"""What is refused before anything is learnt from it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from services.scoring.domain import TrainingRefused
from services.scoring.learning.cut import Cut
from services.scoring.learning.leaks import find_leaks

# A suspicion of no more strength than this has no figures behind it (see `leaks`).
ONLY_ITS_NAME = 0.3
MOST_CLASSES = 3


def refuse_leaks(cut: Cut, trusted: Collection[str]) -> None:
    """Refuses a cut with columns that look as if they had been filled in after the outcome, unless somebody vouches for them.

    In a cut of the past (with moments) all is as it was then, whatever a column's name says; what its values say counts
    there, too, because events may have been dated back.
    """
    past = len(cut.moments) > 0
    found = {
        suspicion.column: suspicion.why
        for place in _outcomes(cut)
        for suspicion in find_leaks(replace(cut, labels=(cut.labels == place).astype(np.int32), classes=("no", "yes")))
        if suspicion.column not in trusted and not (past and suspicion.strength <= ONLY_ITS_NAME)
    }
    if found:
        said = "; ".join(f"{column}: {why}" for column, why in sorted(found.items()))
        raise TrainingRefused("FEATURE_LEAK", f"{said}. Leave them out, or name them in trusted_features if you know better")


def _outcomes(cut: Cut) -> list[int]:
    """What to look for signs of: that it was done, or each of the most frequent classes."""
    if len(cut.classes) == 2:
        return [1]
    counts = np.bincount(cut.labels, minlength=len(cut.classes))
    return [int(place) for place in np.argsort(-counts, kind="stable")[:MOST_CLASSES] if counts[place] > 0]
