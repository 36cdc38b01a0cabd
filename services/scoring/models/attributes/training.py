"""Trees of several classes: the classes are the values of an attribute, the rows are persons who have told it."""

from __future__ import annotations

from services.scoring.learning import multiclass
from services.scoring.learning.cut import Cut, Progress, Trained


def train(cut: Cut, progress: Progress) -> Trained:
    """Trains on a cut whose classes are values of one attribute; whoever asked for it called `refuse_sensitive` before."""
    return multiclass.train(cut, progress)
