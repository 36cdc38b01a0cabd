"""The chain of a lead: from events, callers and pushes, through merges and erasure, always what its steps say."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from troika.identity.v1 import events_pb2 as identity_pb2
from troika.orchestrator.v1 import lead_service_pb2 as pb

from chassis.rpc import reason_of
from chassis.testing import DatabaseFactory
from tests.integration.orchestrator.lead_house import LeadHouse, event, merged, moved, open_lead_house, stamp
from tests.integration.orchestrator.world import People

INVALID, PRECONDITION, NOT_FOUND = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
)


@pytest.fixture
async def house(databases: DatabaseFactory) -> AsyncIterator[LeadHouse]:
    async with open_lead_house(databases, People(50)) as house:
        yield house


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), *reason_of(caught.value)


async def state(house: LeadHouse) -> list[tuple[Any, ...]]:
    """All leads without their numbers, and which steps count."""
    leads = await house.rows(
        "SELECT human_id, interest, stage, furthest, since, opened_at, last_at, lost_reason, named_dealer FROM lead"
        " WHERE merged_into IS NULL ORDER BY 1, 2, 6"
    )
    steps = await house.rows("SELECT step_key, reached FROM lead_step ORDER BY step_key")
    return [*map(tuple, leads), *((bytes(row.step_key), row.reached) for row in steps)]


async def test_events_make_a_lead_and_move_it(house: LeadHouse) -> None:
    await house.tell(
        event(1, "Lead Created", 1, 9, model="X5", brand="blue", area="north"),
        event(2, "Lead Contacted", 1, 8, source="dealer:D001", advisor="A7"),
        event(3, "Showroom Visited", 1, 5, source="dealer:D001"),
        event(4, "App Opened", 1),
        event(5, "Test Drive Done", 0, anchor=3),
    )
    lead = await house.lead(1)
    assert (pb.LEAD_STAGE_VISIT, "X5", "blue", "north", "app") == (
        lead.stage, lead.interest, lead.brand, lead.area, lead.source,
    )  # fmt: skip
    found = await house.call.GetLead(pb.GetLeadRequest(name=lead.name))
    assert [(1, True, ""), (2, True, "A7"), (4, True, "")] == [(s.stage, s.counts, s.advisor) for s in found.steps]
    await house.tell(event(6, "Lead Lost", 1, 2, reason="price"), event(7, "Order Cancelled", 2, 1))
    lead = await house.lead(1)
    assert (pb.LEAD_STAGE_LOST, "price", pb.LEAD_STAGE_VISIT) == (lead.stage, lead.lost_reason, lead.furthest_stage)
    assert "order_cancelled" == (await house.lead(2)).lost_reason
    await house.tell(event(8, "Lead Lost", 3, 1, reason="he said 138..."))
    assert "other" == (await house.lead(3)).lost_reason


async def test_events_out_of_order_and_repeated_give_the_same_leads(house: LeadHouse) -> None:
    draw = random.Random(4)
    names = [
        "Lead Created",
        "Lead Contacted",
        "Showroom Visit",
        "Test Drive Done",
        "Order Placed",
        "Vehicle Delivered",
        "Lead Lost",
    ]
    events = [
        event(n, draw.choice(names), draw.choice([1, 2, 3]), draw.randrange(500), model=draw.choice(["", "X5", "X3"]))
        for n in range(1, 60)
    ]
    await house.tell(*events)
    expected = await state(house)
    for _ in range(3):
        async with house.database.transaction() as uow:
            await uow.execute("TRUNCATE lead, lead_step")
        mixed = [*events, *draw.sample(events, 30)]
        draw.shuffle(mixed)
        while mixed:
            await house.tell(*(mixed.pop() for _ in range(min(len(mixed), draw.randint(1, 9)))))
        assert expected == await state(house)


async def test_duplicates_of_one_human_are_one_lead_for_as_long_as_they_are_one_human(house: LeadHouse) -> None:
    first = await house.create(1, interest="X5", note="met at the fair")
    await house.tell(event(1, "Test Drive Done", 2, 3, model="X5"), event(2, "Lead Created", 2, 2, model="X3"))
    second = next(lead for lead in await house.leads(person_id=2) if lead.interest == "X5")
    before = await state(house)
    await house.change(cluster_changes=[merged(1, 2, 7)], anchor_moves=[moved(10_002, 1, 5)])
    both = {lead.interest: lead for lead in await house.leads(person_id=1)}
    assert (first.name, [second.name]) == (both["X5"].name, list(both["X5"].merged_names))
    assert pb.LEAD_STAGE_TEST_DRIVE == both["X5"].stage
    assert [] == await house.leads(person_id=2)
    for name in (first.name, second.name):
        found = await house.call.GetLead(pb.GetLeadRequest(name=name))
        assert (first.name, [5, 1]) == (found.lead.name, [step.stage for step in found.steps])
    # What comes under either name belongs to the one lead.
    await house.call.AdvanceLead(pb.AdvanceLeadRequest(name=second.name, stage=pb.LEAD_STAGE_ORDER, request_id="o"))
    assert pb.LEAD_STAGE_ORDER == (await house.call.GetLead(pb.GetLeadRequest(name=first.name))).lead.stage
    async with house.database.transaction() as uow:
        await uow.execute("DELETE FROM lead_step WHERE stage = 6")
    await house.change(cluster_changes=[merged(1, 2, 8, "split")], anchor_moves=[moved(10_002, 2, 9)])
    assert before == await state(house)
    assert second.name == next(lead for lead in await house.leads(person_id=2) if lead.interest == "X5").name
    # Late news of the merge changes nothing any more.
    await house.change(cluster_changes=[merged(1, 2, 7)], anchor_moves=[moved(10_002, 1, 5)])
    assert before == await state(house)


async def test_merges_and_splits_in_any_order_end_as_if_never_merged(house: LeadHouse) -> None:
    draw = random.Random(11)
    for person in (1, 2, 3):
        await house.create(person, interest=draw.choice(["X5", "X3"]))
        await house.tell(*(event(100 * person + n, "Showroom Visit", person, n * 40, model="X5") for n in range(1, 4)))
    before = await state(house)
    version, op = 10, 1
    for _ in range(4):
        for survivor, other in ((1, 2), (3, 1)):
            version, op = version + 1, op + 1
            moves = [moved(10_000 + p, survivor, version) for p in ((other,) if other == 2 else (1, 2))]
            await house.change(cluster_changes=[merged(survivor, other, op)], anchor_moves=moves)
        assert {3} == {row[0] for row in await state(house) if len(row) == 9}
        for survivor, other in ((3, 1), (1, 2)):
            version, op = version + 1, op + 1
            moves = [moved(10_000 + p, other, version) for p in ((other,) if other == 2 else (1, 2))]
            await house.change(cluster_changes=[merged(survivor, other, op, "split")], anchor_moves=moves)
        assert before == await state(house)


async def test_the_same_request_is_one_step_and_bad_ones_are_named(house: LeadHouse) -> None:
    names = {(await house.create(1, interest="X5", request_id="r")).name for _ in range(3)}
    assert 1 == len(names)
    again = await house.create(1, interest="X5", request_id="s")
    assert {again.name} == names
    [name] = names
    advance = house.call.AdvanceLead
    lost = pb.AdvanceLeadRequest(name=name, stage=pb.LEAD_STAGE_LOST)
    assert (INVALID, "REASON_OF_LOSS", "reason") == await refusal(advance(lost))
    assert (INVALID, "REASON_OF_LOSS", "reason") == await refusal(
        advance(pb.AdvanceLeadRequest(name=name, stage=pb.LEAD_STAGE_ORDER, reason="price"))
    )
    future = stamp(datetime.now(UTC) + timedelta(days=1))
    assert (INVALID, "IN_THE_FUTURE", "time") == await refusal(
        advance(pb.AdvanceLeadRequest(name=name, stage=pb.LEAD_STAGE_ORDER, time=future))
    )
    unknown = pb.AdvanceLeadRequest(name="leads/999", stage=pb.LEAD_STAGE_ORDER)
    assert (NOT_FOUND, "LEAD_NOT_FOUND", "name") == await refusal(advance(unknown))
    moved_on = (await advance(pb.AdvanceLeadRequest(name=name, stage=pb.LEAD_STAGE_TEST_DRIVE, request_id="t"))).lead
    assert pb.LEAD_STAGE_TEST_DRIVE == moved_on.stage
    for _ in range(2):
        await advance(pb.AdvanceLeadRequest(name=name, stage=pb.LEAD_STAGE_ORDER, request_id="u"))
    assert 4 == len((await house.call.GetLead(pb.GetLeadRequest(name=name))).steps)
    await advance(pb.AdvanceLeadRequest(name=name, stage=pb.LEAD_STAGE_DELIVERED))
    another = (await advance(pb.AdvanceLeadRequest(name=name, stage=pb.LEAD_STAGE_ORDER))).lead
    assert (pb.LEAD_STAGE_ORDER, True) == (another.stage, another.name != name)


async def test_a_note_is_seen_only_where_it_is_asked_for(house: LeadHouse) -> None:
    lead = await house.create(1, note="likes to be called in the evening")
    assert [""] == [s.note for s in (await house.call.GetLead(pb.GetLeadRequest(name=lead.name))).steps]
    shown = await house.call.GetLead(pb.GetLeadRequest(name=lead.name, with_notes=True))
    assert ["likes to be called in the evening"] == [step.note for step in shown.steps]
    assert [] == await house.rows("SELECT 1 FROM outbox")


async def test_leads_come_in_pages_and_by_what_is_asked(house: LeadHouse) -> None:
    made = [(await house.create(n % 4 + 1, interest=f"X{n}")).name for n in range(9)]
    first = await house.call.ListLeads(pb.ListLeadsRequest(page_size=4))
    rest = await house.call.ListLeads(pb.ListLeadsRequest(page_size=8, page_token=first.next_page_token))
    assert made[::-1] == [lead.name for lead in [*first.leads, *rest.leads]]
    foreign = house.call.ListLeads(pb.ListLeadsRequest(person_id=1, page_token=first.next_page_token))
    assert (INVALID, "INVALID_PAGE_TOKEN", "page_token") == await refusal(foreign)
    assert 9 == len(await house.leads(unassigned=True))
    assert [] == await house.leads(overdue=True) == await house.leads(dealer_code="D1")


async def test_a_push_that_reached_a_dealer_is_a_lead_of_that_dealer(house: LeadHouse) -> None:
    async with house.database.transaction() as uow:
        columns = [
            row.column_name
            for row in await uow.rows(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = 'orchestrator'"
                " AND table_name = 'decision' AND is_nullable = 'NO' AND column_default IS NULL"
            )
        ]
        values = {
            "theme_id": "12",
            "person_id": "p",
            "outcome": "'push'",
            "channel": "'dealer'",
            "dealer_code": "'D001'",
            "decided_at": "now() - interval '1 hour'",
            "expires_at": "now()",
            "reason": "''",
        }
        columns = sorted({*columns, "channel", "dealer_code"})
        chosen = ", ".join(values.get(column, "0") for column in columns)
        await uow.execute(
            f"INSERT INTO decision ({', '.join(columns)}, delivery_id) SELECT {chosen}, 'd' || p FROM generate_series(1, 5) p"
        )

    async def update(*updates: tuple[int, int, str]) -> None:
        from troika.touchpoints.v1 import events_pb2 as touchpoints_pb2

        now = round(datetime.now(UTC).timestamp() * 1e6)
        await house.hear(
            "troika.deliveries.updated.v1",
            touchpoints_pb2.DeliveriesUpdated(
                updates=[
                    touchpoints_pb2.DeliveryUpdate(
                        delivery_id=f"d{n}", state=s, answer=a, occurred_at_us=now, reason="unreachable" if s == 9 else ""
                    )  # type: ignore[arg-type]
                    for n, s, a in updates
                ]
            ),
        )

    await update((1, 1, ""), (2, 3, ""), (3, 4, ""), (4, 7, "no"), (5, 9, ""))
    for _ in range(2):
        await update((3, 7, "yes"), (2, 3, ""))
    found = {lead.person_id: lead for lead in await house.leads()}
    assert {2: 1, 3: 3, 4: 8, 5: 1} == {person: lead.stage for person, lead in found.items()}
    assert {"themes/12"} == {lead.source for lead in found.values()}
    assert "not_interested" == found[4].lost_reason
    # Its dealer has it, registered or not; who was tried is late with nobody.
    await house.later(0)
    looked_after = {lead.person_id: (lead.dealer_code, lead.HasField("sla_due_time")) for lead in await house.leads()}
    assert {2: ("D001", True), 3: ("D001", False), 4: ("", False), 5: ("D001", False)} == looked_after


async def test_an_erased_person_has_no_lead_and_its_dealer_keeps_its_count(house: LeadHouse) -> None:
    await house.dealer("D001", "A1")
    lead = await house.create(1, interest="X5", dealer_code="D001", note="a note")
    await house.tell(
        event(1, "Test Drive Done", 1, 3, model="X5", source="dealer:D001"),
        event(2, "Order Placed", 2, 3, model="X5", source="dealer:D001"),
        event(3, "Lead Created", 3, 3, model="X5"),
    )
    await house.later(0)
    await house.change(cluster_changes=[merged(1, 2, 7)], anchor_moves=[moved(10_002, 1, 5)])
    counts = await house.rows("SELECT dealer_code, stage FROM lead_step WHERE reached AND stage IN (5, 6, 7) ORDER BY 2")
    assert [("D001", 5), ("D001", 6)] == [tuple(row) for row in counts]
    erased = identity_pb2.Erasure(erasure_id=1, person_id=1, anchor_ids=[10_001, 10_002])
    for _ in range(2):
        await house.change(erasures=[erased])
        assert [3] == [each.person_id for each in await house.leads()]
        for table, column in (("lead_step", "person_id"), ("lead_step", "human_id"), ("lead_task", "person_id")):
            assert [] == await house.rows(f"SELECT 1 FROM {table} WHERE {column} IN (1, 2)")
        assert {3} == {row.person_id for row in await house.rows("SELECT person_id FROM lead_task")}
        kept = await house.rows("SELECT * FROM lead_step WHERE reached AND stage IN (5, 6, 7)")
        assert [5, 6] == sorted(row.stage for row in kept)
        assert {("", "", 0, "")} == {(row.interest, row.source, row.anchor_id, row.note) for row in kept}
        assert {16} == {row.occurred_at.astimezone(UTC).hour for row in kept}
        assert [] == await house.rows(
            "SELECT 1 FROM lead_assignment a WHERE NOT EXISTS (SELECT FROM lead l WHERE l.lead_id = a.lead_id)"
        )
    # What comes late brings nobody back.
    await house.tell(event(9, "Order Placed", 1, 1), event(10, "Order Placed", 2, 1, anchor=10_002, version=4))
    assert (PRECONDITION, "PERSON_ERASED", "person_id") == await refusal(
        house.call.CreateLead(pb.CreateLeadRequest(person_id=1))
    )
    assert (NOT_FOUND, "LEAD_NOT_FOUND", "name") == await refusal(house.call.GetLead(pb.GetLeadRequest(name=lead.name)))
    assert [3] == [each.person_id for each in await house.leads()]
