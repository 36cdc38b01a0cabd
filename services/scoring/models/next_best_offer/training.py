"""Trees of several classes: the classes are offers, the rows are persons who accepted one."""

from __future__ import annotations

from services.scoring.learning import multiclass
from services.scoring.learning.cut import Cut, Progress, Trained


def train(cut: Cut, progress: Progress) -> Trained:
    """Trains on a cut whose classes are offers; see `multiclass` for what becomes of offers that few accepted."""
    return multiclass.train(cut, progress)
