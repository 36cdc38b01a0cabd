"""Trains the networks of a text model. Used by training processes only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.scoring.text.embedding import embeddings
from services.scoring.text.gradients import Adam, gradient
from services.scoring.text.network import WIDTH, Float32s, Network, Noise, sigmoid, softmax
from services.scoring.text.vocabulary import Encoded, Vocabulary, batched

# Chosen on four fifths of the public car comments, by folds within them.
CHARACTER_DIMENSIONS, PAIR_DIMENSIONS, FILTERS = 32, 64, 128
DROP_PLACES, DROP_FILTERS = 0.2, 0.5
RATE, WARM_UP, LAST_RATE = 4e-3, 0.05, 0.02
# So often a text is read together with another one, on other topics: the network has to look at the right half.
JOINED = 0.3
# Texts without topics per text with topics, each epoch drawn anew.
OTHERS = 0.5
EPOCHS, EPOCHS_WITHOUT_TOPICS = 12, 3
BATCH = 64
# Texts are trained on up to here, and read whole when served.
TRAINED_CHARACTERS = 128
WEIGHT_OF_WHOLE = 0.5

# A label that nobody gave.
NOT_SAID = 9
Labels = NDArray[np.int8]
Progress = Callable[[float], None]
Random = np.random.Generator
Vectors = tuple[Float32s, Float32s]


@dataclass(frozen=True)
class Lesson:
    """Texts with labels [n, t]: -1, 0, 1, or NOT_SAID; the last topic is the whole text.

    `topical`: whether a text was labelled by topics, so that a topic that is not named is absent and not unknown.
    """

    texts: Sequence[Encoded]
    labels: Labels
    topical: NDArray[np.bool_]


def vectors(vocabulary: Vocabulary, texts: Sequence[Encoded], seed: int = 0) -> Vectors:
    """First vectors of characters and pairs, from texts without their labels."""
    characters, pairs = vocabulary.sizes
    return (
        embeddings([text.characters for text in texts], characters, CHARACTER_DIMENSIONS, seed),
        embeddings([text.pairs for text in texts], pairs, PAIR_DIMENSIONS, seed),
    )


def fit(first: Vectors, lesson: Lesson, seed: int, progress: Progress) -> Network:
    """One network. Each epoch sees every topical text, and half as many of the others; all of them when none is topical."""
    random = np.random.default_rng(seed)
    network = _untrained(first, lesson.labels.shape[1], random)
    adam = Adam(network)
    topical, others = np.flatnonzero(lesson.topical), np.flatnonzero(~lesson.topical)
    drawn = min(len(others), int(OTHERS * len(topical))) if len(topical) else len(others)
    epochs = EPOCHS if len(topical) else EPOCHS_WITHOUT_TOPICS
    steps = epochs * (-(-len(topical) // BATCH) + -(-drawn // BATCH))
    done = 0
    for _ in range(epochs):
        for rows in _epoch(lesson, topical, random.permutation(others)[:drawn], random):
            done += 1
            share = done / steps
            rate = RATE * (min(1.0, share / WARM_UP) * (1 - share) + LAST_RATE)
            _learn(network, adam, lesson, rows, rate, random)
            if done % 20 == 0:
                progress(share)
    progress(1.0)
    return settled(network)


def settled(network: Network) -> Network:
    """Weights rounded to what an artefact keeps (half precision), so that served equals trained to the last bit."""
    return Network(**halved(network.arrays()))


def halved(arrays: Mapping[str, Float32s]) -> dict[str, Float32s]:
    """Arrays at half precision, by name."""
    return {name: weights.astype(np.float16).astype(np.float32) for name, weights in arrays.items()}


def _untrained(first: Vectors, topics: int, random: Random) -> Network:
    def normal(scale: float, *shape: int) -> Float32s:
        return (random.normal(size=shape) * scale).astype(np.float32)

    width = WIDTH * (first[0].shape[1] + first[1].shape[1])
    return Network(
        characters=first[0].copy(),
        pairs=first[1].copy(),
        filters=normal((2 / width) ** 0.5, width, FILTERS),
        filter_bias=np.zeros(FILTERS, np.float32),
        queries=normal(0.1, FILTERS, topics),
        topic_attended=normal(0.05, topics, FILTERS),
        topic_strongest=normal(0.05, FILTERS, topics),
        topic_bias=np.full(topics, -2, np.float32),
        feeling_attended=normal(0.05, FILTERS, 3),
        feeling_of_topic=np.zeros((topics, FILTERS, 3), np.float32),
        feeling_strongest=normal(0.05, FILTERS, 3),
        feeling_bias=np.zeros((topics, 3), np.float32),
    )


def _epoch(lesson: Lesson, topical: NDArray[np.intp], others: NDArray[np.intp], random: Random) -> Iterator[NDArray[np.intp]]:
    """Batches of texts of similar length and one kind of label, in random order."""
    batches = []
    for part in (topical, others):
        lengths = np.array([min(len(lesson.texts[i]), TRAINED_CHARACTERS) for i in part]) + random.random(len(part)) * 12
        rows = part[np.argsort(lengths, kind="stable")]
        batches += [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    for place in random.permutation(len(batches)):
        yield batches[place]


def _learn(network: Network, adam: Adam, lesson: Lesson, rows: NDArray[np.intp], rate: float, random: Random) -> None:
    heads, labels = _joined(lesson, rows, random)
    texts = batched(heads)
    noise = _noise(texts[0].shape, random)
    read = network.read(*texts, noise)
    said = labels != NOT_SAID
    asked = lesson.topical[rows][:, None] & (np.arange(labels.shape[1]) < labels.shape[1] - 1)
    topics = (sigmoid(read.topics) - said) * asked / len(rows)
    wanted = labels[:, :, None] == np.array([-1, 0, 1])
    weight = said.astype(np.float32)
    weight[:, -1] *= WEIGHT_OF_WHOLE
    feelings = (softmax(read.feelings) - wanted) * weight[:, :, None] / len(rows)
    adam.step(gradient(network, read, noise, texts, topics.astype(np.float32), feelings.astype(np.float32)), rate)


def _joined(lesson: Lesson, rows: NDArray[np.intp], random: Random) -> tuple[list[Encoded], Labels]:
    """Heads of texts and their labels, some of the topical ones joined with another that shares no topic with them."""
    topical = np.flatnonzero(lesson.topical)
    heads, labels = [lesson.texts[row].head(TRAINED_CHARACTERS) for row in rows], lesson.labels[rows]
    for place in np.flatnonzero(lesson.topical[rows] & (random.random(len(rows)) < JOINED)):
        other = topical[random.integers(len(topical))]
        added = lesson.labels[other]
        said = added[:-1] != NOT_SAID
        if (said & (labels[place, :-1] != NOT_SAID)).any():
            continue
        pair = [heads[place], lesson.texts[other].head(TRAINED_CHARACTERS)]
        first, second = pair if random.random() < 0.5 else reversed(pair)
        heads[place] = first.then(second)
        labels[place, :-1] = np.where(said, added[:-1], labels[place, :-1])
        labels[place, -1] = NOT_SAID
    return heads, labels


def _noise(shape: tuple[int, int], random: Random) -> Noise:
    def dropped(share: float, *size: int) -> Float32s:
        return ((random.random(size, dtype=np.float32) > share) / np.float32(1 - share)).astype(np.float32)

    texts, length = shape
    return Noise(
        dropped(DROP_PLACES, texts, length, 1), dropped(DROP_FILTERS, texts, FILTERS), dropped(DROP_FILTERS, texts, 1, FILTERS)
    )
