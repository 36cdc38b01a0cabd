"""WeChat's calls to the account's callback URL: signed query, plain XML, `success` or nothing as the answer."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from xml.etree import ElementTree

import aiohttp
import orjson

from tests.emulators.ledger import Ledger
from tests.emulators.webhooks import backoff
from tests.emulators.wechat_crypto import decrypt, encrypt, sha1

FIRST_MSGID = 3_000_000_000_000_000_000
"""Message ids are int64 and larger than a float or an int32 can hold."""


Value = str | int | tuple[tuple[str, Any], ...]
Mode = Literal["plain", "compatible", "encrypted"]


@dataclass(frozen=True, slots=True)
class Callback:
    """One event or message of one follower; `fields` are the elements after `Event`, nested where a value is a tuple."""

    appid: str
    openid: str
    event: str
    created: int
    fields: tuple[tuple[str, Any], ...] = ()
    kind: str = "event"

    def elements(self) -> tuple[tuple[str, Any], ...]:
        account = f"gh_{hashlib.sha1(self.appid.encode(), usedforsecurity=False).hexdigest()[:12]}"
        head = (("ToUserName", account), ("FromUserName", self.openid), ("CreateTime", self.created), ("MsgType", self.kind))
        return (*head, *((("Event", self.event),) if self.event else ()), *self.fields)

    def body(self, as_json: bool) -> bytes:
        return orjson.dumps(_object(self.elements())) if as_json else _xml(self.elements())


def _xml(elements: tuple[tuple[str, Any], ...]) -> bytes:
    return f"<xml>{''.join(_element(name, value) for name, value in elements)}</xml>".encode()


def _element(name: str, value: Value) -> str:
    if isinstance(value, tuple):
        return f"<{name}>{''.join(_element(n, v) for n, v in value)}</{name}>"
    if isinstance(value, int):
        return f"<{name}>{value}</{name}>"
    return f"<{name}><![CDATA[{value.replace(']]>', ']]]]><![CDATA[>')}]]></{name}>"


def _object(elements: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """The same as JSON: what repeats is a list, and `List` always is one."""
    found: dict[str, Any] = {}
    for name, value in elements:
        inner = _object(value) if isinstance(value, tuple) else value
        if name in found or name == "List":
            found[name] = [*found.get(name, []), inner]
        else:
            found[name] = inner
    return found


def signed(token: str, encrypted: str = "") -> dict[str, str]:
    """The query that proves a call is WeChat's."""
    timestamp, nonce = str(int(time.time())), str(secrets.randbelow(10**10))
    query = {"signature": sha1(token, timestamp, nonce), "timestamp": timestamp, "nonce": nonce}
    if encrypted:
        query |= {"encrypt_type": "aes", "msg_signature": sha1(token, timestamp, nonce, encrypted)}
    return query


@dataclass(frozen=True)
class Console:
    """What the account's owner chose in the server configuration."""

    mode: Mode = "plain"
    as_json: bool = False
    keys: Mapping[str, str] = field(default_factory=dict)

    def written(self, callback: Callback) -> tuple[bytes, str]:
        """(body, its ciphertext, empty for a plain one)."""
        plain = callback.body(self.as_json)
        if self.mode == "plain":
            return plain, ""
        encrypted = encrypt(plain, self.keys[callback.appid], callback.appid)
        beside = callback.elements() if self.mode == "compatible" else callback.elements()[:1]
        both = (*beside, ("Encrypt", encrypted))
        return (orjson.dumps(_object(both)) if self.as_json else _xml(both)), encrypted

    def is_reply(self, callback: Callback, token: str, answer: bytes) -> bool:
        """Whether an answer is a message to the person, sealed under the account's present key where calls are."""
        try:
            given = self._read(answer)
            if self.mode != "plain":
                encrypted = given["Encrypt"]
                if given["MsgSignature"] != sha1(token, given["TimeStamp"], given["Nonce"], encrypted):
                    return False
                given = self._read(decrypt(encrypted, self.keys[callback.appid], callback.appid))
            return given["ToUserName"] == callback.openid and given["MsgType"] == "text" and bool(given["Content"])
        except (ValueError, KeyError, ElementTree.ParseError):
            return False

    def _read(self, body: bytes) -> dict[str, str]:
        if self.as_json:
            return dict(orjson.loads(body))
        return {child.tag: child.text or "" for child in ElementTree.fromstring(body)}


class CallbackCaller:
    """Makes the calls, again and again up to a number of attempts; a fresh signature each time."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        tokens: dict[str, str],
        attempts: int,
        ledger: Ledger,
        console: Console,
    ) -> None:
        self._console = console
        self._session = session
        self._url = url
        self._tokens = tokens
        self._attempts = attempts
        self._counts = ledger.counts
        self._sent = ledger.events

    async def send(self, callback: Callback) -> None:
        body, encrypted = self._console.written(callback)
        for tries in range(self._attempts):
            if tries:
                self._counts["feedback_retries"] += 1
                await asyncio.sleep(backoff(tries))
            query = signed(self._tokens[callback.appid], encrypted) | {"openid": callback.openid}
            answer = await self._call("POST", callback.appid, query, body)
            replied = answer is not None and self._console.is_reply(callback, self._tokens[callback.appid], answer)
            if replied or answer in (b"", b"success"):
                self._sent[_tally(callback)] += 1
                self._counts["replies"] += replied
                return
        self._counts["feedback_lost"] += 1

    async def check_url(self, appid: str) -> bool:
        """WeChat's check of a callback URL: it must echo; asked as often as a callback."""
        echo = secrets.token_hex(8)
        for tries in range(self._attempts):
            if await self._call("GET", appid, signed(self._tokens[appid]) | {"echostr": echo}, None) == echo.encode():
                return True
            await asyncio.sleep(backoff(tries))
        return False

    async def _call(self, method: str, appid: str, query: dict[str, str], body: bytes | None) -> bytes | None:
        options: dict[str, Any] = {
            "params": query,
            "data": body,
            "allow_redirects": False,
            "headers": {"content-type": "application/json" if self._console.as_json else "text/xml"},
        }
        try:
            async with self._session.request(method, self._url.format(appid=appid), **options) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError):
            return None
        return answer.strip() if response.status == 200 else None


def _tally(callback: Callback) -> str:
    """The name under which an acknowledged callback is counted: an answer by its value, a delivery by its status."""
    detail = dict(callback.fields)
    if callback.event == "CLICK":
        return f"answered:{str(detail['EventKey']).split(':')[1]}"
    return f"{callback.event}:{detail['Status']}" if "Status" in detail else callback.event
