"""Propensities on five sets of real outcomes, beside one untuned HistGradientBoosting on the same splits.

Random splits: five times a stratified 20 % are judged by what the other 80 % taught (caravan_insurance: five folds, so that
everybody is judged once). Everything that is chosen is chosen by the product inside the 80 %. `_low` and `_high` are 95 % of
the mean over splits, Student's t; where there is one split only (by time), 95 % of the figure after DeLong.

`kept_at_65`: the share of all sales in the best 65 % of the list. `bands`: by range of the score, how many answered, over the
versions of the model that the five splits made: mean, and the lowest and highest version.

`TROIKA_PICTURES` names a folder for one picture per set: what was promised against what happened.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

from bench import models_sets
from bench.models_sets import BinarySet
from bench.progress import say
from services.scoring.artefact import Calibration, ServedModel
from services.scoring.domain import score_of
from services.scoring.frame import Frame, features_of, fit_encodings, matrix_of
from services.scoring.learning.calibration import recalibrated
from services.scoring.learning.cut import Cut
from services.scoring.learning.leaks import find_leaks
from services.scoring.learning.metrics import kept_by_best, reliability
from services.scoring.learning.metrics import measure as measured
from services.scoring.learning.propensity import train

SPLITS = 5
# Contest: 800 of 4,000 were to be contacted, 238 of whom would have bought.
CARAVAN_SHARE, CARAVAN_BUYERS, CARAVAN_WINNER = 0.2, 238, 121
CALLS = 0.65
BANDS = ((800, 1001), (600, 800), (400, 600), (200, 400), (0, 200))
# Outcomes of calls are known when this many more have been made.
OUTCOMES_AT_ONCE = 200

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Split = tuple[Ids, Ids]


@dataclass(frozen=True)
class Judged:
    """What one split gave: the product's and the baseline's probabilities of its unseen rows, and what happened."""

    ours: Floats
    floor: Floats
    labels: npt.NDArray[np.int32]


WHOSE: Mapping[str, Callable[[Judged], Floats]] = {"": lambda one: one.ours, "floor_": lambda one: one.floor}


def learn(frame: Frame, labels: npt.NDArray[np.int32], seen: Ids, moments: Ids | None = None) -> ServedModel:
    """The product's own training, through the file that it would serve."""
    cut = Cut(frame.rows(seen), labels[seen], moments=np.empty(0, np.int64) if moments is None else moments[seen])
    return ServedModel("bench", 1, train(cut, lambda _: None).artefact)


def floor_of(frame: Frame, labels: npt.NDArray[np.int32], seen: Ids, unseen: Ids, seed: int) -> Floats:
    """scikit-learn's trees as they come, on words as numbers."""
    encodings = fit_encodings(features_of(frame), frame)
    matrix = matrix_of(encodings, frame)
    with threadpool_limits(1):
        trees = HistGradientBoostingClassifier(random_state=seed).fit(np.nan_to_num(matrix[seen], nan=-1), labels[seen])
        return np.asarray(trees.predict_proba(np.nan_to_num(matrix[unseen], nan=-1))[:, 1])


def judge(data: BinarySet, splits: Sequence[Split]) -> list[Judged]:
    """Every split of a set, without the columns that are known only afterwards."""
    frame, judged = data.honest(), []
    for number, (seen, unseen) in enumerate(splits):
        say(f"{data.name}: split {number + 1} of {len(splits)}")
        model = learn(frame, data.labels, seen)
        ours = model.probability(matrix_of(model.encodings, frame.rows(unseen)))
        judged.append(Judged(ours, floor_of(frame, data.labels, seen, unseen, number), data.labels[unseen]))
    return judged


def random_splits(data: BinarySet, count: int) -> list[Split]:
    """Stratified fifths drawn anew each time."""
    return list(StratifiedShuffleSplit(count, test_size=0.2, random_state=2026).split(data.labels, data.labels))


def with_interval(name: str, values: Sequence[float]) -> dict[str, float]:
    """Mean and 95 % of the mean over splits."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return {name: round(mean, 4)}
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return {name: round(mean, 4), f"{name}_low": round(mean - half, 4), f"{name}_high": round(mean + half, 4)}


def accuracy(judged: Sequence[Judged]) -> dict[str, Any]:
    """auc, ap, ece and kept_at_65 of the product, and of the floor."""
    figures: dict[str, Any] = {}
    for who, pick in WHOSE.items():
        each = [measured(pick(j), j.labels) | {"kept": kept_by_best(pick(j), j.labels, CALLS)} for j in judged]
        for name, key in (("auc", "auc"), ("ap", "average_precision"), ("ece", "ece"), ("kept_at_65", "kept")):
            figures |= with_interval(f"{who}{name}", [one[key] for one in each])
    return figures | {"bands": bands(judged)}


def bands(judged: Sequence[Judged]) -> dict[str, Any]:
    """The response rate of each band of the score over the versions; bands of fewer than 30 persons a version are left out."""
    found: dict[str, Any] = {}
    for low, high in BANDS:
        rates, promised, persons = [], [], []
        for one in judged:
            inside = (score_of(one.ours) >= low) & (score_of(one.ours) < high)
            if inside.sum() >= 30:
                rates.append(float(one.labels[inside].mean()))
                promised.append(float(one.ours[inside].mean()))
                persons.append(int(inside.sum()))
        if rates:
            found[f"{low}_{min(high, 1000)}"] = {
                "rate": round(float(np.mean(rates)), 4),
                "rate_min": round(min(rates), 4),
                "rate_max": round(max(rates), 4),
                "promised": round(float(np.mean(promised)), 4),
                "persons": int(np.mean(persons)),
            }
    return found


def leaks(data: BinarySet) -> dict[str, Any]:
    """What the system itself suspects when nothing is left out, beside what is known to leak by its meaning."""
    named = find_leaks(Cut(data.frame, data.labels))
    known = set(data.known_afterwards)
    return {
        "leaks_named": ", ".join(f"{s.column} ({s.strength})" for s in named if s.column in known),
        "leaks_missed": ", ".join(sorted(known - {s.column for s in named})),
        "false_alarms": ", ".join(f"{s.column} ({s.strength})" for s in named if s.column not in known),
    }


def bank_marketing(count: int) -> dict[str, Any]:
    """Random splits, the claim of fewer calls, and the walk through time."""
    data = models_sets.bank_marketing()
    figures = summary(data, judge(data, random_splits(data, count)))
    figures["sales_kept_at_65_percent"] = figures["kept_at_65"]
    figures["sales_per_call_gain"] = round(figures["kept_at_65"] / CALLS - 1, 4)
    return figures | by_time(data)


def by_time(data: BinarySet) -> dict[str, Any]:
    """The first 80 % teach; the rest is walked through in the order of the calls, with and without online recalibration."""
    say(f"{data.name}: by time")
    rows = np.arange(len(data))
    seen, unseen = np.split(rows, [int(0.8 * len(rows))])
    frame, labels = data.honest(), data.labels
    model = learn(frame, labels, seen, moments=rows)
    promised = model.probability(matrix_of(model.encodings, frame.rows(unseen)))
    margins = np.log(promised / (1 - promised))
    walked, _ = recalibrated(Calibration(1.0, 0.0), margins, labels[unseen], OUTCOMES_AT_ONCE)
    before, after = measured(promised, labels[unseen]), measured(walked, labels[unseen])
    floor = measured(floor_of(frame, labels, seen, unseen, 0), labels[unseen])
    picture(f"{data.name}_by_time", {"as trained": promised, "recalibrated online": walked}, labels[unseen])
    return {
        "auc_time_split": round(before["auc"], 4),
        "auc_time_split_low": round(before["auc_low"], 4),
        "auc_time_split_high": round(before["auc_high"], 4),
        "auc_time_split_recalibrated": round(after["auc"], 4),
        "ece_time_split": round(before["ece"], 4),
        "ece_time_split_recalibrated": round(after["ece"], 4),
        "floor_auc_time_split": round(floor["auc"], 4),
        "floor_ece_time_split": round(floor["ece"], 4),
        "columns_trusted_in_time": ", ".join(model.tags),
    }


def caravan_insurance(count: int) -> dict[str, Any]:
    """Five folds; in each the best fifth is contacted, as in the contest. `quick` measures two of them."""
    data = models_sets.caravan_insurance()
    folds = list(StratifiedKFold(5, shuffle=True, random_state=2026).split(data.labels, data.labels))[: max(count, 2)]
    judged = judge(data, folds)
    figures = summary(data, judged)
    for who, pick in WHOSE.items():
        shares = [kept_by_best(pick(j), j.labels, CARAVAN_SHARE) for j in judged]
        figures |= with_interval(f"{who}hits_share_at_20_percent", shares)
        figures[f"{who}hits_of_238"] = round(float(np.mean(shares)) * CARAVAN_BUYERS, 1)
    return figures | {"winner_hits_of_238": CARAVAN_WINNER}


def random_only(load: Callable[[], BinarySet]) -> Callable[[int], dict[str, Any]]:
    """A set that is measured by random splits and nothing else."""

    def figures(count: int) -> dict[str, Any]:
        data = load()
        return summary(data, judge(data, random_splits(data, count)))

    return figures


def summary(data: BinarySet, judged: Sequence[Judged]) -> dict[str, Any]:
    """What every set is told of; writes its picture."""
    labels = np.concatenate([one.labels for one in judged])
    curves = {"Troika": np.concatenate([j.ours for j in judged]), "untuned trees": np.concatenate([j.floor for j in judged])}
    picture(data.name, curves, labels)
    return accuracy(judged) | leaks(data)


def picture(name: str, curves: Mapping[str, Floats], labels: npt.NDArray[np.int32]) -> None:
    """Promised against observed shares in ten bins, into the folder of pictures, if there is one."""
    folder = os.environ.get("TROIKA_PICTURES")
    if not folder:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 5), layout="constrained")
    most = 0.0
    for label, probability in curves.items():
        bins = reliability(probability, labels)
        error = 1.96 * np.sqrt(bins.observed * (1 - bins.observed) / bins.persons)
        axes.errorbar(bins.promised, bins.observed, yerr=error, marker="o", markersize=4, capsize=2, label=label)
        most = max(most, float(bins.promised.max()), float((bins.observed + error).max()))
    axes.plot([0, most], [0, most], color="grey", linewidth=0.8, zorder=0)
    axes.set(xlabel="promised share", ylabel="observed share (95 %)", title=name)
    axes.legend()
    Path(folder).mkdir(parents=True, exist_ok=True)
    figure.savefig(Path(folder) / f"{name}.png", dpi=120)
    pyplot.close(figure)


SETS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "bank_marketing": bank_marketing,
    "caravan_insurance": caravan_insurance,
    "lead_scoring": random_only(models_sets.lead_scoring),
    "telco_churn": random_only(models_sets.telco_churn),
    "online_shoppers": random_only(models_sets.online_shoppers),
}


async def measure(quick: bool) -> dict[str, Any]:
    """The figures of every set that is on this machine; `quick` measures one split."""
    found: dict[str, Any] = {}
    for name, figures in SETS.items():
        if models_sets.there(name):
            found[name] = await asyncio.to_thread(figures, 1 if quick else SPLITS)
        else:
            say(f"{name}: not there")
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure("--quick" in sys.argv)), indent=2))
