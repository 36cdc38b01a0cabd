"""Launching: what the preview says happens, everybody once, whatever is killed in between."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb

from chassis import telemetry
from chassis.testing import DatabaseFactory
from services.orchestrator.launching import Launcher, LeaseLost
from services.orchestrator.store.launches import LaunchStore
from services.orchestrator.themes.states import ThemeState
from tests.integration.orchestrator.conftest import House, open_house
from tests.integration.orchestrator.world import People


async def test_a_launch_does_what_the_preview_said(house: House) -> None:
    name = await house.ready()
    preview = await house.call.PreviewTheme(pb.PreviewThemeRequest(name=name))
    assert [] == await house.pushes()
    await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
    assert await Launcher(house.room).work_once()

    pushes = await house.pushes()
    assert preview.pushes_by_channel == Counter(push.channel for push in pushes)
    report = await house.report(name)
    assert preview.chosen == report.decisions["push"] + report.decisions["holdout"] == 300
    assert preview.holdout == report.decisions["holdout"] > 0
    passed = {k: v for k, v in report.decisions.items() if k not in ("push", "holdout")}
    assert preview.passed_over == passed
    assert preview.audience == sum(report.decisions.values()) == 500
    theme = (await house.call.GetTheme(pb.GetThemeRequest(name=name))).theme
    assert (pb.THEME_STATE_RUNNING, False) == (theme.state, theme.launching)


async def test_launching_again_pushes_nobody_again(house: House) -> None:
    name = await house.launch()
    before = await house.pushes()
    answer = await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
    assert pb.THEME_STATE_RUNNING == answer.theme.state
    assert not await Launcher(house.room).work_once()
    assert before == await house.pushes()


async def test_every_push_says_all_that_touchpoints_needs(house: House) -> None:
    name = await house.launch()
    decided = {decision.person_id: decision for decision in await house.decisions(name)}
    pushes = await house.pushes()
    ranks = [(push.dealer_code, push.rank) for push in pushes if push.channel == "dealer"]
    assert 40 == len(ranks) == len(set(ranks))
    for dealer in ("D001", "D002"):
        mine = [rank for code, rank in ranks if code == dealer]
        assert list(range(1, len(mine) + 1)) == mine
    for push in pushes:
        assert (push.delivery_id, push.channel) == (decided[push.person_id].delivery_id, decided[push.person_id].channel)
        assert ("offers/1", "Free check-up", "service", name) == (push.offer, push.title, push.purpose, push.theme)
        assert push.expires_at_us > push.decided_at_us > 0
        assert push.channel not in push.fallback_channels and "dealer" not in push.fallback_channels
        assert (push.rank > 0) == (push.channel == "dealer") == bool(push.dealer_code)


async def test_pushes_carry_the_trace_of_whoever_launched_the_theme(house: House) -> None:
    # Never recorded, but real ids; only the first call in a process counts.
    trace.set_tracer_provider(TracerProvider(sampler=ALWAYS_OFF))
    name = await house.ready()
    with telemetry.span("operator") as caller:
        await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
    assert await Launcher(house.room).work_once()
    trace_id = f"{caller.get_span_context().trace_id:032x}"
    headers = [row.headers for row in await house.rows("SELECT headers FROM outbox")]
    assert headers
    assert {trace_id} == {h["traceparent"].split("-")[1] for h in headers}


async def test_a_launch_killed_anywhere_and_restarted_pushes_everybody_once(databases: DatabaseFactory) -> None:
    draw = random.Random(5)
    people = People(1500, pause_s=0.004)
    async with open_house(databases, people, lease_s=0.1) as house:
        budget = pb.Budget(max_contacts=600, max_calls=50)
        name = await house.ready(budget=budget)
        await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
        kills = 0
        while (await house.rows("SELECT finished_at FROM launch"))[0].finished_at is None:
            worker = asyncio.create_task(Launcher(house.room, chunk=60).work_once())
            # Longer each time, so that kills fall everywhere from the first claim to the last batch.
            await asyncio.sleep(draw.uniform(0, 0.05 + 0.1 * kills))
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
            kills += 1
        assert kills > 3
        pushed = Counter(push.person_id for push in await house.pushes())
        wanted = {decision.person_id for decision in await house.decisions(name) if decision.outcome == "push"}
        assert wanted == set(pushed)
        assert {1} == set(pushed.values())
        assert len({push.delivery_id for push in await house.pushes()}) == len(wanted)


async def test_two_workers_at_once_push_everybody_once(databases: DatabaseFactory) -> None:
    async with open_house(databases, People(2000, pause_s=0.01), lease_s=0.02) as house:
        # A lease shorter than the work: each keeps taking over from the other.
        name = await house.ready(budget=pb.Budget(max_contacts=900, max_calls=10))
        await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
        workers = [asyncio.create_task(Launcher(house.room, chunk=150).run()) for _ in range(3)]
        async with asyncio.timeout(20):
            while (await house.rows("SELECT finished_at FROM launch"))[0].finished_at is None:
                await asyncio.sleep(0.05)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        pushed = Counter(push.person_id for push in await house.pushes())
        assert {1} == set(pushed.values())
        assert (await house.report(name)).decisions["push"] == len(pushed)


async def test_a_worker_that_lost_its_lease_stores_nothing(house: House) -> None:
    name = await house.ready()
    await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
    async with house.transaction() as uow:
        slow = await LaunchStore(uow).claim("slow", -1, ThemeState.RUNNING)
    async with house.transaction() as uow:
        quick = await LaunchStore(uow).claim("quick", 60, ThemeState.RUNNING)
    assert slow and quick
    launcher = Launcher(house.room)
    with pytest.raises(LeaseLost):
        await launcher._launch(slow)
    assert [] == await house.decisions(name)
    await launcher._launch(quick)
    before = await house.pushes()
    assert before
    for claim in (quick, slow):
        with pytest.raises(LeaseLost):
            await launcher._launch(claim)
    assert before == await house.pushes()


async def test_a_launch_goes_on_where_it_was_paused(house: House) -> None:
    name = await house.ready()
    await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
    launcher = Launcher(house.room, chunk=60)
    decide, left = launcher._decide_chunk, 3

    async def pause_after_three(*given: object) -> None:
        nonlocal left
        await decide(*given)  # type: ignore[arg-type]
        if not (left := left - 1):
            await house.call.PauseTheme(pb.PauseThemeRequest(name=name))

    launcher._decide_chunk = pause_after_three  # type: ignore[method-assign]
    assert await launcher.work_once()
    assert 180 == len(await house.decisions(name))
    assert not await launcher.work_once()
    await house.call.ResumeTheme(pb.ResumeThemeRequest(name=name))
    assert await launcher.work_once()
    decisions = await house.decisions(name)
    assert 500 == len(decisions) == len({decision.person_id for decision in decisions})
    assert 300 == sum(decision.outcome in ("push", "holdout") for decision in decisions)


async def test_a_launch_that_can_never_be_planned_gives_the_theme_back_with_the_reason(house: House) -> None:
    name = await house.ready()
    await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
    house.people.broken = True
    assert await Launcher(house.room).work_once()
    theme = (await house.call.GetTheme(pb.GetThemeRequest(name=name))).theme
    assert (pb.THEME_STATE_APPROVED, "UNKNOWN_TAG", False) == (theme.state, theme.launch_failure, theme.launching)
    house.people.broken = False
    await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
    assert await Launcher(house.room).work_once()
    theme = (await house.call.GetTheme(pb.GetThemeRequest(name=name))).theme
    assert (pb.THEME_STATE_RUNNING, "") == (theme.state, theme.launch_failure)


async def test_a_launch_that_fails_in_an_unknown_way_does_not_hold_up_the_next(house: House) -> None:
    bad, good = await house.ready(audience="job = 'student'"), await house.ready(audience="job = 'retired'")
    for name in (bad, good):
        await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
    house.people.poison = "student"
    launcher = Launcher(house.room)
    with pytest.raises(grpc.aio.AioRpcError):
        await launcher.work_once()
    assert await launcher.work_once()
    launching = [(await house.call.GetTheme(pb.GetThemeRequest(name=name))).theme.launching for name in (bad, good)]
    assert [True, False] == launching
