"""Many themes, journeys' proposals, several workers cancelled at random, merges, partings and opt-outs in between, a clock that
runs: afterwards every bound holds, by what was stored and by what went out."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from chassis.testing import DatabaseFactory
from services.orchestrator.arbiter.due import DueWorker
from services.orchestrator.domain.themes import ThemeId
from services.orchestrator.launching import Launcher
from services.orchestrator.themes.definitions import Band, Budget, Exclusion, Pacing, Schedule
from services.orchestrator.themes.states import ThemeState
from tests.integration.orchestrator.court import Court, court
from tests.integration.orchestrator.world import People

PERSONS, THEMES, ROUNDS = 240, 5, 14
ZONES = ("Asia/Shanghai", "Europe/Berlin", "America/New_York")
BEGIN = datetime(2026, 3, 26, 0, 0, tzinfo=UTC)
CAPS = {"any": (3, 5.0), "dealer": (1, 4.0), "app": (2, 3.0)}
CALLS = 3


class Chaos:
    """What happens, and what was said when."""

    def __init__(self, court: Court, seed: int) -> None:
        self.court, self.draw = court, random.Random(seed)
        self.themes: dict[ThemeId, dict[str, Any]] = {}
        self.forbidden: dict[int, datetime] = {}
        self.op = 0
        self.merged: dict[int, int] = {}
        self.joined: list[tuple[datetime, int, int]] = []
        self.parted: set[int] = set()

    async def begin(self) -> None:
        court, draw = self.court, self.draw
        for number in range(THEMES):
            budget = Budget(
                draw.choice([40, 120, 10**6]), draw.choice([10, 10**6]), draw.choice([None, 3000]),
                {"app": 1, "wechat": 2, "dealer": 50}, Pacing.EVEN if number == 1 else Pacing.ASAP,
            )  # fmt: skip
            stated: dict[str, Any] = {
                "budget": budget, "priority": draw.randint(0, 1000), "holdout_share": draw.choice([0.0, 0.3]),
                "bands": (Band(0.0, ("app", "wechat")), Band(600.0, ("dealer", "app", "wechat"))),
                "exclusion": Exclusion("group", 2) if number in (2, 3) else None,
                "schedule": Schedule(None, BEGIN + timedelta(days=5)) if number == 1 else Schedule(None, None),
                "offers": (await court.offer(stock=30), await court.offer()) if number == 0 else None,
            }  # fmt: skip
            theme = await court.theme(
                **{name: value for name, value in stated.items() if value is not None or name == "exclusion"}
            )
            self.themes[theme] = stated
            await court.queue(theme)
        for survivor in range(1, 40, 2):
            self.op += 1
            await court.merge(survivor, survivor + 1, self.op)
            self.merged[survivor + 1] = survivor
            self.joined.append((BEGIN - timedelta(days=1), survivor, survivor + 1))

    async def happen(self) -> None:
        """Something of the world, between and beside decisions."""
        court, draw = self.court, self.draw
        assert court.moment
        for _ in range(4):
            await asyncio.sleep(draw.uniform(0, 0.05))
            match draw.choice(["propose", "propose", "forbid", "merge", "part", "pause"]):
                case "propose":
                    persons = draw.sample(range(1, PERSONS + 1), 60)
                    await court.propose(draw.choice(list(self.themes)), persons, draw.randint(1, 10**6), timedelta(days=4))
                case "forbid":
                    person = draw.randint(1, PERSONS)
                    await court.forbid(person)
                    self.forbidden.setdefault(person, court.moment)
                case "merge":
                    survivor, other = draw.sample(range(1, PERSONS + 1), 2)
                    if survivor in self.merged or other in self.merged or other in self.merged.values():
                        continue
                    self.op += 1
                    await court.merge(survivor, other, self.op)
                    self.merged[other] = survivor
                    self.joined.append((court.moment, survivor, other))
                case "part":
                    if self.merged:
                        other = draw.choice(list(self.merged))
                        self.op += 1
                        await court.merge(self.merged.pop(other), other, self.op, "split")
                        self.parted.add(other)
                case "pause":
                    theme = draw.choice(list(self.themes))
                    await court.state(theme, ThemeState.PAUSED)
                    await asyncio.sleep(0.02)
                    await court.state(theme, ThemeState.RUNNING)

    async def round(self) -> None:
        """Three replicas work while things happen, and two of them die somewhere."""
        replicas = [self.court.arbiter() for _ in range(3)]
        work = [DueWorker(arbiter).run() for arbiter in replicas]
        work += [Launcher(self.court.room, arbiter, 50).run() for arbiter in replicas]
        tasks = [asyncio.create_task(job) for job in work]
        happening = asyncio.create_task(self.happen())
        for task in self.draw.sample(tasks, 4):
            await asyncio.sleep(self.draw.uniform(0, 0.15))
            task.cancel()
        await happening
        left = set(tasks)
        while left:
            # As the runtime does: a connection that breaks on the way may swallow a cancellation.
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=0.5)


@pytest.mark.parametrize("seed", [1, 2])
async def test_caps_quiet_hours_consent_budget_and_holdout_hold_whatever_happens(databases: DatabaseFactory, seed: int) -> None:
    settings: dict[str, Any] = {
        "push_caps": CAPS, "quiet_hours": "21:00-09:00", "dealer_calls_per_day": CALLS, "lease_s": 0.3,
    }  # fmt: skip
    people = People(PERSONS, seed=seed, zones=ZONES)
    async with court(databases, people, BEGIN, **settings) as opened:
        chaos = Chaos(opened, seed)
        await chaos.begin()
        for _ in range(ROUNDS):
            await chaos.round()
            assert opened.moment
            opened.pass_on(hours=chaos.draw.choice([1, 5, 9, 13]))
        # What is left, by one who is not disturbed.
        for arbiter in [opened.arbiter()]:
            while await Launcher(opened.room, arbiter, 50).work_once():
                pass
        await opened.work()
        await check(chaos)


async def check(chaos: Chaos) -> None:  # noqa: C901  (one list of bounds)
    court = chaos.court
    rows = await court.rows("SELECT * FROM decision ORDER BY decided_at")
    pushed = [row for row in rows if row.outcome == "push"]
    assert len(pushed) > 100
    assert {"holdout", "frequency_cap", "opted_out", "merged"} <= {row.reason or row.outcome for row in rows}

    sent = Counter(push.delivery_id for push in await court.pushes())
    assert {1} == set(sent.values())
    assert {row.delivery_id for row in pushed} == set(sent)

    # Caps of any window: of each person by herself always, of humans for as long as nobody of them came apart again.
    humans = dict(chaos.merged)
    met = {(survivor, other): moment for moment, survivor, other in chaos.joined}
    by_person: dict[int, list[Any]] = defaultdict(list)
    for row in pushed:
        by_person[row.person_id].append(row)
    for person, mine in by_person.items():
        for name, (most, days) in CAPS.items():
            moments = [row.decided_at for row in mine if name in ("any", row.channel)]
            for last, moment in enumerate(moments):
                assert last + 1 - bisect_left(moments, moment - timedelta(days=days) + timedelta(microseconds=1)) <= most, (
                    person
                )
    for other, survivor in humans.items():
        if {other, survivor} & chaos.parted:
            continue
        both = sorted([*by_person[other], *by_person[survivor]], key=lambda row: row.decided_at)
        since = met[survivor, other]
        for row in both:
            if row.decided_at > since:
                window = [r for r in both if row.decided_at - timedelta(days=CAPS["any"][1]) < r.decided_at <= row.decided_at]
                assert len(window) <= CAPS["any"][0] or all(r.decided_at <= since for r in window[CAPS["any"][0] :])

    for row in pushed:
        local = row.decided_at.astimezone(ZoneInfo(row.time_zone))
        assert 9 <= local.hour < 21
        assert row.time_zone == ZONES[row.person_id % 3]
        assert row.person_id not in chaos.forbidden or row.decided_at <= chaos.forbidden[row.person_id]
        assert not row.opted_out >> ("app", "wechat", "dealer").index(row.channel) & 1

    calls = Counter(
        (row.dealer_code, row.decided_at.astimezone(ZoneInfo("Asia/Shanghai")).date())
        for row in pushed
        if row.channel == "dealer"
    )
    assert all(count <= CALLS for count in calls.values())
    for theme, stated in chaos.themes.items():
        mine = [row for row in rows if row.theme_id == theme]
        budget: Budget = stated["budget"]
        chosen = [row for row in mine if row.outcome in ("push", "holdout")]
        own = [row for row in mine if row.outcome == "push"]
        assert len(chosen) <= budget.max_contacts
        assert list(range(1, len(chosen) + 1)) == sorted(row.position for row in chosen)
        assert sum(row.channel == "dealer" for row in own) <= budget.max_calls
        assert sum(row.cost_fen for row in own) <= (budget.max_cost_fen if budget.max_cost_fen is not None else 10**9)
        sides: dict[int, set[str]] = defaultdict(set)
        for row in chosen:
            sides[row.person_id].add(row.outcome)
        assert all(len(side) == 1 for person, side in sides.items())
        launched = [row for row in mine if row.occasion == 0]
        assert PERSONS == len(launched) == len({row.person_id for row in launched})
        if budget.pacing is Pacing.EVEN:
            days = Counter(row.decided_at.astimezone(ZoneInfo("Asia/Shanghai")).date() for row in chosen)
            assert all(count <= budget.max_contacts for count in days.values())
    [stock] = await court.rows("SELECT reserved + taken AS gone FROM offer WHERE stock IS NOT NULL")
    assert stock.gone <= 30
    grouped = [row for row in pushed if chaos.themes[row.theme_id]["exclusion"]]
    for one in grouped:
        for other_row in grouped:
            if one.person_id == other_row.person_id and one.theme_id != other_row.theme_id:
                assert abs(one.decided_at - other_row.decided_at) >= timedelta(days=2)
