"""Providers of short messages and notifications, in the test's own loop: each judges what it is sent and fails as told."""

from __future__ import annotations

import base64
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

Failure = tuple[int, bytes, dict[str, str]]


@dataclass
class Provider:
    """What all have: `fails(n)` says how the n-th call (from 1) fails, None for not; `judged` counts what was wrong."""

    fails: Callable[[int], Failure | None] = lambda n: None
    # Whether the n-th call is taken and its answer lost: a gateway in between answers instead.
    loses: Callable[[int], bool] = lambda n: False
    url: str = ""
    calls: int = 0
    judged: Counter[str] = field(default_factory=Counter)
    # Idempotency key → body, of what was taken; `repeats` were answered as before.
    taken: dict[str, dict[str, Any]] = field(default_factory=dict)
    repeats: int = 0

    def routes(self) -> list[web.RouteDef]:
        return []

    async def next_failure(self) -> web.Response | None:
        self.calls += 1
        if found := self.fails(self.calls):
            status, body, headers = found
            return web.Response(status=status, body=body, headers=headers)
        return None

    def keep(self, key: str, body: dict[str, Any]) -> bool:
        """Whether it is new; a repeat must be the same message."""
        if key in self.taken:
            self.repeats += 1
            self.judged["changed_on_repeat"] += body != self.taken[key]
            return False
        self.taken[key] = body
        return True


@dataclass
class SmsGateway(Provider):
    """Our own gateway's contract (docs/howto/channels.md), with the rules of carriers."""

    key: str = "sms-key"
    signature: str = "星河汽车"
    # Parts that are still paid for; each message takes its own.
    balance: int = 1000

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/messages", self._send)]

    async def _send(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return web.json_response({"code": "unauthorized"}, status=401)
        if failure := await self.next_failure():
            return failure
        number = request.headers.get("idempotency-key", "")
        self.judged["key_is_not_number"] += number != body["number"]
        self.judged["not_a_mobile"] += not body["mobile"].startswith("+861") or len(body["mobile"]) != 14
        self.judged["unsigned"] += not body["text"].startswith(f"【{self.signature}】")
        marketing = body["purpose"] == "marketing"
        self.judged["no_way_out"] += marketing and not body["text"].endswith("拒收请回复R")
        self.judged["two_ways_out"] += body["text"].count("拒收请回复R") > 1
        if number not in self.taken and body["segments"] > self.balance:
            return web.json_response({"code": "no_balance", "balance": self.balance}, status=402)
        call, new = self.calls, self.keep(number, body)
        self.balance -= body["segments"] if new else 0
        if self.loses(call):
            return web.Response(status=502, body=b"<html>Bad Gateway</html>")
        return web.json_response({"message_id": f"sms-{number}", "balance": self.balance}, status=202 if new else 409)


@dataclass
class JPushServer(Provider):
    """JPush v3 with its `cid`: numbers come from it, and the first call of a number counts."""

    app_key: str = "app-key"
    secret: str = "master-secret"
    # Registration ids that nobody has any more.
    gone: set[str] = field(default_factory=set)
    issued: set[str] = field(default_factory=set)
    asked: int = 0
    shown: Counter[str] = field(default_factory=Counter)

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v3/push", self._push), web.get("/v3/push/cid", self._cids)]

    def _authorised(self, request: web.Request) -> bool:
        wanted = "Basic " + base64.b64encode(f"{self.app_key}:{self.secret}".encode()).decode()
        return request.headers.get("authorization") == wanted

    async def _cids(self, request: web.Request) -> web.Response:
        self.asked += 1
        if not self._authorised(request):
            return _jpush_error(401, 1004, "authen failed")
        fresh = [f"{self.app_key}-{uuid.uuid4()}" for _ in range(int(request.query["count"]))]
        self.issued |= set(fresh)
        return web.json_response({"cidlist": fresh})

    async def _push(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        if not self._authorised(request):
            return _jpush_error(401, 1004, "authen failed")
        if failure := await self.next_failure():
            return failure
        cid, devices = body["cid"], body["audience"]["registration_id"]
        self.judged["strange_cid"] += cid not in self.issued
        self.judged["too_many_devices"] += not 0 < len(devices) <= 1000
        self.judged["no_text"] += not body["notification"]["alert"]
        self.judged["classification"] += body["options"]["classification"] not in (0, 1)
        alive = [device for device in devices if device not in self.gone]
        if not alive:
            return _jpush_error(400, 1011, "cannot find user by this audience")
        call = self.calls
        # What is left of its time may be less on a repeat.
        del body["options"]["time_to_live"]
        if self.keep(cid, body):
            self.shown.update(alive)
        if self.loses(call):
            return web.Response(status=502, body=b"<html>Bad Gateway</html>")
        return web.json_response({"sendno": "0", "msg_id": "18100287008546250"})


@dataclass
class FcmServer(Provider):
    """FCM HTTP v1 and the office that sells tokens for it; of one tag a device shows one notification."""

    project: str = "troika-test"
    gone: dict[str, str] = field(default_factory=dict)
    shown: Counter[tuple[str, str]] = field(default_factory=Counter)
    sold: set[str] = field(default_factory=set)
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    def account(self) -> str:
        """The key file of its service account."""
        pem = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        stated = {"client_email": "push@troika-test", "private_key": pem.decode(), "token_uri": self.url + "/token"}
        return orjson.dumps(stated).decode()

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/token", self._sell), web.post(f"/v1/projects/{self.project}/messages:send", self._push)]

    async def _sell(self, request: web.Request) -> web.Response:
        form = await request.post()
        head, _, mark = str(form["assertion"]).rpartition(".")
        raw = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (head.partition(".")[2], mark)]
        try:
            self.key.public_key().verify(raw[1], head.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return web.json_response({"error": "invalid_grant"}, status=400)
        claims = orjson.loads(raw[0])
        self.judged["claims"] += claims["exp"] - claims["iat"] > 3600 or claims["aud"] != self.url + "/token"
        self.sold.add(token := uuid.uuid4().hex)
        return web.json_response({"access_token": token, "expires_in": 3599, "token_type": "Bearer"})

    async def _push(self, request: web.Request) -> web.Response:
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.sold:
            return _fcm_error(401, "UNAUTHENTICATED")
        if failure := await self.next_failure():
            return failure
        call, message = self.calls, orjson.loads(await request.read())["message"]
        if code := self.gone.get(message["token"]):
            return _fcm_error({"UNREGISTERED": 404, "SENDER_ID_MISMATCH": 403}[code], code)
        self.judged["data_not_text"] += any(not isinstance(value, str) for value in message["data"].values())
        self.judged["no_tag"] += not message["android"]["notification"]["tag"]
        self.shown[message["token"], message["android"]["notification"]["tag"]] += 1
        if self.loses(call):
            return web.Response(status=502, body=b"<html>Bad Gateway</html>")
        return web.json_response({"name": f"projects/{self.project}/messages/{call}"})


def _fcm_error(status: int, code: str) -> web.Response:
    kind = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
    return web.json_response({"error": {"code": status, "details": [{"@type": kind, "errorCode": code}]}}, status=status)


def _jpush_error(status: int, code: int, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)


@contextlib.asynccontextmanager
async def serving(provider: Provider) -> AsyncIterator[Provider]:
    """Serves on a free port of this machine until the block ends."""
    app = web.Application()
    app.add_routes(provider.routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield provider
    finally:
        await runner.cleanup()


def wrong(provider: Provider) -> dict[str, int]:
    """What the judge found wrong, and how often."""
    return {name: count for name, count in provider.judged.items() if count}
