"""What a model says of persons, whatever its kind: a score, the probability behind it, and a class where there are classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.scoring.artefact import CLASS, EFFECT, PROBABILITY, ServedModel
from services.scoring.domain import Floats, effect_of, probability_of, score_of, uplift_score
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
    if model.kind == CLASS:
        shares = model.probabilities(matrix)
        likeliest = shares.argmax(axis=1) if len(matrix) else np.empty(0, np.int64)
        probability = shares[np.arange(len(matrix)), likeliest]
        return Readings(score_of(probability), probability, [model.classes[place] for place in likeliest.tolist()])
    probability = model.effect(matrix) if model.kind == EFFECT else model.probability(matrix)
    return Readings(_score(model.kind, probability), probability, [""] * len(matrix))


def scoring_as(model: ServedModel, row: Matrix) -> Callable[[Matrix], Floats]:
    """What scores other rows would have; by a model of classes, for the class that is the likeliest of this row."""
    if model.kind != CLASS:
        return lambda matrix: read(model, matrix).scores
    label = int(model.probabilities(row[None, :])[0].argmax())
    return lambda matrix: score_of(model.probabilities(matrix)[:, label])


def neutral(said: Readings, silent: NDArray[np.bool_], version: Version) -> Readings:
    """The same, with what is usual in place of what would be personal for those of whom nothing may be said."""
    if not silent.any():
        return said
    usual = np.where(silent, version.usual, said.probabilities)
    scores = np.where(silent, usual_score(version), said.scores)
    labels = ["" if quiet else label for quiet, label in zip(silent, said.labels, strict=True)]
    return Readings(scores, usual, labels)


def usual_score(version: Version) -> float:
    """The score of all of whom nothing may be said."""
    return float(_score(version.served.kind, np.array([version.usual]))[0])


def _score(kind: str, probability: Floats) -> Floats:
    if kind not in (PROBABILITY, EFFECT, CLASS):
        raise ValueError(kind)
    return uplift_score(probability) if kind == EFFECT else score_of(probability)


def probability_behind(kind: str, scores: Floats) -> Floats:
    """The probabilities, or of an uplift model the effects, that stored scores were made of."""
    return effect_of(scores) if kind == EFFECT else probability_of(scores)
