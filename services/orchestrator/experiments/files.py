"""Experiments that ended elsewhere: a table with one row per person, and what follows from it."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from chassis.errors import InvalidArgument
from services.orchestrator.experiments import analysing
from services.orchestrator.experiments.analysing import Plan, Results
from services.orchestrator.experiments.definitions import Kind, Metric, Role, Variant
from services.orchestrator.experiments.estimating import Sample

YES, NO = frozenset({"true", "yes", "y", "t"}), frozenset({"false", "no", "n", "f"})
CONTROLS = ("control", "a", "0", "0.0", "false", "no")


@dataclass(frozen=True)
class Question:
    """What is asked of a table: names of its columns, and what was planned. Empty: not stated.

    `weights`: variant to weight, equal where none are stated; `always`: whether the table may have been looked at before.
    """

    variant: str
    outcome: str
    covariate: str = ""
    segment: str = ""
    control: str = ""
    weights: tuple[tuple[str, float], ...] = ()
    alpha: float = 0.05
    planned_persons: int = 0
    lower_is_better: bool = False
    always: bool = False


def analyse(path: Path, question: Question) -> Results:
    """The results of a CSV file (.gz too) with a head; raises InvalidArgument naming the column and the line."""
    with _open(path) as file:
        rows = csv.DictReader(file)
        wanted = [name for name in (question.variant, question.outcome, question.covariate, question.segment) if name]
        if missing := [name for name in wanted if name not in (rows.fieldnames or ())]:
            raise InvalidArgument(f"{path.name} has no column {missing[0]}", reason="UNKNOWN_COLUMN", field=missing[0])
        try:
            columns = list(zip(*([row[name] or "" for name in wanted] for row in rows), strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidArgument(f"{path.name} cannot be read: {error}", reason="UNREADABLE_FILE", field="file") from error
    if not columns:
        raise InvalidArgument(f"{path.name} has no rows", reason="EMPTY_FILE", field="file")
    named = dict(zip(wanted, columns, strict=True))
    return analyse_columns(named, question)


def analyse_columns(named: dict[str, Sequence[str]], question: Question) -> Results:
    """The results of columns of texts."""
    variants = _variants(named[question.variant], question)
    place = {variant.name: number for number, variant in enumerate(variants)}
    outcome = _numbers(named[question.outcome], question.outcome, blank=False)
    count = len(outcome)
    sample = Sample(
        np.array([place[name] for name in named[question.variant]], np.int64),
        np.ones(count, np.int64),
        outcome,
        np.ones(count),
        _numbers(named[question.covariate], question.covariate, blank=True) if question.covariate else np.full(count, np.nan),
    )
    kind = Kind.SHARE if set(np.unique(outcome)) <= {0.0, 1.0} else Kind.SUM
    metric = Metric(question.outcome, Role.PRIMARY, kind, "", "", "", 1, question.lower_is_better, 0.0)
    plan = Plan(variants, question.alpha, question.planned_persons or count, question.always)
    segments = _segments(named[question.segment], question.segment) if question.segment else {}
    exposed = np.bincount(sample.variant, minlength=len(variants)).tolist()
    return analysing.conclude(
        exposed, [analysing.measure(metric, sample, plan)], analysing.by_segment(metric, sample, segments, plan), plan
    )


def _variants(column: Sequence[str], question: Question) -> tuple[Variant, ...]:
    names = sorted(set(column))
    if "" in names:
        line = column.index("") + 2
        raise InvalidArgument(f"line {line}: no variant", reason="MISSING_VARIANT", field=question.variant)
    if not 2 <= len(names) <= 20:
        raise InvalidArgument(
            f"{question.variant} has {len(names)} values, an experiment has 2 to 20",
            reason="NO_VARIANTS",
            field=question.variant,
        )
    usual = [name for name in names if name.lower() in CONTROLS]
    control = question.control or (usual[0] if len(usual) == 1 else names[0])
    weights = dict(question.weights)
    for name in (control, *weights):
        if name not in names:
            raise InvalidArgument(f"nobody is in variant {name}", reason="UNKNOWN_VARIANT", field=question.variant)
    if weights and len(weights) < len(names):
        raise InvalidArgument("weights must name every variant", reason="MISSING_WEIGHT", field="weights")
    ordered = [control, *(name for name in names if name != control)]
    return tuple(Variant(name, weights.get(name, 1.0)) for name in ordered)


def _numbers(column: Sequence[str], name: str, *, blank: bool) -> NDArray[np.float64]:
    """Numbers, yes and no; NaN where nothing stands, if that may be."""
    known: dict[str, float] = {}
    for line, text in enumerate(column, start=2):
        if text in known:
            continue
        word = text.strip().lower()
        try:
            value = (
                1.0 if word in YES else 0.0 if word in NO else math.nan if blank and word in ("", "na", "nan") else float(word)
            )
        except ValueError:
            value = math.inf
        if math.isinf(value) or (math.isnan(value) and not blank):
            raise InvalidArgument(f"line {line}: {name} is no number: {text!r}", reason="NOT_A_NUMBER", field=name)
        known[text] = value
    return np.array([known[text] for text in column])


def _segments(column: Sequence[str], name: str) -> dict[str, tuple[NDArray[np.int64], Sequence[str]]]:
    words = sorted(set(column) - {""})
    place = {word: number for number, word in enumerate(words)} | {"": -1}
    return {name: (np.array([place[word] for word in column], np.int64), words)}


@contextmanager
def _open(path: Path) -> Iterator[IO[str]]:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    except (OSError, EOFError) as error:
        raise InvalidArgument(f"{path.name} cannot be read: {error}", reason="UNREADABLE_FILE", field="file") from error
