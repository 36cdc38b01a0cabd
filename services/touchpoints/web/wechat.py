"""The doors for callbacks of WeChat and WeCom (CONVENTIONS 3.4, 3.7), plain or encrypted, answered within five seconds."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse

from chassis.db import Database
from chassis.errors import InvalidArgument, Unauthenticated, Unavailable
from chassis.web import read_body
from services.touchpoints.channels.forms import values
from services.touchpoints.domain.deliveries import Channel
from services.touchpoints.endpoints import Endpoint, Endpoints
from services.touchpoints.sealer import Sealer
from services.touchpoints.vault import Vault
from services.touchpoints.web.described import NOT_FOUND, REFUSALS, Described, Example, Operation, Reply, parameter, text
from services.touchpoints.wechat import callbacks, crypto
from services.touchpoints.wechat.callbacks import Inbound, Told
from services.touchpoints.wechat.hearing import Hearing, hear

# WeChat waits for five seconds; what takes longer it shall tell again.
MOST_S = 4.0
T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """A genuine callback: its fields, the signature it came under, and the key that opened it (empty for a plain one)."""

    fields: dict[str, Any]
    signature: str
    key: str = field(repr=False)
    json: bool


class WechatDoor:
    """Takes the callbacks of all accounts that have an endpoint of some channels."""

    def __init__(
        self, database: Database, endpoints: Endpoints, sealer: Sealer, vault: Vault, channels: Sequence[Channel]
    ) -> None:
        self._database, self._endpoints, self._sealer, self._vault = database, endpoints, sealer, vault
        self._channels = channels

    async def check(self, request: Request) -> Response:
        """The provider's check of the address: it wants its echo back, decrypted where it came encrypted."""
        endpoint, query = await self._account(request), request.query_params
        echo = query.get("echostr", "")
        if query.get("msg_signature") and (keys := values(endpoint.secrets, "encoding_aes_key")):
            self._genuine(endpoint, query, echo)
            return PlainTextResponse(_opened(echo, keys, endpoint).message)
        self._genuine(endpoint, query)
        return PlainTextResponse(echo)

    async def call(self, request: Request) -> Response:
        """One callback: what it does is durable before it is answered."""
        endpoint = await self._account(request)
        call = self._read(endpoint, request, await read_body(request, callbacks.MOST_BYTES))
        try:
            told = callbacks.parse(call.fields)
        except ValueError as error:
            raise InvalidArgument(f"body is {error}", reason="INVALID_REQUEST", field="body") from error
        received_us = time.time_ns() // 1000
        hearing = Hearing(endpoint, told, call.signature, received_us, self._sealer.key(), self._vault)
        try:
            async with asyncio.timeout(MOST_S), self._database.transaction() as uow:
                await hear(uow, hearing)
        except TimeoutError as error:
            raise Unavailable("too busy, try again") from error
        return _reply(endpoint, call, told)

    async def _account(self, request: Request) -> Endpoint:
        [scope] = request.path_params.values()
        for channel in self._channels:
            if endpoint := await self._endpoints.of(channel, scope):
                return endpoint
        # The same answer as to a wrong signature: strangers learn no accounts.
        raise _forged()

    def _read(self, endpoint: Endpoint, request: Request, body: bytes) -> Call:
        """Proves who calls and opens the body. With a key only what is encrypted counts, whatever stands beside it."""
        query, as_json = request.query_params, body.lstrip()[:1] == b"{"
        keys = values(endpoint.secrets, "encoding_aes_key")
        if not keys:
            # Compatible mode has everything in clear, too.
            self._genuine(endpoint, query)
            return Call(_told(callbacks.fields, body), query.get("signature", ""), "", as_json)
        if not (encrypted := _told(callbacks.encrypted, body)):
            raise _forged()
        self._genuine(endpoint, query, encrypted)
        opened = _opened(encrypted, keys, endpoint)
        return Call(_told(callbacks.fields, opened.message), query.get("msg_signature", ""), opened.key, as_json)

    def _genuine(self, endpoint: Endpoint, query: Any, encrypted: str = "") -> None:
        tokens = values(endpoint.secrets, "callback_token")
        given = query.get("msg_signature" if encrypted else "signature", "")
        if not crypto.genuine(tokens, given, query.get("timestamp", ""), query.get("nonce", ""), time.time(), encrypted):
            raise _forged()


def _told(read: Callable[[bytes], T], body: bytes) -> T:
    try:
        return read(body)
    except ValueError as error:
        raise InvalidArgument(f"body is {error}", reason="INVALID_REQUEST", field="body") from error


def _opened(encrypted: str, keys: Sequence[str], endpoint: Endpoint) -> crypto.Opened:
    try:
        return crypto.opened(encrypted, keys, endpoint.scope)
    except ValueError as error:
        raise InvalidArgument(f"body is {error}", reason="UNDECRYPTABLE", field="body.Encrypt") from error


def _forged() -> Unauthenticated:
    return Unauthenticated("signature or timestamp is not valid", reason="UNAUTHORIZED", field="signature")


def _reply(endpoint: Endpoint, call: Call, told: Told) -> Response:
    """`success`, or the welcome of a new follower, sealed under the key that opened the call."""
    text = endpoint.settings.get("welcome_text", "")
    event = told.event
    if not (text and isinstance(event, Inbound) and event.window == "follow"):
        return PlainTextResponse("success")
    now = str(int(time.time()))
    message = _written(
        {
            "ToUserName": event.openid,
            "FromUserName": str(call.fields.get("ToUserName", "")),
            "CreateTime": now,
            "MsgType": "text",
            "Content": text,
        },
        call.json,
    )
    if call.key:
        encrypted, nonce = crypto.sealed(message, call.key, endpoint.scope), secrets.token_hex(8)
        token = values(endpoint.secrets, "callback_token")[0]
        signature = crypto.signature(token, now, nonce, encrypted)
        message = _written({"Encrypt": encrypted, "MsgSignature": signature, "TimeStamp": now, "Nonce": nonce}, call.json)
    return Response(message, media_type="application/json" if call.json else "application/xml")


def _written(fields: dict[str, str], as_json: bool) -> bytes:
    if as_json:
        return orjson.dumps(fields)
    inner = "".join(f"<{k}><![CDATA[{v.replace(']]>', ']]]]><![CDATA[>')}]]></{k}>" for k, v in fields.items())
    return f"<xml>{inner}</xml>".encode()


def add_wechat_doors(app: FastAPI, door: Callable[..., WechatDoor]) -> None:
    """Adds /wechat/callback/{appid} and /wecom/callback/{corpid}; `door` makes one for some channels."""
    for path, channels in (
        ("/wechat/callback/{appid}", (Channel.WECHAT, Channel.WECHAT_MINI)),
        ("/wecom/callback/{corpid}", (Channel.WECOM,)),
    ):
        made = door(channels)
        app.add_api_route(path, made.check, methods=["GET"], include_in_schema=False)
        app.add_api_route(path, made.call, methods=["POST"], include_in_schema=False)


_SIGNED = tuple(parameter(name, "query", text()) for name in ("signature", "msg_signature", "timestamp", "nonce"))
_FOLLOWED = {200: Reply("Understood.", {"text/plain": text()}), **REFUSALS, 404: NOT_FOUND}
_STRANGER = {"signature": "0" * 40, "timestamp": "1772352000", "nonce": "n"}


def _described(path: str, name: str, whose: str) -> dict[tuple[str, str], Operation]:
    account = parameter(name, "path", text(minLength=1, maxLength=64, pattern="^[A-Za-z0-9_-]+$"))
    known = {name: "wx0123456789abcdef"}
    body = "<xml><FromUserName>o1</FromUserName><Event>unsubscribe</Event></xml>"
    return {
        ("GET", path): Operation(
            f"{whose} check of the address; answers echostr.",
            _FOLLOWED,
            parameters=(account, *_SIGNED, parameter("echostr", "query", text())),
            examples=(Example("not by them", status=401, path=known, query=_STRANGER),),
        ),
        ("POST", path): Operation(
            f'{whose} callback as XML or JSON, in clear or encrypted; answers "success" or a welcome.',
            _FOLLOWED,
            parameters=(account, *_SIGNED),
            takes={"text/xml": text()},
            examples=(Example("not by them", body, status=401, media="text/xml", path=known, query=_STRANGER),),
        ),
    }


DESCRIBED = Described(
    _described("/wechat/callback/{appid}", "appid", "WeChat's") | _described("/wecom/callback/{corpid}", "corpid", "WeCom's")
)
