"""What advisors are to do about leads and what comes of it; the silent who are spoken to again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from troika.orchestrator.v1 import lead_service_pb2 as pb

from chassis.testing import DatabaseFactory
from services.orchestrator.leads.tasks import NewTask, create_tasks
from services.orchestrator.themes.store import ThemeStore
from tests.integration.orchestrator.lead_house import LeadHouse, event, open_lead_house, stamp, withdrawn
from tests.integration.orchestrator.test_lead_work import complete
from tests.integration.orchestrator.test_leads import INVALID, NOT_FOUND, PRECONDITION, refusal
from tests.integration.orchestrator.world import People
from tests.unit.orchestrator.test_themes import STATED


@pytest.fixture
async def house(databases: DatabaseFactory) -> AsyncIterator[LeadHouse]:
    async with open_lead_house(databases, People(50)) as house:
        yield house


async def running_theme(house: LeadHouse) -> str:
    """A theme's name; what it says does not matter here."""
    async with house.database.transaction() as uow:
        number = await ThemeStore(uow).add(STATED, "", "operator")
        await uow.execute("UPDATE theme SET state = 4, launched_at = now()")
    return f"themes/{number}"


async def test_results_of_tasks_move_the_lead_and_say_what_comes_next(house: LeadHouse) -> None:
    await house.dealer("D1", "A1")
    await house.create(1, interest="X5")
    await house.later(0)
    [task] = await house.tasks()
    missing = house.call.CompleteTask(pb.CompleteTaskRequest(name=task.name, result="call_later"))
    assert (INVALID, "MISSING_TIME", "next_time") == await refusal(missing)
    seen = []
    for result, more in (
        ("not_reached", {}),
        ("not_reached", {}),
        ("call_later", {"next_time": stamp(datetime.now(UTC) + timedelta(days=2))}),
        ("visit_agreed", {"next_time": stamp(datetime.now(UTC) + timedelta(days=3))}),
        ("test_driven", {}),
    ):
        done = await complete(house, task, result, **more)
        again = await complete(house, task, result, **more)
        assert (done.lead, done.next, done.task) == (again.lead, again.next, again.task)
        seen.append((done.lead.stage, done.HasField("next") and (done.next.kind, done.next.attempt)))
        if done.HasField("next"):
            task = done.next
    assert [
        (1, ("follow_up", 2)),
        (1, ("follow_up", 3)),
        (2, ("follow_up", 1)),
        (3, ("follow_up", 1)),
        (5, False),
    ] == seen
    other = house.call.CompleteTask(pb.CompleteTaskRequest(name=task.name, result="ordered"))
    assert (PRECONDITION, "TASK_OVER", "name") == await refusal(other)
    gone = house.call.CompleteTask(pb.CompleteTaskRequest(name="tasks/999", result="ordered"))
    assert (NOT_FOUND, "TASK_NOT_FOUND", "name") == await refusal(gone)
    # Targets count it for whoever did it.
    [row] = await house.rows("SELECT dealer_code, advisor FROM lead_step WHERE reached AND stage = 5")
    assert ("D1", "A1") == tuple(row)


async def test_vain_attempts_end_in_loss(house: LeadHouse) -> None:
    await house.dealer("D1", "A1")
    await house.create(1)
    await house.later(0)
    [task] = await house.tasks()
    for _ in range(5):
        done = await complete(house, task, "not_reached")
        task = done.next
    assert (pb.LEAD_STAGE_LOST, "unreachable", False) == (done.lead.stage, done.lead.lost_reason, done.HasField("next"))


async def test_journeys_make_tasks_once_for_whoever_looks_after_the_person(house: LeadHouse) -> None:
    await house.dealer("D1", "A1")
    await house.create(1)
    await house.later(0)
    now = datetime.now(UTC)
    tasks = [
        NewTask("journey/1", 1, "invite", now, words="invite to the spring show", theme_id=4),
        NewTask("journey/2", 2, "other", now, dealer_code="D7"),
        NewTask("journey/3", 3, "other", now, expires_at=now - timedelta(seconds=1)),
    ]
    for _ in range(2):
        async with house.database.transaction() as uow:
            await create_tasks(uow, tasks)
    [mine] = [task for task in await house.tasks(dealer_code="D1") if task.kind == "invite"]
    assert ("A1", "themes/4", "invite to the spring show") == (mine.advisor, mine.theme, mine.words)
    assert [2] == [task.person_id for task in await house.tasks(dealer_code="D7")]
    assert [] == await house.tasks(dealer_code="", kind="wake_up")
    assert 3 not in {task.person_id for task in await house.tasks()}
    # Without a lead a result makes one.
    [task] = await house.tasks(dealer_code="D7")
    assert (2, pb.LEAD_STAGE_INVITED) == ((await complete(house, task, "visit_agreed")).lead.person_id, 3)
    request = pb.CreateTaskRequest(person_id=1, kind="follow_up", request_id="r", due_time=stamp(now))
    names = {(await house.call.CreateTask(request)).task.name for _ in range(2)}
    assert 1 == len(names)
    await house.change(consent_changes=[withdrawn(9, "dealer_sharing")])
    closed = pb.CreateTaskRequest(person_id=9, kind="follow_up", request_id="s", due_time=stamp(now), dealer_code="D1")
    assert (PRECONDITION, "CONSENT_MISSING", "dealer_code") == await refusal(house.call.CreateTask(closed))


async def test_a_task_waits_for_whoever_will_look_after_the_person_and_no_longer_than_it_says(house: LeadHouse) -> None:
    now = datetime.now(UTC)
    async with house.database.transaction() as uow:
        expiring = NewTask("b", 1, "invite", now, expires_at=now + timedelta(minutes=1))
        await create_tasks(uow, [NewTask("a", 1, "other", now), expiring])
    await house.create(1)
    await house.dealer("D1", "A1")
    await house.later(5)
    assert {("first_call", "A1", "open"), ("other", "A1", "open"), ("invite", "", "cancelled")} == {
        (task.kind, task.advisor, task.state) for task in await house.tasks(person_id=1)
    }


async def test_tasks_come_in_pages_the_most_urgent_first(house: LeadHouse) -> None:
    now = datetime.now(UTC)
    async with house.database.transaction() as uow:
        await create_tasks(
            uow, [NewTask(f"t{n}", n, "other", now + timedelta(minutes=n * 7 % 10), dealer_code="D1") for n in range(1, 11)]
        )
    first = await house.call.ListTasks(pb.ListTasksRequest(dealer_code="D1", page_size=4))
    rest = await house.call.ListTasks(pb.ListTasksRequest(dealer_code="D1", page_size=40, page_token=first.next_page_token))
    assert sorted(range(1, 11), key=lambda n: n * 7 % 10) == [t.person_id for t in [*first.tasks, *rest.tasks]]


async def test_the_silent_are_spoken_to_again_the_likeliest_first_and_once_per_silence(house: LeadHouse) -> None:
    await house.dealer("D1", "A1")
    for person in range(1, 21):
        await house.tell(event(person, "Lead Created", person, 60), event(100 + person, "Showroom Visit", person, 50))
    await house.tell(event(300, "Lead Contacted", 1, 2))
    await house.tell(*(event(400 + n, "Order Placed", n, 45) for n in (2, 3)))
    await house.tell(
        *(event(500 + n, "Lead Lost", n, 45, reason=reason) for n, reason in ((4, "price"), (5, "bought_elsewhere")))
    )
    await house.later(0)
    await house.change(consent_changes=[withdrawn(6, "marketing")])

    async def wake(**more: Any) -> pb.ReactivateLeadsResponse:
        request = pb.ReactivateLeadsRequest(**({"among": 2, "limit": 100} | more))  # type: ignore[arg-type]
        answer: pb.ReactivateLeadsResponse = await house.call.ReactivateLeads(request)
        return answer

    dry = await wake(dry_run=True)
    chances = dict(house.people.select("id, probability", "probability IS NOT NULL"))
    wanted = sorted(set(range(7, 21)) & set(chances), key=lambda person: -chances[person])
    assert (15, len(wanted)) == (dry.silent, dry.scored)
    assert wanted == [each.person_id for each in dry.reactivations]
    assert [] == await house.tasks(kind="wake_up")
    assert [4] == [each.person_id for each in (await wake(among=3, dry_run=True)).reactivations if each.person_id in chances]
    assert 0 == (await wake(among=1, dry_run=True)).silent
    students = await wake(predicate="job = 'student'", dry_run=True)
    assert set(wanted) & {row[0] for row in house.people.select("id", "job = 'student'")} == {
        each.person_id for each in students.reactivations
    }
    for _ in range(2):
        await wake(limit=3)
    woken = await house.tasks(kind="wake_up")
    assert set(wanted[:3]) == {task.person_id for task in woken}
    assert {("D1", "A1")} == {(task.dealer_code, task.advisor) for task in woken}
    theme = await running_theme(house)
    for _ in range(2):
        await wake(limit=2, theme=theme)
    # Nobody is pushed from here: the arbiter decides about proposals.
    proposed = await house.rows("SELECT person_id, occasion, outcome, reason FROM decision")
    assert {(person, "deferred", "proposed") for person in wanted[:2]} == {(r[0], r[2], r[3]) for r in proposed}
    assert 2 == len(proposed) and all(row.occasion < 0 for row in proposed)
    assert [] == await house.rows("SELECT 1 FROM outbox WHERE subject = 'troika.deliveries.requested.v1'")
    async with house.database.transaction() as uow:
        await uow.execute("UPDATE theme SET state = 5")
    paused = house.call.ReactivateLeads(pb.ReactivateLeadsRequest(among=2, limit=1, theme=theme))
    assert (PRECONDITION, "THEME_NOT_RUNNING", "theme") == await refusal(paused)
    missing = house.call.ReactivateLeads(pb.ReactivateLeadsRequest(among=2, limit=1, theme="themes/9"))
    assert (NOT_FOUND, "THEME_NOT_FOUND", "theme") == await refusal(missing)
