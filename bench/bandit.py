"""Bench bandit: the bandit of offers beside uniform, greedy and the best fixed offer.

On a replay of real logged data (Open Bandit Dataset, Saito et al. 2021, ZOZO, CC BY 4.0): the random policy's log is halved by
a seed, each half trains what the other one judges, and the value of a policy is the doubly robust estimate over both. The
estimators themselves are checked across the two logs: each policy's own mean against what the other's log says of it.
On a simulator, whose truth is known: cumulative regret, with newcomers at half time.

`TROIKA_DATA` names the folder of the sets, `TROIKA_PICTURES` a folder for the regret picture. Figures are medians over seeds.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.progress import say
from services.orchestrator.domain.statistics import wilson
from services.orchestrator.offers.bandit import Bandit, Flags, Floats, Ints, draw
from services.orchestrator.offers.evaluation import Log, Value, difference, doubly_robust, ips, snips

DATA = Path(os.environ.get("TROIKA_DATA", Path(__file__).parents[2] / "shared" / "data")) / "open_bandit"
SEEDS = 5
POLICIES = ("bandit", "greedy", "best_fixed", "uniform")


async def measure(quick: bool) -> dict[str, Any]:
    """The figures of replay and simulator."""
    seeds = range(1 if quick else SEEDS)
    figures: dict[str, Any] = {"seeds": len(seeds), "one_decision_200_offers_ms": one_decision()}
    if (DATA / "random").exists():
        logs = [Logged.read(name) for name in ("random", "bts")]
        figures["estimators"] = estimators(*logs)
        figures["replay"] = replay(logs[0], seeds)
    else:
        say("bandit: open_bandit is not there, no replay")
    figures["simulator"] = simulator(seeds, 2_000 if quick else 20_000)
    return figures


def one_decision() -> float:
    """Milliseconds for the propensities of 200 offers in one context of 10 features, the median of 200 calls."""
    rng = np.random.default_rng(0)
    bandit = Bandit(10, [{f"tag {n % 12}", f"tag {n % 7}"} for n in range(200)])
    contexts = np.column_stack([np.ones(20_000), rng.random((20_000, 9)) < 0.5])
    bandit.learn(rng.integers(0, 200, 20_000), contexts, (rng.random(20_000) < 0.02).astype(np.float64))
    took = []
    for row in range(200):
        start = time.perf_counter()
        bandit.propensities(contexts[row : row + 1], np.ones(200, np.bool_))
        took.append(time.perf_counter() - start)
    return round(statistics.median(took[1:]) * 1e3, 3)


@dataclass(frozen=True)
class Logged:
    """One policy's log: contexts (n, features) of place in the page and two features of the user, and the offers' content."""

    log: Log
    position: Ints
    contexts: Floats
    content: Sequence[frozenset[str]]

    @classmethod
    def read(cls, name: str) -> Logged:
        """The log of "random" or "bts"."""
        rows = pd.read_csv(DATA / name / "all" / "all.csv.gz")
        offers = pd.read_csv(DATA / name / "all" / "item_context.csv.gz").sort_values("item_id")
        words = [f"item_feature_{n}" for n in (1, 2, 3)]
        content = [frozenset(f"{n}:{word}" for n, word in enumerate(row)) for row in offers[words].to_numpy()]
        columns = [np.ones(len(rows))]
        for column in ("position", "user_feature_0", "user_feature_1"):
            columns += [(rows[column] == level).to_numpy(np.float64) for level in sorted(rows[column].unique())[1:]]
        return cls(
            Log(rows["item_id"].to_numpy(np.int64), rows["click"].to_numpy(np.float64), rows["propensity_score"].to_numpy()),
            rows["position"].to_numpy(np.int64) - 1,
            np.column_stack(columns),
            content,
        )

    def part(self, rows: Ints) -> Logged:
        """Some rows of it."""
        log = Log(self.log.offer[rows], self.log.reward[rows], self.log.propensity[rows])
        return Logged(log, self.position[rows], self.contexts[rows], self.content)


def fitted(part: Logged) -> Bandit:
    """A bandit that has learnt from a log."""
    bandit = Bandit(part.contexts.shape[1], part.content)
    bandit.learn(part.log.offer, part.contexts, part.log.reward)
    return bandit


def estimators(random: Logged, bts: Logged) -> dict[str, Any]:
    """What the one log says of the other's policy, beside that policy's own mean with its Wilson interval."""
    k = len(random.content)
    # The bts policy learnt while it ran; its mean over the week is how often it showed what in which place.
    shown = np.zeros((3, k))
    np.add.at(shown, (bts.position, bts.log.offer), 1)
    of_bts = (shown / shown.sum(axis=1, keepdims=True))[random.position]
    uniform = np.full((len(bts.log.offer), k), 1 / k)
    return {
        "bts_from_random": _estimates(random, of_bts, fitted(bts)) | {"own": _own(bts)},
        "random_from_bts": _estimates(bts, uniform, fitted(random)) | {"own": _own(random)},
    }


def _estimates(judging: Logged, policy: Floats, model: Bandit) -> dict[str, Any]:
    expected, _ = model.believed(judging.contexts)
    return {
        "ips": _told(ips(judging.log, policy)),
        "snips": _told(snips(judging.log, policy)),
        "doubly_robust": _told(doubly_robust(judging.log, policy, expected)),
        "effective_rows": round(ips(judging.log, policy).effective_rows),
    }


def _own(logged: Logged) -> str:
    interval = wilson(int(logged.log.reward.sum()), len(logged.log.reward))
    return f"{interval.value:.2%} ({interval.low:.2%} to {interval.high:.2%})"


def _told(value: Value) -> str:
    return f"{value.mean:.2%} ({value.low:.2%} to {value.high:.2%})"


def replay(random: Logged, seeds: Sequence[int]) -> dict[str, Any]:
    """Value of each policy and its difference from uniform, with 95 % intervals, medians over the halvings."""
    values: dict[str, list[Value]] = {policy: [] for policy in POLICIES}
    above: dict[str, list[Value]] = {policy: [] for policy in POLICIES[:-1]}
    for seed in seeds:
        halves = np.array_split(np.random.default_rng(seed).permutation(len(random.log.offer)), 2)
        chances: dict[str, list[Floats]] = {policy: [] for policy in POLICIES}
        expected = []
        for trained, judged in (halves, halves[::-1]):
            bandit = fitted(random.part(trained))
            believed, _ = bandit.believed(random.contexts[judged])
            expected.append(believed)
            for policy, chance in _policies(bandit, random, trained, judged, believed).items():
                chances[policy].append(chance)
        judged_rows = random.part(np.concatenate(halves[::-1]))
        model = np.concatenate(expected)
        joined = {policy: np.concatenate(parts) for policy, parts in chances.items()}
        for policy in POLICIES:
            values[policy].append(doubly_robust(judged_rows.log, joined[policy], model))
        for policy, differences in above.items():
            differences.append(difference(judged_rows.log, joined[policy], joined["uniform"], model))
    figures: dict[str, Any] = {"impressions": len(random.log.offer), "clicks": int(random.log.reward.sum())}
    for policy in POLICIES:
        figures[policy] = _told(_median(values[policy])) + f", {_median(values[policy]).effective_rows:.0f} effective rows"
    for policy, found in above.items():
        figures[f"{policy}_above_uniform"] = _told(_median(found))
        figures[f"{policy}_proven_better"] = f"{sum(value.low > 0 for value in found)} of {len(found)}"
    return figures


def _policies(bandit: Bandit, random: Logged, trained: Ints, judged: Ints, believed: Floats) -> dict[str, Floats]:
    k = len(random.content)
    everybody = np.ones(k, np.bool_)
    offers, rewards = random.log.offer[trained], random.log.reward[trained]
    shown, won = np.bincount(offers, minlength=k), np.bincount(offers, rewards, minlength=k)
    fixed = int(np.argmax(won / np.maximum(shown, 1)))
    return {
        "bandit": np.concatenate(
            [bandit.propensities(part, everybody) for part in np.array_split(random.contexts[judged], 50)]
        ),
        "greedy": np.eye(k)[believed.argmax(axis=1)],
        "best_fixed": np.tile(np.eye(k)[fixed], (len(judged), 1)),
        "uniform": np.full((len(judged), k), 1 / k),
    }


def _median(values: Sequence[Value]) -> Value:
    return Value(
        *(statistics.median(each) for each in zip(*((v.mean, v.low, v.high, v.effective_rows) for v in values), strict=True))
    )


CLUSTERS, OLD, NEW, BATCH = 6, 30, 6, 100
SIMULATED = ("bandit", "bandit_without_content", "greedy", "best_fixed", "uniform")


def simulator(seeds: Sequence[int], steps: int) -> dict[str, Any]:
    """Cumulative regret against the best offer of each context; policies hear outcomes after each batch of 100."""
    curves: dict[str, list[Floats]] = {policy: [] for policy in SIMULATED}
    for seed in seeds:
        say(f"bandit: simulator, seed {seed}")
        # The tuning was chosen in worlds 0 and 1.
        for policy, regret in simulate(1000 + seed, steps).items():
            curves[policy].append(regret.cumsum())
    half = steps // 2
    figures: dict[str, Any] = {"steps": steps, "offers": OLD, "newcomers_at_half_time": NEW}
    for policy, found in curves.items():
        figures[policy] = {
            "regret": round(statistics.median(float(curve[-1]) for curve in found), 1),
            "regret_worst_seed": round(max(float(curve[-1]) for curve in found), 1),
            "regret_after_newcomers": round(statistics.median(float(curve[-1] - curve[half - 1]) for curve in found), 1),
        }
    if folder := os.environ.get("TROIKA_PICTURES"):
        figures["picture"] = draw_curves(curves, Path(folder))
    return figures


def simulate(seed: int, steps: int) -> dict[str, Floats]:
    """The regret of each step under each policy, all in the same world with the same visitors."""
    rng = np.random.default_rng(seed)
    offers, features = OLD + NEW, 6
    cluster = np.concatenate([np.arange(OLD) % CLUSTERS, np.arange(NEW) % CLUSTERS])
    taste = rng.normal(0, 0.8, (CLUSTERS, features))
    weights = taste[cluster] + rng.normal(0, 0.25, (offers, features))
    contexts = np.column_stack([np.ones(steps), rng.random((steps, features - 1)) < 0.4]).astype(np.float64)
    rates = 1 / (1 + np.exp(3.5 - contexts @ weights.T))
    coming = np.arange(offers)[None, :] < np.where(np.arange(steps) < steps // 2, OLD, offers)[:, None]
    best = np.where(coming, rates, 0).max(axis=1)
    luck, clicks = rng.random(steps), rng.random(steps)
    content = [frozenset({f"cluster {n}", f"offer {i}"}) for i, n in enumerate(cluster.tolist())]
    regrets: dict[str, Floats] = {}
    for policy in SIMULATED:
        about = [frozenset[str]()] * offers if policy == "bandit_without_content" else content
        bandit, shown = Bandit(features, about), np.empty(steps, np.int64)
        for start in range(0, steps, BATCH):
            rows = slice(start, start + BATCH)
            chances = _chances(policy, bandit, contexts[rows], coming[rows], rates[:, :OLD].mean(axis=0))
            shown[rows] = draw(chances, luck[rows])
            outcome = (clicks[rows] < rates[np.arange(steps)[rows], shown[rows]]).astype(np.float64)
            bandit.learn(shown[rows], contexts[rows], outcome)
        regrets[policy] = best - rates[np.arange(steps), shown]
    return regrets


def _chances(policy: str, bandit: Bandit, contexts: Floats, eligible: Flags, means: Floats) -> Floats:
    k = eligible.shape[1]
    if policy.startswith("bandit"):
        return bandit.propensities(contexts, eligible)
    if policy == "uniform":
        even: Floats = eligible / eligible.sum(axis=1, keepdims=True)
        return even
    if policy == "best_fixed":
        # Known from the truth, of those there from the start.
        chosen: Ints = np.full(len(contexts), int(means.argmax()), np.int64)
    else:
        chosen = np.where(eligible, bandit.believed(contexts)[0], -np.inf).argmax(axis=1)
    return np.eye(k)[chosen]


def draw_curves(curves: Mapping[str, Sequence[Floats]], folder: Path) -> str:
    """Median cumulative regret with the range over seeds, as a PNG; returns where it lies."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for policy, found in curves.items():
        stacked = np.stack(found)[:, ::BATCH]
        steps = np.arange(stacked.shape[1]) * BATCH
        axes.plot(steps, np.median(stacked, axis=0), label=policy.replace("_", " "))
        axes.fill_between(steps, stacked.min(axis=0), stacked.max(axis=0), alpha=0.15)
    axes.axvline(stacked.shape[1] * BATCH / 2, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="decisions (newcomers at the dotted line)", ylabel="cumulative regret (successes missed)")
    axes.set_title(f"Offers: median of {len(next(iter(curves.values())))} simulated worlds, shaded from least to most")
    axes.legend()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "bandit_regret.png"
    figure.savefig(file, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return str(file)
