"""Learns to tell seeds from others, though some of the others would be seeds if anybody had asked them.

Positive-unlabelled learning in its plainest form: everyone who is no seed stands for "other". That shifts all log-odds
by nearly the same amount and leaves the order (Elkan and Noto 2008), and the order is all that is asked for. Two learners
share the work: weights of single bits (`bits`), which need few seeds, and boosted trees (`forest`), which see what tags
say together. How much the trees count is chosen by hiding a part of the seeds among the others and looking for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from services.scoring.domain import Floats, TrainingRefused
from services.scoring.frame import Frame, Ids, Kind, Matrix, Numbers, joined
from services.scoring.lookalike.bits import BitWeights, Codes, Labels, Splitting, codes_of, fit_bits, split
from services.scoring.lookalike.forest import Forest, fit_forest
from services.scoring.lookalike.likenesses import Likeness, Table, strongest, table_of

MIN_SEEDS = 20
MIN_OTHERS = 50
# More seeds than this, or others, teach nothing more and take time: as many are drawn.
MOST_SEEDS = 10_000
BASE_SAMPLE = 30_000
# Persons times trees: of more persons the trees order only those whom the bits put first.
TREE_WALKS = 20_000_000
# One hold-out of the seeds has to do for more persons than this, three for fewer.
QUICK_FROM = 100_000
# What a hold-out decides between: the share of the trees in the sum of both log-odds.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
HOLDOUT_ROWS = 12_000
EXPLAINED = 2_000

Progress = Callable[[float], None]


@dataclass(frozen=True)
class LookalikeModel:
    """Scores persons, and says which tags made the score."""

    splittings: tuple[Splitting, ...]
    bits: BitWeights
    forest: Forest
    share: float
    # From which log-odds of the bits on the trees are asked; below, the line slope * bits + intercept stands for them.
    trees_from: float
    line: tuple[float, float]
    # Log-odds of a seed in the learning sample, subtracted: what is left compares with the base.
    prior: float
    table: Table
    holdout_areas: dict[float, float]

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that a frame must have."""
        return tuple(splitting.tag for splitting in self.splittings)

    @property
    def likenesses(self) -> tuple[Likeness, ...]:
        """Values of tags by how much they speak for a person, the weightiest first."""
        return self.table.likenesses

    def score(self, chunk: Frame) -> Floats:
        """Log of how many times likelier the person's tags are among seeds than in the base."""
        if not len(chunk):
            return np.empty(0)
        codes = codes_of(self.splittings, chunk)
        bits = self.bits.margin(codes)
        if not self.share:
            return bits - self.prior
        slope, intercept = self.line
        trees = slope * bits + intercept
        asked = np.flatnonzero(bits >= self.trees_from)
        if len(asked):
            trees[asked] = self.forest.margin(matrix_of(self.splittings, chunk, codes, asked))
        return (1 - self.share) * bits + self.share * trees - self.prior

    def reasons(self, chunk: Frame, *, quickly: bool = False) -> Ids:
        """Persons by three places in `likenesses`: the tags that speak for each most, -1 where there are fewer.

        Exact: what the person's own bits and paths through the trees moved, against the mean of the base. `quickly`: what her
        values move on average, a look-up per tag, for lists of hundreds of thousands.
        """
        codes = codes_of(self.splittings, chunk)
        if quickly:
            return strongest(self.table.mean_contributions(codes), codes, self.table)
        return strongest(self._contributions(chunk, codes) - self.table.base, codes, self.table)

    def _contributions(self, chunk: Frame, codes: Sequence[Codes]) -> Floats:
        return contributions_of(self.splittings, self.bits, self.forest, self.share, chunk, codes)


def similarity(scores: Floats) -> Floats:
    """Scores as numbers from 0 to 1: one half is who could as well be anybody."""
    return 1 / (1 + np.exp(-scores))


def learn(seeds: Frame, base_sample: Frame, population: int = 0, progress: Progress = lambda share: None) -> LookalikeModel:
    """Learns from seeds and a sample of everybody (those of it who are seeds are left out).

    `population`: how many will be scored, when it is known; see TREE_WALKS. Refuses TOO_FEW_SEEDS, SEEDS_ARE_EVERYBODY, and
    NO_TAGS when nobody has a value of any tag.
    """
    others = base_sample.rows(np.flatnonzero(~np.isin(base_sample.persons, seeds.persons)))
    check(len(seeds), len(others))
    random = np.random.default_rng(0)
    frame = joined([_drawn(seeds, MOST_SEEDS, random), _drawn(others, BASE_SAMPLE, random)])
    labels = np.arange(len(frame)) < min(len(seeds), MOST_SEEDS)
    found = (split(tag, column) for tag, column in frame.columns.items())
    splittings = tuple(splitting for splitting in found if splitting is not None)
    if not splittings:
        raise TrainingRefused("NO_TAGS", "no tag tells anybody from anybody")
    codes = codes_of(splittings, frame)
    matrix = matrix_of(splittings, frame, codes, np.arange(len(frame)))
    areas = _held_out(splittings, codes, matrix, labels, 1 if population > QUICK_FROM else 3, random)
    share = max(areas, key=lambda each: areas[each])
    progress(0.5)
    bits = fit_bits(splittings, codes, labels)
    forest = fit_forest(matrix, labels) if share else Forest()
    progress(0.9)
    trees_from, line = -np.inf, (0.0, 0.0)
    if share and population * forest.trees > TREE_WALKS:
        at = bits.margin(codes)[~labels]
        trees_from = float(np.quantile(at, 1 - TREE_WALKS / (population * forest.trees)))
        below = at < trees_from
        slope, intercept = np.polyfit(at[below], forest.margin(matrix[~labels][below]), 1)
        line = float(slope), float(intercept)
    rows = _some_of_each(labels, EXPLAINED, random)
    chosen = frame.rows(rows)
    contributions = contributions_of(splittings, bits, forest, share, chosen, codes_of(splittings, chosen))
    table = table_of(splittings, codes, labels, rows, contributions)
    prior = float(np.log(labels.sum() / (~labels).sum()))
    progress(1.0)
    return LookalikeModel(splittings, bits, forest, share, trees_from, line, prior, table, areas)


def check(seeds: int, others: int) -> None:
    """Refuses what nothing can be learnt from."""
    if seeds < MIN_SEEDS:
        raise TrainingRefused("TOO_FEW_SEEDS", f"{seeds} seeds, at least {MIN_SEEDS} are needed")
    if others < MIN_OTHERS:
        raise TrainingRefused("SEEDS_ARE_EVERYBODY", f"{others} persons who are no seeds, at least {MIN_OTHERS} are needed")


def matrix_of(splittings: Sequence[Splitting], frame: Frame, codes: Sequence[Codes], rows: Ids) -> Matrix:
    """What the trees read of some rows: numbers as they are, words by their place; NaN is unknown."""
    matrix = np.empty((len(rows), len(splittings)), np.float32)
    for place, (splitting, column) in enumerate(zip(splittings, codes, strict=True)):
        values = frame.columns[splitting.tag]
        if splitting.kind is Kind.NUMBER and isinstance(values, Numbers):
            matrix[:, place] = values.values[rows]
        else:
            known = column[rows].astype(np.float32)
            matrix[:, place] = np.where(known > 0, known, np.float32(np.nan))
    return matrix


def contributions_of(
    splittings: Sequence[Splitting], bits: BitWeights, forest: Forest, share: float, frame: Frame, codes: Sequence[Codes]
) -> Floats:
    """Persons by tags: what each tag adds to the log-odds, up to a constant per tag."""
    total = (1 - share) * bits.contributions(codes)
    if share:
        total += share * forest.contributions(matrix_of(splittings, frame, codes, np.arange(len(frame))))
    return total


def _held_out(
    splittings: Sequence[Splitting],
    codes: Sequence[Codes],
    matrix: Matrix,
    labels: Labels,
    folds: int,
    random: np.random.Generator,
) -> dict[float, float]:
    """By share of the trees: the area under the recall curve of seeds that were hidden among the others."""
    rows = _some_of_each(labels, HOLDOUT_ROWS // 2, random)
    seeds, others = rows[labels[rows]], rows[~labels[rows]]
    others = np.concatenate(
        [others, _drawn_of(np.setdiff1d(np.flatnonzero(~labels), others), HOLDOUT_ROWS - len(rows), random)]
    )
    areas = dict.fromkeys(SHARES, 0.0)
    hidden_by = random.permutation(len(seeds)) % 3
    for fold in range(folds):
        used = np.concatenate([seeds[hidden_by != fold], seeds[hidden_by == fold], others])
        seen = np.arange(len(used)) < (hidden_by != fold).sum()
        hidden = ~seen & (np.arange(len(used)) < len(seeds))
        part_codes = [column[used] for column in codes]
        bits = fit_bits(splittings, part_codes, seen).margin(part_codes)
        trees = fit_forest(matrix[used], seen).margin(matrix[used])
        for share in SHARES:
            areas[share] += recall_area(((1 - share) * bits + share * trees)[~seen], hidden[~seen]) / folds
    return areas


def recall_area(scores: Floats, wanted: Labels) -> float:
    """Mean over all lengths of the list of the share of the wanted that it holds: one half by chance; ties count half."""
    ordered = np.sort(scores)
    above = len(scores) - (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")) / 2
    return float(1 - above[wanted].mean() / len(scores))


def _drawn(frame: Frame, most: int, random: np.random.Generator) -> Frame:
    return frame.rows(_drawn_of(np.arange(len(frame)), most, random)) if len(frame) > most else frame


def _drawn_of(rows: Ids, most: int, random: np.random.Generator) -> Ids:
    return np.sort(random.choice(rows, most, replace=False)) if len(rows) > most else rows


def _some_of_each(labels: Labels, most: int, random: np.random.Generator) -> Ids:
    return np.concatenate([_drawn_of(np.flatnonzero(of), most, random) for of in (labels, ~labels)])
