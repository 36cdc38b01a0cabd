"""Short messages through a gateway that judges them, and replies that end them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import orjson
import pytest
from troika.identity.v1.events_pb2 import ConsentChange, EntitiesChanged
from troika.touchpoints.v1 import delivery_service_pb2
from troika.touchpoints.v1.delivery_service_pb2_grpc import DeliveryServiceStub

from chassis import rpc
from chassis.outbox import Outgoing
from services.touchpoints import webhooks
from services.touchpoints.domain.deliveries import Channel, State
from tests.emulators.providers import SmsGateway, serving, wrong
from tests.integration.touchpoints.room import TOKEN, Room, eventually, request

SMS = int(Channel.SMS)


@pytest.fixture
async def gateway() -> AsyncIterator[SmsGateway]:
    async with serving(SmsGateway()) as gateway:
        assert isinstance(gateway, SmsGateway)
        yield gateway


async def account(room: Room, gateway: SmsGateway, scope: str = "all", **settings: str) -> str:
    stated = {"signature": gateway.signature} | settings
    return await room.endpoint(
        f"sms-{scope}", SMS, gateway.url + "/v1/messages", scope, settings=stated, secrets={"api_key": gateway.key}
    )


def open_window() -> dict[str, str]:
    """A zone on whose clock it is day now."""
    ahead = (12 - datetime.now(UTC).hour) % 24
    ahead = ahead if ahead <= 14 else ahead - 24
    # Etc/GMT-8 is eight hours ahead.
    return {"time_zone": f"Etc/GMT{-ahead:+d}" if ahead else "Etc/GMT"}


def closed_window() -> dict[str, str]:
    now = datetime.now(UTC) + timedelta(hours=3)
    return {"time_zone": "UTC", "window": f"{now:%H}:00-{now:%H}:59"}


@asynccontextmanager
async def delivery_service(room: Room) -> AsyncIterator[Any]:
    channel = rpc.connect(f"127.0.0.1:{room.settings.grpc_port}", "operator", TOKEN)
    yield DeliveryServiceStub(channel)
    await channel.close()


async def test_messages_are_signed_counted_and_sent_once(room: Room, gateway: SmsGateway) -> None:
    for person in range(1, 8):
        room.identity.book[person, "mobile", ""] = (100 + person, f"+861380013800{person}")
    await account(room, gateway, "service")
    gateway.fails = lambda n: [None, (429, b"", {"Retry-After": "1"}), None][min(n, 3) - 1]
    gateway.loses = lambda n: n == 1
    await room.request(request("s1", 1, "sms", body="您的车已保养完成"))
    assert 3 == (await room.in_state("s1", State.ACCEPTED)).attempts
    assert 1 == gateway.repeats
    gateway.fails = lambda n: None
    await room.request(
        request("foreign", 2, "sms", body="【别家】您好"),
        request("long", 3, "sms", body="长" * 400),
        request("empty", 4, "sms", body=" "),
        request("advert", 5, "sms", purpose="marketing"),
    )
    assert "signature_not_registered" == (await room.in_state("foreign", State.FAILED)).reason
    assert "text_too_long" == (await room.in_state("long", State.FAILED)).reason
    assert "no_text" == (await room.in_state("empty", State.SUPPRESSED)).reason
    assert "no_endpoint" == (await room.in_state("advert", State.FAILED)).reason
    gateway.fails = lambda n: (422, orjson.dumps({"code": "carrier_blacklist"}), {})
    await room.request(request("black", 6, "sms"))
    assert "carrier_blacklist" == (await room.in_state("black", State.FAILED)).reason
    assert ({}, ["s1"]) == (wrong(gateway), list(gateway.taken))

    # What is left of what was paid for shows in the channel's health; without any the account rests.
    async with delivery_service(room) as service:

        async def health() -> tuple[int, str]:
            (sms,) = (await service.GetChannelHealth(delivery_service_pb2.GetChannelHealthRequest())).channels
            return sms.credits, sms.reason

        gateway.fails = lambda n: None
        await eventually(health, lambda found: found == (999, ""))
        gateway.balance = 0
        await room.request(request("unpaid", 7, "sms"))
        await eventually(health, lambda found: found == (0, "http_402"))


async def test_advertising_waits_for_the_hours_of_its_account_and_service_does_not(room: Room, gateway: SmsGateway) -> None:
    room.identity.book[1, "mobile", ""] = (101, "+8613800138001")
    allowed = ConsentChange(anchor_id=101, person_id=1, channel="sms", purpose="marketing", stated_at_us=1)
    payload = EntitiesChanged(consent_changes=[allowed]).SerializeToString()
    await room.bus.publish_all([Outgoing.now("troika.entities.changed.v1", payload)])

    async def consents() -> int:
        async with room.database.read() as uow:
            return len(await uow.rows("SELECT 1 FROM consent"))

    await eventually(consents, lambda n: n == 1)
    await account(room, gateway, **closed_window())
    await room.request(
        request("ad", 1, "sms", purpose="marketing", body="新车到店，"), request("note", 1, "sms", body="已完成")
    )
    await room.in_state("note", State.ACCEPTED)
    waiting = await room.delivery("ad")
    assert waiting and (State.QUEUED, 0) == (waiting.state, waiting.attempts)
    # The account gets other hours, and the waiting is over.
    await account(room, gateway, window="09:00-21:00", **open_window())
    async with room.database.transaction() as uow:
        await uow.execute("UPDATE delivery SET due_at = now() + interval '2 seconds' WHERE delivery_id = 'ad'")
    await room.in_state("ad", State.ACCEPTED)
    assert "【星河汽车】新车到店，拒收请回复R" == gateway.taken["ad"]["text"]
    assert {} == wrong(gateway)


async def test_a_gateways_account_says_what_is_wrong_with_it(room: Room, gateway: SmsGateway) -> None:
    for changed, field in (
        ({"window": "21:00-09:00"}, "endpoint.settings.window"),
        ({"time_zone": "Mars/Base"}, "endpoint.settings.time_zone"),
        ({"signature": "【星河】"}, "endpoint.settings.signature"),
        ({"provider": "pigeon"}, "endpoint.settings.provider"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await account(room, gateway, **changed)
        assert field in repr(refused.value.trailing_metadata()), changed


async def test_who_replies_r_gets_nothing_more_from_that_moment_on(room: Room, gateway: SmsGateway) -> None:
    room.identity.book[1, "mobile", ""] = (101, "+8613800138001")
    room.identity.resolved["mobile", "+8613800138001"] = 1
    secret = await account(room, gateway)
    await room.request(request("s1", 1, "sms"))
    await room.in_state("s1", State.ACCEPTED)

    async def reply(*replies: dict[str, Any], status: int = 200) -> dict[str, Any]:
        body = orjson.dumps({"replies": replies})
        headers = webhooks.signed_headers(secret, "msg_1", body)
        answer = await room.http.post("/sms/sms-all/replies", content=body, headers=headers)
        assert status == answer.status_code
        return dict(answer.json())

    now = datetime.now(UTC).isoformat()
    one = {"reply_id": "1", "mobile": "+8613800138001", "text": "好的", "received_at": now}
    assert {"accepted": 1, "opted_out": 0, "rejected": []} == await reply(one)
    # While nobody says whose number it is, it cannot hold at once: it is kept, and the gateway is to say it again.
    room.identity.resolves_nothing = True
    assert "opt_out_pending" == (await reply(one | {"reply_id": "2", "text": "ｒ "}, status=503))["code"]
    room.identity.resolves_nothing = False
    [(_, kept)] = await eventually(room.observed, bool)
    answer = await reply(one | {"reply_id": "2", "text": "ｒ "}, {"reply_id": "3"})
    assert (1, 1, "replies[1].mobile") == (answer["accepted"], answer["opted_out"], answer["rejected"][0]["field"])
    # The door has answered: whatever goes out now comes too late.
    await room.request(request("s2", 1, "sms"))
    assert "opted_out" == (await room.in_state("s2", State.SUPPRESSED)).reason
    batch, event = (await eventually(room.observed, lambda found: len(found) > 1))[-1]
    assert kept.event_id == event.event_id
    assert ("Unsubscribed", "sms:all", {"channel": "sms"}) == (event.name, event.source, orjson.loads(event.properties_json))
    assert [("mobile", "+8613800138001")] == [(i.kind, i.value) for i in room.identity.open(batch, event).identifiers]
    unsigned = await room.http.post("/sms/sms-all/replies", content=b"{}")
    assert 401 == unsigned.status_code
