"""Waves: a layer opens while the last one's response holds, takes the best by the scores of then, and stops by itself."""

from __future__ import annotations

import time
from collections import Counter

from troika.identity.v1 import events_pb2 as identity_pb2
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb

from services.orchestrator.launching import Launcher
from services.orchestrator.waves.opening import WaveWatch
from tests.integration.orchestrator.conftest import House
from tests.integration.orchestrator.test_feedback import EVENTS, event
from tests.integration.orchestrator.test_themes import approve, edit, get, submit

EVERYBODY = pb.Budget(max_contacts=1000, max_calls=1000)
HOUR_US = 3_600_000_000


def waves(**changes: object) -> pb.Waves:
    stated = {"shares": [0.2, 0.5, 1.0], "target_rate": 0.1, "least_pushes": 20, "response_hours": 1}
    return pb.Waves(**(stated | changes))  # type: ignore[arg-type]


async def launched(house: House, stated: pb.Waves) -> str:
    name = await house.ready(waves=stated, budget=EVERYBODY, holdout_share=0.0)
    await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
    assert await Launcher(house.room).work_once()
    return name


async def layers(house: House) -> dict[int, list[int]]:
    """Persons of each layer."""
    found: dict[int, list[int]] = {}
    for row in await house.rows("SELECT layer, person_id FROM decision ORDER BY layer, person_id"):
        found.setdefault(row.layer, []).append(row.person_id)
    return found


async def two_hours_pass(house: House) -> None:
    async with house.transaction() as uow:
        await uow.execute("UPDATE theme SET launched_at = launched_at - interval '2 hours'")
        await uow.execute("UPDATE decision SET decided_at = decided_at - interval '2 hours'")
        await uow.execute("UPDATE goal SET occurred_at = occurred_at - interval '2 hours'")


async def answer(house: House, layer: int, share: float, hours_ago: float = 1.5) -> None:
    """A share of a layer's pushed reached the goal that long ago."""
    pushed = await house.rows(f"SELECT person_id FROM decision WHERE layer = {layer} AND outcome = 'push' ORDER BY person_id")
    happened = time.time_ns() // 1000 - int(hours_ago * HOUR_US)
    yes = [event(row.person_id, occurred_at_us=happened) for row in pushed[: round(share * len(pushed))]]
    await house.hear(EVENTS, identity_pb2.ResolvedBatch(events=yes))


async def told(house: House, name: str) -> list[pb.ThemeWave]:
    return list((await house.call.ListThemeWaves(pb.ListThemeWavesRequest(name=name))).waves)


async def test_layers_open_while_the_response_holds_and_stop_when_it_does_not(house: House) -> None:
    name = await launched(house, waves())
    watch = WaveWatch(house.room)
    assert {1: 100} == {layer: len(persons) for layer, persons in (await layers(house)).items()}
    scores = {d.person_id: d.score for d in await house.decisions(name)}
    everybody = await house.room.tags.person_ids("offer_answer IS NULL", "audience")
    known, _ = await house.room.scoring.scores("purchase_intent", everybody, "model")
    left = [score for person, score in zip(everybody.tolist(), known.tolist(), strict=True) if person not in scores]
    assert min(scores.values()) >= max(left)
    await watch.tick()
    assert [(1, pb.WAVE_VERDICT_WAIT, 0)] == [(w.layer, w.verdict, w.pushes) for w in await told(house, name)]
    assert not await Launcher(house.room).work_once()

    await two_hours_pass(house)
    await answer(house, 1, 0.5)
    # Somebody far down has become likelier meanwhile.
    [late] = [int(everybody[i]) for i in [int(known.argmin())]]
    house.people.table.execute("UPDATE person SET probability = 0.94 WHERE id = ?", (late,))
    await watch.tick()
    first, second = await told(house, name)
    assert (pb.WAVE_VERDICT_PROVEN, 250) == (first.verdict, second.persons)
    assert first.goals == round(first.pushes / 2) and first.rate.low > 0.1
    assert (await get(house, name)).launching
    assert await Launcher(house.room).work_once()
    members = await layers(house)
    assert {1: 100, 2: 150} == {layer: len(persons) for layer, persons in members.items()}
    assert late in members[2]

    await two_hours_pass(house)
    await watch.tick()
    _, second = await told(house, name)
    assert (pb.WAVE_VERDICT_BELOW_TARGET, 0) == (second.verdict, second.goals)
    assert "no further layer opens" in second.words
    await watch.tick()
    assert 2 == len(await told(house, name))
    assert not await Launcher(house.room).work_once()
    assert {1} == set(Counter(push.person_id for push in await house.pushes()).values())

    # Who wants to go on says so in a version that a second person approves.
    lower = await edit(house, name, waves=waves(target_rate=0.001, least_pushes=1))
    await submit(house, name, lower.version)
    await approve(house, name, lower.version)
    await answer(house, 2, 0.5)
    await watch.tick()
    assert 3 == len(await told(house, name))
    assert await Launcher(house.room).work_once()
    assert 500 == len(await house.decisions(name))


async def test_goals_that_come_too_late_or_of_nobody_pushed_do_not_count(house: House) -> None:
    name = await launched(house, waves())
    await two_hours_pass(house)
    await answer(house, 1, 1.0, hours_ago=0.1)
    await WaveWatch(house.room).tick()
    [first] = await told(house, name)
    assert (0, pb.WAVE_VERDICT_BELOW_TARGET) == (first.goals, first.verdict)


async def test_layers_by_score_reach_down_to_it(house: House) -> None:
    name = await launched(house, waves(shares=[], from_scores=[700.0, 400.0]))
    assert all(d.score >= 700 for d in await house.decisions(name))
    await two_hours_pass(house)
    await answer(house, 1, 0.6)
    await WaveWatch(house.room).tick()
    assert await Launcher(house.room).work_once()
    decided = [d.score for d in await house.decisions(name)]
    assert min(decided) >= 400 and any(score < 700 for score in decided)
    found = {row.n for row in await house.rows("SELECT count(*) AS n FROM decision WHERE layer = 0")}
    assert {0} == found


async def test_a_version_without_waves_is_for_everybody_who_is_left(house: House) -> None:
    name = await launched(house, waves())
    theme = await get(house, name)
    theme.ClearField("waves")
    await house.call.UpdateTheme(pb.UpdateThemeRequest(theme=theme))
    await submit(house, name, 2)
    await approve(house, name, 2)
    await WaveWatch(house.room).tick()
    assert await Launcher(house.room).work_once()
    assert 500 == len(await house.decisions(name))
    await WaveWatch(house.room).tick()
    assert not await Launcher(house.room).work_once()


async def test_a_paused_theme_opens_nothing(house: House) -> None:
    name = await launched(house, waves())
    await two_hours_pass(house)
    await answer(house, 1, 0.5)
    await house.call.PauseTheme(pb.PauseThemeRequest(name=name))
    await WaveWatch(house.room).tick()
    assert 1 == len(await told(house, name))
    await house.call.ResumeTheme(pb.ResumeThemeRequest(name=name))
    await WaveWatch(house.room).tick()
    assert 2 == len(await told(house, name))


async def test_the_last_layer_says_that_it_was_the_last_and_a_broken_theme_holds_up_no_other(house: House) -> None:
    broken = await launched(house, waves())
    async with house.transaction() as uow:
        await uow.execute("UPDATE theme_version SET definition = jsonb_set(definition, '{audience}', '\"no_such_tag = 1\"')")
    name = await house.ready(waves=waves(shares=[1.0]), budget=EVERYBODY, holdout_share=0.0)
    await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
    assert await Launcher(house.room).work_once()
    await two_hours_pass(house)
    await answer(house, 1, 0.5)
    await WaveWatch(house.room).tick()
    assert [0] == [wave.pushes for wave in await told(house, broken)]
    [only] = await told(house, name)
    assert pb.WAVE_VERDICT_PROVEN == only.verdict
    assert only.words.endswith("this was the last layer")
    assert not await Launcher(house.room).work_once()


async def test_layers_are_the_nearest_to_the_seeds_and_to_those_who_responded(house: House) -> None:
    """People are alike here who do the same for a living."""
    jobs = dict(house.people.select("id, job", "offer_answer IS NULL"))
    retired = {person for person, job in jobs.items() if job == "retired"}
    students = [person for person, job in jobs.items() if job == "student"]
    buyers, others = set(students[:40]), set(students[40:])
    shares = [len(retired) / len(jobs), (len(retired) + len(others)) / len(jobs), 1.0]
    # Seeds are outside the audience here; students come last by their scores.
    house.people.table.execute("UPDATE person SET probability = 0.001 WHERE job IN ('retired', 'student')")
    name = await launched(house, waves(seeds="offer_answer IS NOT NULL AND job = 'retired'", shares=shares))
    assert retired == set((await layers(house))[1])
    await two_hours_pass(house)
    await answer(house, 1, 0.5)
    # Some students buy by themselves meanwhile.
    happened = time.time_ns() // 1000 - HOUR_US
    await house.hear(EVENTS, identity_pb2.ResolvedBatch(events=[event(p, occurred_at_us=happened) for p in sorted(buyers)]))
    await WaveWatch(house.room).tick()
    assert 2 == len(await told(house, name))
    assert await Launcher(house.room).work_once()
    assert others == set((await layers(house))[2])
