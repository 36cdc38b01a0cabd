"""What a training is given, and what it makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.scoring.frame import Frame, Ids

Labels = NDArray[np.int32]
Flags = NDArray[np.bool_]
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Cut:
    """Persons at moments of the past: what was known of them then, and what they did afterwards.

    Every column of the frame is a feature. `labels` are indexes into `classes`. `moments` says when each row was cut,
    microseconds since the epoch, empty when all rows are of one moment. `treated`: who was pushed, where that was asked.
    """

    frame: Frame
    labels: Labels
    classes: tuple[str, ...] = ("no", "yes")
    moments: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    treated: Flags | None = None


@dataclass(frozen=True)
class Trained:
    """An artefact (see services/scoring/artefact.py), and its metrics on rows that it was not trained on."""

    artefact: bytes
    metrics: dict[str, float]
