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
from troika.identity.v1 import events_pb2 as identity_pb2
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb

from chassis import telemetry
from chassis.testing import DatabaseFactory
from services.orchestrator.domain.themes import id_of
from services.orchestrator.launching import Launcher, LeaseLost
from services.orchestrator.store.launches import LaunchStore
from services.orchestrator.themes.handlers import get_theme
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
        assert push.expires_at_us > push.decided_at_us > 0 == push.not_before_us
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
    people = People(4000, pause_s=0.004)
    async with open_house(databases, people, lease_s=0.1) as house:
        budget = pb.Budget(max_contacts=1800, max_calls=100)
        name = await house.ready(budget=budget)
        await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
        kills = 0
        while (await house.rows("SELECT finished_at FROM launch"))[0].finished_at is None:
            worker = asyncio.create_task(Launcher(house.room).work_once())
            # Longer each time, so that kills fall everywhere from the first claim to the last batch.
            await asyncio.sleep(draw.uniform(0, 0.02 + 0.03 * kills))
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
        workers = [asyncio.create_task(Launcher(house.room).run()) for _ in range(3)]
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
    theme = await get_theme(house.room, id_of(name))
    async with house.transaction() as uow:
        slow = await LaunchStore(uow).claim("slow", -1)
    async with house.transaction() as uow:
        quick = await LaunchStore(uow).claim("quick", 60)
    assert slow and quick
    launcher = Launcher(house.room)
    with pytest.raises(LeaseLost):
        await launcher._plan(slow, theme)
    assert [] == await house.decisions(name)
    assert await launcher._plan(quick, theme)
    with pytest.raises(LeaseLost):
        await launcher._plan(quick, theme)
    with pytest.raises(LeaseLost):
        await launcher._hand_over(slow, theme)
    assert [] == await house.pushes()


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


async def test_nobody_gets_more_pushes_than_the_cap_over_all_themes(databases: DatabaseFactory) -> None:
    async with open_house(databases, People(300), frequency_cap=2) as house:
        names = [await house.launch(holdout_share=0.0, budget=pb.Budget(max_contacts=1000, max_calls=1000)) for _ in range(3)]
        assert 2 == max(Counter(push.person_id for push in await house.pushes()).values())
        last = (await house.report(names[2])).decisions
        assert 0 == last["push"]
        assert last["frequency_cap"] == (await house.report(names[0])).decisions["push"]


async def test_in_quiet_hours_pushes_wait_for_the_morning(databases: DatabaseFactory) -> None:
    # All day but one minute is quiet, so the test does not depend on when it runs.
    async with open_house(databases, People(100), quiet_hours="00:01-00:00") as house:
        await house.launch()
        waits = {push.not_before_us - push.decided_at_us for push in await house.pushes() if push.not_before_us}
        if waits:
            assert all(0 < wait <= 24 * 3600 * 1_000_000 for wait in waits)
        assert all(push.expires_at_us > push.not_before_us for push in await house.pushes())


@pytest.mark.parametrize("merge_before_handover", [True, False])
async def test_people_who_turn_out_to_be_one_are_pushed_once(house: House, merge_before_handover: bool) -> None:
    name = await house.ready(holdout_share=0.0, budget=pb.Budget(max_contacts=500, max_calls=10))
    await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
    launcher = Launcher(house.room)
    async with house.transaction() as uow:
        claim = await LaunchStore(uow).claim("w", 60)
    assert claim
    theme = await get_theme(house.room, claim.theme_id)
    assert await launcher._plan(claim, theme)
    first, second = sorted(d.person_id for d in await house.decisions(name) if d.outcome == "push")[:2]
    merge = identity_pb2.EntitiesChanged(
        cluster_changes=[
            identity_pb2.ClusterChange(op_id=1, entity_kind=1, operation="merge", survivor_id=first, other_id=second)
        ]
    )
    if not merge_before_handover:
        while await launcher._hand_over(claim, theme):
            pass
    await house.hear("troika.entities.changed.v1", merge)
    while merge_before_handover and await launcher._hand_over(claim, theme):
        pass
    pushed = {push.person_id for push in await house.pushes()}
    assert (1 if merge_before_handover else 2) == len(pushed & {first, second})
    assert (1 if merge_before_handover else 0) == (await house.report(name)).decisions["merged"]
