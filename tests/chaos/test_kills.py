"""kill -9 in the middle of the run: afterwards it completes, nothing accepted is missing, nobody is pushed twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from local.demo.console import Screen, Step
from local.demo.run import ENVIRONMENT, run
from local.supervisor import Suite

PERSONS = 1000
SEED = 11
# Work of a dead process is taken over sooner than in production, or the test would wait most of its time.
LEASES = {"TROIKA_TRAINING_LEASE_S": "3", "TROIKA_LEASE_S": "3", "TROIKA_SEND_LEASE_S": "18"}
# Words that a step's title begins with → who dies while it runs, one after the other.
EACH_IN_ITS_WORK: Mapping[str, Sequence[str]] = {
    "Import": ("touchpoints", "nats"),
    "Send": ("postgres", "identity"),
    "Resolve": ("identity", "tags"),
    "Train": ("scoring",),
    "Launch": ("orchestrator",),
    "Push": ("touchpoints", "nats", "postgres"),
}
EVERYBODY = ("touchpoints", "orchestrator", "scoring", "tags", "identity", "nats", "postgres")
# As when the power fails: first while pushes go out.
ALL_AT_ONCE: Mapping[str, Sequence[str]] = {"Push": EVERYBODY}
BEFORE_KILL_S = 0.4


class Reaper(Screen):
    """A screen that kills as soon as the step of its choice is on."""

    def __init__(self, suite: Suite, plan: Mapping[str, Sequence[str]], pause_s: float) -> None:
        super().__init__(Console(file=StringIO()))
        self._suite, self._plan, self._pause_s = suite, dict(plan), pause_s
        self.killed: list[str] = []
        self._work: list[asyncio.Task[None]] = []

    @contextmanager
    def step(self, title: str, total: float | None = None) -> Iterator[Step]:
        with super().step(title, total) as step:
            for word in [word for word in self._plan if title.startswith(word)]:
                self._work.append(asyncio.create_task(self._reap(self._plan.pop(word))))
            yield step

    async def _reap(self, names: Sequence[str]) -> None:
        for name in names:
            await asyncio.sleep(self._pause_s)
            await self._suite.kill(name)
            self.killed.append(name)

    async def done(self) -> None:
        await asyncio.gather(*self._work)


@pytest.mark.parametrize(
    ("plan", "pause_s"), [(EACH_IN_ITS_WORK, BEFORE_KILL_S), (ALL_AT_ONCE, 0.0)], ids=["each in its work", "all at once"]
)
async def test_the_run_completes_whoever_is_killed(tmp_path: Path, plan: Mapping[str, Sequence[str]], pause_s: float) -> None:
    async with Suite(tmp_path, environment=ENVIRONMENT | LEASES) as suite:
        reaper = Reaper(suite, plan, pause_s)
        result = await run(reaper, suite, PERSONS, SEED)
        await reaper.done()
        assert sorted(name for names in plan.values() for name in names) == sorted(reaper.killed)
        assert [] == [check for check in result.checks if not check.holds]
        assert {name: reaper.killed.count(name) for name in set(reaper.killed)} == {
            name: child.restarts for name, child in suite.children.items() if name in reaper.killed
        }
