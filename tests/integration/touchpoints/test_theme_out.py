"""A theme's launch through the real arbiter and the real engine: by short message, notification and call list."""

from __future__ import annotations

from collections import Counter

from troika.orchestrator.v1.events_pb2 import DeliveriesRequested

from chassis.outbox import Outgoing
from chassis.testing import DatabaseFactory
from services.orchestrator.offers.definitions import Variant
from services.orchestrator.themes.definitions import Band
from services.touchpoints.domain.deliveries import Channel, State
from tests.emulators.providers import JPushServer, SmsGateway, serving, wrong
from tests.integration.orchestrator.court import court
from tests.integration.orchestrator.world import People
from tests.integration.touchpoints.room import Room, basic, eventually

PERSONS = 30


async def test_a_theme_reaches_people_by_message_notification_and_call(room: Room, databases: DatabaseFactory) -> None:
    async with serving(SmsGateway()) as gateway, serving(JPushServer()) as jpush:
        assert isinstance(gateway, SmsGateway)
        assert isinstance(jpush, JPushServer)
        app, calls = [basic(await room.source(name, server_side=True)) for name in ("app", "call_center")]
        await room.endpoint(
            "texts", int(Channel.SMS), gateway.url + "/v1/messages", "service",
            settings={"signature": gateway.signature}, secrets={"api_key": gateway.key},
        )  # fmt: skip
        await room.endpoint(
            "phones", int(Channel.PUSH), jpush.url, "main",
            settings={"jpush_app_key": jpush.app_key}, secrets={"jpush_master_secret": jpush.secret},
        )  # fmt: skip
        await room.endpoint("calls", int(Channel.CALL_LIST), "", "north", settings={"source": "call_center"})
        async with court(databases, People(PERSONS, ways=True), call_center_calls_per_day=4) as arbiter:
            for person in range(2, PERSONS + 1, 2):
                room.identity.book[person, "mobile", ""] = (100 + person, f"+86138001380{person:02}")
            for person in range(3, PERSONS + 1, 3):
                room.identity.book[person, "crm_id", "app"] = (100 + person, f"u{person}")
                body = {"userId": f"u{person}", "provider": "jpush", "app": "main", "token": f"t{person}"}
                for _ in range(2):
                    assert 204 == (await room.http.post("/v1/push-tokens", json=body, headers=app)).status_code
            # Tags hear of each device once.
            told = await eventually(room.observed, lambda found: len(found) >= PERSONS // 3)
            assert [("Push Devices Changed", b'{"devices":1}')] * (PERSONS // 3) == [
                (e.name, e.properties_json) for _, e in told
            ]
            names = ("push", "call_list", "sms")
            variants = tuple(Variant(name, "en", "Check-up", f"{name}: come by") for name in names)
            offer = await arbiter.offer(variants=variants)
            # By score: who is likely is called, as far as the call centre gets; others get a notification, or a message.
            bands = (Band(0.0, ("push", "sms")), Band(300.0, ("call_list", "push")))
            await arbiter.launch(offers=(offer,), bands=bands)
            pushes = await arbiter.pushes()
            decided = {push.delivery_id: push.channel for push in pushes}
            assert {"push", "sms", "call_list"} == set(decided.values())
            await room.bus.publish_all(
                [Outgoing.now("troika.deliveries.requested.v1", DeliveriesRequested(requests=pushes).SerializeToString())]
            )
            for name in decided:
                await room.in_state(name, State.ACCEPTED)
        counted = Counter(decided.values())
        assert (counted["sms"], counted["push"]) == (len(gateway.taken), sum(jpush.shown.values()))
        assert ({}, {}) == (wrong(gateway), wrong(jpush))
        assert {f"【{gateway.signature}】sms: come by"} == {each["text"] for each in gateway.taken.values()}

        async def listed() -> list[str]:
            entries = (await room.http.get("/v1/call-lists/calls", headers=calls)).json()["entries"]
            return [entry["delivery_id"] for entry in entries]

        called = [push.delivery_id for push in sorted(pushes, key=lambda p: p.rank) if push.channel == "call_list"]
        assert called == await eventually(listed, lambda found: len(found) == len(called))
