"""The sender against receivers that fail, against time, consent and its own death."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON, AnchorMove, AnchorOwner, ConsentChange, EntitiesChanged

from chassis.bus import Bus
from chassis.outbox import Outgoing
from chassis.testing import DatabaseFactory, drop_database
from services.touchpoints import webhooks
from tests.conftest import Servers
from tests.integration.touchpoints.identity import Identity
from tests.integration.touchpoints.receivers import APP, APPID, DEALER, WECHAT
from tests.integration.touchpoints.receiving import Receiver, receiving
from tests.integration.touchpoints.room import NEIGHBOURS, Room, eventually, request, running, settings_for

QUEUED, SENDING, ACCEPTED, DELIVERED, OPENED, CLICKED, ANSWERED, GOAL, FAILED, SUPPRESSED, EXPIRED = range(1, 12)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def app(room: Room, receiver: Receiver) -> str:
    """The secret of the app's endpoint; persons 1 to 9 are its users."""
    for person in range(1, 10):
        room.identity.book[person, "crm_id", "app"] = (100 + person, f"u{person}")
    return await room.endpoint("app", APP, receiver.url)


async def state_entities(room: Room, **fields: object) -> None:
    payload = EntitiesChanged(**fields).SerializeToString()  # type: ignore[arg-type]
    await room.bus.publish_all([Outgoing.now("troika.entities.changed.v1", payload)])


async def opted_out(room: Room, anchor: int, person: int, channel: str, at_us: int = 1, out: bool = True) -> None:
    change = ConsentChange(anchor_id=anchor, person_id=person, channel=channel, opted_out=out, stated_at_us=at_us)
    await state_entities(room, consent_changes=[change])


async def rows(room: Room, table: str) -> int:
    async with room.database.read() as uow:
        return int((await uow.rows(f"SELECT count(*) AS n FROM {table}"))[0].n)


async def test_a_push_is_signed_and_says_who_it_is_for(room: Room, receiver: Receiver, app: str) -> None:
    await room.request(request("d1", 1, "app"))
    await room.in_state("d1", ACCEPTED)
    [(headers, body)] = receiver.calls
    assert ("msg_d1", "message.push") == (headers["webhook-id"], body["type"])
    data = body["data"]
    for page in ("unsubscribe", "preferences"):
        assert data.pop(f"{page}_url").startswith(f"{room.url}/{page}/")
    assert {
        "delivery_id": "d1",
        "app_user_id": "u1",
        "theme": "themes/12",
        "offer": "Test drive",
        "title": "试驾邀请",
        "body": "新款 X5 到店，欢迎试驾",
        "purpose": "service",
    } == data
    [update] = await eventually(room.updates, bool)
    assert ("d1", ACCEPTED, "") == (update.delivery_id, update.state, update.reason)


async def test_a_failing_receiver_gets_the_same_id_again_until_it_takes_it(room: Room, receiver: Receiver, app: str) -> None:
    receiver.answer = lambda n, _: [(500, {}), (429, {"Retry-After": "1"}), (200, {})][n - 1]
    await room.request(request("d1", 1, "app"))
    delivery = await room.in_state("d1", ACCEPTED)
    assert 3 == delivery.attempts
    assert ["msg_d1"] * 3 == receiver.ids()


async def test_a_receiver_that_refuses_has_the_push_parked_and_one_that_is_gone_ends_the_endpoint(
    room: Room, receiver: Receiver, app: str
) -> None:
    receiver.answer = lambda n, body: (410 if body["data"]["delivery_id"] == "gone" else 422, {})
    await room.request(request("d1", 1, "app"))
    # Somebody may mend it: what was refused and what comes now waits for that, and is neither sent nor lost.
    assert SENDING == (await room.parked("d1", "refused")).state
    await room.request(request("gone", 2, "app"))
    assert SENDING == (await room.parked("gone", "refused")).state
    await room.request(request("d2", 3, "app"))
    parked = await room.parked("d2", "endpoint_disabled")
    assert (QUEUED, 0) == (parked.state, parked.attempts)
    assert 2 == len(receiver.calls)
    assert [] == await room.updates()


async def test_what_cannot_be_sent_says_why(room: Room, receiver: Receiver, app: str) -> None:
    past = time.time_ns() // 1000 - 1
    room.identity.book[3, "openid", APPID] = (103, "o3")
    await room.endpoint(
        "wechat", WECHAT, receiver.url, APPID, settings={"template_id": "T"}, secrets={"app_secret": "s", "callback_token": "c"}
    )
    await room.request(
        request("late", 1, "app", expires_at_us=past),
        request("stranger", 77, "app"),
        request("nowhere", 77, "app", fallback_channels=["dealer"]),
        request("advert", 3, "wechat", purpose="marketing"),
    )
    reasons = [
        (await room.in_state("late", EXPIRED)).reason,
        (await room.in_state("stranger", FAILED)).reason,
        (await room.in_state("nowhere", FAILED)).reason,
        (await room.in_state("advert", SUPPRESSED)).reason,
    ]
    assert ["expired", "no_address", "no_dealer", "purpose_not_allowed"] == reasons
    assert [] == receiver.calls


async def test_bad_requests_go_to_the_dead_letters_alone(room: Room, receiver: Receiver, app: str) -> None:
    await room.request(
        request("d1", 1, "app"),
        request("d2", 1, "pigeon"),
        request("d3", 0, "app"),
        request("", 1, "app"),
        request("d4", 1, "app", purpose=""),
        request("d5", 1, "app", title="a\0b"),
        request("d6", 1, "app", expires_at_us=2**62),
    )
    await room.in_state("d1", ACCEPTED)
    assert 6 == len(await eventually(lambda: room.messages("DEADLETTERS"), lambda m: len(m) == 6))


async def test_a_push_waits_for_its_time(room: Room, receiver: Receiver, app: str) -> None:
    due = time.time_ns() // 1000 + 1_000_000
    await room.request(request("d1", 1, "app", not_before_us=due))
    await room.in_state("d1", ACCEPTED)
    assert time.time_ns() // 1000 >= due


async def test_an_opt_out_stops_a_push_that_waits_through_any_anchor_and_after_any_merge(
    room: Room, receiver: Receiver, app: str
) -> None:
    soon = time.time_ns() // 1000 + 1_500_000
    await opted_out(room, 101, 1, "app")
    await opted_out(room, 900, 2, "all")
    await opted_out(room, 901, 8888, "app")
    move = AnchorMove(entity_kind=ENTITY_KIND_PERSON, owner=AnchorOwner(anchor_id=901, entity_id=3, version=7))
    old = AnchorMove(entity_kind=ENTITY_KIND_PERSON, owner=AnchorOwner(anchor_id=901, entity_id=9, version=6))
    await state_entities(room, anchor_moves=[move])
    await state_entities(room, anchor_moves=[old])
    await opted_out(room, 104, 4, "wechat")
    await opted_out(room, 105, 5, "app", at_us=5)
    await opted_out(room, 105, 5, "app", at_us=4, out=False)
    await opted_out(room, 106, 6, "app", at_us=5, out=False)
    await opted_out(room, 106, 6, "app", at_us=4)
    await room.request(*(request(f"d{person}", person, "app", not_before_us=soon) for person in (1, 2, 3, 4, 5, 6, 9)))
    await eventually(lambda: rows(room, "anchor_owner"), lambda n: n == 1)
    for person in (1, 2, 3, 5):
        assert "opted_out" == (await room.in_state(f"d{person}", SUPPRESSED)).reason
    for person in (4, 6, 9):
        await room.in_state(f"d{person}", ACCEPTED)
    assert {"msg_d4", "msg_d6", "msg_d9"} == set(receiver.ids())


async def test_an_opt_out_between_two_attempts_stops_the_second(room: Room, receiver: Receiver, app: str) -> None:
    receiver.answer = lambda n, _: (503, {"Retry-After": "2"})
    await room.request(request("d1", 1, "app"))
    await eventually(lambda: asyncio.sleep(0, len(receiver.calls)), lambda n: n == 1)
    body = feedback("message.unsubscribed", "d1")
    await eventually(lambda: room.delivery("d1"), lambda d: d is not None and d.state == 2)
    answer = await room.http.post("/webhooks/app", content=body, headers=webhooks.signed_headers(app, "fb1", body))
    assert {"accepted": 1, "rejected": []} == answer.json()
    assert "opted_out" == (await room.in_state("d1", SUPPRESSED)).reason
    assert 1 == len(receiver.calls)
    [(_, event)] = await eventually(room.observed, bool)
    assert ("Unsubscribed", 101, "app") == (event.name, event.anchor_id, json.loads(event.properties_json)["channel"])


async def test_a_sender_that_dies_between_call_and_note_sends_the_same_id_again(
    servers: Servers, databases: DatabaseFactory, bus: Bus, identity: Identity, receiver: Receiver
) -> None:
    dsn, name = await databases.address("touchpoints")
    await bus.declare(*NEIGHBOURS)
    identity.book[1, "crm_id", "app"] = (101, "u1")
    receiver.hold = asyncio.Event()
    settings = settings_for(dsn, servers.nats_url, identity, send_lease_s=1.5, send_timeout_s=1)
    async with running(settings, identity, bus, servers.nats_url) as room:
        await room.endpoint("app", APP, receiver.url)
        await room.request(request("d1", 1, "app"))
        await eventually(lambda: asyncio.sleep(0, len(receiver.calls)), lambda n: n == 1)
    receiver.hold.set()
    async with running(settings, identity, bus, servers.nats_url) as room:
        delivery = await room.in_state("d1", ACCEPTED)
    assert 2 == delivery.attempts
    assert ["msg_d1", "msg_d1"] == receiver.ids()
    await drop_database(servers.postgres_dsn, name)


async def test_what_a_provider_would_no_longer_recognise_is_not_sent_again(room: Room, receiver: Receiver, app: str) -> None:
    room.identity.book[1, "openid", APPID] = (101, "o1")
    await room.endpoint(
        "wechat", WECHAT, receiver.url, APPID, settings={"template_id": "T"}, secrets={"app_secret": "s", "callback_token": "c"}
    )
    await room.request(request("d1", 1, "wechat", not_before_us=time.time_ns() // 1000 + 600_000))
    await eventually(lambda: room.delivery("d1"), bool)
    async with room.database.transaction() as uow:
        await uow.execute("UPDATE delivery SET state = 2, attempts = 1, unsure_since = now() - interval '10 minutes'")
    assert "outcome_unknown" == (await room.in_state("d1", FAILED)).reason
    assert [] == receiver.calls


def feedback(kind: str, delivery: str, **data: str) -> bytes:
    return webhooks.envelope(kind, {"delivery_id": delivery, **data}, datetime.now(UTC))


async def test_feedback_in_any_order_and_number_counts_once(room: Room, receiver: Receiver, app: str) -> None:
    await room.request(request("d1", 1, "app"))
    await room.in_state("d1", ACCEPTED)
    reports = [feedback("message.answered", "d1", answer="yes"), feedback("message.delivered", "d1")]
    reports += [feedback("message.opened", "d1")]
    for index, body in enumerate([*reports, *reversed(reports)]):
        answer = await room.http.post("/webhooks/app", content=body, headers=webhooks.signed_headers(app, f"fb{index}", body))
        assert (200, {"accepted": 1, "rejected": []}) == (answer.status_code, answer.json())
    assert ANSWERED == (await room.in_state("d1", ANSWERED)).state
    events = await eventually(room.observed, lambda e: len(e) >= 3)
    assert ["Offer Answered", "Push Delivered", "Push Opened"] == sorted(e.name for _, e in events)
    assert 3 == await rows(room, "feedback")
    assert [ACCEPTED, ANSWERED] == [u.state for u in await room.updates()]
    assert ["", "yes"] == [u.answer for u in await room.updates()]


async def test_a_receiver_may_not_speak_about_others_pushes_nor_unsigned(room: Room, receiver: Receiver, app: str) -> None:
    other = await room.endpoint("dealer-d001", DEALER, receiver.url, "D001")
    await room.request(request("d1", 1, "app"))
    await room.in_state("d1", ACCEPTED)
    good = json.loads(feedback("message.opened", "d1"))
    body = json.dumps({"events": [good, {"type": "x"}, good | {"data": {"lead_id": "nope"}}]}).encode()
    answer = await room.http.post("/webhooks/dealer-D001", content=body, headers=webhooks.signed_headers(other, "f1", body))
    assert 0 == answer.json()["accepted"]
    assert ["events[0].data.delivery_id", "events[1].type", "events[2].data.delivery_id"] == sorted(
        r["field"] for r in answer.json()["rejected"]
    )
    for name, secret in (("app", other), ("nobody", app)):
        refused = await room.http.post(f"/webhooks/{name}", content=body, headers=webhooks.signed_headers(secret, "f2", body))
        assert (401, "unauthorized") == (refused.status_code, refused.json()["code"])
    assert 0 == await rows(room, "feedback")


async def test_a_lead_carries_no_number_and_the_dealer_fetches_it(room: Room, receiver: Receiver) -> None:
    await room.endpoint("dealer-d001", DEALER, receiver.url, "D001")
    room.identity.book[1, "mobile", ""] = (101, "+8613800138000")
    room.identity.names[1] = "张伟"
    await room.request(request("d1", 1, "dealer"))
    await room.in_state("d1", ACCEPTED)
    [(_, lead)] = receiver.calls
    assert "lead.assigned" == lead["type"]
    assert "13800138000" not in json.dumps(lead)
    assert ("D001", 17, {"value": 873, "band": "A"}) == tuple(lead["data"][k] for k in ("dealer_code", "rank", "score"))
    url = lead["data"]["customer"]["contact_url"]
    answer = await room.http.get(url)
    assert (200, {"mobile": "+8613800138000", "name": "张伟"}) == (answer.status_code, answer.json())
    assert ["push", "dealer_contact"] == [r.purpose for r in room.identity.reveals]

    async def status(url: str) -> int:
        return (await room.http.get(url)).status_code

    assert 404 == await status(url[:-2] + ("AA" if url[-2:] != "AA" else "BB"))
    await opted_out(room, 101, 1, "dealer")
    await eventually(lambda: status(url), lambda s: s == 410)


async def test_what_became_of_a_lead_is_the_persons_history_and_moves_no_push(room: Room, receiver: Receiver) -> None:
    secret = await room.endpoint("dealer-d001", DEALER, receiver.url, "D001")
    room.identity.book[1, "mobile", ""] = (101, "+8613800138000")
    await room.request(request("d1", 1, "dealer"))
    await room.in_state("d1", ACCEPTED)
    reports = [feedback("lead.visited", "d1"), feedback("lead.test_driven", "d1")]
    reports += [feedback("lead.lost", "d1", reason_code="price"), feedback("lead.ordered", "d1")]
    for index, body in enumerate([*reports, *reports]):
        signed = webhooks.signed_headers(secret, f"fb{index}", body)
        answer = await room.http.post("/webhooks/dealer-D001", content=body, headers=signed)
        assert (200, {"accepted": 1, "rejected": []}) == (answer.status_code, answer.json())
    events = await eventually(room.observed, lambda e: len(e) >= 4)
    told = {e.name: json.loads(e.properties_json).get("reason", "") for _, e in events}
    assert {"Showroom Visit": "", "Test Drive Completed": "", "Lead Lost": "price", "Order Placed": ""} == told
    assert {"dealer:D001"} == {e.source for _, e in events}
    assert ACCEPTED == (await room.delivery("d1")).state
