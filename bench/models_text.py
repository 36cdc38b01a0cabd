"""Feedback text: topics with sentiment on car comments, praise or complaint on shop reviews, beside n-grams and regression.

What was looked at: the networks, the regression and every number in `fitting.py`, `regressing.py` and `regression.py` of
`services/scoring/text` were chosen on four fifths of the car comments, by folds within them. The fifth that remained is
fold 0 here and has its own figure (`pair_micro_f1_untouched`). Folds 1 to 4 are tests on comments that some choice was
made on.

The models of the folds also read the shop reviews, whose labels say nothing of topics. The baseline of the issue
(character n-grams and logistic regression) is trained on the same folds and tuned the same: it tells the likeliest topic
of each text too. `python -m bench.models_text [--quick]` runs it alone.
"""

from __future__ import annotations

import asyncio
import gzip
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pandas as pd
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

from bench import models_sets
from bench.progress import say
from services.scoring.models.feedback_text.rows import WHOLE, LabelledText, gathered
from services.scoring.models.feedback_text.training import NETWORKS, grow, labels_of, micro_f1, told, with_interval
from services.scoring.text.fitting import NOT_SAID, Labels
from services.scoring.text.model import TextModel
from services.scoring.text.normalising import normalise
from services.scoring.text.packing import pack
from services.scoring.text.reading import Kind

FOLDS = 5
# Of the logistic regression, chosen within the four fifths, where 3 to 30 lay within 0.007 of each other.
STRENGTH, BASELINE_THRESHOLD = 20.0, 0.22
SERVED = 4_000


def car_reviews() -> list[LabelledText]:
    """Comments as the file has them: text TAB topic#sentiment TAB ..."""
    rows = []
    with gzip.open(models_sets.path("car_reviews"), "rt", encoding="utf-8") as lines:
        for line in lines:
            text, *pairs = line.rstrip("\n").split("\t")
            labels = [pair.split("#") for cell in pairs for pair in cell.split()]
            rows.append(LabelledText(text, {topic: int(sentiment) for topic, sentiment in labels}))
    return rows


def reviews() -> list[LabelledText]:
    """Shop and take-away reviews, positive or negative; the first label of a text that comes twice."""
    tables = [models_sets.table(name) for name in ("shop_reviews", "takeaway_reviews")]
    both = pd.concat([table[["review", "label"]] for table in tables]).dropna()
    return gathered((str(text), WHOLE, 1 if label else -1) for text, label in both.itertuples(index=False))


def silent(share: float) -> None:
    """Progress that nobody follows."""


def cpu() -> float:
    """Seconds of computing so far: on a machine with other work the clock says more of that than of us."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def ngrams(texts: Sequence[LabelledText], seen: Sequence[int], longest: int) -> Any:
    """Character n-grams, weighted by rarity, of normalised texts."""
    normals = [normalise(row.text).characters for row in texts]
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, longest), min_df=2, sublinear_tf=True)
    vectorizer.fit([normals[i] for i in seen])
    return vectorizer.transform(normals).tocsr()


def baseline(rows: Sequence[LabelledText], labels: Labels, seen: NDArray[np.intp], unseen: NDArray[np.intp]) -> Labels:
    """Logistic regression per topic, and one for the sentiment of whatever topic, on character n-grams."""
    matrix = ngrams(rows, list(seen), 4)
    topics = labels[:, :-1]
    about = OneVsRestClassifier(LogisticRegression(C=STRENGTH, solver="liblinear"))
    probability = about.fit(matrix[seen], topics[seen] != NOT_SAID).predict_proba(matrix[unseen])
    text, topic = np.nonzero(topics[seen] != NOT_SAID)
    feeling = LogisticRegression(C=3, max_iter=300).fit(matrix[seen[text]], topics[seen[text], topic])
    feelings = feeling.predict_proba(matrix[unseen])
    confidence = probability * feelings.max(1)[:, None]
    tell = confidence >= BASELINE_THRESHOLD
    tell[np.arange(len(unseen)), confidence.argmax(1)] = True
    return np.where(tell, (feelings.argmax(1) - 1)[:, None], NOT_SAID).astype(np.int8)


def cars(rows: list[LabelledText], others: list[LabelledText], quick: bool) -> tuple[dict[str, Any], TextModel]:
    """Five folds; the model of fold 0 for what comes after."""
    topics = tuple(sorted({topic for row in rows for topic in row.opinions}))
    labels = labels_of(rows, topics)
    said, said_by_baseline = (np.full((len(rows), len(topics)), NOT_SAID, np.int8) for _ in range(2))
    tested = np.zeros(len(rows), bool)
    training, model = [], None
    for fold, (seen, unseen) in enumerate(KFold(FOLDS, shuffle=True, random_state=0).split(rows)):
        said_by_baseline[unseen] = baseline(rows, labels, seen, unseen)
        began = cpu()
        trunk = grow([rows[i] for i in seen] + others, 1 if quick else NETWORKS, silent)
        training.append(cpu() - began)
        served = TextModel.open(pack(trunk))
        judged = served.judge([rows[i].text for i in unseen])
        said[unseen] = told(served, judged.topics, judged.feelings)
        tested[unseen] = True
        model = model or served
        figures = (
            with_interval("f1", said[unseen], labels[unseen, :-1])["f1"],
            with_interval("f1", said_by_baseline[unseen], labels[unseen, :-1])["f1"],
        )
        say(f"car_reviews fold {fold}: {figures[0]:.4f}, baseline {figures[1]:.4f}, {training[-1]:.0f} s of computing")
        if fold == 0:
            untouched = with_interval("pair_micro_f1_untouched", said[unseen], labels[unseen, :-1])
        if quick:
            break
    if model is None:
        raise AssertionError("no fold")
    true = labels[tested, :-1]
    return {
        **with_interval("pair_micro_f1", said[tested], true),
        **untouched,
        "topic_micro_f1": micro_f1(said[tested] != NOT_SAID, true != NOT_SAID),
        "training_s": max(training),
        "baseline": {
            **with_interval("pair_micro_f1", said_by_baseline[tested], true),
            "topic_micro_f1": micro_f1(said_by_baseline[tested] != NOT_SAID, true != NOT_SAID),
        },
    }, model


def sides(rows: list[LabelledText], quick: bool) -> dict[str, Any]:
    """One fifth of both files of reviews together, by a network of the other four; 95 % by resampling texts."""
    labels = np.array([row.opinions[WHOLE] for row in rows])
    seen, unseen = next(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(rows, labels))
    if quick:
        seen = seen[::10]
    matrix = ngrams(rows, list(seen), 4)
    regression = LogisticRegression(C=5, solver="liblinear").fit(matrix[seen], labels[seen])
    by_baseline = regression.predict(matrix[unseen]) == labels[unseen]
    began = cpu()
    trunk = grow([rows[i] for i in seen], 1 if quick else 2, silent)
    training = cpu() - began
    judged = TextModel(trunk).judge([rows[i].text for i in unseen]).feelings[:, -1]
    right = (judged[:, 2] > judged[:, 0]) == (labels[unseen] == 1)
    draws = np.random.default_rng(0).integers(0, len(right), (500, len(right)))
    low, high = np.quantile(right[draws].mean(1), (0.025, 0.975))
    figures = {"accuracy": float(right.mean()), "accuracy_low": float(low), "accuracy_high": float(high)}
    say(f"chinese_reviews: {figures['accuracy']:.4f}, baseline {by_baseline.mean():.4f}, {training:.0f} s of computing")
    return figures | {"training_s": training, "baseline": {"accuracy": float(by_baseline.mean())}}


def served(model: TextModel, rows: list[LabelledText]) -> dict[str, Any]:
    """Texts per second of computing on one core: readings with spans, in calls of 500."""
    texts = [row.text for row in rows[:SERVED]]
    model.classify(texts[:500])
    clock, began = time.perf_counter(), cpu()
    for first in range(0, len(texts), 500):
        model.classify(texts[first : first + 500])
    return {"texts_per_s": len(texts) / (cpu() - began), "texts_per_s_by_the_clock": len(texts) / (time.perf_counter() - clock)}


def complaints(model: TextModel) -> dict[str, Any]:
    """Smoke: headlines of real complaints to a regulator. Nobody labelled them; each is a complaint by where it stands."""
    readings = model.classify([str(text) for text in models_sets.table("car_complaints")["desc"].dropna()])
    kinds = [reading.kind for reading in readings]
    return {
        "texts": len(kinds),
        "recognised": kinds.count(Kind.COMPLAINT) / len(kinds),
        "taken_for_praise": kinds.count(Kind.PRAISE) / len(kinds),
        "with_an_opinion": sum(bool(reading.opinions) for reading in readings) / len(kinds),
        "with_a_negative_opinion": sum(any(o.sentiment < 0 for o in r.opinions) for r in readings) / len(kinds),
    }


async def measure(quick: bool) -> dict[str, Any]:
    """Figures of the sets that are there; `quick` is one fold, one network and a tenth of the reviews."""
    figures: dict[str, Any] = {}
    with threadpool_limits(1):
        shop = reviews() if models_sets.there("shop_reviews") and models_sets.there("takeaway_reviews") else []
        if models_sets.there("car_reviews"):
            rows = car_reviews()
            say("car_reviews")
            figures["car_reviews"], model = cars(rows, shop[:: 10 if quick else 1], quick)
            figures["car_reviews"] |= served(model, rows)
            if models_sets.there("car_complaints"):
                figures["car_complaints"] = complaints(model)
        if shop:
            say("chinese_reviews")
            figures["chinese_reviews"] = sides(shop, quick)
    return figures


if __name__ == "__main__":
    print(orjson.dumps(asyncio.run(measure("--quick" in sys.argv)), option=orjson.OPT_INDENT_2).decode())
