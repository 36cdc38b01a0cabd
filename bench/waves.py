"""Bench waves: a real campaign's contacts in ripple waves beside one blast: how many pushes the same conversions cost.

The contacts and their answers are real (UCI Bank Marketing). As in the demo 60 % are the past campaign that a model is trained
on, 40 % the new leads. Layers are tenths of them; a layer is judged after every 50 answers by the rule of the product
(services/orchestrator/waves/judging.py) against a target rate. `adapting`: before each layer the model is fitted again, on the
answers of the layers before it, too, as present scores would be; `static`: it is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from bench.progress import say
from local.data.bank_marketing import Contacts, load
from services.orchestrator.waves.judging import STOPS, judge

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

LAYERS, LOOK, LEAST, PAST = 10, 50, 100, 0.6
# Below this a push does not pay, as a share of what a blast reaches.
TARGETS = {"half": 0.5, "two_fifths": 0.4, "third": 1 / 3}


@dataclass(frozen=True)
class Outcome:
    """What one way of pushing came to."""

    pushes: int
    conversions: int
    layers: int


async def measure(quick: bool) -> dict[str, Any]:
    """By target, medians over seeded splits: pushes and conversions as shares of the blast's, and the saving."""
    contacts = load()
    features, answers = matrix(contacts), np.array(contacts.answers, np.bool_)
    seeds = range(1 if quick else 5)
    runs: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        past = np.random.default_rng(seed).random(len(answers)) < PAST
        for name, share in TARGETS.items():
            for adapting in (True, False):
                say(f"waves: split {seed}, target {name}, {'adapting' if adapting else 'static'}")
                found = compare(features, answers, past, share, adapting=adapting)
                runs.setdefault(f"{name}_{'adapting' if adapting else 'static'}", []).append(found)
    return {
        "contacts": len(answers),
        "splits": len(seeds),
        **{name: {key: float(np.median([run[key] for run in found])) for key in found[0]} for name, found in runs.items()},
    }


def compare(features: Floats, answers: Flags, past: Flags, share: float, *, adapting: bool) -> dict[str, float]:
    """Waves beside a blast to all new leads, and beside a blast to as many of them as bring the same conversions."""
    new = np.flatnonzero(~past)
    total, target = int(answers[new].sum()), share * float(answers[new].mean())
    waves = ripple(features, answers, np.flatnonzero(past), new, target, adapting=adapting)
    # Who are pushed without a ranking convert alike: so many pushes are needed for the same conversions.
    same = waves.conversions / total * len(new)
    return {
        "target_rate": target,
        "layers_opened": waves.layers,
        "pushes_share": waves.pushes / len(new),
        "conversions_share": waves.conversions / total,
        "conversion_rate": waves.conversions / waves.pushes,
        "blast_rate": total / len(new),
        "saving_at_same_conversions": 1 - waves.pushes / same,
    }


def ripple(features: Floats, answers: Flags, known: Ints, new: Ints, target: float, *, adapting: bool) -> Outcome:
    """Pushes layer after layer until one is judged not to hold."""
    left, pushes, conversions = new, 0, 0
    scores = fit(features[known], answers[known])
    order = left[np.argsort(-scores(features[left]), kind="stable")]
    size = -(-len(new) // LAYERS)
    for layer in range(1, LAYERS + 1):
        if adapting and layer > 1:
            scores = fit(features[known], answers[known])
            order = left[np.argsort(-scores(features[left]), kind="stable")]
        inside, seen, goals, stopped = order[:size], 0, 0, False
        while seen < len(inside) and not stopped:
            answered = answers[inside[seen : seen + LOOK]]
            seen, goals = seen + len(answered), goals + int(answered.sum())
            stopped = judge(seen, goals, target=target, least=LEAST, over=seen == len(inside)).verdict in STOPS
        pushes, conversions = pushes + seen, conversions + goals
        known, order = np.concatenate((known, inside[:seen])), order[size:]
        left = order
        if stopped or not len(left):
            return Outcome(pushes, conversions, layer)
    return Outcome(pushes, conversions, LAYERS)


def fit(features: Floats, answers: Flags) -> Any:
    """A model's scores by features; trees as the product's models are."""
    model = HistGradientBoostingClassifier(max_iter=150, learning_rate=0.06, max_leaf_nodes=15, random_state=0)
    model.fit(features, answers)
    return lambda rows: model.predict_proba(rows)[:, 1]


def matrix(contacts: Contacts) -> Floats:
    """What was known of each contact before the call; words as numbers, nothing as NaN."""
    columns = []
    for column in contacts.columns.values():
        words = sorted({value for value in column if isinstance(value, str)})
        codes: dict[object, float] = {word: float(number) for number, word in enumerate(words)}
        columns.append([np.nan if v is None else codes[v] if isinstance(v, str) else float(v) for v in column])
    return np.array(columns, np.float64).T
