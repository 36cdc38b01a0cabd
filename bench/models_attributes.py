"""What a person has not told, inferred from other tags: bank_marketing's `marital` and age band from everything else.

Each split trains on 8,000 persons who told it and judges on 8,000 others. `accuracy` stands beside `accuracy_majority`, which
says the most frequent value of everybody. `ece` and `reliability` (promised, observed, persons, by tenth of confidence) are
of the likeliest value. `accuracy_sure`: of those whose value is told with at least 0.7, who are `sure_share` of all.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import models_sets
from bench.models_lookalike import with_interval
from bench.progress import say
from services.scoring.artefact import ServedModel
from services.scoring.frame import Frame, Numbers, Words, matrix_of
from services.scoring.learning.cut import Cut
from services.scoring.learning.metrics import expected_calibration_error, reliability
from services.scoring.models.attributes import refuse_sensitive
from services.scoring.models.attributes.training import train

SEEDS = 5
ROWS = 8_000
SURE = 0.7
AGE_BANDS = ("under_25", "25_34", "35_44", "45_54", "55_and_over")


def targets(frame: Frame) -> dict[str, tuple[Frame, npt.NDArray[np.int32], tuple[str, ...]]]:
    """By attribute: the columns without it, its value for each row (-1: not told), and what the values are."""
    marital, age = frame.columns["marital"], frame.columns["age"]
    if not isinstance(marital, Words) or not isinstance(age, Numbers):
        raise TypeError("the set has other columns")
    bands = np.digitize(age.values, (25, 35, 45, 55)).astype(np.int32)
    return {
        "marital": (_without(frame, "marital"), marital.indexes, marital.words),
        "age_band": (_without(frame, "age"), np.where(np.isnan(age.values), -1, bands).astype(np.int32), AGE_BANDS),
    }


def _without(frame: Frame, tag: str) -> Frame:
    return Frame(frame.persons, {name: column for name, column in frame.columns.items() if name != tag})


def accuracy_of(name: str, seeds: int) -> dict[str, Any]:
    """All figures of one attribute; the reliability is that of the first split."""
    refuse_sensitive(name, "personal")
    frame, labels, words = targets(models_sets.bank_marketing().honest())[name]
    told = np.flatnonzero(labels >= 0)
    figures: dict[str, list[float]] = {}
    picture: list[list[float]] = []
    for seed in range(seeds):
        drawn = np.random.default_rng(seed).permutation(told)
        seen, unseen = drawn[:ROWS], drawn[ROWS : 2 * ROWS]
        trained = train(Cut(frame.rows(seen), labels[seen], words), lambda share: None)
        model = ServedModel(name, 1, trained.artefact)
        probabilities = model.probabilities(matrix_of(model.encodings, frame.rows(unseen)))
        truth = np.array([model.classes.index(words[label]) for label in labels[unseen]])
        correct, confidence = (probabilities.argmax(axis=1) == truth).astype(np.int32), probabilities.max(axis=1)
        sure = confidence >= SURE
        most = np.bincount(truth).max() / len(truth)
        here = {
            "accuracy": correct.mean(),
            "accuracy_majority": most,
            "accuracy_over_majority": correct.mean() - most,
            "ece": expected_calibration_error(confidence, correct),
            "sure_share": sure.mean(),
            "accuracy_sure": correct[sure].mean() if sure.any() else np.nan,
        }
        for what, value in here.items():
            figures.setdefault(what, []).append(float(value))
        if not seed:
            bins = reliability(confidence, correct)
            rows = np.column_stack([bins.promised, bins.observed, bins.persons])
            picture = [[round(float(value), 3) for value in row] for row in rows]
        say(f"attributes {name} {seed + 1}/{seeds}: {here['accuracy']:.4f}, majority {most:.4f}")
    found: dict[str, Any] = {}
    for what, values in figures.items():
        found |= with_interval(what, np.array(values))
    return found | {"reliability": picture}


async def measure(quick: bool) -> dict[str, Any]:
    """Both attributes."""
    if not models_sets.there("bank_marketing"):
        return {}
    found = {name: await asyncio.to_thread(accuracy_of, name, 1 if quick else SEEDS) for name in ("marital", "age_band")}
    return {"attributes": found}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure("--quick" in sys.argv)), indent=2))
