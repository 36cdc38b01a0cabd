"""People in journeys: entering, waiting, asking, leaving, entering again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta, timezone
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from chassis.testing import DatabaseFactory
from services.orchestrator.journeys.hearing import Ear
from services.orchestrator.journeys.states import State
from tests.integration.orchestrator.journey_world import World, happened, open_world


@pytest.fixture
async def world(databases: DatabaseFactory) -> AsyncIterator[World]:
    async with open_world(databases) as opened:
        yield opened


def journey(steps: str, trigger: str = "{event: Begun}", more: str = "") -> str:
    themes = "themes: {hello: themes/1, bye: themes/2}"
    used = "\n- id: last_hello\n  push: {theme: hello}\n- id: last_bye\n  push: {theme: bye}\n"
    return f"title: T\n{themes}\ntrigger: {trigger}\n{more}\nsteps:\n{steps}{used}"


GREET = "- id: greet\n  push: {theme: hello}\n- id: rest\n  wait: 2 days\n- id: leave\n  exit: rested\n"
PLAIN = f"title: T\nthemes: {{hello: themes/1}}\ntrigger: {{event: Begun}}\nsteps:\n{GREET}"


async def test_a_trigger_proposes_at_once_and_the_rest_waits(world: World) -> None:
    await world.start(PLAIN)
    await world.event("Begun", 7)
    assert [(1, 7)] == await world.proposals()
    await world.tick()
    assert {7: [("greet", "proposed")]} == await world.paths()
    world.clock.later(days=2)
    await world.tick()
    assert {7: [("greet", "proposed"), ("rest", "waited"), ("leave", "rested")]} == await world.paths()
    assert {7: "rested"} == await world.ends()


async def test_a_proposal_has_the_effects_own_number_and_an_end(world: World) -> None:
    await world.start(PLAIN)
    await world.event("Begun", 7, 8)
    rows = await world.rows(
        "SELECT d.person_id, d.occasion, e.person_id AS theirs, d.expires_at - d.due_at AS lasts FROM decision d"
        " JOIN journey_passage p ON p.effect_id = d.occasion JOIN enrolment e USING (enrolment_id)"
    )
    assert {(7, 7, timedelta(days=3)), (8, 8, timedelta(days=3))} == {(r.person_id, r.theirs, r.lasts) for r in rows}


async def test_nobody_enters_by_what_happened_before_the_start_nor_by_another_value(world: World) -> None:
    await world.start(PLAIN.replace("{event: Begun}", "{event: Begun, where: {model: X5, price: {at_least: 10}}}"))
    early = happened("Begun", 1, world.clock.now - timedelta(seconds=1), model="X5", price=10)
    cheap = happened("Begun", 2, world.clock.now, model="X5", price=9)
    other = happened("Begun", 3, world.clock.now, model="X3", price=10)
    fits = happened("Begun", 4, world.clock.now, model="X5", price=10)
    await world.happen(early, cheap, other, fits)
    assert {4: ""} == await world.ends()


async def test_an_awaited_event_calls_and_silence_times_out(world: World) -> None:
    waits = (
        "- id: waits\n  wait_until: {event: Came, where: {sort: good}, timeout: 1 day, then: last_hello, otherwise: last_bye}\n"
    )
    await world.start(journey(waits).replace("push: {theme: hello}\n", "push: {theme: hello}\n  next: end\n"))
    await world.event("Begun", 1, 2, 3)
    world.clock.later(hours=1)
    await world.event("Came", 1, sort="good")
    await world.event("Came", 2, sort="bad")
    assert [(1, 1)] == await world.proposals()
    world.clock.later(hours=23)
    await world.tick()
    assert {(1, 1), (2, 2), (2, 3)} == set(await world.proposals())
    assert {"completed"} == set((await world.ends()).values())


async def test_what_happened_before_the_trigger_is_no_answer_even_if_it_comes_later(world: World) -> None:
    waits = "- id: waits\n  wait_until: {event: Came, timeout: 1 day, then: last_hello, otherwise: last_bye}\n"
    await world.start(journey(waits))
    began = world.clock.later(hours=1)
    await world.happen(happened("Begun", 1, began), happened("Came", 1, began - timedelta(minutes=1)))
    assert {1: ""} == await world.ends()
    assert [] == await world.proposals()


async def test_events_of_one_batch_act_one_after_the_other(world: World) -> None:
    steps = "".join(
        f"- id: w{n}\n  wait_until: {{event: E{n}, timeout: 1 day, then: w{n + 1}, otherwise: end}}\n" for n in range(1, 4)
    )
    await world.start(journey(steps.replace("w4", "last_hello")))
    now = world.clock.later(hours=1)
    events = [happened(name, 1, now + timedelta(seconds=n)) for n, name in enumerate(["Begun", "E1", "E2", "E3"])]
    await world.happen(*reversed(events))
    assert [("w1", "event"), ("w2", "event"), ("w3", "event")] == (await world.paths())[1][:3]


async def test_a_goal_ends_the_journey_wherever_somebody_stands(world: World) -> None:
    await world.start(PLAIN + "goal: {event: Bought, where: {model: X5}}\n")
    await world.event("Begun", 1, 2)
    await world.event("Bought", 1, model="X5")
    await world.event("Bought", 2, model="X3")
    assert {1: "goal", 2: ""} == await world.ends()
    world.clock.later(days=9)
    await world.tick()
    assert {1: "goal", 2: "rested"} == await world.ends()


async def test_conditions_are_asked_for_everybody_at_once(world: World) -> None:
    asks = "- id: asks\n  condition: {holds: even, then: last_hello, otherwise: last_bye}\n"
    world.told.holds = lambda predicate, person: predicate == "even" and person % 2 == 0
    await world.start(journey(asks).replace("push: {theme: hello}\n", "push: {theme: hello}\n  next: end\n"))
    await world.event("Begun", *range(1, 501))
    await world.tick()
    assert [("asks", 500)] == world.told.asked
    assert {(2 - (person + 1) % 2, person) for person in range(1, 501)} == set(await world.proposals())


async def test_an_experiment_sends_its_variants_their_ways(world: World) -> None:
    ab = "- id: test\n  ab: {experiment: experiments/1, variants: {old: last_hello, new: last_bye}, otherwise: end}\n"
    world.told.variant = lambda person: {1: "old", 2: "new"}.get(person, "")
    await world.start(journey(ab).replace("push: {theme: hello}\n", "push: {theme: hello}\n  next: end\n"))
    await world.event("Begun", 1, 2, 3)
    await world.tick()
    assert {(1, 1), (2, 2)} == set(await world.proposals())


async def test_a_split_has_its_shares_and_is_always_the_same(world: World) -> None:
    split = "- id: draw\n  split: {branches: {a: {share: 80, to: last_hello}, b: {share: 20, to: last_bye}}}\n"
    text = journey(split, more="entry: {again: always}").replace(
        "push: {theme: hello}\n", "push: {theme: hello}\n  next: end\n"
    )
    await world.start(text)
    persons = range(1, 901)
    await world.event("Begun", *persons)
    first = await world.proposals()
    await world.event("Begun", *persons)
    second = (await world.proposals())[900:]
    assert set(first) == set(second)
    assert 0.75 < sum(theme == 1 for theme, _ in first) / 900 < 0.85


async def test_an_hour_is_that_of_the_persons_zone_when_she_comes_to_the_step(world: World) -> None:
    await world.start(journey("- id: nine\n  wait: {until: 09:00}\n"))
    world.told.zone = {1: ZoneInfo("Asia/Tokyo"), 2: ZoneInfo("Europe/Berlin")}.get
    local = world.in_zone(timezone(timedelta(hours=8)), asks=True)
    await local.event("Begun", 1, 2, 3)
    await local.tick()
    # It is 08:00 in London: 17:00 in Tokyo, 09:00 sharp in Berlin (so the next day), 16:00 in the house's zone.
    assert {1: 16, 2: 24, 3: 17} == {
        r.person_id: round(r.hours)
        for r in await world.rows("SELECT person_id, extract(epoch FROM due_at - entered_at) / 3600 AS hours FROM enrolment")
    }
    # Who moves to another zone afterwards keeps the moment.
    world.told.zone = lambda person: ZoneInfo("America/New_York")
    world.clock.later(hours=16)
    await local.tick()
    assert [(1, 1), (2, 1)] == await world.proposals()


async def test_a_clock_that_goes_back_moves_nobody_twice(world: World) -> None:
    await world.start(PLAIN)
    await world.event("Begun", 1)
    world.clock.later(days=2)
    await world.tick()
    done = await world.paths()
    world.clock.later(days=-30)
    await world.tick()
    await world.event("Begun", 1, 2)
    # What happens before the journey began lets nobody in.
    assert {1: "rested"} == await world.ends()
    assert done[1] == (await world.paths())[1]


@pytest.mark.parametrize(
    ("again", "days", "expected"), [("once", 400, 1), ("always", 0, 2), ("10 days", 9, 1), ("10 days", 10, 2)]
)
async def test_people_enter_again_as_the_journey_says_and_never_while_in_it(
    world: World, again: str, days: int, expected: int
) -> None:
    await world.start(PLAIN.replace("wait: 2 days", "wait: 1 minute") + f"entry: {{again: {again}}}\n")
    await world.event("Begun", 1)
    await world.event("Begun", 1)
    assert [(1, 1)] == await world.proposals()
    world.clock.later(minutes=1)
    await world.tick()
    world.clock.now += timedelta(days=days) - timedelta(minutes=1)
    await world.event("Begun", 1)
    assert expected == len(await world.proposals())


async def test_each_order_of_a_person_has_its_own_way(world: World) -> None:
    await world.start(PLAIN + "entry: {per: 'property:order'}\ngoal: {event: Paid}\n")
    await world.event("Begun", 1, order="A")
    await world.event("Begun", 1, order="B")
    await world.event("Begun", 1, order="A")
    await world.event("Begun", 1)
    assert 2 == len(await world.proposals())
    await world.event("Paid", 1, order="A")
    rows = await world.rows("SELECT object, end_reason FROM enrolment ORDER BY 1")
    assert [("A", "goal"), ("B", "")] == [tuple(row) for row in rows]
    # Who does not say which order she means, means all.
    await world.event("Paid", 1)
    assert {"goal"} == {row.end_reason for row in await world.rows("SELECT end_reason FROM enrolment")}


async def test_a_pause_moves_nobody_and_forgets_nothing(world: World) -> None:
    waits = "- id: waits\n  wait_until: {event: Came, timeout: 1 day, then: last_hello, otherwise: last_bye}\n"
    text = journey(waits, more="goal: {event: Bought}").replace("push: {theme: hello}\n", "push: {theme: hello}\n  next: end\n")
    journey_id = await world.start(text)
    await world.event("Begun", 1, 2, 3)
    await world.set_state(journey_id, State.PAUSED)
    world.clock.later(hours=2)
    await world.event("Came", 1)
    await world.event("Bought", 2)
    await world.event("Begun", 4)
    world.clock.later(days=3)
    await world.tick()
    assert [] == await world.proposals()
    await world.set_state(journey_id, State.RUNNING)
    await world.tick()
    assert {(1, 1), (2, 3)} == set(await world.proposals())
    assert {1: "completed", 2: "goal", 3: "completed"} == await world.ends()


async def test_a_journey_that_is_over_ends_everybody(world: World) -> None:
    journey_id = await world.start(PLAIN)
    await world.event("Begun", 1, 2)
    await world.set_state(journey_id, State.FINISHED)
    await world.worker().look()
    assert {1: "finished", 2: "finished"} == await world.ends()


async def test_a_journey_without_end_ends(world: World) -> None:
    loop = "- id: again\n  wait: 1 minute\n- id: greet\n  push: {theme: hello}\n  next: again\n"
    await world.start(f"title: T\nthemes: {{hello: themes/1}}\ntrigger: {{event: Begun}}\nsteps:\n{loop}")
    await world.event("Begun", 1)
    async with world.database.transaction() as uow:
        await uow.execute("UPDATE enrolment SET visit = 9999")
    world.clock.later(minutes=1)
    await world.tick()
    assert {1: "endless"} == await world.ends()


async def test_members_enter_when_they_enter_or_leave_an_audience(world: World) -> None:
    await world.start(PLAIN.replace("{event: Begun}", "{audience: {name: owners}}"))
    await world.start(PLAIN.replace("{event: Begun}", "{audience: {name: owners, when: left}}").replace("themes/1", "themes/2"))
    async with world.database.transaction() as uow:
        ear = await Ear.of(uow, world.house)
        await ear.audience(uow, "owners", np.array([1, 2]), np.array([3]), world.clock.now)
        await ear.audience(uow, "others", np.array([9]), np.array([9]), world.clock.now)
    assert {(1, 1), (1, 2), (2, 3)} == set(await world.proposals())


async def test_a_score_counts_when_it_crosses_the_line(world: World) -> None:
    await world.start(PLAIN.replace("{event: Begun}", "{score: {model: intent, crosses: 600}}") + "entry: {again: always}\n")

    async def score(*scores: tuple[int, float, int]) -> None:
        async with world.database.transaction() as uow:
            await (await Ear.of(uow, world.house)).scores(uow, "intent", scores)
        world.clock.later(days=3)
        await world.tick()

    await score((1, 500, 10), (2, 700, 10))
    assert [(1, 2)] == await world.proposals()
    await score((1, 600, 20), (2, 800, 20))
    assert [(1, 2), (1, 1)] == await world.proposals()
    # Out of order: an old word changes nothing.
    await score((1, 100, 15), (2, 100, 30))
    await score((1, 900, 40), (2, 900, 40))
    assert [(1, 2), (1, 1), (1, 2)] == await world.proposals()


async def test_a_crowd_enters_at_once_and_is_moved_by_the_tick(world: World) -> None:
    await world.start(PLAIN.replace("{event: Begun}", "{audience: {name: owners}}"))
    async with world.database.transaction() as uow:
        await (await Ear.of(uow, world.house)).audience(uow, "owners", np.arange(1, 3001), np.array([]), world.clock.now)
    assert [] == await world.proposals()
    await world.tick(most=700)
    assert 3000 == len(set(await world.proposals()))
