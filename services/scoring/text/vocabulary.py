"""Characters and pairs of neighbours as numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int32]

# Number 0 is "no text here", number 1 whatever training saw too rarely.
NOTHING, RARE, FIRST = 0, 1, 2


@dataclass(frozen=True)
class Encoded:
    """A text as numbers: one of its character and one of the pair that begins there, per place."""

    characters: Numbers
    pairs: Numbers

    def __len__(self) -> int:
        return len(self.characters)

    def head(self, length: int) -> Encoded:
        """The first characters only."""
        return Encoded(self.characters[:length], self.pairs[:length])

    def then(self, other: Encoded) -> Encoded:
        """This text and then that one."""
        return Encoded(np.concatenate([self.characters, other.characters]), np.concatenate([self.pairs, other.pairs]))


@dataclass(frozen=True)
class Vocabulary:
    """The characters and pairs that training saw often enough, in order of code points."""

    characters: tuple[str, ...]
    pairs: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str], character_floor: int, pair_floor: int) -> Vocabulary:
        """What occurs at least so often in normalised texts."""
        characters: Counter[str] = Counter()
        pairs: Counter[str] = Counter()
        for text in texts:
            characters.update(text)
            pairs.update(map("".join, pairwise(text)))
        return cls(_frequent(characters, character_floor), _frequent(pairs, pair_floor))

    @property
    def sizes(self) -> tuple[int, int]:
        """How many numbers there are for characters and for pairs."""
        return len(self.characters) + FIRST, len(self.pairs) + FIRST

    def encode(self, text: str) -> Encoded:
        """A normalised text; the last character begins no pair."""
        characters, pairs = self._numbers
        return Encoded(
            np.array([characters.get(c, RARE) for c in text], np.int32),
            np.array([pairs.get(text[i : i + 2], RARE) for i in range(len(text))], np.int32),
        )

    @cached_property
    def _numbers(self) -> tuple[dict[str, int], dict[str, int]]:
        return _numbered(self.characters), _numbered(self.pairs)


def _frequent(counts: Counter[str], floor: int) -> tuple[str, ...]:
    return tuple(sorted(word for word, count in counts.items() if count >= floor))


def _numbered(words: Sequence[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate(words, FIRST)}


def batched(texts: Sequence[Encoded]) -> tuple[Numbers, Numbers]:
    """Texts by places, filled up with NOTHING."""
    longest = max([1, *map(len, texts)])
    characters = np.zeros((len(texts), longest), np.int32)
    pairs = np.zeros_like(characters)
    for row, text in enumerate(texts):
        characters[row, : len(text)] = text.characters
        pairs[row, : len(text)] = text.pairs
    return characters, pairs
