"""Notifications: devices that register and go, JPush that makes each call once."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import grpc
import orjson
import pytest
from troika.identity.v1.events_pb2 import EntitiesChanged, Erasure
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceStub

from chassis import rpc
from chassis.outbox import Outgoing
from services.touchpoints.channels.push import linking
from services.touchpoints.channels.push.linking import Linker
from services.touchpoints.channels.push.tokens import Tokens
from services.touchpoints.domain.deliveries import Channel, State
from services.touchpoints.vault import Vault
from tests.emulators.providers import FcmServer, JPushServer, serving, wrong
from tests.integration.touchpoints.room import Room, basic, eventually, request


@pytest.fixture
async def jpush() -> AsyncIterator[JPushServer]:
    async with serving(JPushServer()) as server:
        assert isinstance(server, JPushServer)
        yield server


async def opened(room: Room, jpush: JPushServer) -> dict[str, str]:
    """The write key of the app; persons 1 to 5 are its users u1 to u5."""
    for person in range(1, 6):
        room.identity.book[person, "crm_id", "app"] = (100 + person, f"u{person}")
    await room.endpoint(
        "phones",
        int(Channel.PUSH),
        jpush.url,
        "main",
        settings={"jpush_app_key": jpush.app_key, "huawei_service": "DEVICE_REMINDER"},
        secrets={"jpush_master_secret": jpush.secret},
    )
    return basic(await room.source("app", server_side=True))


async def register(room: Room, key: dict[str, str], user: str, token: str, method: str = "POST", **more: Any) -> int:
    body = {"userId": user, "provider": "jpush", "app": "main", "token": token} | more
    return (await room.http.request(method, "/v1/push-tokens", json=body, headers=key)).status_code


async def tokens(room: Room) -> dict[tuple[int, str], int]:
    """(anchor, why invalid) → how many."""
    async with room.database.read() as uow:
        rows = await uow.rows("SELECT anchor_id, invalid_reason, count(*) AS n FROM device_token GROUP BY 1, 2")
    return {(row.anchor_id, row.invalid_reason): row.n for row in rows}


async def test_all_devices_of_a_person_show_it_once_and_dead_ones_are_known(room: Room, jpush: JPushServer) -> None:
    key = await opened(room, jpush)
    for user, token in (("u1", "phone"), ("u1", "tablet"), ("u2", "old"), ("u3", "shared")):
        assert 204 == await register(room, key, user, token)
    # Whoever signs in on a device has it; who signs out has it no longer.
    assert [204, 204] == [await register(room, key, "u4", "shared"), await register(room, key, "u4", "gone")]
    assert 204 == await register(room, key, "u4", "gone", "DELETE")
    jpush.gone.add("old")
    await room.request(
        request("p1", 1, "push"),
        request("p2", 2, "push"),
        request("p3", 3, "push"),
        request("p4", 4, "push", purpose="marketing"),
        request("p5", 5, "push", fallback_channels=["dealer"]),
    )
    for name, state in (("p1", State.ACCEPTED), ("p4", State.ACCEPTED)):
        await room.in_state(name, state)
    ends = {"p2": State.FAILED, "p3": State.SUPPRESSED, "p5": State.FAILED}
    reasons = [(await room.in_state(name, state)).reason for name, state in ends.items()]
    assert ["no_such_device", "no_device", "no_dealer"] == reasons
    assert {"phone": 1, "tablet": 1, "shared": 1} == jpush.shown
    bodies = {b["notification"]["android"]["extras"]["touchpoint_id"]: b for b in jpush.taken.values()}
    assert (1, 0) == (bodies["p1"]["options"]["classification"], bodies["p4"]["options"]["classification"])
    assert {"huawei": {"category": "DEVICE_REMINDER"}} == bodies["p1"]["options"]["third_party_channel"]
    assert "third_party_channel" not in bodies["p4"]["options"]
    assert {} == wrong(jpush)
    assert {(101, ""): 2, (102, "jpush_1011"): 1, (104, ""): 1, (104, "signed_out"): 1} == await tokens(room)
    # The token is nowhere to be read.
    async with room.database.read() as uow:
        assert not any(b"tablet" in bytes(r.sealed) for r in await uow.rows("SELECT sealed FROM device_token"))
    erased = EntitiesChanged(erasures=[Erasure(erasure_id=1, person_id=1, anchor_ids=[101])]).SerializeToString()
    await room.bus.publish_all([Outgoing.now("troika.entities.changed.v1", erased)])
    await eventually(lambda: tokens(room), lambda kept: (101, "") not in kept)


async def test_devices_of_people_nobody_wrote_to_go_with_them_at_once(
    room: Room, jpush: JPushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, vault = await opened(room, jpush), Vault(bytes.fromhex(room.settings.secrets_key.get_secret_value()))
    for user in ("u1", "u2", "stranger"):
        assert 204 == await register(room, key, user, f"device of {user}".replace(" ", "-"))
    room.identity.resolved |= {("crm_id", "u1"): 1, ("crm_id", "u2"): 2}
    erased = EntitiesChanged(erasures=[Erasure(erasure_id=1, person_id=1, anchor_ids=[101])]).SerializeToString()
    monkeypatch.setattr(linking, "AT_ONCE", 2)
    async with rpc.connect(room.identity.target, "touchpoints", "x" * 20) as peer:
        linker = Linker(room.database, Tokens(vault), IdentityServiceStub(peer))
        # Two at once, then who is left, whom identity does not know.
        assert [True, False] == [await linker.link(), await linker.link()]
        assert {(101, ""): 1, (102, ""): 1, (0, ""): 1} == await tokens(room)
        await room.bus.publish_all([Outgoing.now("troika.entities.changed.v1", erased)])
        await eventually(lambda: tokens(room), lambda kept: kept == {(102, ""): 1, (0, ""): 1})
        # Identity answered before the erasure, what it said is noted after it.
        assert 204 == await register(room, key, "u1", "another-device")
        await linker.link()
    assert {(102, ""): 1, (0, ""): 1} == await tokens(room)


async def test_a_call_whose_answer_is_lost_is_made_again_under_its_number(room: Room, jpush: JPushServer) -> None:
    key = await opened(room, jpush)
    await register(room, key, "u1", "phone")
    # It has shown it, and a gateway in between says something else.
    jpush.loses = lambda n: n == 1
    await room.request(request("p1", 1, "push"))
    await room.in_state("p1", State.ACCEPTED)
    assert (2, 1, 1, {}) == (jpush.calls, jpush.shown["phone"], jpush.repeats, wrong(jpush))


async def test_what_is_wrong_with_a_registration_is_named(room: Room, jpush: JPushServer) -> None:
    key = await opened(room, jpush)
    good = {"userId": "u1", "provider": "jpush", "app": "main", "token": "t"}
    for changed, field in (
        ({"userId": ""}, "userId"),
        ({"provider": "pigeon"}, "provider"),
        ({"app": None}, "app"),
        ({"environment": "moon"}, "environment"),
        ({"token": "t" * 5000}, "token"),
        ({"token": "令牌"}, "token"),
        ({"timestamp": "yesterday"}, "timestamp"),
    ):
        answer = await room.http.post("/v1/push-tokens", json=good | changed, headers=key)
        assert (400, field) == (answer.status_code, answer.json()["field"]), changed
    assert 401 == (await room.http.post("/v1/push-tokens", json=good)).status_code
    # What is in an app anybody can read: it may say nothing of anybody's devices. The server's key stays beside it.
    publishable = basic(await room.source("app"))
    for method in ("POST", "DELETE"):
        answer = await room.http.request(method, "/v1/push-tokens", json=good, headers=publishable)
        assert (403, "server_key_required") == (answer.status_code, answer.json()["code"])
        assert "--server-side" in answer.json()["message"]
    assert 400 == (await room.http.post("/v1/push-tokens", json={}, headers=key)).status_code
    stranger = "Basic " + base64.b64encode(b"stranger:").decode()
    answer = await room.http.post("/v1/push-tokens", content=orjson.dumps(good), headers={"Authorization": stranger})
    assert 401 == answer.status_code
    assert {} == await tokens(room)


async def test_fcm_reaches_each_device_and_a_repeat_takes_the_place_of_the_first(room: Room) -> None:
    async with serving(FcmServer()) as fcm:
        assert isinstance(fcm, FcmServer)
        for person in (1, 2):
            room.identity.book[person, "crm_id", "app"] = (100 + person, f"u{person}")
        settings = {"fcm_project": fcm.project, "fcm_url": fcm.url}
        secrets = {"fcm_service_account": fcm.account()}
        with pytest.raises(grpc.aio.AioRpcError):
            await room.endpoint(
                "phones", int(Channel.PUSH), "", "main", settings=settings, secrets={"fcm_service_account": "{}"}
            )
        await room.endpoint("phones", int(Channel.PUSH), "", "main", settings=settings, secrets=secrets)
        key = basic(await room.source("app", server_side=True))
        for user, token in (("u1", "phone"), ("u1", "tablet"), ("u1", "old"), ("u2", "strange")):
            await register(room, key, user, token, provider="fcm")
        fcm.gone = {"old": "UNREGISTERED", "strange": "SENDER_ID_MISMATCH"}
        await room.request(request("f1", 1, "push"), request("f2", 2, "push"))
        await room.in_state("f1", State.ACCEPTED)
        assert "no_such_device" == (await room.in_state("f2", State.FAILED)).reason
        wanted = {(101, ""): 2, (101, "fcm_unregistered"): 1, (102, "fcm_sender_id_mismatch"): 1}
        assert wanted == await tokens(room)
        assert {("phone", "f1"): 1, ("tablet", "f1"): 1} == fcm.shown
        # All answers are lost once: the devices show one notification all the same, under one tag.
        lost = fcm.calls + 2
        fcm.loses = lambda n: n <= lost
        await room.request(request("f3", 1, "push"))
        await room.in_state("f3", State.ACCEPTED)
        assert {"f1", "f3"} == {tag for _, tag in fcm.shown}
        assert (1, {}) == (len(fcm.sold), wrong(fcm))
