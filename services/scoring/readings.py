"""What a model says of persons, whatever its kind: a score, the probability behind it, and a class where there are classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.scoring.artefact import ServedModel
from services.scoring.domain import Floats, score_of
from services.scoring.frame import Matrix
from services.scoring.registry import Version


@dataclass(frozen=True)
class Readings:
    """Columns of equal length. `probabilities` of an uplift model are effects, -1 to 1; `labels` are empty without classes."""

    scores: Floats
    probabilities: Floats
    labels: Sequence[str]


def read(model: ServedModel, matrix: Matrix) -> Readings:
    """What a model says of rows."""
    probability = model.probability(matrix)
    return Readings(score_of(probability), probability, [""] * len(matrix))


def neutral(said: Readings, silent: NDArray[np.bool_], version: Version) -> Readings:
    """The same, with what is usual in place of what would be personal for those of whom nothing may be said."""
    if not silent.any():
        return said
    usual = np.where(silent, version.usual, said.probabilities)
    scores = np.where(silent, score_of(np.array([version.usual]))[0], said.scores)
    labels = ["" if quiet else label for quiet, label in zip(silent, said.labels, strict=True)]
    return Readings(scores, usual, labels)
