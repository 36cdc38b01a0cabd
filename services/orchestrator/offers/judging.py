"""What other policies would have earned on logged decisions. Each is judged on one half with what the other half taught it.

Only drawn decisions are judged: where a rule decided, no other policy had a chance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import orjson

from chassis.db import Database
from chassis.errors import FailedPrecondition
from services.orchestrator.domain.statistics import Interval, wilson
from services.orchestrator.offers.bandit import Bandit, Flags, Floats, Ints, Tuning
from services.orchestrator.offers.contexts import FEATURES, GRAIN, rows
from services.orchestrator.offers.evaluation import Log, Value, difference, doubly_robust, ips, snips
from services.orchestrator.offers.offer_log import Arms, Kept, arms_of, judged

POLICIES = ("uniform", "greedy", "best_fixed", "bandit")
# Contexts that are looked at together: with 200 offers about 100 MB.
_AT_ONCE = 250


@dataclass(frozen=True)
class Judged:
    """A log and all that its policies may know: contexts (n, features) without match, match and eligible (n, k)."""

    log: Log
    active: Sequence[bytes]
    match: Floats
    eligible: Flags
    content: Sequence[frozenset[str]]


@dataclass(frozen=True)
class Judgement:
    """A policy's value by three estimators, and by how much it is above showing evenly."""

    policy: str
    ips: Value
    snips: Value
    doubly_robust: Value
    above_uniform: Value


@dataclass(frozen=True)
class Verdict:
    """What was really earned, and each policy's judgement."""

    decisions: int
    successes: int
    logged: Interval
    policies: tuple[Judgement, ...]


async def evaluate(database: Database, slot: str, since: datetime, most: int, tuning: Tuning | None = None) -> Verdict:
    """Judges the newest decisions whose window is over; raises FailedPrecondition when there are too few to halve."""
    async with database.read() as uow:
        kept = await judged(uow, slot, since, most)
        arms = await arms_of(uow, [each.decided.arms_id for each in kept])
    if len(kept) < 2:
        raise FailedPrecondition("no two drawn decisions whose window is over", reason="NOTHING_TO_JUDGE", field="slot")
    return await asyncio.to_thread(lambda: judge(told(kept, arms), tuning or Tuning()))


def told(kept: Sequence[Kept], arms: Mapping[int, Arms]) -> Judged:
    """Decisions as columns over all offers that ever competed in them; an offer is about what it was about last."""
    about = {
        offer: tags for number in sorted(arms) for offer, tags in zip(arms[number].offers, arms[number].content, strict=True)
    }
    offers = sorted(about)
    at = {offer: place for place, offer in enumerate(offers)}
    places = {number: np.array([at[offer] for offer in each.offers], np.int64) for number, each in arms.items()}
    eligible = np.zeros((len(kept), len(offers)), np.bool_)
    match = np.zeros((len(kept), len(offers)))
    for row, each in enumerate(kept):
        columns, decided = places[each.decided.arms_id], each.decided
        eligible[row, columns] = np.frombuffer(decided.codes, np.uint8) == 0
        words = set(orjson.loads(decided.words))
        if words:
            shares = [len(tags & words) / len(tags) if tags else 0 for tags in arms[decided.arms_id].content]
            match[row, columns] = np.rint(np.array(shares) * GRAIN) / GRAIN
    log = Log(
        np.array([at[each.decided.offer_id] for each in kept], np.int64),
        np.array([each.rewarded_at is not None for each in kept], np.float64),
        np.array([each.decided.propensity for each in kept]),
    )
    return Judged(log, [each.decided.active for each in kept], match, eligible, [about[offer] for offer in offers])


def judge(logged: Judged, tuning: Tuning, seed: int = 0) -> Verdict:
    """All policies on both halves of the log; the same log has the same verdict."""
    n, k = logged.match.shape
    halves = np.array_split(np.random.default_rng(seed).permutation(n), 2)
    policies = {policy: np.zeros((n, k)) for policy in POLICIES}
    expected = np.zeros((n, k))
    for taught, seen in (halves, halves[::-1]):
        model = _taught(logged, taught, tuning)
        fixed = _best_fixed(logged, taught)
        for part in np.array_split(seen, -(-len(seen) // _AT_ONCE)):
            contexts = rows([logged.active[row] for row in part], logged.match[part])
            eligible = logged.eligible[part]
            expected[part], _ = model.believed(contexts)
            policies["bandit"][part] = model.propensities(contexts, eligible)
            policies["greedy"][part] = np.eye(k)[np.where(eligible, expected[part], -np.inf).argmax(axis=1)]
            policies["best_fixed"][part] = np.eye(k)[np.where(eligible, fixed, -np.inf).argmax(axis=1)]
            policies["uniform"][part] = eligible / eligible.sum(axis=1, keepdims=True)
    log, successes = logged.log, int(logged.log.reward.sum())
    return Verdict(
        n,
        successes,
        wilson(successes, n),
        tuple(
            Judgement(
                policy,
                ips(log, chance),
                _snips(log, chance),
                doubly_robust(log, chance, expected),
                difference(log, chance, policies["uniform"], expected),
            )
            for policy, chance in policies.items()
        ),
    )


def _taught(logged: Judged, part: Ints, tuning: Tuning) -> Bandit:
    model = Bandit(len(FEATURES), logged.content, tuning)
    shown = logged.log.offer[part]
    model.learn(shown, rows([logged.active[row] for row in part], logged.match[part, shown]), logged.log.reward[part])
    return model


def _best_fixed(logged: Judged, part: Ints) -> Floats:
    """Each offer's own rate, drawn to that of all by twenty decisions; the best eligible one of this order is shown."""
    shown, k = logged.log.offer[part], logged.match.shape[1]
    count, won = np.bincount(shown, minlength=k), np.bincount(shown, logged.log.reward[part], minlength=k)
    rate = logged.log.reward[part].mean()
    found: Floats = (won + 20 * rate) / (count + 20)
    return found


def _snips(log: Log, policy: Floats) -> Value:
    """A policy that the log never follows has no such estimate."""
    if not log.ratio(policy).any():
        return Value(float("nan"), float("nan"), float("nan"), 0.0)
    return snips(log, policy)
