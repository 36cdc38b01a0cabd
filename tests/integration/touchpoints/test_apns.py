"""Notifications through APNs: a server that speaks HTTP/2 and judges tokens, headers and devices."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from chassis.rpc import reason_of
from local.authority import Authority
from services.touchpoints.channels import http2
from services.touchpoints.channels.http import MINUTE_S, PAUSE_S, Answer
from services.touchpoints.channels.http2 import Http2
from services.touchpoints.channels.push import apns
from services.touchpoints.channels.push.apns import Apns, ProviderTokens, collapse_id, told_by
from services.touchpoints.channels.push.providers import Notification
from services.touchpoints.channels.push.tokens import Token
from services.touchpoints.domain.deliveries import Accepted, Channel, Outcome, Refused, Retry, State
from services.touchpoints.endpoints import Endpoint
from tests.emulators.apns import ApnsServer, serving, wrong
from tests.integration.touchpoints.room import Room, basic, eventually, request


@pytest.fixture
async def server() -> AsyncIterator[ApnsServer]:
    async with serving(ApnsServer()) as server:
        yield server


def settings(server: ApnsServer) -> dict[str, str]:
    return {
        "apns_team": server.team,
        "apns_key_id": server.key_id,
        "apns_topic": server.topic,
        "apns_url": server.url,
        "apns_sandbox_url": server.url,
    }


def device(number: int) -> str:
    return f"{number:064x}"


async def opened(room: Room, server: ApnsServer, persons: int) -> None:
    """Person n is the app's user un with the device n."""
    await room.endpoint("phones", int(Channel.PUSH), "", "main", settings=settings(server), secrets={"apns_key": server.pem()})
    key = basic(await room.source("app", server_side=True))
    for person in range(1, persons + 1):
        room.identity.book[person, "crm_id", "app"] = (100 + person, f"u{person}")
        await register(room, key, person, device(person))
    await register(room, key, 1, device(100), environment="sandbox")


async def register(room: Room, key: dict[str, str], person: int, token: str, **more: Any) -> None:
    body = {"userId": f"u{person}", "provider": "apns", "app": "main", "token": token} | more
    assert 204 == (await room.http.post("/v1/push-tokens", json=body, headers=key)).status_code


async def dead(room: Room) -> dict[int, str]:
    async with room.database.read() as uow:
        rows = await uow.rows("SELECT anchor_id, invalid_reason FROM device_token WHERE invalid_at IS NOT NULL")
    return {row.anchor_id: row.invalid_reason for row in rows}


async def test_each_device_shows_a_push_once_whatever_apple_answers(room: Room, server: ApnsServer) -> None:
    await opened(room, server, 9)
    later, before = round((time.time() + 5) * 1000), round((time.time() - 86_400) * 1000)
    refusals: dict[str, tuple[int, dict[str, Any]]] = {
        device(2): (410, {"reason": "Unregistered", "timestamp": later}),
        # It registered anew since.
        device(3): (410, {"reason": "Unregistered", "timestamp": before}),
        device(4): (400, {"reason": "BadDeviceToken"}),
        device(5): (429, {"reason": "TooManyRequests"}),
        device(6): (400, {"reason": "BadExpirationDate"}),
    }
    server.refuses = refusals.get
    server.expired = int(time.time())
    await room.request(*(request(f"p{n}", n, "push") for n in range(1, 7)), request("p7", 7, "push", purpose="marketing"))
    for name in ("p1", "p7"):
        await room.in_state(name, State.ACCEPTED)
    ends = [(await room.in_state(f"p{n}", State.FAILED)).reason for n in (2, 3, 4, 6)]
    assert ["no_such_device", "no_such_device", "no_such_device", "apns_BadExpirationDate"] == ends
    waiting = await eventually(lambda: room.delivery("p5"), lambda d: d is not None and bool(d.reason))
    assert waiting is not None and ("rate_limited", State.SENDING) == (waiting.reason, waiting.state)
    await eventually(lambda: dead(room), lambda found: found == {102: "apns_Unregistered", 104: "apns_BadDeviceToken"})
    assert {device(1), device(100), device(7)} == set(server.shown)
    # The token of the slot was called old, was made anew once, and nobody needed another.
    assert 2 == len(server.bearers)
    assert (["10", "10", "5"], 1) == (sorted(server.priorities), max(server.ids.values()))

    # The line is cut behind the push: it goes again under its number and takes the place of the first.
    cut = server.calls + 1
    server.cuts = lambda n: n == cut
    await room.request(request("p8", 8, "push"), request("long", 9, "push", body="长" * 1500))
    assert 2 == (await room.in_state("p8", State.ACCEPTED)).attempts
    assert ([2], 1) == ([count for count in server.ids.values() if count > 1], len(server.shown[device(8)]))
    assert "text_too_long" == (await room.in_state("long", State.FAILED)).reason
    # One line carried all calls, and one more after the cut.
    assert 2 >= server.connections

    # A key that Apple does not know stops the app's endpoint until somebody mends it.
    server.fails = lambda n: (403, {"reason": "InvalidProviderToken"})
    calls = server.calls
    await room.request(request("p10", 7, "push"))
    await eventually(lambda: room.delivery("p10"), lambda d: d is not None and d.reason == "key_refused")
    await room.request(request("p11", 8, "push"))
    await eventually(lambda: room.delivery("p11"), lambda d: d is not None and d.reason == "endpoint_waits")
    assert (calls + 1, {}) == (server.calls, wrong(server))

    for secret in ("no key", ed25519_key()):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await room.endpoint("more", int(Channel.PUSH), "", "other", settings=settings(server), secrets={"apns_key": secret})
        assert "endpoint.secrets.apns_key" == reason_of(error.value)[1]


SETUP = Retry("key_refused", PAUSE_S, sent_perhaps=False, pauses_endpoint=True)


@pytest.mark.parametrize(
    ("status", "body", "outcome", "dead"),
    [
        (400, b'{"reason":"TopicDisallowed"}', SETUP, False),
        (403, b'{"reason":"ExpiredProviderToken"}', SETUP, False),
        (429, b'{"reason":"TooManyProviderTokenUpdates"}', SETUP, False),
        (429, b'{"reason":"TooManyRequests"}', Retry("rate_limited", MINUTE_S, sent_perhaps=False), False),
        (400, b'{"reason":"DeviceTokenNotForTopic"}', Refused("no_such_device"), True),
        (410, b'{"reason":"ExpiredToken","timestamp":1e99}', Refused("no_such_device"), True),
        (410, b"<html>", Refused("no_such_device"), True),
        (413, b'{"reason":"PayloadTooLarge"}', Refused("text_too_long"), False),
        (400, b'{"reason":"BadPriority"}', Refused("apns_BadPriority"), False),
        (404, b'["no","object"]', Refused("apns_404"), False),
        (503, b'{"reason":"ServiceUnavailable"}', Retry("http_503", faults_endpoint=True), False),
    ],
)
def test_answers_mean_what_apple_says_they_mean(status: int, body: bytes, outcome: Outcome, dead: bool) -> None:
    told = told_by(Answer(status, 0.0, body), Token(7, "apns", "production", device(1), datetime.now(UTC)))
    assert (outcome, dead) == (told.outcome, bool(told.dead))


class Names:
    """A resolver that knows every name on this machine."""

    async def resolve(self, host: str, port: int) -> list[dict[str, str]]:
        return [{"host": "127.0.0.1"}]

    async def close(self) -> None:
        """Nothing is open."""


async def test_names_are_judged_and_certificates_are_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority()
    folder = authority.issue(tmp_path / "apns", "apns", ["push.example"])
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    context.set_alpn_protocols(["h2"])
    notification = Notification("p1", "t", "b", "service", 60, {})
    token = Token(1, "apns", "production", device(1), datetime.now(UTC))
    async with serving(ApnsServer(), "push.example", folder) as server:
        endpoint = phones(server)
        # A name that leads into our own network is not called at all.
        strict = Http2(5, allow_private=False, context=context)
        local = await strict.post(server.url.replace("push.example", "localhost") + "/3/device/1", b"{}", {})
        assert (Retry("connection_failed", faults_endpoint=True), 0) == (local, server.connections)
        await strict.close()
        monkeypatch.setattr(http2, "PublicOnly", Names)
        for trusted, outcome in ((context, Accepted), (None, Retry)):
            client = Http2(5, allow_private=False, context=trusted)
            assert isinstance((await Apns(client).send(endpoint, notification, [token], "")).outcome, outcome)
            await client.close()
        assert ({device(1): {"p1": "b"}}, {}) == (server.shown, wrong(server))


def phones(server: ApnsServer) -> Endpoint:
    return Endpoint("phones", Channel.PUSH, "main", "", settings=settings(server), secrets={"apns_key": server.pem()})


def ed25519_key() -> str:
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return ed25519.Ed25519PrivateKey.generate().private_bytes(*kinds).decode()


def test_replicas_have_one_token_and_renew_it_no_more_often_than_apple_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = phones(ApnsServer(url="https://example.com"))
    one, other = ProviderTokens(), ProviderTokens()
    clock = [apns.SLOT_S * 1000 + 5.0]
    monkeypatch.setattr(apns.time, "time", lambda: clock[0])
    first = one.of(endpoint)
    clock[0] += apns.SLOT_S - 10
    assert first == one.of(endpoint) == other.of(endpoint)
    # Apple calls it old, for example because its clock is ahead: renewed once, and kept over the next slot's beginning.
    assert [True, False] == [one.renew(endpoint), one.renew(endpoint)]
    renewed = one.of(endpoint)
    clock[0] += 60
    assert first != renewed == one.of(endpoint)
    assert renewed != other.of(endpoint)
    clock[0] += apns.SLOT_S
    assert one.of(endpoint) == other.of(endpoint) != renewed
    assert ("d" * 64, 32) == (collapse_id("d" * 64), len(collapse_id("d" * 65)))
