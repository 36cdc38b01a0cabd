"""Will a person do it: boosted trees of several sizes and bent lines, mixed on the log-odds scale as unseen rows ask for.

Everything is chosen inside the cut: rounds, penalty, weights of the mixture, whether the trees are told what those have
answered who share values (`cells`) and, where the cut has several moments, which columns a learner may trust tomorrow.
The sets of DATA.md were measured with it, not fitted to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from scipy.optimize import minimize
from sklearn.ensemble import HistGradientBoostingClassifier

from services.scoring.artefact import Calibration, metadata
from services.scoring.domain import Floats, TrainingRefused, check_labels
from services.scoring.frame import Encoding, Matrix, features_of, fit_encodings, matrix_of
from services.scoring.learning.additive import Additive, fit_additive
from services.scoring.learning.calibration import matched_intercept
from services.scoring.learning.cells import Cells, Columns, columns_to_tell, fit_cells, told
from services.scoring.learning.cut import Cut, Labels, Progress, Trained
from services.scoring.learning.metrics import Z95, auc_gain, auc_with_error, measure
from services.scoring.learning.trees import Shape, ensemble, fit_trees, sum_of_trees, to_file
from services.scoring.learning.validation import Fold, Plan, moving_columns, plan

# Rounds that are tried are read off one fit.
TREES: dict[Shape, tuple[int, ...]] = {
    Shape(leaves=6, persons=20, columns=0.3): (50, 100, 150, 200),
    Shape(leaves=15, persons=20, columns=0.5): (30, 60, 90, 120),
}
# Only so many persons fill the leaves of large trees.
LARGE_FROM = 20_000
LARGE_TREES: dict[Shape, tuple[int, ...]] = {Shape(leaves=63, persons=40, columns=0.3): (20, 40, 60, 80)}
STRENGTHS = (0.001, 0.01, 0.1)
# Boosters that are averaged in what is served.
SEEDS = (0, 1, 2)
# A learner with less of the mixture than this costs more time to serve than it gives.
LEAST_SHARE = 0.08


class Grown(NamedTuple):
    """Trees of a shape, how many, and how many groups' cells they are told beside the features."""

    shape: Shape
    rounds: int
    told: int = 0


# Trees, or the strength of bent lines.
Option = Grown | float


@dataclass(frozen=True)
class Judged:
    """What options said of rows that they had not seen: margins [row, option], the truth, and the fold of each row.

    `recent`: what the learners of each fold said of the last rows that they had seen, and the truth (by time only).
    """

    options: tuple[Option, ...]
    margins: Floats
    labels: Labels
    fold: NDArray[np.int64]
    recent: tuple[tuple[Floats, Labels], ...] = ()


@dataclass(frozen=True)
class Mixture:
    """Options with their weights; the weights sum to 1."""

    options: tuple[Option, ...]
    weights: Floats
    slope: float
    intercept: float


def train(cut: Cut, progress: Progress) -> Trained:
    """Trains on a cut of two classes. Refuses cuts from which nothing can be learnt, or nothing was.

    Metrics are those of rows that the measured learners had not seen. By time, they are of the later blocks, calibrated by
    what was known before each; the mixture is chosen on the same rows, which flatters by less than its few numbers can.
    """
    check_labels(cut.labels.astype(bool))
    encodings = fit_encodings(features_of(cut.frame), cut.frame)
    matrix, labels = matrix_of(encodings, cut.frame), cut.labels
    plan_ = plan(cut)
    progress(0.05)
    if plan_.by_time:
        trusted = trusted_columns(matrix, labels, plan_.folds)
        encodings, matrix = tuple(encodings[place] for place in trusted), matrix[:, trusted]
    # A circumstance of the past does not come back: by time nothing is told of any.
    groups = () if plan_.by_time else columns_to_tell(matrix, encodings)
    progress(0.15)
    judged = judge(matrix, encodings, labels, plan_, groups, lambda share: progress(0.15 + 0.6 * share))
    mixture, judged = mix(judged, plan_.by_time)
    metrics = _metrics(judged, mixture, plan_.by_time)
    if metrics["auc_low"] <= 0.5:
        raise TrainingRefused("NO_SIGNAL", "on rows that it had not seen, what was learnt is not proven better than chance")
    if not any(option.told for option in mixture.options if isinstance(option, Grown)):
        groups = ()
    matrix = np.hstack([matrix, told(matrix, labels, groups, plan_.numbers)])
    parts = _fit(mixture.options, matrix, encodings, labels, lambda share: progress(0.75 + 0.25 * share))
    calibration = Calibration(mixture.slope, mixture.intercept)
    if plan_.by_time:
        # The rate of tomorrow is more like that of the last block than like that of the years before.
        last = plan_.folds[-1][1]
        margins = sum(weight * _margin(part, matrix[last]) for weight, part in zip(mixture.weights, parts, strict=True))
        calibration = Calibration(mixture.slope, matched_intercept(mixture.slope, np.asarray(margins), labels[last].mean()))
    cells = [fit_cells(matrix, labels, group) for group in groups]
    artefact = to_onnx(parts, mixture.weights, len(encodings), metadata(encodings, calibration), cells)
    progress(1.0)
    return Trained(artefact, metrics)


def trees_for(rows: int) -> dict[Shape, tuple[int, ...]]:
    """The trees that are tried on a cut of so many rows."""
    return TREES | LARGE_TREES if rows >= LARGE_FROM else TREES


def family(option: Option) -> object:
    """Options of one family differ only in how long or how freely they learn; one of them is used."""
    return option.shape if isinstance(option, Grown) else "additive"


def judge(
    matrix: Matrix,
    encodings: tuple[Encoding, ...],
    labels: Labels,
    plan_: Plan,
    groups: Sequence[Columns],
    progress: Progress,
) -> Judged:
    """What every option says of the judged rows of every fold; trees are tried with and without the groups' cells."""
    trees, widths = trees_for(len(matrix)), sorted({0, len(groups)})
    tried: list[Option] = [
        Grown(shape, rounds, width) for width in widths for shape, stages in trees.items() for rounds in stages
    ]
    margins, truth, numbers, recent = [], [], [], []
    for number, (seen, unseen) in enumerate(plan_.folds):
        # By time, how the last block before the judged one was foretold tells the level at which the future begins.
        before = plan_.folds[number - 1][1] if plan_.by_time and number else seen
        asked = np.concatenate([unseen, before]) if plan_.by_time else unseen
        # The folds of what was seen, so that a person's rows stay together.
        shown = np.hstack([matrix[seen], told(matrix[seen], labels[seen], groups, plan_.numbers[seen])])
        asking = np.column_stack(
            [matrix[asked], *(fit_cells(matrix[seen], labels[seen], each)(matrix[asked]) for each in groups)]
        )
        said = np.column_stack(
            [
                *(
                    _staged(shape, stages, shown[:, :wide], labels[seen], asking[:, :wide])
                    for wide in (len(encodings) + width for width in widths)
                    for shape, stages in trees.items()
                ),
                *(line.margin(matrix[asked]) for line in fit_additive(matrix[seen], encodings, labels[seen], STRENGTHS)),
            ]
        )
        margins.append(said[: len(unseen)])
        truth.append(labels[unseen])
        numbers.append(np.full(len(unseen), number))
        if plan_.by_time:
            recent.append((said[len(unseen) :], labels[before]))
        progress((number + 1) / len(plan_.folds))
    everything = (*tried, *STRENGTHS)
    return Judged(everything, np.concatenate(margins), np.concatenate(truth), np.concatenate(numbers), tuple(recent))


def _staged(shape: Shape, tried: Sequence[int], seen: Matrix, labels: Labels, asked: Matrix) -> Floats:
    trees = fit_trees(seen, labels, shape, max(tried), SEEDS[0])
    stages = enumerate(trees.staged_decision_function(asked), start=1)
    return np.column_stack([margin.ravel() for rounds, margin in stages if rounds in tried])


def mix(judged: Judged, by_time: bool) -> tuple[Mixture, Judged]:
    """The best option of each family, weighted by a logistic regression without negative weights (stacking, Breiman 1996).

    By time every fold has its own intercept: learners are chosen by how they rank, for the level moves anyway.
    """
    tried = judged.options
    best: dict[object, int] = {}
    quality = [_quality(judged, place, by_time) for place in range(len(tried))]
    for place, option in enumerate(tried):
        if family(option) not in best or quality[place] > quality[best[family(option)]]:
            best[family(option)] = place
    places = list(best.values())
    folds = judged.fold if by_time else np.zeros_like(judged.fold)
    weights, levels = _stack(judged.margins[:, places], judged.labels, folds)
    shares = weights * judged.margins[:, places].std(axis=0)
    if not shares.sum() > 0:
        raise TrainingRefused("NO_SIGNAL", "what was learnt does not rise with the outcome on rows that it had not seen")
    places = [place for place, share in zip(places, shares / shares.sum(), strict=True) if share >= LEAST_SHARE]
    weights, levels = _stack(judged.margins[:, places], judged.labels, folds)
    slope = float(weights.sum())
    mixture = Mixture(tuple(tried[place] for place in places), weights / slope, slope, float(levels[-1]))
    recent = tuple((said[:, places], labels) for said, labels in judged.recent)
    return mixture, replace(judged, options=mixture.options, margins=judged.margins[:, places], recent=recent)


def _quality(judged: Judged, place: int, by_time: bool) -> float:
    margin = judged.margins[:, place]
    if not by_time:
        return -float(np.logaddexp(0, np.where(judged.labels > 0, -margin, margin)).mean())
    areas, weights = [], []
    for number in np.unique(judged.fold):
        inside = judged.fold == number
        areas.append(auc_with_error(margin[inside], judged.labels[inside])[0])
        weights.append(_pairs(judged.labels[inside]))
    return float(np.average(areas, weights=weights))


def _pairs(labels: Labels) -> float:
    """How many pairs of different outcome a block has: how much its AUC says."""
    return float(labels.sum()) * float(len(labels) - labels.sum())


def _stack(margins: Floats, labels: Labels, folds: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """(weights, intercept of each fold) of the most likely mixture without negative weights."""
    count, levels = margins.shape[1], int(folds.max()) + 1
    centre = margins.mean(axis=0)
    inputs, answers = margins - centre, labels.astype(np.float64)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        margin = inputs @ parameters[:count] + parameters[count:][folds]
        residual = 1 / (1 + np.exp(-np.clip(margin, -35, 35))) - answers
        gradient = np.concatenate([inputs.T @ residual, np.bincount(folds, residual, levels)]) / len(answers)
        return float((np.logaddexp(0, margin) - answers * margin).mean()), gradient

    start = np.concatenate([np.full(count, 1 / count), np.full(levels, np.log(answers.mean() / (1 - answers.mean())))])
    bounds = [(0.0, None)] * count + [(None, None)] * levels
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500, "ftol": 1e-12}).x
    return found[:count], found[count:] - centre @ found[:count]


def _metrics(judged: Judged, mixture: Mixture, by_time: bool) -> dict[str, float]:
    margin = judged.margins @ mixture.weights
    probability = np.empty(len(margin))
    for number in np.unique(judged.fold):
        inside = judged.fold == number
        if by_time:
            said, truth = judged.recent[number]
            intercept = matched_intercept(mixture.slope, said @ mixture.weights, truth.mean())
            probability[inside] = Calibration(mixture.slope, intercept).probability(margin[inside])
        else:
            others = ~inside
            weights, levels = _stack(margin[others, None], judged.labels[others], np.zeros(others.sum(), np.int64))
            probability[inside] = Calibration(float(weights[0]), float(levels[0])).probability(margin[inside])
    return measure(probability, judged.labels)


def trusted_columns(matrix: Matrix, labels: Labels, folds: Sequence[Fold]) -> list[int]:
    """Columns that may be used tomorrow: all that keep their distribution, and those of the others that earned their place.

    A moving column is taken back only when it betters the ranking of the later blocks beyond chance (DeLong, 95 %).
    """
    moving = moving_columns(matrix, folds)
    trusted = [place for place in range(matrix.shape[1]) if place not in moving]
    if not moving or not trusted:
        return list(range(matrix.shape[1]))
    said = _quick(matrix[:, trusted], labels, folds)
    while moving:
        gains = []
        for place in moving:
            with_it = _quick(matrix[:, [*trusted, place]], labels, folds)
            gain, error = _gain(said, with_it, labels, folds)
            gains.append((gain - Z95 * error, place, with_it))
        surest, place, with_it = max(gains, key=lambda entry: entry[0])
        if surest <= 0:
            break
        moving.remove(place)
        trusted, said = [*trusted, place], with_it
    return sorted(trusted)


def _quick(matrix: Matrix, labels: Labels, folds: Sequence[Fold]) -> list[Floats]:
    [shape, *_] = TREES
    return [
        np.ravel(fit_trees(matrix[seen], labels[seen], shape, 100, SEEDS[0]).decision_function(matrix[unseen]))
        for seen, unseen in folds
    ]


def _gain(said: list[Floats], other: list[Floats], labels: Labels, folds: Sequence[Fold]) -> tuple[float, float]:
    """(mean gain of AUC within the folds, its standard error), folds weighted by what they can say."""
    weights = np.array([_pairs(labels[unseen]) for _, unseen in folds])
    weights /= weights.sum()
    gains = [auc_gain(a, b, labels[unseen]) for a, b, (_, unseen) in zip(said, other, folds, strict=True)]
    return float(weights @ [gain for gain, _ in gains]), float(np.sqrt(weights**2 @ [error**2 for _, error in gains]))


Part = list[HistGradientBoostingClassifier] | Additive


def _fit(
    chosen: Sequence[Option], matrix: Matrix, encodings: tuple[Encoding, ...], labels: Labels, progress: Progress
) -> list[Part]:
    parts: list[Part] = []
    for number, option in enumerate(chosen):
        if isinstance(option, Grown):
            wide = len(encodings) + option.told
            parts.append([fit_trees(matrix[:, :wide], labels, option.shape, option.rounds, seed) for seed in SEEDS])
        else:
            parts.append(fit_additive(matrix, encodings, labels, (option,))[0])
        progress((number + 1) / len(chosen))
    return parts


def _margin(part: Part, matrix: Matrix) -> Floats:
    if isinstance(part, Additive):
        return part.margin(matrix)
    return np.asarray(np.mean([booster.decision_function(matrix) for booster in part], axis=0))


def to_onnx(parts: Sequence[Part], weights: Floats, columns: int, carried: str, cells: Sequence[Cells] = ()) -> bytes:
    """One file from features to the mixture's margin: all trees in one node, the bent lines beside them.

    `cells`, where the trees were told any, are one node before them.
    """
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    sums: list[str] = []
    boosters = []
    for part, weight in zip(parts, weights.tolist(), strict=True):
        if isinstance(part, Additive):
            added, held = part.to_nodes(weight, "line")
            nodes, constants, sums = nodes + added, constants + held, [*sums, "line"]
        else:
            boosters += [(booster, weight / len(part)) for booster in part]
    if boosters:
        trees = ensemble(boosters, "trees")
        if cells:
            tables = [(table.nodes, 1.0, place) for place, table in enumerate(cells)]
            nodes.append(sum_of_trees(tables, [0.0] * len(cells), "cells"))
            nodes.append(helper.make_node("Concat", ["features", "cells"], ["told"], axis=1))
            trees.input[0] = "told"
        nodes.append(trees)
        sums.append("trees")
    nodes.append(helper.make_node("Sum", sums, ["margin"]))
    return to_file(nodes, constants, columns, carried)
