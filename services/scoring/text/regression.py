"""What n-grams of characters say of topics and sentiment: weighted sums, beside the networks and unlike them.

A topic's log-odds is the sum over the distinct grams of one and two characters. A sentiment's margins are sums over grams
of up to four: those of the whole text, and those near the place that says most of the topic. Such a sum is divided by
the root of the number of its grams, so that long texts are not surer than short ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.scoring.text.network import Float32s
from services.scoring.text.vocabulary import Numbers

# The longest gram of a sentiment and of a topic.
LONGEST, LONGEST_OF_TOPICS = 4, 2
# What says most of a topic is sought over so many places; so far to each side of its middle is near.
SOUGHT, NEAR = 5, 6
# What the regression weighs beside the networks.
TOPIC_SHARE, FEELING_SHARE = 0.5, 0.4


@dataclass(frozen=True)
class Grams:
    """N-grams as numbers from 1, short ones first; 0 is whatever training saw too rarely, and what would pass the end."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, words: Sequence[str]) -> Grams:
        """In order of length and code points."""
        return cls(tuple(sorted(words, key=lambda word: (len(word), word))))

    @cached_property
    def of_topics(self) -> int:
        """Numbers below this are of grams that are short enough for topics."""
        return 1 + sum(len(word) <= LONGEST_OF_TOPICS for word in self.words)

    def numbers(self, text: str) -> Numbers:
        """[places, LONGEST]: the grams that begin at each place of a normalised text, by length.

        A gram that came often enough begins with one that came as often: where the shorter is unknown, so is the longer.
        """
        known = self._numbers
        numbers = np.zeros((LONGEST, len(text)), np.int32)
        places = list(range(len(text)))
        for size in range(1, LONGEST + 1):
            found = [known.get(text[place : place + size], 0) for place in places]
            numbers[size - 1, places] = found
            places = [place for place, number in zip(places, found, strict=True) if number and place + size < len(text)]
        return numbers.T

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, 1)}


@dataclass(frozen=True)
class Window:
    """Per topic the stretch of a text near what says most of it: first place, and the one after the last."""

    first: NDArray[np.intp]
    last: NDArray[np.intp]


@dataclass(frozen=True)
class Regression:
    """Weights by number of gram (row 0 is nothing). t topics; the text as a whole is the networks' to tell."""

    topics: Float32s  # grams of topics, t
    topic_bias: Float32s  # t
    anywhere: Float32s  # grams, 3
    near: Float32s  # grams, 3
    feeling_bias: Float32s  # t, 3

    def arrays(self) -> dict[str, Float32s]:
        """The weights by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def read(self, numbers: Numbers) -> tuple[Float32s, Float32s]:
        """Log-odds [t] and margins [t, 3] of a text of at least one character."""
        log_odds = self.topic_bias + self.topics[np.unique(self._short(numbers))].sum(0)
        window = self.window(numbers)
        sums = np.zeros((len(numbers) + 1, LONGEST, self._together.shape[1]))
        np.cumsum(self._together[numbers], axis=0, out=sums[1:])
        sizes = np.arange(LONGEST)
        ends = np.maximum(window.last[:, None] - sizes, window.first[:, None])
        around = (sums[ends, sizes] - sums[window.first[:, None], sizes]).sum(1)
        everywhere = sums[-1].sum(0)
        margins = self.feeling_bias + everywhere[:3] / root(everywhere[-1]) + around[:, 3:-1] / root(around[:, -1:])
        return log_odds.astype(np.float32), margins.astype(np.float32)

    @cached_property
    def _together(self) -> Float32s:
        """[grams, 3 + 3 + 1]: weights anywhere, weights near, and 1 for each gram that is one."""
        known = (np.arange(len(self.near)) > 0)[:, None]
        return np.concatenate([self.anywhere, self.near, known], axis=1, dtype=np.float32)

    def window(self, numbers: Numbers) -> Window:
        """Where each topic is spoken of: around the middle of the places that add most to it; a pair adds to both of its."""
        short = self.topics[self._short(numbers)]
        places = short[:, 0]
        pairs = short[:-1, 1] / 2
        places[:-1] += pairs
        places[1:] += pairs
        length, around = len(numbers), SOUGHT // 2
        sums = np.zeros((max(length, 1) + SOUGHT, places.shape[1]))
        sums[around + 1 : around + 1 + length] = places
        sums = sums.cumsum(0)
        middle = (sums[SOUGHT:] - sums[:-SOUGHT]).argmax(0)
        return Window(np.maximum(middle - NEAR, 0), np.minimum(middle + NEAR + 1, length))

    def shares(self, numbers: Numbers, topic: int, feeling: Float32s) -> tuple[Float32s, Float32s]:
        """What each place adds to a topic's log-odds, and to its margins along `feeling` [3]; with the biases they sum to it.

        A gram adds equally at each of its characters; one that comes twice adds to the topic where it comes first.
        """
        short = self._short(numbers)
        once = np.zeros(short.size, np.bool_)
        once[np.unique(short, return_index=True)[1]] = True
        of_topic = _spread(self.topics[short, topic] * once.reshape(short.shape))
        window = self.window(numbers)
        near = within(numbers, window.first[topic], window.last[topic])
        of_feeling = (self.anywhere[numbers] @ feeling) / root((numbers > 0).sum())
        of_feeling += (self.near[near] @ feeling) / root((near > 0).sum())
        return of_topic, _spread(of_feeling)

    def _short(self, numbers: Numbers) -> Numbers:
        return numbers[:, :LONGEST_OF_TOPICS]


def within(numbers: Numbers, first: int, last: int) -> Numbers:
    """Only the grams that lie within a stretch."""
    kept = np.zeros_like(numbers)
    for size in range(LONGEST):
        kept[first : max(last - size, first), size] = numbers[first : max(last - size, first), size]
    return kept


def root(count: NDArray[np.generic] | np.generic) -> NDArray[np.float64]:
    """Of a number of grams; of none, 1."""
    return np.sqrt(np.maximum(count, 1))


def _spread(shares: NDArray[np.floating[Any]]) -> Float32s:
    """[places, sizes] by first place to [places], each gram's share over its characters."""
    spread = np.zeros(len(shares), np.float32)
    for size in range(shares.shape[1]):
        each = shares[: len(shares) - size, size] / (size + 1)
        for offset in range(size + 1):
            spread[offset : offset + len(each)] += each
    return spread
