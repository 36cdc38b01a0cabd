"""Look-alikes: half of the positives are the seeds, the other half is hidden among everybody else, and is to be found.

`area` is the area under the recall curve: the share of the hidden that a list holds, averaged over all lengths of the list
from nothing to everybody but the seeds. By chance it is 0.5; the most is 1 minus half the share of the hidden in the list.

Plain tag overlap, the baseline: for each person the mean, over the seeds, of the number of tags whose value she shares with
the seed. Numbers are cut into 8 ranges of equal frequency, as the product's own insights cut them (`ranges_8`, which
`vs_tag_overlap` is against); beside it stand deciles, values as they are, and the number of tags that agree with the seeds'
most frequent value (`mode`). How numbers are cut moves the baseline by far more than learners differ among each other.

Oracles, told every answer of the other four fifths, nothing hidden: `all_labels` is the same two learners, `all_labels_mixture`
the product's whole training of propensities, which the look-alike has no labels for. Their areas are what a learner can reach
here, and `auc_needed_for_1_3` is the ROC AUC that 1.3 times plain overlap would take, beside the AUC that the oracles have.
`vs_tag_overlap_first_fifth` is the same ratio over lists of at most a fifth of everybody, which is what campaigns use.
Intervals are of the mean over seeds of the random splits, 95 %, Student's t. Nothing was chosen on the hidden half: what the
product chooses, it chooses by hiding a part of the seeds again.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.model_selection import StratifiedKFold

from bench import models_sets
from bench.progress import say
from services.scoring.artefact import ServedModel
from services.scoring.expanding import AT_ONCE, EXACTLY_EXPLAINED, Best
from services.scoring.frame import Column, Frame, Numbers, Words, matrix_of
from services.scoring.learning.cut import Cut
from services.scoring.learning.propensity import train
from services.scoring.lookalike import LookalikeModel, learn
from services.scoring.lookalike import model as lookalike
from services.scoring.lookalike.bits import codes_of, fit_bits, split
from services.scoring.lookalike.forest import fit_forest
from services.scoring.lookalike.model import recall_area

SETS = ("caravan_insurance", "bank_marketing")
SEEDS = 5
MILLION = 1_000_000
LISTED, CHUNK = 10_000, 20_000

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]
# How many ranges numbers are cut into; None leaves them as they are.
CUTS: Mapping[str, int | None] = {"ranges_8": 8, "ranges_10": 10, "exact": None}


def coded(column: Column, ranges: int | None) -> Codes:
    """A code for each value or range; 0 is unknown, which is a value like any other."""
    if isinstance(column, Words):
        return column.indexes.astype(np.int64) + 1
    known = ~np.isnan(column.values)
    ends = np.unique(column.values[known])
    if ranges is not None and len(ends) > ranges:
        ends = np.unique(np.quantile(column.values[known], np.linspace(0, 1, ranges + 1)[1:], method="lower"))
    return np.where(known, np.searchsorted(ends, column.values) + 1, 0)


def overlaps(frame: Frame, seeds: Flags) -> dict[str, Floats]:
    """Everybody's overlap with the seeds, by every definition."""
    found: dict[str, Floats] = {}
    for name, ranges in CUTS.items():
        mean, mode = np.zeros(len(frame)), np.zeros(len(frame))
        for column in frame.columns.values():
            codes = coded(column, ranges)
            shares = np.bincount(codes[seeds], minlength=int(codes.max()) + 1) / seeds.sum()
            mean += shares[codes]
            mode += codes == shares.argmax()
        found |= {name: mean, f"{name}_mode": mode}
    return found


def recall_area_of_the_first(share: float, scores: Floats, wanted: Flags) -> float:
    """Mean recall of all lists of at most this share of everybody; equal scores in a random order."""
    order = np.lexsort((np.random.default_rng(0).permutation(len(scores)), -scores))
    recall = np.cumsum(wanted[order]) / wanted.sum()
    return float(recall[: int(share * len(scores))].mean())


def ceiling(frame: Frame, labels: Flags) -> Floats:
    """Log-odds of everybody by learners that were told the truth about the others, in five folds; half bits, half trees."""
    splittings = tuple(found for tag, column in frame.columns.items() if (found := split(tag, column)) is not None)
    codes = codes_of(splittings, frame)
    matrix = lookalike.matrix_of(splittings, frame, codes, np.arange(len(frame)))
    scores = np.empty(len(frame))
    for seen, unseen in StratifiedKFold(5, shuffle=True, random_state=0).split(matrix, labels):
        bits = fit_bits(splittings, [column[seen] for column in codes], labels[seen])
        trees = fit_forest(matrix[seen], labels[seen])
        scores[unseen] = bits.margin([column[unseen] for column in codes]) + trees.margin(matrix[unseen])
    return scores


def ceiling_of_propensity(frame: Frame, labels: Flags) -> Floats:
    """The same by the product's mixture, as it would be served."""
    answers, scores = labels.astype(np.int32), np.empty(len(frame))
    for seen, unseen in StratifiedKFold(5, shuffle=True, random_state=0).split(answers, answers):
        served = ServedModel("oracle", 1, train(Cut(frame.rows(seen), answers[seen]), lambda _: None).artefact)
        scores[unseen] = served.probability(matrix_of(served.encodings, frame.rows(unseen)))
    return scores


def accuracy_of(name: str, seeds: int) -> dict[str, Any]:
    """All figures of one set."""
    data = getattr(models_sets, name)()
    frame, positive = data.honest(), data.labels == 1
    told = {"all_labels": ceiling(frame, positive), "all_labels_mixture": ceiling_of_propensity(frame, positive)}
    areas: dict[str, list[float]] = {}
    fifths: dict[str, list[float]] = {}
    shares = []
    for seed in range(seeds):
        drawn = np.flatnonzero(positive)
        np.random.default_rng(seed).shuffle(drawn)
        is_seed = np.zeros(len(frame), np.bool_)
        is_seed[drawn[: len(drawn) // 2]] = True
        model = learnt(frame, is_seed)
        shares.append(model.share)
        scores = model.score(frame)
        for what, score in {"ours": scores, **told, **overlaps(frame, is_seed)}.items():
            areas.setdefault(what, []).append(recall_area(score[~is_seed], positive[~is_seed]))
            fifths.setdefault(what, []).append(recall_area_of_the_first(0.2, score[~is_seed], positive[~is_seed]))
        say(f"lookalike {name} {seed + 1}/{seeds}: {areas['ours'][-1]:.4f} against {areas['ranges_8'][-1]:.4f}")
    ours = np.array(areas["ours"])
    hidden = int(positive.sum()) - int(positive.sum()) // 2
    share = hidden / (len(frame) - int(positive.sum()) // 2)
    figures = with_interval("area", ours) | {
        "area_possible": round(1 - share / 2, 4),
        "auc_needed_for_1_3": round((1.3 * float(np.mean(areas["ranges_8"])) - share / 2) / (1 - share), 4),
        "share_of_trees": _mean(shares),
    }
    figures |= with_interval("vs_tag_overlap", ours / areas["ranges_8"])
    figures |= with_interval("vs_tag_overlap_first_fifth", np.array(fifths["ours"]) / fifths["ranges_8"])
    for oracle in told:
        figures[f"area_{oracle}"] = _mean(areas[oracle])
        figures[f"auc_{oracle}"] = round((float(np.mean(areas[oracle])) - share / 2) / (1 - share), 4)
        figures |= with_interval(f"vs_tag_overlap_{oracle}", np.array(areas[oracle]) / areas["ranges_8"])
    for what, values in areas.items():
        if what in CUTS or what.endswith("_mode"):
            figures[f"overlap_{what}"] = _mean(values)
            figures[f"vs_{what}"] = _mean(ours / values)
    return figures


def _mean(values: Any) -> float:
    return round(float(np.mean(values)), 4)


def with_interval(name: str, values: Floats) -> dict[str, float]:
    """The mean of a figure over splits with its interval; NaN of one split."""
    mean, count = float(values.mean()), len(values)
    half = float(stats.t.ppf(0.975, count - 1)) * float(values.std(ddof=1)) / count**0.5 if count > 1 else float("nan")
    return {name: round(mean, 4), f"{name}_low": round(mean - half, 4), f"{name}_high": round(mean + half, 4)}


def million(count: int = MILLION) -> tuple[Frame, Flags]:
    """Made-up persons of 25 numbers and 25 words with a tenth unknown, of whom 10,000 with a common taste are seeds."""
    random = np.random.default_rng(0)
    columns: dict[str, Column] = {}
    for place in range(25):
        values = random.normal(size=count) if place % 2 else random.poisson(3, count).astype(np.float64)
        values[random.random(count) < 0.1] = np.nan
        columns[f"number_{place}"] = Numbers(values)
    for place in range(25):
        words = (2, 4, 8, 30, 100)[place % 5]
        indexes = random.integers(-1, words, count).astype(np.int32)
        columns[f"word_{place}"] = Words(indexes, tuple(f"w{number}" for number in range(words)))
    frame = Frame(np.arange(count, dtype=np.int64), columns)
    first, second, third = columns["number_1"], columns["number_0"], columns["word_1"]
    assert isinstance(first, Numbers) and isinstance(second, Numbers) and isinstance(third, Words)  # noqa: S101 - three lines up
    taste = np.nan_to_num(first.values) + np.nan_to_num(second.values - 3) / 2 + (third.indexes == 2)
    is_seed = np.zeros(count, np.bool_)
    is_seed[np.argsort(-(taste + random.logistic(size=count)))[: count // 100]] = True
    return frame, is_seed


def learnt(frame: Frame, is_seed: Flags) -> LookalikeModel:
    """The model of these seeds among all of a frame."""
    others = np.flatnonzero(~is_seed)
    return learn(frame.rows(np.flatnonzero(is_seed)), frame.rows(others), len(others))


def speed(count: int = MILLION) -> dict[str, float]:
    """Seconds to learn, score everybody, and explain the best 10,000, all values in memory; wall clock and CPU."""
    frame, is_seed = million(count)
    start, cpu = time.perf_counter(), time.process_time()
    model, best = learnt(frame, is_seed), Best(LISTED)

    def score(first: int) -> tuple[Frame, Floats]:
        chunk = frame.rows(slice(first, first + CHUNK))
        chunk = chunk.rows(~is_seed[first : first + CHUNK])
        return chunk, model.score(chunk)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for chunk, scores in pool.map(score, range(0, count, CHUNK)):
            best.add(chunk.persons, scores)
    persons, _ = best.ranked()
    for part, quickly in ((persons[:EXACTLY_EXPLAINED], False), (persons[EXACTLY_EXPLAINED:], True)):
        model.reasons(frame.rows(part), quickly=quickly)
    return {
        "lookalike_1m_s": round(time.perf_counter() - start, 2),
        "lookalike_1m_cpu_s": round(time.process_time() - cpu, 2),
        "lookalike_1m_persons": count,
    }


async def measure(quick: bool) -> dict[str, Any]:
    """Accuracy of both sets and speed; `vs_tag_overlap` is that of the worse set."""
    found: dict[str, Any] = {}
    for name in SETS:
        if models_sets.there(name):
            found[name] = await asyncio.to_thread(accuracy_of, name, 2 if quick else SEEDS)
    if found:
        found["vs_tag_overlap"] = min(figures["vs_tag_overlap"] for figures in found.values())
    say("lookalike: a million persons")
    found |= await asyncio.to_thread(speed, MILLION // 10 if quick else MILLION)
    return {"lookalike": found}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure("--quick" in sys.argv)), indent=2))
