"""Labelled texts in, a text model out.

Chosen by measurement within the training part of the public car comments (four fifths of 8,000): networks that look at
places and a regression on weighted n-grams find topics equally well and sentiment nearly so, and together better than
either; both gain from shop reviews, whose labels say nothing of topics. Also tried there, and not worth their code: a
pretrained multilingual sentence encoder (sentiment worse than n-grams, 300 texts/s), longer grams for topics, wider
windows, weighting sentiment's grams as topics' are, clauses instead of windows.
`python -m bench.models_text` prints both beside each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

from services.scoring.domain import TrainingRefused
from services.scoring.learning.cut import Trained
from services.scoring.models.feedback_text.rows import WHOLE, LabelledText, read_file
from services.scoring.text import fitting
from services.scoring.text.fitting import NOT_SAID, Labels, Lesson
from services.scoring.text.model import TextModel
from services.scoring.text.normalising import normalise
from services.scoring.text.packing import Trunk, pack
from services.scoring.text.regressing import regress
from services.scoring.text.regression import Grams, Regression
from services.scoring.text.vocabulary import Vocabulary

NETWORKS = 2
# Where pairs F1 is flat, by folds within the training part; no training tunes it on the rows that it measures.
THRESHOLD = 0.3
# What occurs so often is learnt; topical texts count threefold beside those that only have a sentiment.
CHARACTER_FLOOR, PAIR_FLOOR, TOPICAL_COUNTS = 4, 12, 3
MIN_TEXTS, MIN_OF_A_TOPIC = 200, 20
HELD_OUT = 0.2
BOOTSTRAPS = 500

Progress = Callable[[float], None]


def train_files(files: Sequence[Path], progress: Progress) -> Trained:
    """Trains on the labelled texts of files (see `rows`)."""
    return train_text([row for file in files for row in read_file(file)], progress)


def train_text(rows: Sequence[LabelledText], progress: Progress) -> Trained:
    """The artefact is of all rows; the metrics are of a fifth that one network of the rest had not seen, so a little low."""
    check(rows)
    held_out = np.random.default_rng(0).permutation(len(rows)) < HELD_OUT * len(rows)
    parts = 1 + NETWORKS
    seen, unseen = list(compress(rows, ~held_out)), list(compress(rows, held_out))
    metrics = measure(grow(seen, 1, lambda share: progress(share / parts)), unseen)
    trunk = grow(rows, NETWORKS, lambda share: progress((1 + share * NETWORKS) / parts))
    return Trained(pack(trunk), metrics)


def check(rows: Sequence[LabelledText]) -> None:
    """Refuses what nothing can be learnt from."""
    if not rows:
        raise TrainingRefused("EMPTY_CUT", "no labelled text")
    if len(rows) < MIN_TEXTS:
        raise TrainingRefused("TOO_FEW_TEXTS", f"{MIN_TEXTS} labelled texts are the least; {len(rows)} were given")
    sentiments = Counter(sentiment for row in rows for sentiment in row.opinions.values())
    if len(sentiments) < 2:
        raise TrainingRefused("CONSTANT_LABEL", "every text has the same sentiment")
    for topic, count in Counter(topic for row in rows for topic in row.opinions).items():
        if count < MIN_OF_A_TOPIC and topic != WHOLE:
            raise TrainingRefused("TOO_FEW_POSITIVES", f"a topic needs {MIN_OF_A_TOPIC} texts: {topic}")


def grow(rows: Sequence[LabelledText], networks: int, progress: Progress) -> Trunk:
    """Networks, each from its own seed, and a regression on all rows; the same rows make the same model."""
    normals = [normalise(row.text).characters for row in rows]
    topics = tuple(sorted({topic for row in rows for topic in row.opinions} - {WHOLE}))
    topical = np.array([any(topic != WHOLE for topic in row.opinions) for row in rows])
    weighed = [text for text, named in zip(normals, topical, strict=True) for _ in range(TOPICAL_COUNTS if named else 1)]
    vocabulary = Vocabulary.of(weighed, CHARACTER_FLOOR, PAIR_FLOOR)
    lesson = Lesson([vocabulary.encode(text) for text in normals], labels_of(rows, topics), topical)
    with threadpool_limits(1):
        first = fitting.vectors(vocabulary, lesson.texts)
        grown = tuple(
            fitting.fit(first, lesson, seed, lambda share, seed=seed: progress((seed + share) / networks))  # type: ignore[misc]
            for seed in range(networks)
        )
        grams, regression = _regression(rows, normals, topical, lesson.labels)
    return Trunk(topics, vocabulary, grown, regression, grams, THRESHOLD)


def _regression(
    rows: Sequence[LabelledText], normals: Sequence[str], topical: NDArray[np.bool_], labels: Labels
) -> tuple[Grams, Regression | None]:
    """Rounded as the networks are; without topics there is nothing to regress."""
    if not topical.any():
        return Grams(()), None
    sided = ~topical & (labels[:, -1] != 0)
    grams, regression = regress(
        list(compress(normals, topical)),
        labels[topical, :-1],
        list(compress(normals, sided)),
        labels[sided, -1],
    )
    return grams, Regression(**fitting.halved(regression.arrays()))


def labels_of(rows: Sequence[LabelledText], topics: Sequence[str]) -> Labels:
    """[n, topics + 1]; the whole of a text that only has topics is the side that most of its opinions are on."""
    places = {topic: place for place, topic in enumerate(topics)}
    labels = np.full((len(rows), len(topics) + 1), NOT_SAID, np.int8)
    for number, row in enumerate(rows):
        for topic, sentiment in row.opinions.items():
            labels[number, places.get(topic, len(topics))] = sentiment
        if WHOLE not in row.opinions:
            labels[number, -1] = np.sign(sum(row.opinions.values()))
    return labels


def measure(trunk: Trunk, rows: Sequence[LabelledText]) -> dict[str, float]:
    """Micro-F1 of (text, topic, sentiment) and of (text, topic), and how often praise and complaint are told apart."""
    model = TextModel(trunk)
    labels = labels_of(rows, trunk.topics)
    judged = model.judge([row.text for row in rows])
    metrics: dict[str, float] = {}
    topical = np.array([any(topic != WHOLE for topic in row.opinions) for row in rows])
    if topical.any():
        said = told(model, judged.topics[topical], judged.feelings[topical])
        metrics |= with_interval("pair_micro_f1", said, labels[topical, :-1])
        metrics["topic_micro_f1"] = micro_f1(said != NOT_SAID, labels[topical, :-1] != NOT_SAID)
    sided = ~topical & np.isin(labels[:, -1], (-1, 1))
    if sided.any():
        whole = judged.feelings[sided, -1]
        metrics["accuracy"] = float(((whole[:, 2] > whole[:, 0]) == (labels[sided, -1] == 1)).mean())
    return metrics


def told(model: TextModel, topics: NDArray[np.float32], feelings: NDArray[np.float32]) -> Labels:
    """What the model tells, as labels [n, topics] without the whole."""
    said = np.full((len(topics), len(model.topics)), NOT_SAID, np.int8)
    confidences = topics[:, :-1] * feelings[:, :-1].max(2)
    for text in range(len(topics)):
        for topic in model.told(confidences[text]):
            said[text, topic] = int(feelings[text, topic].argmax()) - 1
    return said


def micro_f1(said: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Of sets of cells."""
    return 2 * float((said & true).sum()) / max(float(said.sum() + true.sum()), 1.0)


def pair_f1(said: Labels, labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per text: twice the right pairs, and the pairs said plus the pairs true; micro-F1 is the quotient of their sums."""
    right = ((said == labels) & (labels != NOT_SAID)).sum(1)
    return 2 * right, (said != NOT_SAID).sum(1) + (labels != NOT_SAID).sum(1)


def with_interval(name: str, said: Labels, labels: Labels) -> dict[str, float]:
    """Micro-F1 of pairs with its 95 % interval by resampling texts."""
    above, below = pair_f1(said, labels)
    random = np.random.default_rng(0)
    draws = random.integers(0, len(said), (BOOTSTRAPS, len(said)))
    low, high = np.quantile(above[draws].sum(1) / np.maximum(below[draws].sum(1), 1), (0.025, 0.975))
    return {name: float(above.sum() / max(below.sum(), 1)), f"{name}_low": float(low), f"{name}_high": float(high)}
