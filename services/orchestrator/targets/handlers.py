"""One function per command and question about targets. Scoring is asked outside of transactions; lists are kept for minutes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from chassis.db import Database
from chassis.errors import FailedPrecondition, InvalidArgument
from services.orchestrator.experiments.store import ExperimentStore
from services.orchestrator.leads.consents import MARKETING, closed_to_dealers
from services.orchestrator.settings import Settings
from services.orchestrator.targets import closing as closings
from services.orchestrator.targets.actions import Rule, next_action
from services.orchestrator.targets.closing import Closing, Metric, Track
from services.orchestrator.targets.listing import Candidate, arrange, by_metric, eligible, of_advisor
from services.orchestrator.targets.measuring import Comparison, DayList, compare
from services.orchestrator.targets.scoring_door import Floats, Ints, RankingDoor, probability
from services.orchestrator.targets.store import Target, TargetStore

REASONS = 3
OFFER_MODEL = "next_best_offer"
MOST_CACHED = 200
# How far back lists tell whether forecasts hold, and after how long an outcome counts as known.
TRACKED, OUTCOME = timedelta(days=90), timedelta(days=14)
# Lists of one day and the next hold almost the same customers; of many dealers these days of each month say enough.
SAMPLED = (1, 11, 21)


@dataclass(frozen=True)
class Lists:
    """A dealer's customers by metric, as they were looked at."""

    made_at: datetime
    by_metric: dict[Metric, list[Candidate]]
    tracks: dict[Metric, Track]


@dataclass
class Board:
    """What the handlers work with. `now` is the clock."""

    database: Database
    ranking: RankingDoor
    settings: Settings
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _lists: dict[tuple[str, date], tuple[float, Lists]] = field(default_factory=dict)
    _looking: dict[str, asyncio.Lock] = field(default_factory=dict)
    _tracks: dict[Metric, tuple[date, Track]] = field(default_factory=dict)

    def month(self, text: str = "") -> date:
        """The first day of a month "2026-11", or of the present one on the house's clock."""
        if text:
            return date(int(text[:4]), int(text[5:]), 1)
        return (self.now() + self.settings.clock()).date().replace(day=1)

    def span(self, month: date) -> tuple[datetime, datetime]:
        """When a month begins and ends, UTC."""
        following = (month + timedelta(days=32)).replace(day=1)
        begin, end = (datetime(m.year, m.month, 1, tzinfo=UTC) - self.settings.clock() for m in (month, following))
        return begin, end

    def days_left(self, month: date) -> float:
        """Days of a month that are still to come."""
        begin, end = self.span(month)
        return max(0.0, (end - max(self.now(), begin)) / timedelta(days=1))

    async def track(self, metric: Metric) -> Track:
        """How forecasts of all dealers' lists held; worked out once a day, from lists of three days a month."""
        now = self.now()
        known = self._tracks.get(metric)
        if known is None or known[0] != now.date():
            async with self.database.read() as uow:
                since = (now - TRACKED).date()
                rows = await TargetStore(uow).outcomes("", metric, since, OUTCOME, now - OUTCOME, SAMPLED)
            known = self._tracks[metric] = now.date(), await asyncio.to_thread(_track, rows)
        return known[1]

    async def lists(self, dealer_code: str, targets: Sequence[Target], month: date) -> Lists:
        """The dealer's lists, at most as old as the setting says; one caller at a time makes them."""
        key = dealer_code, month
        # One at a time for each dealer: a crowd at nine in the morning asks scoring once.
        async with self._looking.setdefault(dealer_code, asyncio.Lock()):
            known = self._lists.get(key)
            wanted = set(by_metric(targets))
            if known and time.monotonic() - known[0] <= self.settings.target_cache_s and wanted <= set(known[1].by_metric):
                return known[1]
            made = await make_lists(self, dealer_code, targets, month)
            if len(self._lists) >= MOST_CACHED:
                self._lists.pop(min(self._lists, key=lambda each: self._lists[each][0]))
            self._lists[key] = time.monotonic(), made
            return made


async def make_lists(board: Board, dealer_code: str, targets: Sequence[Target], month: date) -> Lists:
    """Looks at a dealer's customers: asks scoring whom, then our own state who may be spoken to, then orders them."""
    settings, now = board.settings, board.now()
    wanted = by_metric(targets)
    async with board.database.read() as uow:
        own = await TargetStore(uow).own_customers(dealer_code, settings.target_list_size)
    ranked = {
        model: await _candidates(board, model, dealer_code, own) for model in {settings.target_models[m.label] for m in wanted}
    }
    persons = sorted({int(person) for found, _, _ in ranked.values() for person in found})
    async with board.database.read() as uow:
        store = TargetStore(uow)
        known = await store.known(persons, now)
        closed = await closed_to_dealers(uow, persons, settings.consent_regimes, now, MARKETING)
        neutral = await ExperimentStore(uow).without_personalisation(persons, now)
    tracks = {metric: await board.track(metric) for metric in wanted}
    made: dict[Metric, list[Candidate]] = {}
    for metric, target in wanted.items():
        people, scores, chances = ranked[settings.target_models[metric.label]]
        chosen = [
            n for n, person in enumerate(people.tolist())
            if person not in closed and chances[n] >= 0 and eligible(known[person], dealer_code, metric)
        ]  # fmt: skip
        made[metric] = arrange(
            [known[int(people[n])] for n in chosen],
            scores[chosen],
            chances[chosen],
            neutral,
            target,
            board.days_left(month),
            settings.target_horizon_days,
            f"{dealer_code} {month}",
        )
    return Lists(now, made, tracks)


async def _candidates(board: Board, model: str, dealer_code: str, own: Sequence[int]) -> tuple[Ints, Floats, Floats]:
    """(persons, scores, probabilities): the dealer's customers by tag, the best of them, and whose leads it looks after."""
    # The contract lets nothing into a code that could end the quotes.
    predicate = f"dealer_code = '{dealer_code}'"
    people, scores = await board.ranking.ranked(model, predicate, board.settings.target_list_size, "target_models")
    others = np.setdiff1d(np.array(own, np.int64), people)
    if not len(others):
        return people, scores, probability(scores)
    more, chances = await board.ranking.scores(model, others, "target_models")
    return (
        np.concatenate([people, others]),
        np.concatenate([scores, more]),
        np.concatenate([probability(scores), chances]),
    )


def _track(rows: Sequence[Any]) -> Track:
    """How many of those foretold on past lists came true. Of a customer's many days the first counts."""
    seen: set[int] = set()
    foretold, came_true = 0.0, 0
    for row in sorted(rows, key=lambda r: r.day):
        if row.human_id not in seen:
            seen.add(row.human_id)
            foretold += row.probability
            came_true += bool(row.converted)
    return Track(foretold, came_true)


@dataclass(frozen=True)
class Line:
    """How far one target is."""

    target: Target
    actual: int
    gap: int
    candidates: int
    closing: Closing
    words: str


@dataclass(frozen=True)
class Report:
    """A dealer's month."""

    lines: Sequence[Line]
    days_left: float
    made_at: datetime
    realised: float


async def set_targets(board: Board, dealer_code: str, month: str, targets: Sequence[Target], caller: str) -> list[Target]:
    """States targets; raises for one that stands twice and for other versions."""
    seen: set[tuple[str, Metric]] = set()
    for place, target in enumerate(targets):
        if (target.advisor, target.metric) in seen:
            raise InvalidArgument("this target stands twice", reason="TARGET_TWICE", field=f"targets[{place}].metric")
        seen.add((target.advisor, target.metric))
    async with board.database.transaction() as uow:
        store = TargetStore(uow)
        await store.serialise(dealer_code)
        await store.keep(dealer_code, board.month(month), targets, caller)
        return await store.targets(dealer_code, board.month(month))


async def report(board: Board, dealer_code: str, month_text: str) -> Report:
    """How far a month is; raises FailedPrecondition where it has no targets. Of a past month nothing is foretold."""
    month = board.month(month_text)
    targets, actuals = await _targets(board, dealer_code, month)
    days_left = board.days_left(month)
    lists = (
        await board.lists(dealer_code, targets, month)
        if month == board.month()
        else Lists(board.now(), {metric: [] for metric in by_metric(targets)}, {})
    )
    lines = []
    for target in targets:
        mine = of_advisor(lists.by_metric[target.metric], target.advisor)
        actual = actuals.get((target.advisor, target.metric), 0)
        gap = max(0, target.goal - actual)
        chances = np.array([each.probability for each in mine])
        # A thread: convolving thousands of chances takes a second that other callers must not wait for.
        found = await asyncio.to_thread(closings.closing, chances, gap, lists.tracks.get(target.metric, Track()))
        lines.append(Line(target, actual, gap, len(mine), found, closings.words(target.metric, gap, len(mine), found)))
    main = lists.tracks.get(targets[0].metric, Track())
    return Report(lines, days_left, lists.made_at, main.realised)


async def _targets(board: Board, dealer_code: str, month: date) -> tuple[list[Target], dict[tuple[str, Metric], int]]:
    begin, end = board.span(month)
    async with board.database.read() as uow:
        store = TargetStore(uow)
        targets = await store.targets(dealer_code, month)
        if not targets:
            raise FailedPrecondition(f"{dealer_code} has no targets in {month:%Y-%m}", reason="NO_TARGETS", field="dealer_code")
        return targets, await store.actuals(dealer_code, begin, end)


@dataclass(frozen=True)
class Call:
    """A customer to speak to: why, and what to do."""

    candidate: Candidate
    reasons: tuple[str, ...]
    rule: Rule
    offer: str


async def opportunities(
    board: Board, dealer_code: str, metric: Metric, advisor: str, after: int, size: int
) -> tuple[list[Call], bool, datetime]:
    """(customers behind a place, whether there are more, when they were looked at)."""
    month = board.month()
    targets, _ = await _targets(board, dealer_code, month)
    if metric not in by_metric(targets):
        raise FailedPrecondition(f"{dealer_code} has no target of {metric.label}", reason="NO_TARGETS", field="metric")
    lists = await board.lists(dealer_code, targets, month)
    mine = [each for each in of_advisor(lists.by_metric[metric], advisor) if each.rank > after]
    shown = mine[:size]
    personal = [each.known.person_id for each in shown if not each.neutral]
    model = board.settings.target_models[metric.label]
    reasons = await board.ranking.reasons(model, personal, REASONS)
    offers = await board.ranking.welcome_offers(OFFER_MODEL, personal)
    calls = []
    for each in shown:
        person = each.known.person_id
        why = reasons.get(person)
        spoken = each.known.spoken_at
        days = (board.now() - spoken) / timedelta(days=1) if spoken else None
        calls.append(
            Call(
                each,
                why.sentences if why else (),
                next_action(each.known.stage, days, each.score),
                offers.get(person, ""),
            )
        )
    return calls, len(mine) > size, lists.made_at


@dataclass(frozen=True)
class Measured:
    """Whether lists put those first who then did it."""

    lists: int
    places: int
    conversions: int
    own: Comparison
    oldest: Comparison


async def measure(board: Board, dealer_code: str, metric: Metric, days: int, window_days: int) -> Measured:
    """Judges the lists of past days whose outcome is known."""
    now, window = board.now(), timedelta(days=window_days)
    async with board.database.read() as uow:
        rows = await TargetStore(uow).outcomes(
            dealer_code,
            metric,
            (now - timedelta(days=days) - window).date(),
            window,
            now - window,
            () if dealer_code else SAMPLED,
        )
    by_day: dict[tuple[str, date], list[int]] = {}
    for n, row in enumerate(rows):
        by_day.setdefault((row.dealer_code, row.day), []).append(n)
    own, oldest = [], []
    for places in by_day.values():
        part = [rows[n] for n in places]
        person = np.array([row.human_id for row in part], np.int64)
        done = np.array([row.converted for row in part])
        rank = np.array([row.rank for row in part], np.float64)
        usual = np.array([row.own_rank for row in part], np.float64)
        # Who was spoken to, in that order; then the others as the dealer would have come to them.
        spoken = np.array([row.contacted_at.timestamp() if row.contacted_at else np.inf for row in part])
        order = np.empty(len(part))
        order[np.lexsort((usual, spoken))] = np.arange(len(part))
        own.append(DayList(person, done, rank, order))
        oldest.append(DayList(person, done, rank, usual))
    return Measured(
        len(by_day),
        len(rows),
        sum(bool(row.converted) for row in rows),
        await asyncio.to_thread(compare, own),
        await asyncio.to_thread(compare, oldest),
    )
