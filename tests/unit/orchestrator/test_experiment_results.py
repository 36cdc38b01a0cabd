"""What follows from an experiment: winners, broken splits, guardrails, segments, and what is said of a file."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chassis.errors import InvalidArgument
from services.orchestrator.__main__ import main
from services.orchestrator.experiments.analysing import (
    Guard,
    MetricResult,
    Plan,
    Results,
    Verdict,
    by_segment,
    conclude,
    measure,
)
from services.orchestrator.experiments.collecting import measured
from services.orchestrator.experiments.definitions import Kind, Metric, Role, Variant, check
from services.orchestrator.experiments.estimating import Sample
from services.orchestrator.experiments.files import Question, analyse
from tests.unit.orchestrator.test_experiment_statistics import definition, metric

TWO = (Variant("control", 1), Variant("new", 1))
THREE = (*TWO, Variant("newer", 1))
UNSUBSCRIBED = metric("unsubscribed", Role.GUARDRAIL, lower_is_better=True, tolerated_harm=0.02)


def rates(*groups: tuple[int, int]) -> Sample:
    """(persons, how many did it) of each variant."""
    rows = [(variant, count, did) for variant, (n, k) in enumerate(groups) for count, did in ((k, 1.0), (n - k, 0.0)) if count]
    table = np.array(rows)
    persons = table[:, 1].astype(np.int64)
    return Sample(table[:, 0].astype(np.int64), persons, table[:, 2], np.ones(len(rows)), np.full(len(rows), np.nan))


def told(*results: MetricResult, variants: tuple[Variant, ...] = TWO, exposed: tuple[int, ...] = (5000, 5000)) -> Results:
    return conclude(exposed, results, (), plan(variants))


def plan(variants: tuple[Variant, ...] = TWO, always: bool = True) -> Plan:
    return Plan(variants, 0.05, 10_000, always)


def found(of: Metric, *groups: tuple[int, int], variants: tuple[Variant, ...] = TWO) -> MetricResult:
    return measure(of, rates(*groups), plan(variants))


def test_the_better_variant_wins_and_the_words_say_by_how_much() -> None:
    results = told(found(metric(), (5000, 500), (5000, 700)))
    assert (Verdict.WINNER, "new") == (results.verdict, results.winner)
    assert "new wins" in results.words
    assert "+0.04" in results.words and "+40.0% of it" in results.words and "always-valid" in results.words


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_what_is_worse_does_not_win(lower_is_better: bool) -> None:
    of = metric(lower_is_better=lower_is_better)
    groups = ((5000, 500), (5000, 700)) if lower_is_better else ((5000, 700), (5000, 500))
    results = told(found(of, *groups))
    assert (Verdict.CONTROL_IS_BEST, "control") == (results.verdict, results.winner)


def test_little_is_no_proof() -> None:
    results = told(found(metric(), (5000, 500), (5000, 510)))
    assert (Verdict.NO_PROVEN_EFFECT, "") == (results.verdict, results.winner)
    assert "No proven effect" in results.words
    assert Verdict.TOO_FEW is told(found(metric(), (50, 10), (50, 40)), exposed=(50, 50)).verdict


def test_a_broken_split_has_no_winner_however_large_the_effect() -> None:
    results = told(found(metric(), (5000, 500), (5400, 900)), exposed=(5000, 5400))
    assert (Verdict.BROKEN_SPLIT, "") == (results.verdict, results.winner)
    assert results.ratio_p < 0.001
    assert "control 5000, new 5400" in results.words
    uneven = (Variant("control", 5), Variant("new", 5.4))
    assert Verdict.WINNER is told(found(metric(), (5000, 500), (5400, 900)), variants=uneven, exposed=(5000, 5400)).verdict


@pytest.mark.parametrize(
    ("unsubscribed", "guard", "verdict"),
    [
        ((100, 100), Guard.SAFE, Verdict.WINNER),
        ((100, 190), Guard.OPEN, Verdict.GUARDRAIL_OPEN),
        ((100, 400), Guard.HARMED, Verdict.GUARDRAIL_HARMED),
    ],
)
def test_a_guardrail_holds_a_winner_back(unsubscribed: tuple[int, int], guard: Guard, verdict: Verdict) -> None:
    guarded = found(UNSUBSCRIBED, *((5000, count) for count in unsubscribed))
    results = told(found(metric(), (5000, 500), (5000, 700)), guarded)
    assert (guard, verdict) == (results.metrics[1].compared[0].guard, results.verdict)
    assert ("new" if verdict is Verdict.WINNER else "") == results.winner


def test_a_guardrail_of_which_more_is_better_is_harmed_by_less() -> None:
    opened = metric("opened", Role.GUARDRAIL, tolerated_harm=0.01)
    assert Guard.HARMED is found(opened, (5000, 2500), (5000, 2000)).compared[0].guard
    assert Guard.SAFE is found(opened, (5000, 2000), (5000, 2500)).compared[0].guard


def test_of_several_variants_the_best_wins_at_a_stricter_level() -> None:
    results = told(found(metric(), (4000, 400), (4000, 560), (4000, 640), variants=THREE), variants=THREE, exposed=(4000,) * 3)
    assert (Verdict.WINNER, "newer") == (results.verdict, results.winner)
    assert "0.975 always-valid" in results.words
    pair = found(metric(), (4000, 400), (4000, 560)).compared[0].effect.fixed
    both = found(metric(), (4000, 400), (4000, 560), (4000, 640), variants=THREE).compared[0].effect.fixed
    assert both.low < pair.low and pair.high < both.high


def test_segments_are_corrected_for_being_many() -> None:
    chance, persons, values = np.random.default_rng(2), 40_000, 20
    variant, code = chance.integers(0, 2, persons), chance.integers(0, values + 1, persons) - 1
    # Only where the code is 3 does the variant do anything; -1 is nobody's.
    outcome = (chance.random(persons) < 0.2 + 0.15 * variant * (code == 3)).astype(np.float64)
    sample = Sample(variant, np.ones(persons, np.int64), outcome, np.ones(persons), np.full(persons, np.nan))
    words = [f"city {number}" for number in range(values)]
    segments = by_segment(metric(), sample, {"city": (code, words)}, plan())
    assert set(words) == {each.value for each in segments}
    assert ["city 3"] == [each.value for each in segments if each.q < 0.05]
    assert all(each.q >= each.effect.always.p for each in segments)
    assert int((code >= 0).sum()) == sum(each.persons for each in segments)


def test_false_discoveries_among_segments_are_kept_rare() -> None:
    chance, wrong = np.random.default_rng(6), 0
    for _ in range(200):
        variant, code = chance.integers(0, 2, 4000), chance.integers(0, 10, 4000)
        outcome = (chance.random(4000) < 0.3).astype(np.float64)
        sample = Sample(variant, np.ones(4000, np.int64), outcome, np.ones(4000), np.full(4000, np.nan))
        words = [str(number) for number in range(10)]
        wrong += any(s.q < 0.05 for s in by_segment(metric(), sample, {"tag": (code, words)}, plan(always=False)))
    assert wrong / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"title": " "}, "experiment.title"),
        ({"bucket_from": 10, "bucket_to": 10}, "experiment.bucket_to"),
        ({"variants": (TWO[0], TWO[0])}, "experiment.variants"),
        ({"metrics": (metric(), replace(metric("other"), role=Role.PRIMARY))}, "experiment.metrics"),
        ({"metrics": (UNSUBSCRIBED,)}, "experiment.metrics"),
        ({"metrics": (metric(), UNSUBSCRIBED, UNSUBSCRIBED)}, "experiment.metrics"),
        ({"metrics": (metric(kind=Kind.SUM),)}, "experiment.metrics[0].property"),
        ({"metrics": (metric(kind=Kind.MEAN, field="price", value="7"),)}, "experiment.metrics[0].value"),
        ({"covariate_tag": "age", "covariate_past": True}, "experiment.covariate_past"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(changes: dict[str, Any], field: str) -> None:
    check(definition())
    with pytest.raises(InvalidArgument) as refused:
        check(replace(definition(), **changes))
    assert field == refused.value.field


@pytest.mark.parametrize(
    ("kind", "field", "value", "properties", "amount"),
    [
        (Kind.SHARE, "", "", {}, 1.0),
        (Kind.SHARE, "answer", "yes", {"answer": "yes"}, 1.0),
        (Kind.SHARE, "answer", "yes", {"answer": "no"}, None),
        (Kind.SHARE, "answer", "yes", {}, None),
        (Kind.SHARE, "new", "true", {"new": True}, 1.0),
        (Kind.SHARE, "count", "3", {"count": 3}, 1.0),
        (Kind.SUM, "price", "", {"price": 12.5}, 12.5),
        (Kind.SUM, "price", "", {"price": "12.5"}, None),
        (Kind.SUM, "price", "", {"price": True}, None),
        (Kind.SUM, "price", "", {"price": 1e300}, None),
        (Kind.MEAN, "price", "", {"price": None}, None),
    ],
)
def test_an_event_is_measured_as_stated(
    kind: Kind, field: str, value: str, properties: dict[str, Any], amount: float | None
) -> None:
    assert amount == measured(metric(kind=kind, field=field, value=value), properties)


def write(folder: Path, *rows: str, name: str = "table.csv") -> Path:
    file = folder / name
    data = "\n".join(("group,bought,before,city", *rows)).encode()
    file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return file


def people(count: int = 4000) -> list[str]:
    chance, rows = np.random.default_rng(8), []
    for number in range(count):
        treated, before, city = number % 2, chance.normal(50, 10), "北京" if number % 3 else ""
        bought = before + chance.normal(2 * treated, 5)
        rows.append(f"{'blue' if treated else 'control'},{bought:.3f},{before:.3f},{city}")
    return rows


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_a_file_is_analysed_from_the_command_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(write(tmp_path, *people(), name=name))
    words = ["experiment", "analyse", file, "--variant", "group", "--outcome", "bought", "--covariate", "before"]

    def run(*more: str) -> str:
        monkeypatch.setattr("sys.argv", ["troika orchestrator", *words, *more])
        with pytest.raises(SystemExit) as done:
            main()
        assert 0 == done.value.code
        return capsys.readouterr().out

    found = json.loads(run("--segment", "city", "--json"))
    assert ("WINNER", "blue") == (found["verdict"], found["winner"])
    assert {"control": 2000, "blue": 2000} == found["sample_ratio"]["persons"]
    [comparison] = found["comparisons"]
    assert comparison["fixed_horizon"]["low"] < 2 < comparison["fixed_horizon"]["high"]
    assert comparison["always_valid"]["low"] < comparison["fixed_horizon"]["low"]
    assert comparison["variance_reduction"] > 0.7
    assert ["北京"] == [each["value"] for each in found["segments"]]
    text = run("--peeked", "--weights", "control=1", "blue=2")
    assert "The split is broken" in text
    assert "blue wins" in run("--peeked")


@pytest.mark.parametrize(
    ("rows", "question", "reason", "field"),
    [
        (["a,1,1,x", "b,oops,1,x"], Question("group", "bought"), "NOT_A_NUMBER", "bought"),
        (["a,1,1,x", "b,,1,x"], Question("group", "bought"), "NOT_A_NUMBER", "bought"),
        (["a,1,1,x", "b"], Question("group", "bought"), "NOT_A_NUMBER", "bought"),
        (["a,1,1,x", ",1,1,x"], Question("group", "bought"), "MISSING_VARIANT", "group"),
        (["a,1,1,x", "a,1,1,x"], Question("group", "bought"), "NO_VARIANTS", "group"),
        (["a,1,1,x", "b,1,1,x"], Question("group", "sold"), "UNKNOWN_COLUMN", "sold"),
        (["a,1,1,x", "b,1,1,x"], Question("group", "bought", control="c"), "UNKNOWN_VARIANT", "group"),
        (["a,1,1,x", "b,1,1,x"], Question("group", "bought", weights=(("a", 1.0),)), "MISSING_WEIGHT", "weights"),
        ([], Question("group", "bought"), "EMPTY_FILE", "file"),
    ],
)
def test_a_file_that_cannot_be_is_refused_by_column(
    tmp_path: Path, rows: list[str], question: Question, reason: str, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        analyse(write(tmp_path, *rows), question)
    assert (reason, field) == (refused.value.reason, refused.value.field)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--outcome", "sold"], "UNKNOWN_COLUMN: table.csv has no column sold"),
        (["--outcome", "bought", "--weights", "blue"], "INVALID_WEIGHTS: "),
        (["--outcome", "bought", "--weights", "blue=0", "control=1"], "INVALID_WEIGHTS: "),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    tmp_path: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(write(tmp_path, *people(20)))
    monkeypatch.setattr("sys.argv", ["troika", "experiment", "analyse", file, "--variant", "group", *more])
    with pytest.raises(SystemExit) as done:
        main()
    heard = capsys.readouterr()
    assert (2, "", 1) == (done.value.code, heard.out, heard.err.count("\n"))
    assert heard.err.startswith(said)


@pytest.mark.parametrize("data", [b"\x1f\x8bnot gzip", b""])
def test_a_file_that_cannot_be_read_says_so(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "table.csv.gz"
    if data:
        file.write_bytes(data)
    with pytest.raises(InvalidArgument) as refused:
        analyse(file, Question("group", "bought"))
    assert "UNREADABLE_FILE" == refused.value.reason
