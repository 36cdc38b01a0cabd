"""Erased persons get nothing any more and nothing here tells of them; what comes late brings nobody back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from troika.identity.v1.events_pb2 import (
    ENTITY_KIND_PERSON,
    ENTITY_KIND_VEHICLE,
    AnchorMove,
    AnchorOwner,
    ConsentChange,
    EntitiesChanged,
    Erasure,
    RelationChange,
)
from troika.orchestrator.v1.events_pb2 import DeliveriesRequested
from troika.touchpoints.v1 import touchpoints_service_pb2 as pb

from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.touchpoints import webhooks
from services.touchpoints.handlers import follow_entities, take_over
from tests.integration.touchpoints.dealers import NOTICES
from tests.integration.touchpoints.receivers import APP, DEALER
from tests.integration.touchpoints.receiving import Receiver, receiving
from tests.integration.touchpoints.room import Room, eventually, request
from tests.integration.touchpoints.test_sending import ACCEPTED, ANSWERED, SUPPRESSED, feedback, rows, state_entities

PERSON, OTHER = 1, 2
HOUR_US = 3_600_000_000


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def app(room: Room, receiver: Receiver) -> str:
    """The secret of the app's endpoint; both persons are its users and have a dealer."""
    for person in (PERSON, OTHER):
        room.identity.book[person, "crm_id", "app"] = (100 + person, f"u{person}")
        room.identity.book[person, "mobile", ""] = (200 + person, f"+861380013800{person}")
    await room.endpoint("dealer-d001", DEALER, receiver.url, "D001")
    return await room.endpoint("app", APP, receiver.url)


async def erase(room: Room, person: int = PERSON) -> None:
    erasure = Erasure(erasure_id=1, person_id=person, anchor_ids=[100 + person, 200 + person])
    await state_entities(room, erasures=[erasure])


async def traces(database: Database, person: int, *deliveries: str) -> list[str]:
    """Everything that may hold anything of a person, tombstones aside."""
    async with database.read() as uow:
        found = await uow.rows(
            "SELECT 'delivery' AS place FROM delivery WHERE person_id = :person OR anchor_id = ANY(CAST(:anchors AS bigint[]))"
            " OR (delivery_id = ANY(:ids) AND (endpoint <> '' OR provider_id <> '' OR answer <> '' OR answered_at IS NOT NULL"
            " OR score <> 0 OR rank <> 0 OR cardinality(reasons) > 0 OR dealer_code <> ''))"
            " UNION ALL SELECT 'feedback' FROM feedback WHERE delivery_id = ANY(:ids)"
            " UNION ALL SELECT 'consent' FROM consent WHERE anchor_id = ANY(CAST(:anchors AS bigint[]))"
            " UNION ALL SELECT 'anchor_owner' FROM anchor_owner WHERE anchor_id = ANY(CAST(:anchors AS bigint[]))",
            person=person,
            anchors=[100 + person, 200 + person],
            ids=list(deliveries),
        )
    return [row.place for row in found]


async def test_pushes_stop_and_past_ones_tell_of_nobody(room: Room, receiver: Receiver, app: str) -> None:
    soon = time.time_ns() // 1000 + HOUR_US
    later = {"not_before_us": soon, "expires_at_us": soon + HOUR_US}
    await room.request(request("past", PERSON, "app"), request("lead", PERSON, "dealer"), request("kept", OTHER, "app"))
    await room.request(request("next", PERSON, "app", **later), request("others", OTHER, "app", **later))
    for delivery in ("past", "lead", "kept"):
        await room.in_state(delivery, ACCEPTED)
    for number, delivery in enumerate(("past", "kept")):
        body = feedback("message.answered", delivery, answer="yes")
        headers = webhooks.signed_headers(app, f"f{number}", body)
        assert 1 == (await room.http.post("/webhooks/app", content=body, headers=headers)).json()["accepted"]
    said = [ConsentChange(anchor_id=100 + p, person_id=p, channel="app", opted_out=False, stated_at_us=1) for p in (1, 2)]
    owner = AnchorOwner(anchor_id=101, entity_id=PERSON, version=3)
    await state_entities(room, consent_changes=said, anchor_moves=[AnchorMove(entity_kind=ENTITY_KIND_PERSON, owner=owner)])
    await eventually(lambda: rows(room, "anchor_owner"), lambda n: n == 1)
    ids = ("past", "lead", "next")
    assert {"delivery", "feedback", "consent", "anchor_owner"} == set(await traces(room.database, PERSON, *ids))
    url = next(b["data"]["customer"]["contact_url"] for _, b in receiver.calls if b["type"] == "lead.assigned")
    assert 200 == (await room.http.get(url)).status_code

    await erase(room)
    assert "erased" == (await room.in_state("next", SUPPRESSED)).reason
    assert [] == await traces(room.database, PERSON, *ids)
    gone = await room.http.get(url)
    assert (410, "contact_erased") == (gone.status_code, gone.json()["code"])
    # What a theme counts stays: that there was a push, through which channel, and how far it came.
    states = {name: (await room.in_state(name, state)).person_id for name, state in (("past", ANSWERED), ("lead", ACCEPTED))}
    assert {"past": 0, "lead": 0} == states
    assert (OTHER, OTHER) == tuple([(await room.in_state(n, s)).person_id for n, s in (("kept", ANSWERED), ("others", 1))])
    statistics = await room.rpc.GetDeliveryStatistics(pb.GetDeliveryStatisticsRequest(theme="themes/12"))
    assert 5 == sum(count.deliveries for count in statistics.counts)

    async def told() -> list[tuple[str, int, str]]:
        return [(u.delivery_id, u.state, u.reason) for u in await room.updates() if u.state == SUPPRESSED]

    assert [("next", SUPPRESSED, "erased")] == await eventually(told, bool)
    for _ in range(2):
        await erase(room)
    await eventually(told, lambda updates: len(updates) == 1)


async def test_what_comes_late_brings_nobody_back(room: Room, receiver: Receiver, app: str) -> None:
    await room.request(request("past", PERSON, "app"))
    await room.in_state("past", ACCEPTED)
    await erase(room)
    await eventually(lambda: traces(room.database, PERSON, "past"), lambda found: found == [])
    calls = len(receiver.calls)
    # The orchestrator had not heard of it yet; a redelivery; a report; an opt-out and a move that took their time.
    await room.request(request("late", PERSON, "app"), request("past", PERSON, "app"), request("kept", OTHER, "app"))
    body = feedback("message.answered", "past", answer="yes")
    answer = await room.http.post("/webhooks/app", content=body, headers=webhooks.signed_headers(app, "f1", body))
    assert 0 == answer.json()["accepted"]
    said = ConsentChange(anchor_id=101, person_id=PERSON, channel="app", opted_out=True, stated_at_us=1)
    owner = AnchorOwner(anchor_id=101, entity_id=PERSON, version=3)
    others = ConsentChange(anchor_id=102, person_id=OTHER, channel="sms", opted_out=True, stated_at_us=1)
    move = AnchorMove(entity_kind=ENTITY_KIND_PERSON, owner=owner)
    await state_entities(room, consent_changes=[said, others], anchor_moves=[move])
    await eventually(lambda: rows(room, "consent"), bool)
    assert "erased" == (await room.in_state("late", SUPPRESSED)).reason
    await room.in_state("kept", ACCEPTED)
    assert calls + 1 == len(receiver.calls)
    assert [] == await traces(room.database, PERSON, "past", "late")


async def test_a_value_that_others_use_keeps_their_opt_out(room: Room, app: str) -> None:
    await erase(room)
    said = ConsentChange(anchor_id=101, person_id=7, channel="all", opted_out=True, stated_at_us=1)
    await state_entities(room, consent_changes=[said])
    await eventually(lambda: rows(room, "consent"), bool)


async def test_a_push_under_way_notes_nothing_of_an_erased_person(room: Room, receiver: Receiver, app: str) -> None:
    receiver.hold = asyncio.Event()
    await room.request(request("d1", PERSON, "app"))
    await eventually(lambda: asyncio.sleep(0, len(receiver.calls)), bool)
    await erase(room)
    await room.in_state("d1", SUPPRESSED)
    receiver.hold.set()
    await asyncio.sleep(0.6)
    assert "erased" == (await room.in_state("d1", SUPPRESSED)).reason
    assert [] == await traces(room.database, PERSON, "d1")
    assert 1 == len(receiver.calls)


async def test_an_erasure_waits_for_requests_under_way(databases: DatabaseFactory) -> None:
    async with databases.database("touchpoints") as database:
        erasure = EntitiesChanged(erasures=[Erasure(erasure_id=1, person_id=PERSON, anchor_ids=[101])]).SerializeToString()

        async def erasing() -> None:
            async with database.transaction() as uow:
                await follow_entities(uow, [erasure], NOTICES)

        async with database.transaction() as uow:
            await take_over(uow, [DeliveriesRequested(requests=[request("d1", PERSON, "app")]).SerializeToString()], "c")
            task = asyncio.create_task(erasing())
            await asyncio.sleep(0.2)
            assert not task.done()
        await task
        assert [] == await traces(database, PERSON, "d1")


async def test_relations_decide_nothing_here(databases: DatabaseFactory) -> None:
    ended: Any = {"kind": "owns", "subject_id": 1, "object_id": 2, "valid_from_us": 1, "valid_to_us": 2, "confidence": 1}
    ended |= {"subject_kind": ENTITY_KIND_PERSON, "object_kind": ENTITY_KIND_VEHICLE}
    async with databases.database("touchpoints") as database, database.transaction() as uow:
        await follow_entities(uow, [EntitiesChanged(relation_changes=[RelationChange(**ended)]).SerializeToString()], NOTICES)
        assert [] == await uow.rows("SELECT 1 FROM consent UNION ALL SELECT 1 FROM anchor_owner")
