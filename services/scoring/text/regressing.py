"""Fits a text model's regression. Used by training processes only.

A topic's grams are first weighted by how much oftener they come in its texts than in others (Wang & Manning 2012). What
texts that only have a side (praise or complaint) say of a gram enters the sentiment of topics as one more feature, for
the whole text and for the place, and is folded into the weights: what serves is one sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from services.scoring.text.fitting import NOT_SAID, Labels
from services.scoring.text.network import SENTIMENTS, Float32s
from services.scoring.text.regression import LONGEST, LONGEST_OF_TOPICS, Grams, Regression, root, within
from services.scoring.text.vocabulary import Numbers

# Chosen by folds within four fifths of the public car comments.
FLOOR = 2
PRIOR, TOPIC_STRENGTH, FEELING_STRENGTH, SIDE_STRENGTH = 0.5, 0.1, 1.0, 1.0
RARITY, MOST_RARITY, ANYWHERE, SIDE, TOPIC = 0.2, 9.0, 0.5, 0.3, 0.5
# Of a text that only has a side, so many characters are learnt from.
TRAINED_CHARACTERS = 200

# The margin of a sentiment that no text was given.
NEVER = -5.0

# Sparse, [texts, features].
Matrix: TypeAlias = Any
Float64s = NDArray[np.float64]


def grams_of(texts: Sequence[str]) -> tuple[Grams, Float64s]:
    """What occurs in at least FLOOR of normalised texts, and the logarithmic rarity of each, by number."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update({text[i : i + size] for size in range(1, LONGEST + 1) for i in range(len(text) - size + 1)})
    grams = Grams.of([word for word, count in counts.items() if count >= FLOOR])
    rarity = 1 + np.log((1 + len(texts)) / (1 + np.array([len(texts), *(counts[word] for word in grams.words)])))
    return grams, rarity


def regress(topical: Sequence[str], labels: Labels, sided: Sequence[str], sides: NDArray[np.int8]) -> tuple[Grams, Regression]:
    """From texts with labels by topic [n, t], and from texts that only have a side (-1 or 1), all normalised."""
    grams, rarity = grams_of(topical)
    numbers = [grams.numbers(text) for text in topical]
    topics, topic_bias = _topics(grams, numbers, labels != NOT_SAID)
    scale = RARITY * np.minimum(rarity, MOST_RARITY)
    side = _side([grams.numbers(text[:TRAINED_CHARACTERS]) for text in sided], sides, scale)
    unfelt = np.zeros((len(scale), len(SENTIMENTS)), np.float32)
    places = Regression(topics, topic_bias, unfelt, unfelt, np.zeros((labels.shape[1], len(SENTIMENTS)), np.float32))
    return grams, _feelings(places, numbers, labels, scale, side)


def _topics(grams: Grams, numbers: Sequence[Numbers], present: NDArray[np.bool_]) -> tuple[Float32s, Float32s]:
    matrix = _counted([np.unique(each[:, :LONGEST_OF_TOPICS]) for each in numbers], grams.of_topics)
    weights = np.zeros((grams.of_topics, present.shape[1]), np.float32)
    bias = np.zeros(present.shape[1], np.float32)
    for topic, about in enumerate(present.T):
        inside, outside = (PRIOR + np.asarray(matrix[rows].sum(0)).ravel() for rows in (about, ~about))
        telling = np.log(inside / inside.sum()) - np.log(outside / outside.sum())
        fitted, bias[topic] = _towards(matrix @ sp.diags(telling), about, TOPIC_STRENGTH)
        weights[:, topic] = telling * fitted
    weights[0] = 0
    return weights, bias


def _side(numbers: Sequence[Numbers], sides: NDArray[np.int8], scale: Float64s) -> Float64s:
    """Towards praise, by gram; zeros when no text has a side, or all the same."""
    if len(set(sides.tolist())) < 2:
        return np.zeros(len(scale))
    return _towards(_averaged(numbers, scale), sides > 0, SIDE_STRENGTH)[0]


def _feelings(places: Regression, numbers: Sequence[Numbers], labels: Labels, scale: Float64s, side: Float64s) -> Regression:
    """The regression with weights of sentiment; `places` knows where a topic is spoken of."""
    text, topic = np.nonzero(labels != NOT_SAID)
    windows = [places.window(each) for each in numbers]
    near = [within(numbers[i], windows[i].first[t], windows[i].last[t]) for i, t in zip(text.tolist(), topic, strict=True)]
    anywhere, around = _averaged(numbers, scale)[text] * ANYWHERE, _averaged(near, scale)
    named = sp.csr_matrix(np.eye(labels.shape[1])[topic] * TOPIC)
    sided = [sp.csr_matrix((SIDE * (part @ side))[:, None]) for part in (anywhere, around)]
    weights, bias = _margins(sp.hstack([anywhere, around, named, *sided]).tocsr(), labels[text, topic])
    of_anywhere, of_near, of_named, of_sides = np.split(weights, np.cumsum([len(scale), len(scale), labels.shape[1]]))
    return Regression(
        places.topics,
        places.topic_bias,
        (ANYWHERE * scale[:, None] * (of_anywhere + SIDE * np.outer(side, of_sides[0]))).astype(np.float32),
        (scale[:, None] * (of_near + SIDE * np.outer(side, of_sides[1]))).astype(np.float32),
        (bias + TOPIC * of_named).astype(np.float32),
    )


def _towards(matrix: Matrix, right: NDArray[np.bool_], strength: float) -> tuple[Float64s, float]:
    """Weights and bias of the log-odds; where all are alike, a bias alone."""
    if right.all() or not right.any():
        return np.zeros(matrix.shape[1]), float(np.log((right.sum() + PRIOR) / ((~right).sum() + PRIOR)))
    fitted = LogisticRegression(C=strength, solver="liblinear").fit(matrix, right)
    return fitted.coef_[0], float(fitted.intercept_[0])


def _margins(matrix: Matrix, said: NDArray[np.int8]) -> tuple[Float64s, Float64s]:
    """Weights [features, 3] and biases [3]; a sentiment that nobody gave is NEVER."""
    weights, bias = np.zeros((matrix.shape[1], len(SENTIMENTS))), np.full(len(SENTIMENTS), NEVER)
    given = np.searchsorted(SENTIMENTS, np.unique(said))
    bias[given] = 0
    if len(given) > 1:
        fitted = LogisticRegression(C=FEELING_STRENGTH, max_iter=150).fit(matrix, said)
        # Of two sentiments the log-odds of the second are given.
        halves = len(given) == 2
        weights[:, given] = (np.stack([-fitted.coef_[0], fitted.coef_[0]]) / 2 if halves else fitted.coef_).T
        bias[given] = np.array([-fitted.intercept_[0], fitted.intercept_[0]]) / 2 if halves else fitted.intercept_
    return weights, bias


def _counted(rows: Sequence[Numbers], size: int) -> Matrix:
    """Counts of numbers by text; number 0 does not count."""
    kept = [row[row > 0] for row in rows]
    ends = np.cumsum([0, *map(len, kept)])
    matrix = sp.csr_matrix((np.ones(ends[-1]), np.concatenate(kept), ends), shape=(len(rows), size))
    matrix.sum_duplicates()
    return matrix


def _averaged(numbers: Sequence[Numbers], scale: Float64s) -> Matrix:
    matrix = _counted([each.ravel() for each in numbers], len(scale))
    return (sp.diags(1 / root(np.asarray(matrix.sum(1)).ravel())) @ matrix @ sp.diags(scale)).tocsr()
