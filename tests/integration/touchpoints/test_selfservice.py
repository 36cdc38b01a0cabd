"""Owners look after their own endpoint, with a key that opens nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
import httpx
import pytest
from standardwebhooks import Webhook
from troika.touchpoints.v1 import endpoints_service_pb2 as pb
from troika.touchpoints.v1.endpoints_service_pb2_grpc import EndpointServiceStub

from chassis.rpc import connect
from services.touchpoints import webhooks
from services.touchpoints.selfservice import desk, store
from tests.integration.touchpoints.receivers import APP, DEALER
from tests.integration.touchpoints.receiving import Receiver, receiving
from tests.integration.touchpoints.room import TOKEN, Room, eventually, request

ACCEPTED, FAILED = 3, 9
MINE = "/v1/endpoints/dealer-d001"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def owners(room: Room) -> AsyncIterator[Any]:
    async with connect(f"127.0.0.1:{room.settings.grpc_port}", "operator", TOKEN) as channel:
        yield EndpointServiceStub(channel)


class Owner:
    """A dealer at the door."""

    def __init__(self, room: Room, key: str) -> None:
        self._room, self._headers = room, {"authorization": f"Bearer {key}"}

    async def ask(self, method: str, below: str = "", body: Any = None, **query: Any) -> httpx.Response:
        return await self._room.http.request(method, MINE + below, json=body, params=query, headers=self._headers)


async def owner_of(room: Room, owners: Any, name: str = "dealer-d001") -> Owner:
    return Owner(room, (await owners.CreateManagementKey(pb.CreateManagementKeyRequest(name=name))).management_key)


async def test_a_key_opens_its_own_endpoint_only_until_it_is_replaced_or_ended(
    room: Room, owners: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await room.endpoint("app", APP, receiver.url)
    await room.endpoint("dealer-d001", DEALER, receiver.url, "D001")
    mine, stranger = await owner_of(room, owners), await owner_of(room, owners, "app")
    shown = (await mine.ask("GET")).json()
    assert ("dealer-d001", "dealer", "D001", receiver.url) == tuple(shown[k] for k in ("name", "channel", "scope", "url"))
    refused = [await who.ask("GET") for who in (stranger, Owner(room, "mk_"), Owner(room, "x"))]
    refused.append(await room.http.get("/v1/endpoints/nobody", headers={"authorization": "Bearer mk_x"}))
    assert {(401, "unauthorized")} == {(answer.status_code, answer.json()["code"]) for answer in refused}
    async with room.database.read() as uow:
        for kept in await uow.rows("SELECT management_key_sha256, secret FROM endpoint"):
            assert 32 == len(kept.management_key_sha256)
    again = await owner_of(room, owners)
    assert (401, 200) == ((await mine.ask("GET")).status_code, (await again.ask("GET")).status_code)
    await owners.RevokeManagementKey(pb.RevokeManagementKeyRequest(name="dealer-d001"))
    assert 401 == (await again.ask("GET")).status_code
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await owner_of(room, owners, "nobody")
    assert grpc.StatusCode.NOT_FOUND is unknown.value.code()


async def test_a_key_that_is_revoked_while_its_owner_moves_the_address_changes_nothing(
    room: Room, owners: Any, receiver: Receiver
) -> None:
    await room.endpoint("dealer-d001", DEALER, receiver.url, "D001")
    async with receiving() as other:
        mine = await owner_of(room, owners)
        other.hold = asyncio.Event()
        moving = asyncio.create_task(mine.ask("PUT", "/address", {"url": other.url}))
        await eventually(lambda: asyncio.sleep(0, len(other.calls)), lambda n: n == 1)
        await owners.RevokeManagementKey(pb.RevokeManagementKeyRequest(name="dealer-d001"))
        other.hold.set()
        assert 401 == (await moving).status_code
    again = await owner_of(room, owners)
    assert receiver.url == (await again.ask("GET")).json()["url"]


async def test_an_endpoint_under_another_scope_has_another_secret_and_no_key(
    room: Room, owners: Any, receiver: Receiver
) -> None:
    first = await room.endpoint("dealer-d001", DEALER, receiver.url, "D001")
    mine = await owner_of(room, owners)
    assert "" == await room.endpoint("dealer-d001", DEALER, receiver.url, "D001")
    assert 200 == (await mine.ask("GET")).status_code
    assert (await room.endpoint("dealer-d001", DEALER, receiver.url, "D002")) not in ("", first)
    assert 401 == (await mine.ask("GET")).status_code


async def test_an_address_is_used_once_it_has_answered_a_signed_test(
    room: Room, owners: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "TEST_EVERY_S", 0.0)
    async with receiving() as other:
        secret = await room.endpoint("dealer-d001", DEALER, receiver.url, "D001")
        room.identity.book[1, "mobile", ""] = (101, "+8613800138000")
        mine = await owner_of(room, owners)
        other.answer = lambda n, body: (307 if n == 1 else 503 if n == 2 else 204, {"Location": receiver.url})
        for status in ("307", "503"):
            answer = await mine.ask("PUT", "/address", {"url": other.url})
            assert (409, "address_not_answering") == (answer.status_code, answer.json()["code"])
            assert f"http_{status}" in answer.json()["message"]
        for url in ("ftp://x.example/", "http://user@x.example/", "x"):
            assert (400, "url") == (
                (answer := await mine.ask("PUT", "/address", {"url": url})).status_code,
                answer.json()["field"],
            )
        assert (400, "body") == ((answer := await mine.ask("PUT", "/address", [])).status_code, answer.json()["field"])
        assert receiver.url == (await mine.ask("GET")).json()["url"]
        assert 0 == len(receiver.calls)
        moved = await mine.ask("PUT", "/address", {"url": other.url})
        assert (200, True, 204) == (moved.status_code, moved.json()["ok"], moved.json()["status"])
        body = other.calls[-1][1]
        assert {"type": "endpoint.test", "data": {"endpoint": "dealer-d001"}} == {k: body[k] for k in ("type", "data")}
        assert (await mine.ask("GET")).json()["verified_at"]
        await room.request(request("d1", 1, "dealer"))
        await room.in_state("d1", ACCEPTED)
        assert "msg_d1" in other.ids()
        monkeypatch.setattr(desk, "TEST_EVERY_S", 60.0)
        soon = [await mine.ask("POST", "/test") for _ in range(2)]
        assert [429, 429] == [answer.status_code for answer in soon]
        assert secret


async def test_for_some_hours_two_secrets_sign_and_either_is_taken(room: Room, owners: Any, receiver: Receiver) -> None:
    old = await room.endpoint("dealer-d001", DEALER, receiver.url, "D001")
    room.identity.book[1, "mobile", ""] = (101, "+8613800138000")
    mine = await owner_of(room, owners)
    await room.request(request("d0", 1, "dealer"))
    await room.in_state("d0", ACCEPTED)
    assert 1 == len(receiver.calls[0][0]["webhook-signature"].split())
    rotated = (await mine.ask("POST", "/secret", {"hours": 24})).json()
    new = rotated["secret"]
    assert new != old
    assert (409, "rotation_under_way") == (
        (answer := await mine.ask("POST", "/secret", {"hours": 24})).status_code,
        answer.json()["code"],
    )

    async def signed_twice() -> int:
        await mine.ask("POST", "/test")
        return len(receiver.calls[-1][0]["webhook-signature"].split())

    assert 2 == await signed_twice()

    async def report(secret: str, webhook_id: str) -> int:
        told = {"delivery_id": "d0", "event_id": webhook_id, "amount": 10.5, "revision": 1}
        body = webhooks.envelope("lead.ordered", told, datetime.now(UTC))
        headers = webhooks.signed_headers(secret, webhook_id, body)
        return (await room.http.post("/webhooks/dealer-d001", content=body, headers=headers)).status_code

    assert [200, 200] == [await report(secret, f"w{n}") for n, secret in enumerate((old, new))]
    # A leak: every old secret ends at once.
    last = (await mine.ask("POST", "/secret", {"hours": 0})).json()["secret"]
    assert [401, 401, 200] == [await report(secret, f"v{n}") for n, secret in enumerate((old, new, last))]

    async def orders() -> set[bytes]:
        return {event.event_id for _, event in await room.observed() if event.name == "Order Placed"}

    assert 3 == len(await eventually(orders, lambda found: len(found) >= 3))
    assert Webhook(last)


async def test_an_owner_sees_attempts_chooses_types_and_replays_what_is_parked(
    room: Room, owners: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await room.endpoint("dealer-d001", DEALER, receiver.url, "D001")
    await room.endpoint("app", APP, receiver.url)
    room.identity.book[1, "mobile", ""] = (101, "+8613800138000")
    room.identity.book[1, "crm_id", "app"] = (102, "u1")
    mine = await owner_of(room, owners)
    receiver.answer = lambda n, body: (422, {})
    await room.request(request("d1", 1, "dealer"), request("d2", 1, "dealer"), request("a1", 1, "app"))

    async def told() -> list[tuple[str, int]]:
        return [(update.delivery_id, update.state) for update in await room.updates()]

    for delivery in ("d1", "d2", "a1"):
        await room.parked(delivery, "refused")
    found = (await mine.ask("GET", "/attempts", limit=1)).json()
    assert ("refused", "http_422") == tuple(found["attempts"][0][k] for k in ("outcome", "reason"))
    rest = (await mine.ask("GET", "/attempts", before=found["next_before"])).json()["attempts"]
    assert {"d1", "d2"} == {found["attempts"][0]["delivery_id"], *(each["delivery_id"] for each in rest)}
    assert [] == (await mine.ask("GET", "/attempts", outcome="accepted")).json()["attempts"]
    for query in ({"limit": 0}, {"outcome": "x"}, {"before": "x"}, {"surplus": 1}):
        assert 400 == (await mine.ask("GET", "/attempts", **query)).status_code
    receiver.answer = lambda n, body: (200, {})
    answer = (await mine.ask("POST", "/replay", {"delivery_ids": ["d1", "a1", "nothing"]})).json()
    # Another's push is as unknown as one that never was.
    assert {"replayed": ["d1"], "not_replayed": ["a1", "nothing"]} == answer
    # It has been at the dealer's twice by then, and has had no end in between: who takes it back later knows that.
    assert 2 == (await room.in_state("d1", ACCEPTED)).attempts
    assert [("d1", ACCEPTED)] == await eventually(told, bool)
    assert {"replayed": ["d2"], "not_replayed": []} == (await mine.ask("POST", "/replay")).json()
    await room.in_state("d2", ACCEPTED)
    assert {"replayed": [], "not_replayed": []} == (await mine.ask("POST", "/replay", {})).json()
    assert [1, 2] == [receiver.ids().count("msg_a1"), receiver.ids().count("msg_d1")]
    wanted = ["endpoint.test", "lead.withdrawn", "customer.erased", "consent.changed"]
    assert 409 == (await mine.ask("PUT", "/event-types", {"event_types": wanted[:-1]})).status_code
    assert 400 == (await mine.ask("PUT", "/event-types", {"event_types": [*wanted, "message.push"]})).status_code
    assert wanted == sorted(
        (await mine.ask("PUT", "/event-types", {"event_types": wanted})).json()["event_types"], key=wanted.index
    )
    # The engine's copy of endpoints is two seconds old at most.
    await asyncio.sleep(2.1)
    await room.request(request("d3", 1, "dealer"))
    assert "event_type_off" == (await room.in_state("d3", FAILED)).reason

    async def attempts() -> int:
        async with room.database.read() as uow:
            return int((await uow.rows("SELECT count(*) AS n FROM delivery_attempt"))[0].n)

    assert 5 == await attempts()
    async with room.database.transaction() as uow:
        await uow.execute("UPDATE delivery_attempt SET attempted_at = now() - interval '15 days' WHERE delivery_id <> 'd2'")
        assert 3 == await store.forget_attempts(uow, room.settings.attempt_days, 100)
    assert 2 == await eventually(attempts, lambda n: n == 2)
