"""Themes that are commanded while their launch is deciding: approved, paused, opened in waves and killed in the middle."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from troika.orchestrator.v1 import orchestrator_service_pb2 as pb

from chassis.testing import DatabaseFactory
from services.orchestrator.launching import Launcher
from tests.integration.orchestrator.conftest import House, open_house
from tests.integration.orchestrator.test_themes import approve, edit, get, submit
from tests.integration.orchestrator.world import People

EVERYBODY = pb.Budget(max_contacts=10_000, max_calls=0)


@asynccontextmanager
async def slow_house(databases: DatabaseFactory) -> AsyncIterator[House]:
    """A thousand eligible persons whom scoring tells of fifty at a time."""
    async with open_house(databases, People(2000, pause_s=0.05, chunk=50), lease_s=0.5) as house:
        yield house


@asynccontextmanager
async def launching(house: House, name: str) -> AsyncIterator[None]:
    """A worker that starts again whenever it ends, from the first decision on."""
    await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
    worker = asyncio.create_task(Launcher(house.room, chunk=50).run())
    await until(house, name, lambda decided: decided > 0)
    yield
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


async def until(house: House, name: str, holds: Callable[[int], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds(len(await house.decisions(name))):
            await asyncio.sleep(0.02)


async def ended(house: House, name: str) -> None:
    async with asyncio.timeout(60):
        while (await get(house, name)).launching:
            await asyncio.sleep(0.05)


async def test_a_version_approved_in_the_middle_of_a_launch_decides_the_rest(databases: DatabaseFactory) -> None:
    async with slow_house(databases) as house:
        name = await house.ready(budget=EVERYBODY, holdout_share=0.0)
        async with launching(house, name):
            await edit(house, name, title="Second", bands=[pb.ScoreBand(channels=["app"])])
            await submit(house, name, 2)
            waiting = {d.theme_version for d in await house.decisions(name)}
            await approve(house, name, 2)
            [row] = await house.rows("SELECT now() AS at")
            await ended(house, name)
        assert {1} == waiting
        decisions = await house.decisions(name)
        assert {1, 2} == {d.theme_version for d in decisions}
        for decision in decisions:
            if decision.theme_version == 2:
                assert decision.channel in ("app", "")
            else:
                assert decision.decide_time.ToDatetime(row.at.tzinfo) <= row.at
        assert {1} == set(Counter(push.person_id for push in await house.pushes()).values())


async def test_once_a_pause_is_answered_nothing_more_goes_out(databases: DatabaseFactory) -> None:
    async with slow_house(databases) as house:
        name = await house.ready(budget=EVERYBODY, holdout_share=0.0)
        async with launching(house, name):
            await house.call.PauseTheme(pb.PauseThemeRequest(name=name))
            decided, pushed = len(await house.decisions(name)), len(await house.pushes())
            await asyncio.sleep(1)
            assert (decided, pushed) == (len(await house.decisions(name)), len(await house.pushes()))
            await house.call.ResumeTheme(pb.ResumeThemeRequest(name=name))
            await ended(house, name)
        assert 1000 == len(await house.decisions(name)) > decided
        assert {1} == set(Counter(push.person_id for push in await house.pushes()).values())


async def test_once_a_finish_is_answered_nothing_more_goes_out(databases: DatabaseFactory) -> None:
    async with slow_house(databases) as house:
        name = await house.ready(budget=EVERYBODY, holdout_share=0.0)
        async with launching(house, name):
            await house.call.FinishTheme(pb.FinishThemeRequest(name=name))
            pushed = len(await house.pushes())
            await asyncio.sleep(1)
            assert pushed == len(await house.pushes()) < 1000


async def test_a_layer_holds_whom_it_should_whatever_is_killed(databases: DatabaseFactory) -> None:
    draw = random.Random(9)
    async with open_house(databases, People(1000, pause_s=0.004, chunk=50), lease_s=0.1) as house:
        layers = pb.Waves(shares=[0.6, 1], target_rate=0.1, least_pushes=20, response_hours=1)
        name = await house.ready(budget=EVERYBODY, holdout_share=0.0, waves=layers)
        await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
        kills = 0
        while (await get(house, name)).launching:
            worker = asyncio.create_task(Launcher(house.room, chunk=20).work_once())
            await asyncio.sleep(draw.uniform(0, 0.02 + 0.03 * kills))
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
            kills += 1
        assert kills > 3
        [row] = await house.rows("SELECT count(*) AS n, min(layer) AS low, max(layer) AS high FROM decision")
        assert (300, 1, 1) == (row.n, row.low, row.high)
        assert {1} == set(Counter(push.person_id for push in await house.pushes()).values())
