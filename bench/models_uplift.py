"""Uplift: our training beside scikit-uplift's standard learners, on the same splits in one run.

60 % of a campaign's persons train, 40 % judge; five seeded splits, stratified by arm and answer. Our training sees the first
part only and chooses within it. scikit-uplift's learners are its three models in its six ways (SoloModel with the push as a
column and with interactions; TwoModels plain and with either dependence; ClassTransformation), each on scikit-learn's
LogisticRegression (standardised, words one-hot) and HistGradientBoostingClassifier as they come. `best_baseline` is the one of
the twelve with the highest mean on the judging parts: a choice in their favour that nobody has who must choose beforehand.
In ours, what each learner is believed before the data speak (`CANDIDATES`) was set by cross-validation within training parts of
these files, after four earlier settings had been seen on these splits: to that extent ours is flattered too.
Parts not given out judge both better.

`_low` and `_high` are the middle 95 % of single splits' figures over bootstrap samples of the judging persons, in which all
rankings are resampled together. `qini` and `auuc` as scikit-uplift defines them, `qini_area` unnormalised; `nir` and
`irr` are Starbucks', when those are pushed whose effect is worth more than a push costs (0.15 of 10).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

from bench.models_sets import frame_of, table, there
from bench.progress import say
from services.scoring.artefact import ServedModel
from services.scoring.domain import Floats, TrainingRefused
from services.scoring.frame import Ids, Words, matrix_of
from services.scoring.learning import uplift
from services.scoring.learning.cut import Cut
from services.scoring.learning.uplift_metrics import COST, REVENUE, Flags, auuc, interval, irr, nir, qini, qini_area, resampled

SEEDS = range(5)
ROUNDS = 100


@dataclass(frozen=True)
class Campaign:
    """A randomised push and its outcome; `words` are columns of no order."""

    columns: pd.DataFrame
    words: tuple[str, ...]
    labels: Flags
    treated: Flags
    # Whether Starbucks' revenue is what a push is for.
    earns: bool = False


def _hillstrom(segment: str) -> Campaign:
    rows = table("hillstrom_email")
    rows = rows[rows["segment"].isin([segment, "No E-Mail"])].reset_index(drop=True)
    treated, labels = (rows["segment"] == segment).to_numpy(), rows["visit"].to_numpy() == 1
    words = ("mens", "womens", "newbie", "history_segment", "zip_code", "channel")
    return Campaign(rows.drop(columns=["segment", "visit", "conversion", "spend"]), words, labels, treated)


def _starbucks() -> Campaign:
    rows = table("starbucks_promotion")
    treated, labels = (rows["Promotion"] == "Yes").to_numpy(), rows["purchase"].to_numpy() == 1
    return Campaign(
        rows.drop(columns=["ID", "Promotion", "purchase"]), ("V1", "V4", "V5", "V6", "V7"), labels, treated, earns=True
    )


def _insurance() -> Campaign:
    rows = table("insurance_campaign")
    treated, labels = rows["TREATMENT"].to_numpy() == 1, rows["PURCHASE"].to_numpy() == 1
    return Campaign(rows.drop(columns=["TREATMENT", "PURCHASE", "UNIQUE_ID"]), (), labels, treated)


# Figure's name to (file, campaign).
CAMPAIGNS: Mapping[str, tuple[str, Callable[[], Campaign]]] = {
    "hillstrom_email": ("hillstrom_email", lambda: _hillstrom("Womens E-Mail")),
    "hillstrom_email_mens": ("hillstrom_email", lambda: _hillstrom("Mens E-Mail")),
    "starbucks_promotion": ("starbucks_promotion", _starbucks),
    "insurance_campaign": ("insurance_campaign", _insurance),
}


def ours(campaign: Campaign, seen: Ids, unseen: Ids) -> tuple[Floats, dict[str, float], str]:
    """Served effects of unseen persons, what the training says of itself, and in words; zero effects when it refuses."""
    frame = frame_of(campaign.columns, campaign.words)
    cut = Cut(frame.rows(seen), campaign.labels[seen].astype(np.int32), treated=campaign.treated[seen])
    try:
        trained = uplift.train(cut, lambda _: None)
    except TrainingRefused as refusal:
        return np.zeros(len(unseen)), {}, f"{refusal.reason}: {refusal.detail}"
    model = ServedModel("uplift", 1, trained.artefact)
    return model.effect(matrix_of(model.encodings, frame.rows(unseen))), trained.metrics, _in_words(trained.metrics)


def _in_words(metrics: Mapping[str, float]) -> str:
    def points(name: str) -> str:
        return f"{100 * metrics[name]:.1f} ({100 * metrics[f'{name}_low']:.1f} to {100 * metrics[f'{name}_high']:.1f})"

    average = "proven effect" if metrics["effect_proven"] else "no proven effect"
    ranking = "proven" if metrics["ranking_proven"] else "not proven"
    return (
        f"{average} of a push of everybody: {points('effect')} points; differences between persons {ranking}:"
        f" best third {points('effect_of_best_third')}, worst third {points('effect_of_worst_third')}"
    )


def baselines(campaign: Campaign) -> Iterator[tuple[str, Any, pd.DataFrame]]:
    """scikit-uplift's learners, unfitted, each with the columns that its estimator reads."""
    from sklift.models import ClassTransformation, SoloModel, TwoModels

    one_hot = pd.get_dummies(campaign.columns, columns=list(campaign.words), dtype=float)
    standard = pd.DataFrame(StandardScaler().fit_transform(one_hot), columns=one_hot.columns.astype(str))
    coded = pd.DataFrame(
        {
            tag: column.indexes if isinstance(column, Words) else column.values
            for tag, column in frame_of(campaign.columns, campaign.words).columns.items()
        }
    )
    estimators: tuple[tuple[str, Callable[[], Any], pd.DataFrame], ...] = (
        ("logistic", lambda: LogisticRegression(max_iter=1000), standard),
        ("boosted", lambda: HistGradientBoostingClassifier(random_state=0), coded),
    )
    for base, make, columns in estimators:
        yield f"solo_{base}", SoloModel(make()), columns
        yield f"solo_interaction_{base}", SoloModel(make(), method="treatment_interaction"), columns
        yield f"two_models_{base}", TwoModels(make(), make()), columns
        yield f"two_models_ddr_control_{base}", TwoModels(make(), make(), method="ddr_control"), columns
        yield f"two_models_ddr_treatment_{base}", TwoModels(make(), make(), method="ddr_treatment"), columns
        yield f"class_transformation_{base}", ClassTransformation(make()), columns


def theirs(campaign: Campaign, seen: Ids, unseen: Ids) -> dict[str, Floats]:
    """Effects of unseen persons by each of scikit-uplift's learners."""
    labels, treated = pd.Series(campaign.labels[seen].astype(int)), pd.Series(campaign.treated[seen].astype(int))
    found = {}
    with warnings.catch_warnings():
        # It uses pandas and scikit-learn in ways that these will drop.
        warnings.simplefilter("ignore")
        for name, learner, columns in baselines(campaign):
            # It joins by index.
            learner.fit(columns.iloc[seen].reset_index(drop=True), labels, treated)
            found[name] = np.asarray(learner.predict(columns.iloc[unseen].reset_index(drop=True)), np.float64)
    return found


def campaign_figures(name: str, campaign: Campaign, seeds: range) -> dict[str, Any]:
    """All figures of one campaign."""
    effects: list[dict[str, Floats]] = []
    judged: list[tuple[Flags, Flags]] = []
    told: list[dict[str, float]] = []
    found: dict[str, Any] = {}
    seconds = 0.0
    for seed in seeds:
        strata = campaign.labels + 2 * campaign.treated
        seen, unseen = train_test_split(np.arange(len(strata)), test_size=0.4, random_state=seed, stratify=strata)
        start = time.perf_counter()
        effect, metrics, says = ours(campaign, seen, unseen)
        seconds += time.perf_counter() - start
        effects.append({"ours": effect} | theirs(campaign, seen, unseen))
        judged.append((campaign.labels[unseen], campaign.treated[unseen]))
        told.append(metrics)
        if seed == 0:
            found["says"] = says
        say(f"{name}, split {seed}: {says}")
    found |= {"persons": len(campaign.labels), "splits": len(seeds), "train_s": round(seconds / len(seeds), 1)}
    found["effect"] = _mean_effect(campaign)
    found["refused"] = sum(not metrics for metrics in told)
    for verdict in ("effect_proven", "ranking_proven"):
        found[f"splits_with_{verdict}"] = int(sum(metrics.get(verdict, 0.0) for metrics in told))
    found |= _beside("qini", qini, effects, judged)
    found |= _beside("auuc", auuc, effects, judged)
    found["qini_area"] = float(np.mean([qini_area(*j, e["ours"]) for j, e in zip(judged, effects, strict=True)]))
    if campaign.earns:
        found |= _beside("nir", lambda y, t, e: nir(y, t, e > COST / REVENUE), effects, judged)
        found |= _beside("irr", lambda y, t, e: irr(y, t, e > COST / REVENUE), effects, judged)
    return {key: round(value, 5) if isinstance(value, float) else value for key, value in found.items()}


def _mean_effect(campaign: Campaign) -> float:
    return float(campaign.labels[campaign.treated].mean() - campaign.labels[~campaign.treated].mean())


def _beside(
    name: str,
    figure: Callable[[Flags, Flags, Floats], float],
    effects: list[dict[str, Floats]],
    judged: list[tuple[Flags, Flags]],
) -> dict[str, Any]:
    """One figure of ours, of the best of theirs, and of the difference."""
    means = {
        learner: float(np.mean([figure(*j, e[learner]) for j, e in zip(judged, effects, strict=True)]))
        for learner in effects[0]
    }
    best = max((learner for learner in means if learner != "ours"), key=lambda learner: means[learner])
    pairs = [[split["ours"], split[best]] for split in effects]
    samples = np.concatenate(
        [resampled(figure, *j, p, seed, ROUNDS) for seed, (j, p) in enumerate(zip(judged, pairs, strict=True))]
    )
    found: dict[str, Any] = {
        name: means["ours"],
        f"{name}_best_baseline": means[best],
        f"{name}_best_baseline_is": best,
        f"{name}_vs_best_baseline": means["ours"] / means[best],
        f"{name}_minus_best_baseline": means["ours"] - means[best],
    }
    for key, column in ((name, samples[:, 0]), (f"{name}_minus_best_baseline", samples[:, 0] - samples[:, 1])):
        found[f"{key}_low"], found[f"{key}_high"] = interval(column)
    found[f"{name}_baselines"] = {learner: round(mean, 5) for learner, mean in means.items() if learner != "ours"}
    return found


async def measure(quick: bool) -> dict[str, Any]:
    """The figures of every campaign that is on this machine; `quick` measures one split."""

    def all_campaigns() -> dict[str, Any]:
        with threadpool_limits(1):
            return {
                name: campaign_figures(name, load(), SEEDS[:1] if quick else SEEDS)
                for name, (file, load) in CAMPAIGNS.items()
                if there(file)
            }

    return await asyncio.to_thread(all_campaigns)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure("--quick" in sys.argv)), indent=1))
