"""A small network that reads a text character by character and tells for each topic whether and how it is spoken of.

Each place of a text has two vectors, of its character and of the pair that begins there; filters look at three places
at once. For each topic a softmax over the places says where to look (its query), and what the filters saw there,
together with the strongest that each filter saw anywhere, gives the topic's log-odds and the sentiment's three margins.
The last topic is the text as a whole. Small enough to train on one core in minutes and to run in numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.scoring.text.vocabulary import NOTHING, Numbers

Float32s = NDArray[np.float32]
# A filter sees so many places, the middle one its own.
WIDTH = 3
SENTIMENTS = (-1, 0, 1)


@dataclass(frozen=True)
class Network:
    """Weights. c characters, p pairs, d values per place, f filters, t topics (the last is the whole text)."""

    characters: Float32s  # c, d'
    pairs: Float32s  # p, d - d'
    filters: Float32s  # WIDTH * d, f
    filter_bias: Float32s  # f
    queries: Float32s  # f, t
    topic_attended: Float32s  # t, f
    topic_strongest: Float32s  # f, t
    topic_bias: Float32s  # t
    feeling_attended: Float32s  # f, 3
    feeling_of_topic: Float32s  # t, f, 3
    feeling_strongest: Float32s  # f, 3
    feeling_bias: Float32s  # t, 3

    def arrays(self) -> dict[str, Float32s]:
        """The weights by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def read(self, characters: Numbers, pairs: Numbers, noise: Noise | None = None) -> Pass:
        """Reads texts by places (see `vocabulary.batched`); `noise` only in training."""
        texts, length = characters.shape
        there = (characters != NOTHING)[:, :, None].astype(np.float32)
        places = np.concatenate([self.characters[characters], self.pairs[pairs]], axis=2)
        kept = there if noise is None else there * noise.places
        seen = neighbours(places * kept)
        saw: Any = seen.reshape(texts * length, -1) @ self.filters
        saw += self.filter_bias
        np.maximum(saw, 0, out=saw)
        saw = saw.reshape(texts, length, -1) * there
        where = saw.argmax(1)
        strongest = np.take_along_axis(saw, where[:, None], 1)[:, 0]
        gaze = np.where(there > 0, saw @ self.queries, np.float32(-1e9))
        gaze = np.exp(gaze - gaze.max(1, keepdims=True))
        gaze /= gaze.sum(1, keepdims=True)
        attended = gaze.transpose(0, 2, 1) @ saw
        if noise is not None:
            strongest, attended = strongest * noise.strongest, attended * noise.attended
        topics = (attended * self.topic_attended).sum(2) + strongest @ self.topic_strongest + self.topic_bias
        feelings = attended @ self.feeling_attended + (strongest @ self.feeling_strongest)[:, None]
        feelings += np.matmul(attended.transpose(1, 0, 2), self.feeling_of_topic).transpose(1, 0, 2) + self.feeling_bias
        return Pass(topics, feelings, kept, seen, saw, where, strongest, gaze, attended)


@dataclass(frozen=True)
class Noise:
    """Dropout: factors for places [n, l, 1], the strongest [n, f] and the attended [n, 1, f]."""

    places: Float32s
    strongest: Float32s
    attended: Float32s


@dataclass(frozen=True)
class Pass:
    """What a network made of texts, and what it passed on the way (n texts, l places)."""

    topics: Float32s  # n, t: log-odds
    feelings: Float32s  # n, t, 3: margins
    kept: Float32s  # n, l, 1
    seen: Float32s  # n, l, WIDTH * d
    saw: Float32s  # n, l, f
    where: NDArray[np.intp]  # n, f: at which place each filter saw most
    strongest: Float32s  # n, f
    gaze: Float32s  # n, l, t
    attended: Float32s  # n, t, f

    def shares(self, text: int, topic: int, of_attended: Float32s, of_strongest: Float32s) -> Float32s:
        """What each place of a text adds to `attended @ of_attended + strongest @ of_strongest`: they sum to it exactly."""
        shares: Float32s = self.gaze[text, :, topic] * (self.saw[text] @ of_attended)
        np.add.at(shares, self.where[text], self.strongest[text] * of_strongest)
        return shares


def neighbours(places: Float32s) -> Float32s:
    """Each place with those around it, side by side; nothing stands before the first and after the last."""
    length = places.shape[1]
    around = WIDTH // 2
    padded = np.pad(places, ((0, 0), (around, around), (0, 0)))
    return np.concatenate([padded[:, i : i + length] for i in range(WIDTH)], axis=2)


def sigmoid(margins: Float32s) -> Float32s:
    """Probabilities of log-odds."""
    return np.asarray(1 / (1 + np.exp(-margins)), np.float32)


def softmax(margins: Float32s) -> Float32s:
    """Probabilities of margins, along the last axis."""
    raised = np.exp(margins - margins.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True), np.float32)
