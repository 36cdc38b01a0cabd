"""Columns that were probably filled in after the outcome: what a model must not be trained on.

Only the catalogue knows when a tag got its value; where it says so (`as_of`), that is the answer. This looks at a cut from
the outside, by five signs. The first four are statistics, of which each is too good to have been known before. The last is the
column's name: staff's judgements and last events are written over by the outcome, whatever their figures look like.

A sign is a reason to ask, not a proof. A behaviour that is close to the outcome itself (pages of a check-out, minutes of
the call that sold) shows the same figures as a leak, and only somebody who knows when it is measured can tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.scoring.domain import Floats
from services.scoring.frame import Column, Encoding, Frame, Kind, Matrix, Words, features_of, fit_encodings, matrix_of
from services.scoring.learning.cut import Cut
from services.scoring.learning.metrics import Z95, auc_with_error
from services.scoring.learning.trees import Shape, fit_trees

# Published models of what people will do stay below 0.95 with all they know together; one column alone does not reach this.
PERFECT_AUC = 0.97
# A value after which nearly all do it, or nearly nobody. People have habits; only records have certainty both ways.
SURE = 0.9
# And far from the usual: where one in thirteen says yes, "nine of ten say no" is the usual.
UNUSUAL = 5.0
# Below this share of what there is to explain, a column is too weak for its rank among the others to mean anything.
SUBSTANTIAL = 0.1
# With fewer others, one column that leads is no wonder.
OTHERS = 6
# And with fewer persons of the rarer outcome per column, the others cannot show together what they know: the usual rule
# of thumb for models of yes and no (Harrell, "Regression Modeling Strategies", 4.4) on its careful side.
PERSONS_PER_COLUMN = 20
MOST_ROWS = 10_000
BINS = 20
FOLDS = 3
ROUNDS = (10, 25, 60)

# What customer systems call the columns that staff or the last event write: judgements first, then what is overwritten.
JUDGEMENTS = frozenset(
    (
        "tags",
        "quality",
        "score",
        "index",
        "rating",
        "grade",
        "profile",
        "status",
        "stage",
        "disposition",
        "result",
        "reason",
        "remark",
    )
)
OVERWRITTEN = frozenset(("last", "latest", "final", "closing", "closed"))


@dataclass(frozen=True)
class Suspicion:
    """A column that was probably filled in after the outcome; `strength` from 0 (only its name says so) to 1 (certain)."""

    column: str
    why: str
    strength: float


@dataclass(frozen=True)
class _Alone:
    """What a column foretells without any other, on rows that were not looked at: AUC and share of deviance explained."""

    auc: float
    auc_low: float
    explained: float


def find_leaks(cut: Cut) -> list[Suspicion]:
    """Suspected columns of a cut of two classes, the strongest suspicion first; one entry per column."""
    frame, labels = _sample(cut)
    known = {tag: column for tag, column in frame.columns.items() if not _empty(column)}
    frame = Frame(frame.persons, known)
    encodings = fit_encodings(features_of(frame), frame)
    if not encodings or not 0 < labels.mean() < 1:
        return []
    matrix = matrix_of(encodings, frame)
    tags = [encoding.feature.tag for encoding in encodings]
    cells = [_cells(matrix[:, place], encoding) for place, encoding in enumerate(encodings)]
    alone = [_foretold(codes, labels) for codes, _ in cells]
    found: dict[str, Suspicion] = {}
    for tag, lone, (codes, names) in zip(tags, alone, cells, strict=True):
        if lone.auc_low >= PERFECT_AUC:
            found[tag] = Suspicion(tag, f"alone it tells the outcome almost without error (AUC {lone.auc:.3f})", 1.0)
        elif (sure := _sure_both_ways(codes, names, labels)) is not None:
            found[tag] = Suspicion(tag, sure, 0.9)
    found |= _as_good_as_all_others(matrix, labels, tags, alone, found)
    for tag, lone in zip(tags, alone, strict=True):
        # A name alone is a sign only where the column is proven to say something at all.
        if tag not in found and lone.auc_low > 0.5 and (named := _by_name(tag)):
            found[tag] = Suspicion(tag, f"{named}; alone it tells the outcome with AUC {lone.auc:.2f}", 0.3)
    return sorted(found.values(), key=lambda suspicion: (-suspicion.strength, suspicion.column))


def _sample(cut: Cut) -> tuple[Frame, NDArray[np.int64]]:
    rows = np.random.default_rng(0).permutation(len(cut.labels))[:MOST_ROWS]
    columns: dict[str, Column] = {}
    for tag, column in cut.frame.columns.items():
        if isinstance(column, Words):
            columns[tag] = Words(column.indexes[rows], column.words)
        else:
            columns[tag] = type(column)(column.values[rows])
    return Frame(cut.frame.persons[rows], columns), (cut.labels[rows] > 0).astype(np.int64)


def _empty(column: Column) -> bool:
    return bool((column.indexes < 0).all() if isinstance(column, Words) else np.isnan(column.values).all())


def _cells(column: Matrix, encoding: Encoding) -> tuple[NDArray[np.int64], Mapping[int, str]]:
    """(cell of each row, name of each cell): words, or twentieths of numbers; unknown is a cell of its own."""
    unknown = np.isnan(column)
    if encoding.feature.kind is Kind.CATEGORY:
        codes = np.where(unknown, len(encoding.words), column).astype(np.int64)
        names = {place: f'"{word}"' for place, word in enumerate(encoding.words)}
        return codes, names | {len(encoding.words): "unknown"}
    edges = np.unique(np.quantile(column[~unknown], np.arange(1, BINS) / BINS))
    codes = np.where(unknown, len(edges) + 1, np.searchsorted(edges, column)).astype(np.int64)
    names = {place: f"up to {edge:g}" for place, edge in enumerate(edges)}
    return codes, names | {len(edges): f"above {edges[-1]:g}", len(edges) + 1: "unknown"}


def _foretold(codes: NDArray[np.int64], labels: NDArray[np.int64]) -> _Alone:
    """Each row is foretold by the rate of its cell among the rows of the other folds, drawn to the usual by ten persons."""
    usual = labels.mean()
    fold = np.arange(len(labels)) % FOLDS
    probability = np.empty(len(labels))
    size = int(codes.max()) + 1
    for number in range(FOLDS):
        inside = fold == number
        persons = np.bincount(codes[~inside], minlength=size)
        positives = np.bincount(codes[~inside], labels[~inside], minlength=size)
        probability[inside] = ((positives + 10 * usual) / (persons + 10))[codes[inside]]
    auc, error = auc_with_error(probability, labels.astype(np.int32))
    return _Alone(auc, auc - Z95 * error, _explained(probability, labels))


def _explained(probability: Floats, labels: NDArray[np.int64]) -> float:
    """Share of the deviance that probabilities explain (McFadden)."""

    def deviance(p: Floats) -> float:
        p = np.clip(p, 1e-6, 1 - 1e-6)
        return float(-(labels * np.log(p) + (1 - labels) * np.log1p(-p)).mean())

    return 1 - deviance(probability) / deviance(np.full(len(labels), labels.mean()))


def _sure_both_ways(codes: NDArray[np.int64], names: Mapping[int, str], labels: NDArray[np.int64]) -> str | None:
    """One value after which nearly all do it and another after which nearly nobody does, each beyond chance (Wilson)."""
    usual = float(labels.mean())
    persons = np.bincount(codes, minlength=len(names))
    positives = np.bincount(codes, labels.astype(np.float64), minlength=len(names))
    low, high = _wilson(positives, persons)
    yes = (low >= SURE) & (_odds(low) >= UNUSUAL * _odds(usual))
    no = (high <= 1 - SURE) & (_odds(high) <= _odds(usual) / UNUSUAL)
    if not yes.any() or not no.any():
        return None
    most, least = (int(np.argmax(np.where(side, persons, -1))) for side in (yes, no))
    rate_most, rate_least = positives[most] / persons[most], positives[least] / persons[least]
    return f"{names[most]} is followed by the outcome in {rate_most:.0%}, {names[least]} in {rate_least:.0%}"


def _odds(share: Floats | float) -> Floats | float:
    return share / np.maximum(1 - share, 1e-9)


def _wilson(positives: NDArray[Any], persons: NDArray[Any]) -> tuple[Floats, Floats]:
    count = np.maximum(persons, 1)
    share = positives / count
    centre = (share + Z95**2 / (2 * count)) / (1 + Z95**2 / count)
    half = Z95 / (1 + Z95**2 / count) * np.sqrt(share * (1 - share) / count + Z95**2 / (4 * count**2))
    none = persons == 0
    return np.where(none, 0, centre - half), np.where(none, 1, centre + half)


def _as_good_as_all_others(
    matrix: Matrix, labels: NDArray[np.int64], tags: list[str], alone: list[_Alone], found: Mapping[str, Suspicion]
) -> dict[str, Suspicion]:
    """Columns that explain as much as all unsuspected others do together: alone, or on top of what those explain."""
    suspected: dict[str, Suspicion] = {}
    others = [place for place, tag in enumerate(tags) if tag not in found]
    for place in sorted(others, key=lambda place: -alone[place].explained):
        everything, others = others, [other for other in others if other != place]
        enough = min(labels.sum(), (1 - labels).sum()) >= PERSONS_PER_COLUMN * len(others)
        if alone[place].explained < SUBSTANTIAL or len(others) < OTHERS or not enough:
            break
        # Few persons teach trees little: all others together explain at least what the best of them does alone.
        best = max(alone[other].explained for other in others)
        together = max(_explained_by(matrix[:, others], labels), best)
        all_of_them = max(_explained_by(matrix[:, everything], labels), together)
        if max(alone[place].explained, all_of_them - together) < together:
            # The next is weaker, and its others have this one among them.
            break
        why = (
            f"alone it explains {alone[place].explained:.0%} of the outcome, all others together"
            f" {max(together, 0):.0%}, with it they explain {all_of_them:.0%}"
        )
        suspected[tags[place]] = Suspicion(tags[place], why, 0.7)
    return suspected


def _explained_by(matrix: Matrix, labels: NDArray[np.int64]) -> float:
    """By trees, at the best of a few numbers of rounds."""
    fold = np.arange(len(labels)) % FOLDS
    margins = np.empty((len(labels), len(ROUNDS)))
    for number in range(FOLDS):
        inside = fold == number
        trees = fit_trees(matrix[~inside], labels[~inside], Shape(leaves=8, persons=20, columns=1.0), max(ROUNDS), seed=0)
        stages = enumerate(trees.staged_decision_function(matrix[inside]), start=1)
        margins[inside] = np.column_stack([margin.ravel() for rounds, margin in stages if rounds in ROUNDS])
    return max(_explained(1 / (1 + np.exp(-margin)), labels) for margin in margins.T)


def _by_name(tag: str) -> str:
    words = re.sub(r"([a-z])([A-Z])", r"\1 \2", tag).lower()
    tokens = set(re.findall(r"[a-z]+", words))
    if tokens & OVERWRITTEN:
        return "its name says that later events are written over earlier ones"
    if tokens & JUDGEMENTS:
        return "its name says that somebody judged, perhaps after the outcome"
    return ""
