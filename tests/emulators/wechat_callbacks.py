"""WeChat's calls to the account's callback URL: signed query, plain XML, `success` or nothing as the answer."""

import asyncio
import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.emulators.ledger import Ledger
from tests.emulators.webhooks import backoff

FIRST_MSGID = 3_000_000_000_000_000_000
"""Message ids are int64 and larger than a float or an int32 can hold."""


@dataclass(frozen=True, slots=True)
class Callback:
    """One event of one follower; `fields` are the elements after `Event`."""

    appid: str
    openid: str
    event: str
    created: int
    fields: tuple[tuple[str, str | int], ...] = ()

    def xml(self) -> bytes:
        account = f"gh_{hashlib.sha1(self.appid.encode(), usedforsecurity=False).hexdigest()[:12]}"
        elements: list[tuple[str, str | int]] = [
            ("ToUserName", account),
            ("FromUserName", self.openid),
            ("CreateTime", self.created),
            ("MsgType", "event"),
            ("Event", self.event),
            *self.fields,
        ]
        return f"<xml>{''.join(_element(name, value) for name, value in elements)}</xml>".encode()


def _element(name: str, value: str | int) -> str:
    if isinstance(value, int):
        return f"<{name}>{value}</{name}>"
    return f"<{name}><![CDATA[{value.replace(']]>', ']]]]><![CDATA[>')}]]></{name}>"


def signed(token: str) -> dict[str, str]:
    """The query that proves a call is WeChat's."""
    timestamp, nonce = str(int(time.time())), str(secrets.randbelow(10**10))
    text = "".join(sorted((token, timestamp, nonce)))
    signature = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return {"signature": signature, "timestamp": timestamp, "nonce": nonce}


class CallbackCaller:
    """Makes the calls, again and again up to a number of attempts; a fresh signature each time."""

    def __init__(self, session: aiohttp.ClientSession, url: str, tokens: dict[str, str], attempts: int, ledger: Ledger) -> None:
        self._session = session
        self._url = url
        self._tokens = tokens
        self._attempts = attempts
        self._counts = ledger.counts
        self._sent = ledger.events

    async def send(self, callback: Callback) -> None:
        body = callback.xml()
        for tries in range(self._attempts):
            if tries:
                self._counts["feedback_retries"] += 1
                await asyncio.sleep(backoff(tries))
            query = signed(self._tokens[callback.appid]) | {"openid": callback.openid}
            if await self._call("POST", callback.appid, query, body) in (b"", b"success"):
                self._sent[_tally(callback)] += 1
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
            "headers": {"content-type": "text/xml"},
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
