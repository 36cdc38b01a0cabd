"""What a score means, and which trainings are refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# 500 points stand for these odds. One in thirteen: the usual answer to a call that nobody chose carefully.
ODDS_AT_500 = 1 / 12
MIN_OF_EACH_CLASS = 50
# A push that adds this much to the probability stands for 750 points: two more of a hundred say yes because of it.
EFFECT_AT_750 = 0.02


class TrainingRefused(Exception):
    """A training that can never succeed on this input; `reason` is UPPER_SNAKE, `detail` says in words what is meant.

    Both go into the operation's record: `detail` names tags, never persons or their values.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class PersonScore:
    """One score as it was computed: 0 to 1000, with the probability behind it and the newest event behind its features.

    `label`: the likeliest class, of models of classes; empty where none may be told.
    """

    person_id: int
    score: float
    probability: float
    received_at_us: int = 0
    label: str = ""


def score_of(probability: Floats) -> Floats:
    """1000 * odds / (odds + 1/12), written without a division by zero at probability 1."""
    return 1000 * probability / (probability + ODDS_AT_500 * (1 - probability))


def probability_of(score: Floats) -> Floats:
    """The inverse of `score_of`."""
    return ODDS_AT_500 * score / (1000 - score + ODDS_AT_500 * score)


def uplift_score(effect: Floats) -> Floats:
    """500 + 500 * effect / (|effect| + 0.02), of an effect of -1 to 1: 500 is no effect, below it a push does harm."""
    return 500 + 500 * effect / (np.abs(effect) + EFFECT_AT_750)


def effect_of(score: Floats) -> Floats:
    """The inverse of `uplift_score`."""
    part = (score - 500) / 500
    return np.asarray(EFFECT_AT_750 * part / (1 - np.abs(part)))


_STRING = re.compile(r"'(?:[^']|'')*'")
_WORD = re.compile(r'"([^"]+)"|([A-Za-z_]\w*)')


def words_of(predicate: str) -> frozenset[str]:
    """Every word of a predicate that may name a tag: lower case, without what stands in string literals."""
    return frozenset((quoted or bare).lower() for quoted, bare in _WORD.findall(_STRING.sub("''", predicate)))


def leaking_features(predicates: Iterable[str], expressions: Mapping[str, str], features: Iterable[str]) -> list[str]:
    """Features that decide, directly or through business tags (name to expression), who is in the cut or who did it.

    Such a feature would let the model read the answer off the question.
    """
    seen: set[str] = set()
    fresh = {word for predicate in predicates for word in words_of(predicate)}
    while fresh:
        seen |= fresh
        fresh = {word for name in fresh if name in expressions for word in words_of(expressions[name])} - seen
    return sorted(seen & {feature.lower() for feature in features})


def check_labels(labels: NDArray[np.bool_]) -> None:
    """Refuses a cut from which nothing can be learnt: each class needs fifty persons."""
    positives = int(labels.sum())
    if len(labels) == 0:
        raise TrainingRefused("EMPTY_CUT")
    if positives in (0, len(labels)):
        raise TrainingRefused("CONSTANT_LABEL")
    if positives < MIN_OF_EACH_CLASS:
        raise TrainingRefused("TOO_FEW_POSITIVES")
    if len(labels) - positives < MIN_OF_EACH_CLASS:
        raise TrainingRefused("TOO_FEW_NEGATIVES")
