"""Access tokens of service accounts (CONVENTIONS 3.1): one per appid, fetched under a lock, never forced."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

import orjson

from services.touchpoints.channels.http import Answer, Caller
from services.touchpoints.domain.deliveries import Refused, Retry
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.wechat.errors import rule

# WeChat makes a new token this long before the old one ends; both are valid meanwhile.
OVERLAP_S = 300


class TokenUnavailable(Exception):
    """No token now; `errcode` is WeChat's reason, or None when WeChat did not answer."""

    def __init__(self, errcode: int | None) -> None:
        super().__init__(errcode)
        self.errcode = errcode


class Tokens:
    """The tokens of all accounts, in memory."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._tokens: dict[str, tuple[str, float]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def of(self, endpoint: Endpoint) -> str:
        """A valid token; raises TokenUnavailable."""
        async with self._locks[endpoint.scope]:
            token, fresh_until = self._tokens.get(endpoint.scope, ("", 0.0))
            if time.monotonic() >= fresh_until:
                token, life_s = await self._fetch(endpoint)
                self._tokens[endpoint.scope] = token, time.monotonic() + max(life_s - OVERLAP_S, 1)
            return token

    def drop(self, endpoint: Endpoint, token: str) -> None:
        """Forgets a token that WeChat refused, unless it was replaced already."""
        if self._tokens.get(endpoint.scope, ("", 0.0))[0] == token:
            del self._tokens[endpoint.scope]

    async def _fetch(self, endpoint: Endpoint) -> tuple[str, float]:
        body = orjson.dumps(
            {
                "grant_type": "client_credential",
                "appid": endpoint.scope,
                "secret": endpoint.secrets["app_secret"],
                "force_refresh": False,
            }
        )
        url = endpoint.url.rstrip("/") + "/cgi-bin/stable_token"
        answer = await self._caller.post(url, body, {"content-type": "application/json"})
        given = read(answer)
        token, life = (given or {}).get("access_token"), (given or {}).get("expires_in")
        if isinstance(token, str) and token and isinstance(life, (int, float)):
            return token, float(life)
        errcode = (given or {}).get("errcode")
        raise TokenUnavailable(errcode if isinstance(errcode, int) and rule(errcode) else None)


def read(answer: Answer | Retry | Refused) -> dict[str, object] | None:
    """WeChat's JSON object; None when there was no answer or it was none of WeChat's."""
    if not isinstance(answer, Answer) or answer.status != 200:
        return None
    try:
        given = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return None
    return given if isinstance(given, dict) else None
