"""Which tags somebody's words mean, Chinese or English: cosine of TF-IDF over character n-grams (Salton & Buckley 1988).

No model is asked. Latin words give n-grams of 3 to 5 characters within the word, Chinese runs single characters and pairs; a
small list of synonyms (synonyms.txt) adds what the same thing is also called. A match without a word to show for it is none.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

# Below this, what two texts share are endings and fillers.
LEAST: Final = 0.08
_LATIN: Final = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_HAN: Final = re.compile(r"[\u3400-\u9fff]+")


@dataclass(frozen=True)
class Match:
    """How near a text is to the words (cosine, 0 to 1), and the words that it shares with them."""

    similarity: float
    words: tuple[str, ...]


def _lines(name: str) -> list[str]:
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@cache
def fillers() -> frozenset[str]:
    """Words that mean nothing by themselves."""
    return frozenset(word for line in _lines("fillers.txt") for word in line.split())


@cache
def groups() -> tuple[frozenset[str], ...]:
    """Groups of words that mean the same."""
    return tuple(frozenset(line.split()) for line in _lines("synonyms.txt"))


def tokens(text: str) -> list[str]:
    """Latin words without fillers, in lower case, and runs of Chinese characters."""
    lowered = text.lower().replace("_", " ")
    latin = [word for word in _LATIN.findall(lowered) if len(word) > 1 and word not in fillers()]
    return latin + _HAN.findall(lowered)


def widened(text: str) -> list[str]:
    """The tokens of a text and all that they are also called."""
    found = tokens(text)
    said = set(found)
    runs = " ".join(token for token in found if _HAN.fullmatch(token))
    more: set[str] = set()
    for group in groups():
        if any(word in said or (_HAN.fullmatch(word) and word in runs) for word in group):
            more |= group
    return found + sorted(more - said)


def grams(words: Iterable[str]) -> Counter[str]:
    """Character n-grams of tokens with their counts."""
    found: Counter[str] = Counter()
    for word in words:
        if _HAN.match(word):
            found.update(word)
            # A pair says more than its characters.
            found.update({word[at : at + 2]: 2 for at in range(len(word) - 1)})
        else:
            framed = f" {word} "
            found.update(framed[at : at + size] for size in (3, 4, 5) for at in range(len(framed) - size + 1))
    return found


class Finder:
    """Texts that can be asked for by words."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """`texts`: name to all that is said of it."""
        self._tokens = {name: tokens(text) for name, text in texts.items()}
        counted = {name: grams(words) for name, words in self._tokens.items()}
        seen = Counter(gram for each in counted.values() for gram in each)
        self._rare = {gram: math.log((1 + len(counted)) / (1 + n)) + 1 for gram, n in seen.items()}
        self._vectors = {name: self._weighed(each) for name, each in counted.items()}

    def find(self, asked: str) -> dict[str, Match]:
        """Texts that are near to some words, by name; in no order."""
        words = widened(asked)
        wanted = self._weighed(grams(words))
        found: dict[str, Match] = {}
        for name, vector in self._vectors.items():
            shared = tuple(word for word in dict.fromkeys(words) if _says(self._tokens[name], word))
            if shared and (similarity := _dot(wanted, vector)) >= LEAST:
                found[name] = Match(similarity, shared)
        return found

    def _weighed(self, counted: Mapping[str, int]) -> dict[str, float]:
        """Unit vector: logarithm of the count times rarity; n-grams that no text has count for nothing."""
        weights = {g: (1 + math.log(n)) * self._rare[g] for g, n in counted.items() if g in self._rare}
        length = math.sqrt(sum(weight * weight for weight in weights.values()))
        return {gram: weight / length for gram, weight in weights.items()} if length else {}


def _dot(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    small, large = sorted((one, other), key=len)
    return sum(weight * large[gram] for gram, weight in small.items() if gram in large)


def _says(texts: Sequence[str], word: str) -> bool:
    """Whether a text has a word: latin ones whole or with an ending, Chinese ones anywhere, or with a pair in common."""
    if not _HAN.match(word):
        return any(token == word or (len(word) > 3 and token.startswith(word)) for token in texts)
    runs = [token for token in texts if _HAN.match(token)]
    return any(word in run or any(word[at : at + 2] in run for at in range(len(word) - 1)) for run in runs)
