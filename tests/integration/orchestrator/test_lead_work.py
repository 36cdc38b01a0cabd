"""Who looks after which lead: distribution, deadlines, and what happens to both when people merge."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from troika.orchestrator.v1 import lead_service_pb2 as pb

from chassis.db import UnitOfWork
from chassis.testing import DatabaseFactory
from services.orchestrator.leads import assigning, store
from services.orchestrator.leads.assigning import Distributor
from services.orchestrator.leads.chain import Stage
from services.orchestrator.leads.reading import LeadReader, Wanted
from services.orchestrator.leads.store import LeadStore, NewStep, step_key
from tests.integration.orchestrator.lead_house import LeadHouse, event, merged, moved, open_lead_house, withdrawn
from tests.integration.orchestrator.test_leads import INVALID, PRECONDITION, refusal
from tests.integration.orchestrator.world import People


@pytest.fixture
async def house(databases: DatabaseFactory) -> AsyncIterator[LeadHouse]:
    async with open_lead_house(databases, People(50)) as house:
        yield house


async def holders(house: LeadHouse) -> dict[int, str]:
    return {lead.person_id: f"{lead.dealer_code}/{lead.advisor}" for lead in await house.leads(page_size=500)}


async def complete(house: LeadHouse, task: pb.LeadTask, result: str, **more: Any) -> pb.CompleteTaskResponse:
    answer: pb.CompleteTaskResponse = await house.call.CompleteTask(
        pb.CompleteTaskRequest(name=task.name, result=result, **more)
    )
    return answer


async def test_the_register_keeps_versions_and_names_what_is_wrong(house: LeadHouse) -> None:
    first = await house.dealer("D1", "A1", "A2", areas=["north"], brands=["blue"], sla_minutes=30)
    assert (1, "operator") == (first.version, first.author)
    second = (await house.call.RegisterDealer(pb.RegisterDealerRequest(dealer=first))).dealer
    assert 2 == second.version
    late = house.call.RegisterDealer(pb.RegisterDealerRequest(dealer=first))
    assert (PRECONDITION, "VERSION_CHANGED", "dealer.version") == await refusal(late)
    second.advisors.add(advisor="A1", capacity_per_day=1)
    twice = house.call.RegisterDealer(pb.RegisterDealerRequest(dealer=second))
    assert (INVALID, "ADVISOR_TWICE", "dealer.advisors[2].advisor") == await refusal(twice)
    zero = await house.dealer("D0", calls_per_day=7)
    # The arbiter keeps to it.
    assert [("D0", 7)] == [tuple(row) for row in await house.rows("SELECT * FROM dealer_capacity")]
    zero.ClearField("calls_per_day")
    assert not (await house.call.RegisterDealer(pb.RegisterDealerRequest(dealer=zero))).dealer.HasField("calls_per_day")
    assert [] == await house.rows("SELECT 1 FROM dealer_capacity")
    assert ["D0", "D1"] == [d.dealer_code for d in (await house.call.ListDealers(pb.ListDealersRequest())).dealers]
    page = pb.ListDealersRequest(after_dealer_code="D0", page_size=1)
    assert ["D1"] == [d.dealer_code for d in (await house.call.ListDealers(page)).dealers]


async def test_leads_go_to_whom_they_suit_with_a_reason_a_deadline_and_a_task(house: LeadHouse) -> None:
    await house.dealer("D1", "A1", areas=["north"], brands=["blue"])
    await house.dealer("D2", "B1", "B2", areas=["south"])
    await house.dealer("D3", "C1", closed=True)
    await house.create(1, area="north", brand="blue")
    await house.create(2, area="south", brand="blue")
    await house.create(3, area="north", brand="red")
    dry = await house.call.AssignLeads(pb.AssignLeadsRequest(dry_run=True))
    assert {"": 3} == Counter(lead.dealer_code for lead in await house.leads())
    given = await house.call.AssignLeads(pb.AssignLeadsRequest())
    assert [a.lead for a in dry.assignments] == [a.lead for a in given.assignments]
    found = await holders(house)
    assert "D1/A1" == found[1] and found[2].startswith("D2/B")
    # Nobody sells red in the north: somebody far away is better than nobody.
    assert found[3].startswith("D2/B") and found[3] != found[2]
    lead = await house.lead(1)
    assert timedelta(minutes=14) < lead.sla_due_time.ToDatetime(UTC) - datetime.now(UTC) < timedelta(minutes=15)
    [made] = (await house.call.GetLead(pb.GetLeadRequest(name=lead.name))).assignments
    assert made.score == pytest.approx(sum(made.parts.values()), abs=1e-3)
    assert "serves the area" in made.explanation
    [task] = await house.tasks(dealer_code="D1")
    assert ("first_call", lead.name, "A1", lead.sla_due_time) == (task.kind, task.lead, task.advisor, task.due_time)


async def test_a_day_has_room_for_so_many_and_the_rest_waits(house: LeadHouse) -> None:
    await house.dealer("D1", "A1", "A2", capacity_per_day=5)
    for person in range(1, 9):
        await house.create(person)
    first = await house.call.AssignLeads(pb.AssignLeadsRequest())
    assert (5, {"no_room"}) == (len(first.assignments), set(first.withheld.values()))
    assert {"D1/A1", "D1/A2"} < set((await holders(house)).values())
    assert {"no_room": 3, "": 5} == Counter(lead.withheld for lead in await house.leads())
    tomorrow = await house.later(24 * 60)
    # Those who were late are given out again, too: to the other advisor, as far as there is room.
    assert 5 == tomorrow.lapsed
    assert 5 == len(tomorrow.given)


async def test_who_lets_a_lead_lapse_does_not_get_it_again_and_in_the_end_a_human_is_asked(house: LeadHouse) -> None:
    await house.dealer("D1", "A1", "A2")
    await house.dealer("D2", "B1")
    lead = await house.create(1)
    held = []
    for _ in range(3):
        await house.later(16 * len(held))
        held.append((await holders(house))[1])
    assert {"D1/A1", "D1/A2", "D2/B1"} == set(held)
    [only] = [t for t in await house.tasks() if t.kind == "first_call"]
    assert held[-1] == f"{only.dealer_code}/{only.advisor}"
    done = await house.later(16 * 3)
    assert (1, {int(lead.name.removeprefix("leads/")): "all_tried"}) == (done.lapsed, done.withheld)
    [escalated] = await house.leads(escalated=True)
    assert ("", "all_tried") == (escalated.dealer_code, escalated.withheld)
    assert ["escalation"] == [t.kind for t in await house.tasks()]
    ends = [a.end_reason for a in (await house.call.GetLead(pb.GetLeadRequest(name=lead.name))).assignments]
    assert ["lapsed"] * 3 == ends
    # Nothing happens by itself any more; a human gives it to somebody.
    assert [] == list((await house.later(16 * 4)).given)
    by_hand = pb.AssignLeadsRequest(name=lead.name, dealer_code="D2", advisor="B1")
    await house.call.AssignLeads(by_hand)
    assert {1: "D2/B1"} == await holders(house)
    assert ["first_call"] == [t.kind for t in await house.tasks()]
    for wrong, reason in (({"advisor": "Z"}, "ADVISOR_NOT_FOUND"), ({"dealer_code": "D9", "advisor": ""}, "DEALER_NOT_FOUND")):
        request = pb.AssignLeadsRequest()
        request.MergeFrom(by_hand)
        for field, value in wrong.items():
            setattr(request, field, value)
        assert reason == (await refusal(house.call.AssignLeads(request)))[1]


async def test_when_all_others_are_full_the_one_who_was_late_gets_it_again(house: LeadHouse) -> None:
    await house.dealer("D1", "A1")
    await house.dealer("D2", "B1", capacity_per_day=0)
    await house.create(1)
    for round_ in range(3):
        await house.later(16 * round_)
        assert {1: "D1/A1"} == await holders(house)


async def test_whoever_was_spoken_to_or_tried_is_late_with_nobody(house: LeadHouse) -> None:
    await house.dealer("D1", "A1", "A2")
    for person in (1, 2, 3):
        await house.create(person)
    await house.later(0)
    before = await holders(house)
    await house.call.AdvanceLead(pb.AdvanceLeadRequest(name=(await house.lead(1)).name, stage=pb.LEAD_STAGE_CONTACTED))
    [task] = await house.tasks(person_id=2)
    await complete(house, task, "not_reached")
    assert [False, False, True] == [(await house.lead(p)).HasField("sla_due_time") for p in (1, 2, 3)]
    done = await house.later(20)
    assert 1 == done.lapsed
    after = await holders(house)
    assert [before[1], before[2]] == [after[1], after[2]] and before[3] != after[3]


async def test_replicas_give_each_lead_to_one(house: LeadHouse) -> None:
    await house.dealer("D1", "A1", "A2", "A3", capacity_per_day=40)
    for person in range(1, 41):
        await house.create(person)
    workers = [Distributor(house.database, house.settings) for _ in range(4)]
    for _ in range(3):
        await asyncio.gather(*(worker.work_once() for worker in workers))
    [row] = await house.rows("SELECT count(*) AS n, count(DISTINCT lead_id) AS leads FROM lead_assignment")
    assert (40, 40) == (row.n, row.leads)
    assert 40 == len(await house.tasks(page_size=500))


async def test_consent_closes_dealers_and_opens_them_again(house: LeadHouse) -> None:
    await house.dealer("D1", "A1")
    await house.change(consent_changes=[withdrawn(1, "dealer_sharing")])
    await house.create(1)
    await house.create(2)
    await house.later(0)
    assert {1: "/", 2: "D1/A1"} == await holders(house)
    assert "consent" == (await house.lead(1)).withheld
    by_hand = pb.AssignLeadsRequest(name=(await house.lead(1)).name, dealer_code="D1")
    assert (PRECONDITION, "CONSENT_MISSING", "name") == await refusal(house.call.AssignLeads(by_hand))
    # Forbidden afterwards: at once the dealer has neither the lead nor the task.
    await house.change(consent_changes=[withdrawn(2, "dealer_sharing")])
    assert {1: "/", 2: "/"} == await holders(house)
    assert [] == await house.tasks(dealer_code="D1")
    await house.change(consent_changes=[withdrawn(1, "dealer_sharing", opted_out=False)])
    await house.later(6)
    assert {1: "D1/A1", 2: "/"} == await holders(house)


async def test_a_merged_duplicate_leaves_its_advisor_on_the_lead(house: LeadHouse) -> None:
    await house.dealer("D1", "A1")
    await house.dealer("D2", "B1")
    await house.tell(event(1, "Lead Created", 2, model="X5"))
    second = await house.lead(2)
    await house.call.AssignLeads(pb.AssignLeadsRequest(name=second.name, dealer_code="D2", advisor="B1"))
    async with house.database.transaction() as uow:
        await LeadStore(uow).add([NewStep(step_key(1), 10_001, 1, 1, Stage.LEAD, datetime.now(UTC), "X5")])
        # The older of two numbers stays, and here that is the second human's.
        await uow.execute("UPDATE lead SET next_try_at = now() + interval '1 day' WHERE human_id = 1")
    await house.change(cluster_changes=[merged(1, 2, 7)], anchor_moves=[moved(10_002, 1, 5)])
    assert {1: "D2/B1"} == await holders(house)


async def test_hot_questions_about_leads_are_answered_by_index(house: LeadHouse) -> None:
    async with house.database.transaction() as uow:
        await uow.execute(
            "INSERT INTO lead_step (step_key, anchor_id, person_id, version, human_id, lead_id, stage, reached, interest,"
            " brand, area, source, dealer_code, advisor, reason, author, note, occurred_at)"
            " SELECT decode(lpad(to_hex(n), 32, '0'), 'hex'), n + 100000, n, 1, n, n, 1, true, '', '', '', '',"
            " 'D' || n % 500, '', '', '', '', now() FROM generate_series(1, 30000) n"
        )
        await uow.execute(
            "INSERT INTO lead (founding_step_id, human_id, interest, brand, area, source, named_dealer, stage, furthest, since,"
            " opened_at, last_at, lost_reason, dealer_code, sla_due_at, next_try_at)"
            " SELECT n, n, '', '', '', '', '', 1, 1, now(), now(), now(), '', CASE WHEN n % 100 = 0 THEN '' ELSE 'D' || n % 500"
            " END, CASE WHEN n % 50 = 0 THEN now() END, now() + n * interval '1 s' FROM generate_series(1, 30000) n"
        )
        await uow.execute(
            "INSERT INTO lead_task (task_key, person_id, lead_id, kind, words, dealer_code, advisor, state, attempt, result,"
            " note, author, due_at) SELECT 'k' || n, n, n, 'other', '', 'D' || n % 500, '', 1, 1, '', '', '', now()"
            " FROM generate_series(1, 30000) n"
        )
        for table in ("lead", "lead_step", "lead_task"):
            await uow.execute(f"ANALYZE {table}")
    plans: dict[str, str] = {}

    class Explained(UnitOfWork):
        """Runs every statement as EXPLAIN and keeps what PostgreSQL says it would do."""

        name = ""

        async def rows(self, statement: str, **given: Any) -> Any:
            if "pg_advisory" in statement:
                return await super().rows(statement, **given)
            told = "\n".join(row[0] for row in await super().rows(f"EXPLAIN {statement}", **given))
            plans[self.name] = plans.get(self.name, "") + told
            return []

        async def execute(self, statement: str, **given: Any) -> int:
            await self.rows(statement, **given)
            return 0

    async with house.database.transaction() as uow:
        explained = Explained(uow.connection)
        now = datetime.now(UTC)
        explained.name = "follow"
        await explained.rows(store._FOLLOW, anchors=[100_005], persons=[7])
        explained.name = "one"
        await LeadReader(explained).get(5)
        explained.name = "mine"
        await LeadReader(explained).page(Wanted(dealer_code="D7"), 10**9, 50)
        explained.name = "person"
        await LeadReader(explained).page(Wanted(person_id=7), 10**9, 50)
        explained.name = "tasks"
        await LeadReader(explained).tasks("D7", "", "", 0, (0, 0), 50)
        explained.name = "distribution"
        await explained.rows(assigning._LAPSE, now=now, most=100)
        await explained.rows(assigning._WAITING, now=now, most=100)
    for plan, index in (
        ("follow", "ix_lead_step_anchor_id"),
        ("follow", "ix_lead_step_person_id"),
        ("one", "pk_lead"),
        ("mine", "ix_lead_looked_after"),
        ("person", "ix_lead_human_id"),
        ("tasks", "ix_lead_task_open"),
        ("distribution", "ix_lead_overdue"),
        ("distribution", "ix_lead_to_assign"),
    ):
        assert index in plans[plan], plans[plan]
    assert [] == [name for name, plan in plans.items() if re.search(r"Seq Scan on lead(_step|_task)? ", plan)]


async def test_steps_and_merges_side_by_side_end_as_one_after_the_other(house: LeadHouse) -> None:
    events = [
        event(n, ("Lead Created", "Showroom Visit", "Order Placed")[n % 3], n % 6 + 1, n, model=("X5", "X3")[n % 2])
        for n in range(1, 61)
    ]
    moves = [moved(10_000 + person, 1, 50 + person) for person in range(2, 5)]

    async def told(part: list[Any]) -> None:
        for one in part:
            await house.tell(one)

    async def changed() -> None:
        for number, move in enumerate(moves):
            await house.change(anchor_moves=[move], cluster_changes=[merged(1, number + 2, number + 1)])

    await asyncio.gather(told(events[:20]), told(events[20:40]), told(events[40:]), changed())
    expected = [
        tuple(row)
        for row in await house.rows(
            "SELECT human_id, interest, stage, opened_at, last_at FROM lead WHERE merged_into IS NULL ORDER BY 1, 2, 4"
        )
    ]
    async with house.database.transaction() as uow:
        await LeadStore(uow).lock()
        await LeadStore(uow).refold(range(1, 7))
    again = await house.rows(
        "SELECT human_id, interest, stage, opened_at, last_at FROM lead WHERE merged_into IS NULL ORDER BY 1, 2, 4"
    )
    assert expected == [tuple(row) for row in again]
    assert {1, 5, 6} == {row[0] for row in expected}
    assert 60 == (await house.rows("SELECT count(*) AS n FROM lead_step"))[0].n
    orphans = "SELECT 1 FROM lead_step s LEFT JOIN lead l USING (lead_id) WHERE l.lead_id IS NULL OR l.human_id <> s.human_id"
    assert [] == await house.rows(orphans)
