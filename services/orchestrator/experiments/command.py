"""`troika orchestrator experiment analyse FILE`: the results of any table, without a database."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import orjson

from chassis.errors import InvalidArgument
from chassis.run import PlainVerb
from services.orchestrator.experiments.analysing import BROKEN_SPLIT, Results
from services.orchestrator.experiments.estimating import Bounds, Effect
from services.orchestrator.experiments.files import Question, analyse


def run(arguments: argparse.Namespace) -> int:
    """Prints what follows from a table; 2 when it cannot be read as asked."""
    try:
        weights = tuple((name, float(weight)) for name, weight in (each.rsplit("=", 1) for each in arguments.weights))
        if any(not (0 < weight < math.inf) for _, weight in weights):
            raise ValueError
    except ValueError:
        sys.stderr.write("INVALID_WEIGHTS: weights are stated as NAME=NUMBER, above 0\n")
        return 2
    question = Question(
        arguments.variant,
        arguments.outcome,
        arguments.covariate,
        arguments.segment,
        arguments.control,
        weights,
        arguments.alpha,
        arguments.planned_persons,
        arguments.lower_is_better,
        arguments.peeked,
    )
    try:
        found = analyse(arguments.file, question)
    except InvalidArgument as error:
        sys.stderr.write(f"{error.reason}: {error.message}\n")
        return 2
    if arguments.json:
        sys.stdout.write(orjson.dumps(plain(found)).decode() + "\n")
    else:
        sys.stdout.write("\n".join(lines(found)) + "\n")
    return 0


def plain(found: Results) -> dict[str, Any]:
    """Results for programs; what is not known is null."""
    [metric] = found.metrics
    return {
        "verdict": found.verdict.name,
        "winner": found.winner,
        "words": found.words,
        "sample_ratio": {
            "persons": {m.variant: n for m, n in zip(metric.measured, found.exposed, strict=True)},
            "chi_square": found.chi_square,
            "p": found.ratio_p,
            "broken": found.ratio_p < BROKEN_SPLIT,
        },
        "variants": [
            {"variant": m.variant, "persons": m.arm.persons, "mean": m.arm.adjusted_mean, "low": m.low, "high": m.high}
            for m in metric.measured
        ],
        "comparisons": [{"variant": c.variant, **_effect(c.effect)} for c in metric.compared],
        "segments": [
            {"tag": s.tag, "value": s.value, "variant": s.variant, "persons": s.persons, **_effect(s.effect), "q": s.q}
            for s in found.segments
        ],
    }


def _effect(effect: Effect) -> dict[str, Any]:
    return {
        "effect": effect.value,
        "relative": effect.relative,
        "enough": effect.enough,
        "always_valid": _bounds(effect.always),
        "fixed_horizon": _bounds(effect.fixed),
        "variance_reduction": effect.reduction,
    }


def _bounds(bounds: Bounds) -> dict[str, float | None]:
    known = math.isfinite(bounds.low)
    return {"low": bounds.low if known else None, "high": bounds.high if known else None, "p": bounds.p}


def lines(found: Results) -> list[str]:
    """Results for people."""
    [metric] = found.metrics
    split = "broken" if found.ratio_p < BROKEN_SPLIT else "as drawn"
    told = [found.words, "", f"split {split} (p = {found.ratio_p:.3g})"]
    told += [
        f"  {m.variant}: {m.arm.persons} persons, {metric.metric.name} {m.arm.adjusted_mean:.6g} ({m.low:.6g} to {m.high:.6g})"
        for m in metric.measured
    ]
    for compared in metric.compared:
        effect = compared.effect
        told.append(f"{compared.variant} against {metric.measured[0].variant}: {effect.value:+.6g}")
        told.append(f"  looked at once:     {_told(effect.fixed)}")
        told.append(f"  looked at any time: {_told(effect.always)}")
        if effect.reduction > 0:
            told.append(f"  the covariate took away {effect.reduction:.1%} of the variance")
    for each in found.segments:
        told.append(
            f"{each.tag} = {each.value}, {each.variant}: {each.effect.value:+.6g}, {each.persons} persons, q = {each.q:.3g}"
        )
    return told


def _told(bounds: Bounds) -> str:
    return f"{bounds.low:+.6g} to {bounds.high:+.6g}, p = {bounds.p:.3g}"


def _alpha(text: str) -> float:
    if not 0 < (alpha := float(text)) <= 0.2:
        raise argparse.ArgumentTypeError("must lie between 0 and 0.2")
    return alpha


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    words = parser.add_subparsers(dest="action", required=True).add_parser("analyse", help="results of a CSV file")
    words.add_argument("file", type=Path, help="CSV with a head, one row per person; .gz is read, too")
    words.add_argument("--variant", required=True, metavar="COLUMN", help="which treatment the person got")
    words.add_argument("--outcome", required=True, metavar="COLUMN", help="a number, or yes and no")
    words.add_argument("--covariate", default="", metavar="COLUMN", help="a number known before the treatment (CUPED)")
    words.add_argument("--segment", default="", metavar="COLUMN", help="tell the outcome apart by its values")
    words.add_argument("--control", default="", metavar="NAME", help="the variant that the others are compared with")
    words.add_argument("--weights", nargs="*", default=[], metavar="NAME=NUMBER", help="what it was drawn with, if not equally")
    words.add_argument("--alpha", type=_alpha, default=0.05, help="how often an effect may be found that is none")
    words.add_argument("--planned-persons", type=int, default=0, help="where the sequence is narrowest; the file's rows")
    words.add_argument("--lower-is-better", action="store_true", help="as of unsubscribing")
    words.add_argument("--peeked", action="store_true", help="decide by the interval that may be looked at any time")
    words.add_argument("--json", action="store_true", help="for programs")


VERBS = (PlainVerb("experiment", "what follows from an experiment's table", run, arguments),)
