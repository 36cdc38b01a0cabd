"""Tokens of an OpenID Connect issuer stand for the keys that they name, and every other token for nothing."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from chassis.bus import Bus
from chassis.testing import DatabaseFactory
from services.touchpoints import oidc
from tests.conftest import Servers
from tests.integration.touchpoints.identity import Identity
from tests.integration.touchpoints.receivers import APP, DEALER
from tests.integration.touchpoints.room import NEIGHBOURS, Room, running, settings_for

EVENT = {"type": "track", "event": "App Opened", "userId": "u1", "messageId": "m1"}
BATCH = {"batch": [EVENT]}


class Provider:
    """An issuer with two keys, one of each usual kind."""

    def __init__(self) -> None:
        self.url, self.asked, self.down = "", 0, False
        self.keys: dict[str, Any] = {
            "first": rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "second": ec.generate_private_key(ec.SECP256R1()),
        }

    def published(self) -> dict[str, Any]:
        kinds = {"first": jwt.algorithms.RSAAlgorithm}
        ours = [
            kinds.get(kid, jwt.algorithms.ECAlgorithm).to_jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig"}
            for kid, key in self.keys.items()
        ]
        # Others that issuers have in their lists: a shared secret must never count as a key.
        secret = {"kty": "oct", "kid": "shared", "k": base64.urlsafe_b64encode(b"s" * 32).decode(), "alg": "HS256"}
        return {"keys": [*ours, secret, {"kty": "new-kind", "kid": "x"}]}

    def token(self, kid: str = "first", signer: Any = None, algorithm: str = "", /, **claims: Any) -> str:
        said = {"iss": self.url, "aud": "troika", "exp": time.time() + 300, "scope": "openid troika:source:app"} | claims
        said = {name: value for name, value in said.items() if value is not None}
        algorithm = algorithm or ("RS256" if kid == "first" else "ES256")
        return jwt.encode(said, signer or self.keys[kid], algorithm, headers={"kid": kid})


@contextlib.asynccontextmanager
async def publishing() -> AsyncIterator[Provider]:
    provider = Provider()

    async def configuration(_: web.Request) -> web.Response:
        said = {"issuer": provider.url, "jwks_uri": f"{provider.url}/keys"}
        return web.json_response(said, status=503 if provider.down else 200)

    async def keys(_: web.Request) -> web.Response:
        provider.asked += 1
        return web.json_response(provider.published())

    app = web.Application()
    app.add_routes([web.get("/.well-known/openid-configuration", configuration), web.get("/keys", keys)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield provider
    finally:
        await runner.cleanup()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with publishing() as provider:
        yield provider


@pytest.fixture
async def room(
    servers: Servers, databases: DatabaseFactory, bus: Bus, identity: Identity, provider: Provider
) -> AsyncIterator[Room]:
    await bus.declare(*NEIGHBOURS)
    async with databases.lent("touchpoints") as dsn:
        settings = settings_for(dsn, servers.nats_url, identity, oidc_issuer=provider.url)
        async with running(settings, identity, bus, servers.nats_url) as room:
            yield room


async def answered(room: Room, token: str, scheme: str = "Bearer") -> tuple[int, str]:
    answer = await room.http.post("/v1/batch", json=BATCH, headers={"authorization": f"{scheme} {token}"})
    return answer.status_code, answer.json().get("code", "")


def by_hand(provider: Provider, head: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """A token as no library makes it."""
    said = {"iss": provider.url, "aud": "troika", "exp": time.time() + 300, "scope": "troika:source:app"}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, said)]
    return b".".join([*parts, base64.urlsafe_b64encode(sign(b".".join(parts))).rstrip(b"=")]).decode()


async def test_a_token_stands_for_the_key_of_the_source_that_it_names_and_no_other_does(room: Room, provider: Provider) -> None:
    for name in ("app", "web"):
        await room.source(name)
    assert (200, "") == await answered(room, provider.token())
    assert (200, "") == await answered(room, provider.token("second", scope=["troika:source:web", 7]))
    basic = base64.b64encode(f"{provider.token()}:".encode()).decode()
    assert (200, "") == await answered(room, basic, "Basic")
    now = time.time()
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = provider.published()["keys"][0]["n"].encode()
    forged = {
        "another's signature": provider.token("first", stranger),
        "another issuer": provider.token(iss="https://elsewhere.example"),
        "for somebody else": provider.token(aud="billing"),
        "for nobody": provider.token(aud=None),
        "over": provider.token(exp=now - 61),
        "without an end": provider.token(exp=None),
        "not yet": provider.token(nbf=now + 120),
        "no source": provider.token(scope="openid"),
        "two sources": provider.token(scope="troika:source:app troika:source:web"),
        "no such source": provider.token(scope="troika:source:tv"),
        "an odd claim": provider.token(scope=["troika", None]),
        "unknown key": provider.token("none of theirs", stranger, "RS256"),
        "no signature": by_hand(provider, {"alg": "none", "kid": "first"}, lambda _: b""),
        "a published secret": provider.token("shared", b"s" * 32, "HS256"),
        "the public key as a secret": by_hand(
            provider, {"alg": "HS256", "kid": "first"}, lambda signed: hmac.digest(public, signed, hashlib.sha256)
        ),
        "rubbish": "eyJ.eyJ.eyJ",
    }
    told = {why: await answered(room, token) for why, token in forged.items()}
    assert dict.fromkeys(forged, (401, "unauthorized")) == told


async def test_a_token_opens_the_endpoint_that_it_names(room: Room, provider: Provider) -> None:
    await room.endpoint("app", APP, "http://127.0.0.1:9/push")
    await room.endpoint("dealer-d001", DEALER, "http://127.0.0.1:9/push", "D001")
    token = provider.token(scope="troika:endpoint:dealer-d001")
    headers = {"authorization": f"Bearer {token}"}
    assert "D001" == (await room.http.get("/v1/endpoints/dealer-d001", headers=headers)).json()["scope"]
    secret = await room.http.post("/v1/endpoints/dealer-d001/secret", json={"hours": 1}, headers=headers)
    assert 200 == secret.status_code
    assert 401 == (await room.http.get("/v1/endpoints/app", headers=headers)).status_code
    assert 401 == (await answered(room, token))[0]


async def test_keys_are_read_again_when_the_issuer_has_new_ones_and_old_ones_end(
    provider: Provider,
) -> None:
    now = 1000.0
    settings = settings_for("postgresql+asyncpg://nowhere/x", "nats://nowhere", Identity(), oidc_issuer=provider.url)
    caller = oidc.Caller(5.0, allow_private=True)
    issuer = oidc.Issuer(settings, caller, lambda: now)
    old = provider.token()
    assert ("app",) == (await issuer.grants(old)).sources
    provider.keys = {"third": provider.keys["second"]}
    token = provider.token("third")
    for _ in range(3):
        with pytest.raises(oidc.Unauthenticated):
            await issuer.grants(token)
    assert 1 == provider.asked
    now += oidc.RETRY_S
    assert ("app",) == (await issuer.grants(token)).sources
    with pytest.raises(oidc.Unauthenticated):
        await issuer.grants(old)
    assert 2 == provider.asked
    # While it cannot be reached, what was known goes on to count.
    now += oidc.REFRESH_S
    provider.down = True
    assert ("app",) == (await issuer.grants(token)).sources
    with pytest.raises(oidc.Unavailable):
        await oidc.Issuer(settings, caller).grants(token)
    await caller.close()
