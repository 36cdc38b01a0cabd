"""The blend of effect learners, on persons of whom chance decided who was pushed."""

from __future__ import annotations

from services.scoring.learning import uplift
from services.scoring.learning.cut import Cut, Progress, Trained


def train(cut: Cut, progress: Progress) -> Trained:
    """Trains on a randomised push; see `uplift` for what is refused."""
    return uplift.train(cut, progress)
