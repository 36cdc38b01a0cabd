"""Bench experiments: two real campaigns with a known answer, and what it costs to look at results all the time.

`TROIKA_DATA` names the folder of the sets, as for bench models; a set that is not there is left out and named.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.progress import say
from services.orchestrator.experiments import sequences
from services.orchestrator.experiments.analysing import Results
from services.orchestrator.experiments.assigning import assign
from services.orchestrator.experiments.definitions import (
    Definition,
    Experiment,
    ExperimentId,
    Kind,
    Metric,
    Role,
    State,
    Variant,
)
from services.orchestrator.experiments.estimating import LEAST_OF_EACH, LEAST_PERSONS
from services.orchestrator.experiments.files import Question, analyse

DATA = Path(os.environ.get("TROIKA_DATA", Path(__file__).parents[2] / "shared" / "data"))
COOKIE_CATS = DATA / "cookie_cats_ab" / "cookie_cats.csv.gz"
INSURANCE = DATA / "insurance_campaign" / "train.csv.gz"


async def measure(quick: bool) -> dict[str, Any]:
    """Verdicts and intervals by set, errors of those who peek, and assignments a second."""
    figures: dict[str, Any] = {}
    if COOKIE_CATS.exists():
        for day in (1, 7):
            say(f"experiments: cookie_cats day {day}")
            question = Question("version", f"retention_{day}", control="gate_30")
            figures[f"cookie_cats_day_{day}"] = told(question, COOKIE_CATS)
    else:
        say(f"experiments: {COOKIE_CATS} is not there")
    if INSURANCE.exists():
        say("experiments: insurance_campaign")
        figures["insurance_campaign"] = told(Question("TREATMENT", "PURCHASE", control="0.0"), INSURANCE)
    else:
        say(f"experiments: {INSURANCE} is not there")
    return figures | peeking(200 if quick else 2000) | assigning(100_000 if quick else 1_000_000)


def told(question: Question, file: Path) -> dict[str, Any]:
    """What follows when the table is looked at once, and what the always-valid interval says by the size it was tuned to.

    Nobody knows what its makers had planned; hence three plans: a quarter of the persons, as many, four times as many.
    """
    found = analyse(file, question)
    [comparison] = found.metrics[0].compared
    fixed = comparison.effect.fixed
    figures: dict[str, Any] = {
        "verdict": found.verdict.name,
        "persons": sum(found.exposed),
        "sample_ratio_p": found.ratio_p,
        "effect": comparison.effect.value,
        "fixed_low": fixed.low,
        "fixed_high": fixed.high,
        "fixed_p": fixed.p,
    }
    persons = sum(found.exposed)
    for name, planned in (("quarter", persons // 4), ("whole", persons), ("fourfold", persons * 4)):
        asked = Question(question.variant, question.outcome, control=question.control, planned_persons=planned, always=True)
        figures[f"always_{name}"] = _always(analyse(file, asked))
    return figures


def _always(found: Results) -> dict[str, Any]:
    bounds = found.metrics[0].compared[0].effect.always
    return {"verdict": found.verdict.name, "p": bounds.p, "low": bounds.low, "high": bounds.high}


def peeking(experiments: int, persons: int = 10_000) -> dict[str, float]:
    """How often experiments without any effect (a share of 10 %) find one when they are looked at after every two persons."""
    say("experiments: peeking")
    chance, always, fixed, at_end = np.random.default_rng(1), 0, 0, 0
    n = np.arange(1, persons // 2 + 1)
    mixture = sequences.tuning(0.05, persons)
    bound = np.array([sequences.reach(int(2 * each), 0.05, mixture) for each in n])
    for _ in range(experiments):
        control, new = (np.cumsum(chance.random(len(n)) < 0.1) for _ in range(2))
        spread = [(share := (did + 1) / (n + 2)) * (1 - share) / n for did in (control, new)]
        z = np.abs(new - control) / n / np.sqrt(spread[0] + spread[1])
        enough = (n >= LEAST_PERSONS) & (control + new >= LEAST_OF_EACH)
        always += bool(((z > bound) & enough).any())
        fixed += bool(((z > sequences.quantile(0.975)) & enough).any())
        at_end += bool(z[-1] > sequences.quantile(0.975))
    return {
        "peeking_always_valid_false_positives": always / experiments,
        "peeking_fixed_horizon_false_positives": fixed / experiments,
        "one_look_fixed_horizon_false_positives": at_end / experiments,
    }


def assigning(persons: int) -> dict[str, float]:
    """Hashing alone: buckets and the draw among two variants."""
    metric = Metric("m", Role.PRIMARY, Kind.SHARE, "e", "", "", 1, lower_is_better=False, tolerated_harm=0.0)
    two = (Variant("control", 1), Variant("new", 1))
    stated = Definition("t", "l", 0, 10_000, "", two, (metric,), "", False, (), 0.05, persons)
    moment = datetime.min.replace(tzinfo=UTC)
    experiment = Experiment(ExperimentId(1), stated, State.RUNNING, 1, b"s" * 16, b"l" * 16, "", moment, moment, None)
    begun = time.perf_counter()
    assign(np.arange(1, persons + 1, dtype=np.int64), experiment)
    return {"assigned_per_s": persons / (time.perf_counter() - begun)}
