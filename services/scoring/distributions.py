"""How features and scores are spread over the base, and how far two such pictures are apart.

A picture is taken while everybody is scored, of a sample of persons that their numbers alone decide, so it costs next to
nothing and no second reading; it holds counts, never persons. Of what a takeover finished there is no picture: half of the
base was seen by a process that is gone, and half a picture would look like drift. The next run of that version has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.scoring.domain import Floats
from services.scoring.frame import Encoding, Ids, Kind, Matrix

# The picture of the score itself has no tag's name.
SCORE: Final = ""
BINS: Final = 10
COMMONEST: Final = 20
SAMPLE: Final = 100_000
# Of models with hundreds of features fewer: what is collected stays below 80 MB.
CELLS: Final = 20_000_000
# Below: calm. Above: it has moved (the usual reading of the population stability index).
MOVED: Final = 0.25
# Added to each count: a bin that nobody is in yet must not make the distance infinite.
HALF: Final = 0.5

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Distribution:
    """Counts of persons by bin; the last bin is "unknown".

    Numbers: `edges` are bounds, bin i holds what is below edges[i] and not below the edge before. Words: `edges` are words,
    each has a bin, and the one before the last is that of all others.
    """

    edges: Sequence[float | str]
    counts: Counts


def of_numbers(values: Floats, edges: Sequence[float | str] | None = None) -> Distribution:
    """Of numbers, what is not finite is unknown; without given edges between the tenths of these numbers."""
    known = values[np.isfinite(values)]
    if edges is None:
        edges = np.unique(np.quantile(known, np.arange(1, BINS) / BINS)).tolist() if len(known) else []
    bins = np.searchsorted(np.array(edges, np.float64), known, side="right")
    counts = np.bincount(bins, minlength=len(edges) + 1)
    return Distribution(edges, np.append(counts, len(values) - len(known)).astype(np.int64))


def of_words(codes: Floats, words: Sequence[str], edges: Sequence[float | str] | None = None) -> Distribution:
    """Of places in `words`, NaN is unknown; without given edges by the commonest twenty of these."""
    known = codes[~np.isnan(codes)].astype(np.int64)
    by_word = np.bincount(known, minlength=len(words))
    if edges is None:
        edges = [words[place] for place in np.argsort(-by_word, kind="stable")[:COMMONEST] if by_word[place]]
    told = dict(zip(words, by_word.tolist(), strict=True))
    named = [told.get(str(edge), 0) for edge in edges]
    return Distribution(edges, np.array([*named, len(known) - sum(named), len(codes) - len(known)], np.int64))


def stability(reference: Distribution, current: Distribution) -> float:
    """Population stability index: the sum over bins of (share now - share then) * ln(share now / share then)."""
    then, now = (each.counts + HALF for each in (reference, current))
    then, now = then / then.sum(), now / now.sum()
    return float(((now - then) * np.log(now / then)).sum())


def noise(reference: Distribution, current: Distribution) -> float:
    """The index that two samples of one and the same base have on average."""
    persons = [max(int(each.counts.sum()), 1) for each in (reference, current)]
    taken = int(((reference.counts > 0) | (current.counts > 0)).sum())
    return max(taken - 1, 0) * sum(1 / n for n in persons)


class Sampler:
    """Collects the rows of sampled persons while everybody is scored."""

    def __init__(self, encodings: Sequence[Encoding], total: int) -> None:
        """`total`: about how many persons there are."""
        self._encodings = encodings
        wanted = min(SAMPLE, CELLS // max(len(encodings), 1))
        self._below = np.uint64(min(1.0, wanted / max(total, 1)) * (2**64 - 2**11))
        self._rows: list[Matrix] = []
        self._scores: list[Floats] = []

    def see(self, persons: Ids, matrix: Matrix, scores: Floats) -> None:
        """One chunk, as the model read it and what it said."""
        chosen = _mixed(persons) <= self._below
        self._rows.append(matrix[chosen])
        self._scores.append(scores[chosen])

    def pictures(self, references: dict[str, Distribution]) -> dict[str, Distribution]:
        """The distribution of each feature and of the score by name, with the bins of the reference where there is one."""
        if not self._rows:
            return {}
        matrix, scores = np.concatenate(self._rows), np.concatenate(self._scores)
        found = {SCORE: of_numbers(scores, _edges(references, SCORE))}
        for place, encoding in enumerate(self._encodings):
            tag, values = encoding.feature.tag, matrix[:, place].astype(np.float64)
            edges = _edges(references, tag)
            is_number = encoding.feature.kind is Kind.NUMBER
            found[tag] = of_numbers(values, edges) if is_number else of_words(values, encoding.words, edges)
        return found


def _edges(references: dict[str, Distribution], name: str) -> Sequence[float | str] | None:
    return references[name].edges if name in references else None


def _mixed(persons: Ids) -> NDArray[np.uint64]:
    """Numbers in a row as numbers all over the place (the finaliser of splitmix64)."""
    bits = persons.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
