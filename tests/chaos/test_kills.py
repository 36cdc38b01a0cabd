"""kill -9 in the middle of the run: afterwards it completes, nothing accepted is missing, nobody is pushed twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from local.demo.console import Screen, Step
from local.demo.run import run
from local.supervisor import Suite

PERSONS = 1000
SEED = 11
# Work of a dead process is taken over sooner than in production, or the test would wait most of its time.
LEASES = {"TROIKA_OPERATION_LEASE_S": "3", "TROIKA_LEASE_S": "3", "TROIKA_SEND_LEASE_S": "18"}
# A step's first word, and who dies how many seconds after the one before, from the step's beginning on.
Deaths = Mapping[str, Sequence[tuple[str, float]]]
EACH_IN_ITS_WORK: Deaths = {
    "Import": (("touchpoints", 0.2), ("nats", 0.2)),
    "Send": (("postgres", 0.1),),
    "Resolve": (("identity", 0.2), ("tags", 0.2)),
    "Train,": (("scoring", 0.5),),
    "Launch:": (("orchestrator", 0.05),),
    "Push": (("touchpoints", 0.3), ("nats", 0.3), ("postgres", 0.3)),
}
# As when the power fails while pushes go out.
ALL_AT_ONCE: Deaths = {
    "Push": [(name, 0.0) for name in ("touchpoints", "orchestrator", "scoring", "tags", "identity", "nats", "postgres")]
}


class Reaper(Screen):
    """A screen that kills while the steps of its choice are on."""

    def __init__(self, suite: Suite, deaths: Deaths) -> None:
        super().__init__(Console(file=StringIO()))
        self._suite, self._deaths = suite, deaths
        self.killed: Counter[str] = Counter()
        self._work: list[asyncio.Task[None]] = []

    @contextmanager
    def step(self, title: str, total: float | None = None) -> Iterator[Step]:
        with super().step(title, total) as step:
            first_word = title.split(maxsplit=1)[0]
            # Some steps come twice; people die once.
            if first_word in self._deaths and all(first_word != task.get_name() for task in self._work):
                self._work.append(asyncio.create_task(self._reap(self._deaths[first_word]), name=first_word))
            yield step

    async def _reap(self, deaths: Sequence[tuple[str, float]]) -> None:
        for name, pause_s in deaths:
            await asyncio.sleep(pause_s)
            await self._suite.kill(name)
            self.killed[name] += 1

    async def done(self) -> None:
        await asyncio.gather(*self._work)


@pytest.mark.parametrize("deaths", [EACH_IN_ITS_WORK, ALL_AT_ONCE], ids=["each in its work", "all at once"])
async def test_the_run_completes_whoever_is_killed(tmp_path: Path, deaths: Deaths) -> None:
    async with Suite(tmp_path, environment=LEASES) as suite:
        reaper = Reaper(suite, deaths)
        result = await run(reaper, suite, PERSONS, SEED)
        await reaper.done()
        assert Counter(name for names in deaths.values() for name, _ in names) == reaper.killed
        assert reaper.killed <= Counter({name: child.restarts for name, child in suite.children.items()})
        assert [] == [check for check in result.checks if not check.holds]
        if "Import" in deaths:
            assert 0 < result.retries, "touchpoints was not killed while records came in"
