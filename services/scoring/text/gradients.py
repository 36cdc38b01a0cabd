"""How a network learns: the gradient of its losses by hand, and Adam. Used by training processes only."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from services.scoring.text.network import WIDTH, Float32s, Network, Noise, Pass
from services.scoring.text.vocabulary import Numbers

BETA1, BETA2, TINY = 0.9, 0.999, 1e-7


@dataclass(frozen=True)
class Gradient:
    """Of every weight; those of characters and pairs only for the rows that occurred."""

    dense: dict[str, Float32s]
    rows: dict[str, tuple[Numbers, Float32s]]


def gradient(
    network: Network, read: Pass, noise: Noise, texts: tuple[Numbers, Numbers], topics: Float32s, feelings: Float32s
) -> Gradient:
    """From the gradients of a loss with respect to `read.topics` and `read.feelings`."""
    count, length, filters = read.saw.shape
    of_whole = feelings.sum(1)
    by_topic = feelings.transpose(1, 0, 2)
    attended = topics[:, :, None] * network.topic_attended + feelings @ network.feeling_attended.T
    attended += np.matmul(by_topic, network.feeling_of_topic.transpose(0, 2, 1)).transpose(1, 0, 2)
    attended *= noise.attended
    strongest = (topics @ network.topic_strongest.T + of_whole @ network.feeling_strongest.T) * noise.strongest
    gaze = read.saw @ attended.transpose(0, 2, 1)
    gaze = read.gaze * (gaze - (read.gaze * gaze).sum(1, keepdims=True))
    saw = read.gaze @ attended + gaze @ network.queries.T
    each_text, each_filter = np.indices((count, filters), sparse=True)
    saw[each_text, read.where, each_filter] += strongest
    saw = (saw * (read.saw > 0)).reshape(count * length, filters)
    seen = (saw @ network.filters.T).reshape(count, length, -1)
    dense = {
        "topic_bias": topics.sum(0),
        "topic_attended": (topics[:, :, None] * read.attended).sum(0),
        "topic_strongest": read.strongest.T @ topics,
        "feeling_bias": feelings.sum(0),
        "feeling_attended": read.attended.reshape(-1, filters).T @ feelings.reshape(-1, feelings.shape[2]),
        "feeling_of_topic": np.matmul(read.attended.transpose(1, 2, 0), by_topic),
        "feeling_strongest": read.strongest.T @ of_whole,
        "queries": read.saw.reshape(-1, filters).T @ gaze.reshape(-1, gaze.shape[2]),
        "filters": read.seen.reshape(count * length, -1).T @ saw,
        "filter_bias": saw.sum(0),
    }
    places = (_unneighboured(seen) * read.kept).reshape(count * length, -1)
    cut = network.characters.shape[1]
    return Gradient(dense, {"characters": _by_row(texts[0], places[:, :cut]), "pairs": _by_row(texts[1], places[:, cut:])})


def _unneighboured(seen: Float32s) -> Float32s:
    """The transpose of `network.neighbours`."""
    texts, length, wide = seen.shape
    width, around = wide // WIDTH, WIDTH // 2
    padded = np.zeros((texts, length + WIDTH - 1, width), np.float32)
    for i in range(WIDTH):
        padded[:, i : i + length] += seen[:, :, i * width : (i + 1) * width]
    return padded[:, around : around + length]


def _by_row(numbers: Numbers, places: Float32s) -> tuple[Numbers, Float32s]:
    """Sums of places with the same number, for each number that occurs."""
    flat = numbers.ravel()
    rows, inverse = np.unique(flat, return_inverse=True)
    gather = sp.csr_matrix((np.ones(len(flat), np.float32), (inverse, np.arange(len(flat)))), shape=(len(rows), len(flat)))
    return rows, gather @ places


@dataclass
class Adam:
    """Kingma & Ba 2015; rows that did not occur keep their moments."""

    network: Network
    steps: int = 0
    means: dict[str, Float32s] = field(init=False)
    squares: dict[str, Float32s] = field(init=False)

    def __post_init__(self) -> None:
        self.means = {name: np.zeros_like(weights) for name, weights in self.network.arrays().items()}
        self.squares = {name: np.zeros_like(weights) for name, weights in self.network.arrays().items()}

    def step(self, slope: Gradient, rate: float) -> None:
        """Moves the network's weights in place."""
        self.steps += 1
        pace = np.float32(rate * (1 - BETA2**self.steps) ** 0.5 / (1 - BETA1**self.steps))
        weights = self.network.arrays()
        for name, given in slope.dense.items():
            mean, square = self.means[name], self.squares[name]
            mean += (1 - BETA1) * (given - mean)
            square += (1 - BETA2) * (given * given - square)
            weights[name] -= pace * mean / (np.sqrt(square) + np.float32(TINY))
        for name, (rows, given) in slope.rows.items():
            mean = self.means[name][rows]
            square = self.squares[name][rows]
            mean += (1 - BETA1) * (given - mean)
            square += (1 - BETA2) * (given * given - square)
            self.means[name][rows], self.squares[name][rows] = mean, square
            weights[name][rows] -= pace * mean / (np.sqrt(square) + np.float32(TINY))
