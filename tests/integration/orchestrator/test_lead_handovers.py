"""What the bus is told of who looks after which lead."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from troika.orchestrator.v1 import lead_service_pb2 as pb
from troika.orchestrator.v1.events_pb2 import LeadHandover, LeadsAssigned
from troika.touchpoints.v1.events_pb2 import (
    DELIVERY_STATE_DELIVERED,
    DELIVERY_STATE_FAILED,
    DeliveriesUpdated,
    DeliveryUpdate,
)

from chassis.testing import DatabaseFactory
from services.orchestrator.leads.announcing import NEWS
from tests.integration.orchestrator.lead_house import LeadHouse, event, open_lead_house, withdrawn
from tests.integration.orchestrator.world import People

GIVEN, PASSED_ON, TAKEN = 1, 2, 3


@pytest.fixture
async def house(databases: DatabaseFactory) -> AsyncIterator[LeadHouse]:
    async with open_lead_house(databases, People(50)) as house:
        yield house


async def told(house: LeadHouse) -> list[LeadHandover]:
    """All that was stated, oldest first."""
    rows = await house.rows("SELECT payload FROM outbox WHERE subject = 'troika.leads.assigned.v1' ORDER BY id")
    return [each for row in rows for each in LeadsAssigned.FromString(bytes(row.payload)).handovers]


def words(stated: list[LeadHandover]) -> list[tuple[int, int, str, str, str]]:
    return [(each.kind, each.revision, each.dealer_code, each.advisor, each.reason) for each in stated]


async def test_each_handover_is_told_once_with_a_revision_that_grows(house: LeadHouse) -> None:
    await house.dealer("D1", "A1", "A2")
    await house.dealer("D2", "B1")
    lead = await house.create(1, interest="X5", dealer_code="D1")
    await house.later(0)
    await house.later(1)
    [first] = await told(house)
    assert (lead.name, 1, GIVEN, 1, "D1", "X5", "") == (
        first.lead,
        first.person_id,
        first.kind,
        first.revision,
        first.dealer_code,
        first.interest,
        first.delivery_id,
    )
    assert first.due_at_us > first.occurred_at_us > 0
    other = "A2" if first.advisor == "A1" else "A1"
    await house.call.AssignLeads(pb.AssignLeadsRequest(name=lead.name, dealer_code="D1", advisor=other))
    await house.call.AssignLeads(pb.AssignLeadsRequest(name=lead.name, dealer_code="D2", advisor="B1"))
    await house.change(consent_changes=[withdrawn(1, "dealer_sharing")])
    assert [
        (PASSED_ON, 3, "D1", other, ""),
        (TAKEN, 4, "D1", other, "reassigned"),
        (GIVEN, 5, "D2", "B1", ""),
        (TAKEN, 6, "D2", "B1", "consent"),
    ] == words((await told(house))[1:])
    assert {1} == {each.person_id for each in await told(house)}


async def test_what_ends_by_itself_is_told_by_the_next_round_and_what_lapses_goes_on(house: LeadHouse) -> None:
    await house.dealer("D1", "A1")
    await house.dealer("D2", "B1")
    await house.create(1, dealer_code="D1")
    await house.later(0)
    await house.later(16)
    assert [(GIVEN, 1, "D1"), (TAKEN, 2, "D1"), (GIVEN, 3, "D2")] == [each[:3] for each in words(await told(house))]
    await house.tell(event(1, "Vehicle Delivered", 1))
    await house.later(17)
    assert [(TAKEN, 4, "D2", "B1", "delivered")] == words((await told(house))[3:])


async def test_who_was_tried_in_vain_by_a_dealers_own_word_is_late_with_nobody(house: LeadHouse) -> None:
    await house.dealer("D1", "A1")
    await house.dealer("D2", "B1")
    lead = await house.create(1)
    await house.later(0)
    number = lead.name.removeprefix("leads/")
    update = DeliveryUpdate(delivery_id=f"lead-{number}-1", state=DELIVERY_STATE_FAILED, reason="unreachable")
    strange = DeliveryUpdate(delivery_id="lead-x-1", state=DELIVERY_STATE_FAILED, reason="unreachable")
    await house.hear("troika.deliveries.updated.v1", DeliveriesUpdated(updates=[update, strange]))
    assert not (await house.lead(1)).HasField("sla_due_time")
    assert 0 == (await house.later(16)).lapsed


async def test_a_late_word_of_a_former_dealer_excuses_nobody(house: LeadHouse) -> None:
    """Random hands of leads, and reports of any revision: only those of who has had the lead ever since count."""
    draw = random.Random(5)
    desks = [("D1", "A1"), ("D1", "A2"), ("D2", "B1"), ("D3", "C1")]
    for code in ("D1", "D2", "D3"):
        await house.dealer(code, *(advisor for dealer, advisor in desks if dealer == code))
    counted = 0
    for person in range(1, 16):
        lead = await house.create(person)
        hands = [draw.choice(desks) for _ in range(draw.randint(1, 4))]
        for dealer, advisor in hands:
            await house.call.AssignLeads(pb.AssignLeadsRequest(name=lead.name, dealer_code=dealer, advisor=advisor))
        dealers = [dealer for dealer, _ in hands]
        reported = draw.sample(range(1, 2 * len(hands) + 1), draw.randint(1, 2))
        updates = [
            DeliveryUpdate(delivery_id=f"lead-{lead.name.removeprefix('leads/')}-{revision}", state=state, reason=reason)
            for revision in reported
            for state, reason in [draw.choice([(DELIVERY_STATE_FAILED, "unreachable"), (DELIVERY_STATE_DELIVERED, "")])]
        ]
        await house.hear("troika.deliveries.updated.v1", DeliveriesUpdated(updates=updates))
        tried = any(revision % 2 and set(dealers[revision // 2 :]) == {dealers[-1]} for revision in reported)
        assert tried is not (await house.lead(person)).HasField("sla_due_time"), (hands, reported)
        counted += tried
    assert 3 < counted < 12


async def test_a_push_to_a_former_dealer_excuses_nobody(house: LeadHouse) -> None:
    await house.dealer("D1", "A1")
    await house.dealer("D2", "B1")
    at = datetime.now(UTC)
    async with house.database.transaction() as uow:
        await uow.execute(
            "INSERT INTO decision (theme_id, person_id, occasion, outcome, reason, expires_at, channel, dealer_code,"
            " delivery_id, decided_at) VALUES (7, 1, 0, 'push', '', :at, 'dealer', 'D1', 'd1', :at)",
            at=at,
        )
    taken = DeliveryUpdate(delivery_id="d1", state=3)
    await house.hear("troika.deliveries.updated.v1", DeliveriesUpdated(updates=[taken]))
    await house.later(0)
    lead = await house.lead(1)
    await house.call.AssignLeads(pb.AssignLeadsRequest(name=lead.name, dealer_code="D2", advisor="B1"))
    failed = DeliveryUpdate(delivery_id="d1", state=DELIVERY_STATE_FAILED, reason="unreachable")
    await house.hear("troika.deliveries.updated.v1", DeliveriesUpdated(updates=[failed]))
    assert (await house.lead(1)).HasField("sla_due_time")


async def test_what_is_still_to_be_told_is_read_by_index(house: LeadHouse) -> None:
    async with house.database.transaction() as uow:
        await uow.execute(
            "INSERT INTO lead_assignment (lead_id, dealer_code, advisor, score, parts, author, told, ended_at)"
            " SELECT n / 2, 'D1', 'A1', 0, '{}', '', CASE WHEN n > 19990 THEN 0 WHEN n % 50 = 0 THEN 1 ELSE 2 END,"
            " CASE WHEN n % 50 > 0 THEN now() END FROM generate_series(1, 20000) n"
        )
        await uow.execute("ANALYZE lead_assignment")
        plan = "\n".join(row[0] for row in await uow.rows(f"EXPLAIN {NEWS}"))
    assert "ix_lead_assignment_untold" in plan
    assert "Seq Scan on lead_assignment" not in plan


async def test_a_dealer_whom_a_push_told_is_named_the_push(house: LeadHouse) -> None:
    await house.dealer("D1", "A1")
    at = datetime.now(UTC)
    async with house.database.transaction() as uow:
        await uow.execute(
            "INSERT INTO decision (theme_id, person_id, occasion, outcome, reason, expires_at, channel, dealer_code,"
            " delivery_id, decided_at) VALUES (7, 1, 0, 'push', '', :at, 'dealer', 'D1', 'd1', :at)",
            at=at,
        )
    await house.hear("troika.deliveries.updated.v1", DeliveriesUpdated(updates=[DeliveryUpdate(delivery_id="d1", state=3)]))
    await house.later(0)
    assert [(GIVEN, 1, "d1")] == [(each.kind, each.revision, each.delivery_id) for each in await told(house)]
