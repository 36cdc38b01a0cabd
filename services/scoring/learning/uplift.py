"""Uplift: whom a push moves, learnt from a campaign in which chance decided who was pushed.

Effects are small and nobody shows her own, so everything here leans towards "no difference". Persons are dealt into five
blocks; each learner is judged on a block when it has seen only the blocks before, and counts by how clearly it ranked them
so far (its rank-weighted effect over the error of that, less one for all but the simplest, squared; below zero not at all).
So the blend never knew the persons who judge it, and the blocks' verdicts may be added: with folds in a circle, where each
also taught the learners of the others, chance passed a test at 2.5 % in 13 % of simulations.
Of the differences between persons, the served model keeps the part that the blocks confirm: their slope times 1 - 1/z²
(positive-part James-Stein), around an average effect that is shrunk alike.

A training ends with NO_PROVEN_EFFECT when neither the average effect nor a ranking is proven, at 5 % for both together.
When the average is proven and differences are not (`ranking_proven` 0), everybody gets nearly the average, exactly so below
z = 1: that is what is known of her, and it still answers whether a push pays. When a ranking is proven and the average is
not (`effect_proven` 0), a push of everybody has no proven effect and of the best has: the average is taken for nothing, by
the same shrinkage, and the model is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import erfc, sqrt

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

from services.scoring.artefact import EFFECT, Calibration, metadata
from services.scoring.domain import Floats, TrainingRefused, check_labels
from services.scoring.frame import Encoding, Feature, Frame, Ids, Kind, Matrix, features_of, fit_encodings, matrix_of
from services.scoring.learning.cut import Cut, Progress, Trained
from services.scoring.learning.metrics import Z95, auc_with_error
from services.scoring.learning.uplift_graph import Function, Graph, Responses, Sum
from services.scoring.learning.uplift_learners import CANDIDATES, PULL, Campaign, expected_answer
from services.scoring.learning.uplift_metrics import auuc, gain, interval, places, qini, resampled
from services.scoring.learning.validation import plan

Flags = NDArray[np.bool_]

# Chance gives 0.5. Beyond this, who was pushed was chosen, and what the features do not say of the choice stays in the effect.
MOST_TOLD = 0.55
# Where chance was bent a little, the share of the pushed is estimated, but never so that one person counts for twenty.
SHARES = (0.05, 0.95)
# What the leaning line holds back of each column's effect, given back in full.
MOST_KEPT = 1 + PULL
# Two-sided 97.5 % of a normal distribution, and one-sided.
Z_EFFECT, Z_RANKING = 2.2414, 1.96
ROUNDS = 200


@dataclass(frozen=True)
class Evidence:
    """What the judged blocks prove.

    `effect`: the average, with its error. `gains`: value and error of each learner's ranking, [blocks, learners, 2].
    `places`: each judged row's place in the blend's ranking of its block. `ranking`: how clear that is, a normal deviate when
    it says nothing. `slope`: points of effect per point foretold.
    """

    effect: float
    error: float
    gains: Floats
    judged: Ids
    places: Floats
    ranking: float
    slope: float

    @property
    def effect_proven(self) -> bool:
        """Whether a push of everybody has an effect, at 2.5 %, either way."""
        return abs(self.effect) > Z_EFFECT * self.error

    @property
    def ranking_proven(self) -> bool:
        """Whether some are moved more than others, at 2.5 %, in the order foretold."""
        return self.ranking > Z_RANKING

    @property
    def shrunk(self) -> float:
        """The average effect without what chance alone would make of it."""
        return self.effect * max(0.0, 1 - (self.error / self.effect) ** 2) if self.effect else 0.0

    @property
    def kept(self) -> float:
        """The part of the blend's differences that is kept; above one where blending has dulled them."""
        return float(np.clip(self.slope, 0, MOST_KEPT)) * (1 - self.ranking**-2) if self.ranking > 1 else 0.0

    @property
    def heterogeneity_p(self) -> float:
        """How often chance alone ranks as well."""
        return 0.5 * erfc(self.ranking / sqrt(2))

    def __str__(self) -> str:
        low, high = self.effect - Z95 * self.error, self.effect + Z95 * self.error
        return (
            f"a push adds {100 * self.effect:.2f} points ({100 * low:.2f} to {100 * high:.2f});"
            f" chance ranks persons as well with p = {self.heterogeneity_p:.2f}"
        )


def train(cut: Cut, progress: Progress) -> Trained:
    """Trains on a randomised push; refuses cuts without one, and those that prove no effect.

    Reasons: TREATMENT_MISSING, NOBODY_PUSHED, EVERYBODY_PUSHED, NOT_RANDOMISED, NO_PROVEN_EFFECT, and those of
    `check_labels` for either arm.
    """
    labels, treated = _checked(cut)
    encodings = fit_encodings(features_of(cut.frame), cut.frame)
    matrix = matrix_of(encodings, cut.frame)
    # Random folds even where there are moments: chance decided who was pushed at every moment alike.
    folds = _folds(cut.frame.persons, labels, treated)
    blocks = int(folds.max()) + 1
    work = _Work(progress, 2 * blocks + len(CANDIDATES) * blocks)
    with threadpool_limits(1):
        unknown = np.full(len(labels), treated.mean())
        dated = _dated(matrix, encodings, cut.moments)
        told = _crossed(expected_answer, Campaign(*dated, treated, treated, unknown, unknown), folds, work)
        balance, share = _balance(treated, told)
        answers = Campaign(matrix, encodings, labels, treated, unknown, share)
        campaign = replace(answers, expected=_crossed(expected_answer, answers, folds, work))
        estimates = np.column_stack([_onwards(c.learner, campaign, folds, work) for c in CANDIDATES.values()])
        evidence = _evidence(campaign.pseudo_effects, estimates, folds)
        if not (evidence.effect_proven or evidence.ranking_proven):
            raise TrainingRefused("NO_PROVEN_EFFECT", str(evidence))
        weights = _weights(evidence.gains)
        effect = _served(campaign, evidence.shrunk, weights * evidence.kept, work)
        responses = Responses(expected_answer(campaign), effect, float(treated.mean()))
    metrics = balance | _metrics(campaign, evidence) | {"differences_kept": evidence.kept}
    metrics |= {f"weight_{name}": float(weight) for name, weight in zip(CANDIDATES, weights, strict=True)}
    progress(1.0)
    return Trained(_artefact(responses, encodings), metrics)


def _checked(cut: Cut) -> tuple[Flags, Flags]:
    if cut.treated is None:
        raise TrainingRefused("TREATMENT_MISSING")
    labels, treated = cut.labels == 1, np.asarray(cut.treated, bool)
    if not len(labels):
        raise TrainingRefused("EMPTY_CUT")
    if not treated.any():
        raise TrainingRefused("NOBODY_PUSHED")
    if treated.all():
        raise TrainingRefused("EVERYBODY_PUSHED")
    for arm in (treated, ~treated):
        check_labels(labels[arm])
    return labels, treated


def _folds(persons: Ids, labels: Flags, treated: Flags) -> Ids:
    """The number of each row's fold; a person's rows are in one, and each has its share of both arms' answers."""
    strata = (labels + 2 * treated).astype(np.int32)
    number = np.empty(len(labels), np.int64)
    for fold, (_, held_out) in enumerate(plan(Cut(Frame(persons, {}), strata)).folds):
        number[held_out] = fold
    return number


def _dated(matrix: Matrix, encodings: Sequence[Encoding], moments: Ids) -> tuple[Matrix, Sequence[Encoding]]:
    """The features, and which moment it was: a share of the pushed that changes with time is no chance either."""
    if not len(moments):
        return matrix, encodings
    _, order = np.unique(moments, return_inverse=True)
    return np.column_stack([matrix, order.astype(np.float32)]), [*encodings, Encoding(Feature("moment", Kind.NUMBER))]


class _Work:
    """Counts fits into progress."""

    def __init__(self, progress: Progress, fits: int) -> None:
        self._progress, self._fits, self._done = progress, fits, 0

    def done(self) -> None:
        self._done += 1
        self._progress(self._done / self._fits)


def _crossed(learner: Callable[[Campaign], Function], campaign: Campaign, folds: Ids, work: _Work) -> Floats:
    """What a learner says of each row when it is fitted on the other folds."""
    said = np.empty(len(folds))
    for fold in np.unique(folds):
        inside = folds == fold
        said[inside] = learner(campaign.part(np.flatnonzero(~inside)))(campaign.matrix[inside])
        work.done()
    return said


def _onwards(learner: Callable[[Campaign], Function], campaign: Campaign, folds: Ids, work: _Work) -> Floats:
    """What a learner says of each row when it is fitted on the blocks before; nothing (NaN) of the first block."""
    said = np.full(len(folds), np.nan)
    for block in range(1, int(folds.max()) + 1):
        inside = folds == block
        said[inside] = learner(campaign.part(np.flatnonzero(folds < block)))(campaign.matrix[inside])
        work.done()
    return said


def _balance(treated: Flags, told: Floats) -> tuple[dict[str, float], Floats]:
    """How well the features tell who was pushed, and P(pushed) of each row; refuses when they tell too well."""
    auc, error = auc_with_error(told, treated)
    low, high = auc - Z95 * error, auc + Z95 * error
    if low > MOST_TOLD:
        raise TrainingRefused(
            "NOT_RANDOMISED", f"features or time tell who was pushed: AUC {auc:.3f} ({low:.3f} to {high:.3f})"
        )
    share = np.clip(told, *SHARES) if low > 0.5 else np.full(len(treated), treated.mean())
    return {"treatment_auc": auc, "treatment_auc_low": low, "treatment_auc_high": high}, share


def _weights(gains: Floats) -> Floats:
    """Shares of the learners, by how clearly each ranked the blocks so far; all zero when none did."""
    belief = np.array([candidate.belief for candidate in CANDIDATES.values()])
    if not len(gains):
        return belief
    value, error = gains[:, :, 0].sum(axis=0), np.sqrt((gains[:, :, 1] ** 2).sum(axis=0))
    clearness = np.divide(value, error, out=np.zeros(len(value)), where=error > 0)
    doubt = np.array([candidate.doubt for candidate in CANDIDATES.values()])
    weights = belief * np.maximum(clearness - doubt, 0) ** 2
    return np.asarray(weights / weights.sum() if weights.any() else weights)


def _evidence(pseudo_effects: Floats, estimates: Floats, folds: Ids) -> Evidence:
    """Judges each block by what was known before it, the weights of the learners included."""
    gains: list[list[tuple[float, float]]] = []
    rows, ranks, verdicts = [], [], []
    together = spread = 0.0
    for block in range(1, int(folds.max()) + 1):
        inside = np.flatnonzero(folds == block)
        effects = pseudo_effects[inside]
        blend = estimates[inside] @ _weights(np.array(gains))
        rows.append(inside)
        ranks.append(places(blend))
        verdicts.append(gain(effects, blend))
        together += float((blend - blend.mean()) @ effects)
        spread += float((blend - blend.mean()) @ blend)
        gains.append([gain(effects, column) for column in estimates[inside].T])
    value, error = (float(part) for part in (sum(v for v, _ in verdicts), sqrt(sum(e * e for _, e in verdicts))))
    return Evidence(
        effect=float(pseudo_effects.mean()),
        error=float(pseudo_effects.std() / sqrt(len(folds))),
        gains=np.array(gains),
        judged=np.concatenate(rows),
        places=np.concatenate(ranks),
        ranking=value / error if error > 0 else 0.0,
        slope=together / spread if spread > 0 else 0.0,
    )


def _served(campaign: Campaign, effect: float, weights: Floats, work: _Work) -> Function:
    """The average effect, and around it what is kept of the learners' differences."""
    functions, shares, middle = [], [], 0.0
    for candidate, weight in zip(CANDIDATES.values(), weights, strict=True):
        if weight > 0:
            functions.append(candidate.learner(campaign))
            shares.append(float(weight))
            middle += float(weight) * float(functions[-1](campaign.matrix).mean())
        work.done()
    return Sum(tuple(functions), tuple(shares), effect - middle)


def _metrics(campaign: Campaign, evidence: Evidence) -> dict[str, float]:
    """Figures of the judged blocks, each with its middle 95 %."""
    found = {"effect": evidence.effect, "heterogeneity_p": evidence.heterogeneity_p}
    found |= {"effect_proven": float(evidence.effect_proven), "ranking_proven": float(evidence.ranking_proven)}
    found["effect_low"] = evidence.effect - Z95 * evidence.error
    found["effect_high"] = evidence.effect + Z95 * evidence.error
    judged, pseudo_effects = campaign.part(evidence.judged), campaign.pseudo_effects[evidence.judged]
    for name, figure in (("qini", qini), ("auuc", auuc)):
        found[name] = figure(judged.labels, judged.treated, evidence.places)
        samples = resampled(figure, judged.labels, judged.treated, [evidence.places], 0, ROUNDS)[:, 0]
        found[f"{name}_low"], found[f"{name}_high"] = interval(samples)
    thirds = np.array_split(np.argsort(-evidence.places, kind="stable"), 3)
    for name, third in (("best", thirds[0]), ("worst", thirds[-1])):
        effects = pseudo_effects[third]
        margin = Z95 * float(effects.std()) / sqrt(max(len(third), 1))
        found[f"effect_of_{name}_third"] = float(effects.mean())
        found[f"effect_of_{name}_third_low"] = float(effects.mean()) - margin
        found[f"effect_of_{name}_third_high"] = float(effects.mean()) + margin
    return found


def _artefact(responses: Responses, encodings: Sequence[Encoding]) -> bytes:
    graph = Graph()
    carried = metadata(encodings, Calibration(1.0, 0.0), EFFECT)
    return graph.file(responses.onto(graph), len(encodings), 2, carried)
