"""What dealers are told of leads that come and go, and of people who change their mind or are erased."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from troika.identity.v1.events_pb2 import ClusterChange, ConsentChange, EntitiesChanged, Erasure
from troika.orchestrator.v1.events_pb2 import LeadHandover, LeadsAssigned

from chassis.outbox import Outgoing
from services.touchpoints import webhooks
from services.touchpoints.domain.deliveries import State
from tests.integration.touchpoints.receivers import DEALER
from tests.integration.touchpoints.receiving import Receiver, receiving
from tests.integration.touchpoints.room import Room, eventually, request

GIVEN, PASSED_ON, TAKEN = 1, 2, 3


@pytest.fixture
async def dealers(room: Room) -> AsyncIterator[dict[str, Receiver]]:
    """Two dealers; persons 1 to 9 have a number."""
    for person in range(1, 10):
        room.identity.book[person, "mobile", ""] = (100 + person, f"+861380013800{person}")
    async with receiving() as one, receiving() as two:
        for code, receiver in (("D001", one), ("D002", two)):
            receiver.secret = await room.endpoint(code.lower(), DEALER, receiver.url, code)
        yield {"D001": one, "D002": two}


def handover(lead: int, revision: int, kind: int, dealer: str = "D001", **more: object) -> LeadHandover:
    now = time.time_ns() // 1000
    stated: dict[str, object] = {
        "person_id": lead,
        "occurred_at_us": now,
        "due_at_us": now + 900_000_000 if kind != TAKEN else 0,
    }
    return LeadHandover(lead=f"leads/{lead}", revision=revision, dealer_code=dealer, kind=kind, **(stated | more))  # type: ignore[arg-type]


async def state(room: Room, *handovers: LeadHandover) -> None:
    payload = LeadsAssigned(handovers=handovers).SerializeToString()
    await room.bus.publish_all([Outgoing.now("troika.leads.assigned.v1", payload)])


async def entities(room: Room, **changed: object) -> None:
    payload = EntitiesChanged(**changed).SerializeToString()  # type: ignore[arg-type]
    await room.bus.publish_all([Outgoing.now("troika.entities.changed.v1", payload)])


async def types(receiver: Receiver, count: int) -> list[str]:
    async def read() -> list[str]:
        return [body["type"] for _, body in receiver.calls]

    return await eventually(read, lambda got: len(got) >= count)


async def test_a_lead_goes_to_its_dealer_passes_between_advisors_and_leaves(room: Room, dealers: dict[str, Receiver]) -> None:
    one = dealers["D001"]
    await state(room, handover(5, 1, GIVEN, advisor="A7", interest="X5"))
    assert ["lead.assigned"] == await types(one, 1)
    [(headers, body)] = one.calls
    data, contact = body["data"], body["data"]["customer"]["contact_url"]
    assert ("msg_lead-5-1", "leads/5", 1, "D001", "A7", "X5", 900) == (
        headers["webhook-id"],
        data["lead_id"],
        data["revision"],
        data["dealer_code"],
        data["advisor"],
        data["interest"]["model_code"],
        data["sla_seconds"],
    )
    assert "13800138" not in str(body)
    assert {"mobile": "+8613800138005", "name": None} == (await room.http.get(contact)).json()
    await state(room, handover(5, 3, PASSED_ON, advisor="A8"))
    await types(one, 2)
    await state(room, handover(5, 4, TAKEN, reason="lapsed"), handover(5, 5, GIVEN, "D002"))
    assert ["lead.assigned", "lead.reassigned", "lead.withdrawn"] == await types(one, 3)
    assert {"lead_id": "leads/5", "revision": 4, "dealer_code": "D001", "reason_code": "lapsed"} == one.calls[2][1]["data"]
    assert ["lead.assigned"] == await types(dealers["D002"], 1)
    # What has left is shut, and only that.
    shut = await room.http.get(contact)
    assert (410, "lead_withdrawn") == (shut.status_code, shut.json()["code"])
    assert 200 == (await room.http.get(dealers["D002"].calls[0][1]["data"]["customer"]["contact_url"])).status_code


async def test_nobody_is_told_twice_or_for_nothing(room: Room, dealers: dict[str, Receiver]) -> None:
    one, two = dealers["D001"], dealers["D002"]
    await room.request(request("d1", 1, "dealer"))
    await room.in_state("d1", State.ACCEPTED)
    # A push has told it, under the push's own number; what comes and goes before anybody heard of it is not told at all.
    await state(room, handover(1, 1, GIVEN, delivery_id="d1"), handover(1, 1, GIVEN, delivery_id="d1"))
    now = time.time_ns() // 1000
    later = handover(2, 1, GIVEN, "D002", occurred_at_us=now + 3_600_000_000, due_at_us=0)
    await state(room, later, handover(2, 2, TAKEN, "D002", reason="consent"))
    # An order is no reason to forget the customer.
    await state(room, handover(1, 2, TAKEN, reason="delivered", delivery_id="d1"))
    assert "withdrawn" == (await room.in_state("lead-2-1", State.SUPPRESSED)).reason
    assert "never_told" == (await room.in_state("lead-2-2", State.SUPPRESSED)).reason
    await state(room, handover(1, 4, TAKEN, reason="reassigned", delivery_id="d1"))
    assert ["lead.assigned", "lead.withdrawn"] == await types(one, 2)
    assert "d1" == one.calls[1][1]["data"]["lead_id"]
    assert [] == two.calls


async def test_a_lead_that_comes_after_it_was_taken_again_is_not_told(room: Room, dealers: dict[str, Receiver]) -> None:
    one = dealers["D001"]
    await state(room, handover(7, 2, TAKEN, reason="consent"))
    assert "never_told" == (await room.in_state("lead-7-2", State.SUPPRESSED)).reason
    await state(room, handover(8, 1, GIVEN), handover(8, 3, GIVEN, "D002"), handover(7, 3, GIVEN, "D002"))
    await room.in_state("lead-8-1", State.ACCEPTED)
    await state(room, handover(8, 6, TAKEN, reason="lapsed"))
    await types(one, 2)
    # Late, the second one between two words that the dealer heard; another dealer's, and what came anew, is none of it.
    await state(room, handover(7, 1, GIVEN), handover(8, 5, PASSED_ON, advisor="A9"), handover(8, 7, GIVEN))
    assert {"withdrawn"} == {(await room.in_state(late, State.SUPPRESSED)).reason for late in ("lead-7-1", "lead-8-5")}
    assert ["lead.assigned", "lead.withdrawn", "lead.assigned"] == await types(one, 3)
    assert ["lead.assigned"] * 2 == await types(dealers["D002"], 2)
    assert 7 == one.calls[2][1]["data"]["revision"]
    stopped = [u.delivery_id for u in await room.updates() if u.reason == "withdrawn"]
    assert ["lead-7-1", "lead-8-5"] == sorted(stopped)


async def test_consent_and_erasure_reach_every_dealer_who_knows_the_person(room: Room, dealers: dict[str, Receiver]) -> None:
    one = dealers["D001"]
    await state(room, handover(3, 1, GIVEN))
    await types(one, 1)
    reference = one.calls[0][1]["data"]["customer"]["customer_ref"]

    async def say(opted_out: bool, at: int, channel: str = "dealer") -> None:
        # By another number, through another anchor than the dealer's push: the person has gone into somebody else.
        change = ConsentChange(
            anchor_id=102, person_id=2, channel=channel, opted_out=opted_out, stated_at_us=at, purpose="service"
        )
        await entities(room, consent_changes=[change])

    await entities(room, cluster_changes=[ClusterChange(op_id=1, entity_kind=1, operation="merge", survivor_id=2, other_id=3)])
    await say(True, 1, "sms")
    await say(True, 2)
    await say(True, 3)
    assert ["lead.assigned", "consent.changed"] == await types(one, 2)
    assert (reference, ["leads/3"], True) == (
        (data := one.calls[1][1]["data"])["customer_ref"],
        data["lead_ids"],
        data["consent"]["withdrawn"],
    )
    await say(False, 4)
    assert ["consent.changed"] == (await types(one, 3))[2:]
    assert False is one.calls[2][1]["data"]["consent"]["withdrawn"]
    # Without any anchor: what is kept by number is forgotten all the same.
    await entities(room, erasures=[Erasure(erasure_id=1, person_id=2)])
    assert ["customer.erased"] == (await types(one, 4))[3:]
    assert {"customer_ref": reference, "dealer_code": "D001", "lead_ids": ["leads/3"]} == one.calls[3][1]["data"]

    async def kept() -> list[tuple[int, str]]:
        async with room.database.read() as uow:
            return [(row.person_id, row.details) for row in await uow.rows("SELECT person_id, details FROM delivery")]

    # Once the dealer has heard it nothing here names the person any more, not even as the dealer does.
    await eventually(kept, lambda rows: {(0, "")} == set(rows))
    assert [] == dealers["D002"].calls


async def report(room: Room, dealer: Receiver, *events: dict[str, object]) -> dict[str, Any]:
    body = orjson.dumps({"events": events})
    headers = webhooks.signed_headers(dealer.secret, f"msg_{time.time_ns()}", body)
    answer: dict[str, Any] = (await room.http.post("/webhooks/d001", content=body, headers=headers)).json()
    return answer


async def test_a_no_that_a_dealer_reports_of_a_lead_it_had_to_give_up_counts(room: Room, dealers: dict[str, Receiver]) -> None:
    one = dealers["D001"]
    await state(room, handover(9, 1, GIVEN))
    await room.in_state("lead-9-1", State.ACCEPTED)
    await state(room, handover(9, 2, TAKEN, reason="lapsed"))
    await room.in_state("lead-9-2", State.ACCEPTED)
    when = datetime.now(UTC).isoformat()
    said = {"type": "lead.unsubscribed", "timestamp": when, "data": {"lead_id": "leads/9", "revision": 2}}
    assert {"accepted": 1, "rejected": []} == await report(room, one, said)
    async with room.database.read() as uow:
        kept = await uow.rows("SELECT DISTINCT anchor_id, person_id, channel, withdrawn_us > 0 AS no FROM consent")
    assert [(109, 9, "dealer", True)] == [tuple(row) for row in kept]
    [(_, event)] = await eventually(room.observed, bool)
    assert ("Unsubscribed", 109) == (event.name, event.anchor_id)
    change = ConsentChange(anchor_id=109, person_id=9, channel="all", opted_out=True, stated_at_us=1, purpose="service")
    await entities(room, consent_changes=[change])
    assert ["consent.changed"] == (await types(one, 3))[2:]
    # Nothing says any more of whom the dealer speaks: better refused than dropped.
    notice = next(headers["webhook-id"] for headers, body in one.calls if body["type"] == "consent.changed").removeprefix(
        "msg_"
    )
    answer = await report(room, one, said | {"data": {"delivery_id": notice}})
    assert (0, "events[0].data.delivery_id") == (answer["accepted"], answer["rejected"][0]["field"])


async def test_what_a_dealer_reports_of_a_lead_is_the_persons_history_and_ends_the_waiting(
    room: Room, dealers: dict[str, Receiver]
) -> None:
    await state(room, handover(6, 1, GIVEN, interest="X5"))
    await room.in_state("lead-6-1", State.ACCEPTED)
    when = datetime.now(UTC).isoformat()

    def said(kind: str, **data: object) -> dict[str, object]:
        return {"type": kind, "timestamp": when, "data": {"lead_id": "leads/6", "revision": 1, **data}}

    reports = [
        said("lead.accepted"),
        said("lead.contacted"),
        said("lead.lost", reason_code="price"),
        {"type": "lead.visited", "timestamp": when, "data": {"lead_id": "leads/6"}},
        said("lead.visited") | {"data": {"lead_id": "leads/6", "revision": 2}},
    ]
    answer = await report(room, dealers["D001"], *reports)
    assert 3 == answer["accepted"]
    assert ["events[3].data.revision", "events[4].data.delivery_id"] == [each["field"] for each in answer["rejected"]]
    seen = await eventually(room.observed, lambda events: len(events) >= 3)
    properties = {"delivery_id": "lead-6-1", "channel": "dealer", "model": "X5"}
    assert {
        ("Lead Accepted", "dealer:D001", 106): properties,
        ("Lead Contacted", "dealer:D001", 106): properties,
        ("Lead Lost", "dealer:D001", 106): properties | {"reason": "price"},
    } == {(event.name, event.source, event.anchor_id): orjson.loads(event.properties_json) for _, event in seen}
    assert [("lead-6-1", State.ACCEPTED), ("lead-6-1", State.DELIVERED)] == [
        (update.delivery_id, update.state) for update in await room.updates()
    ]
