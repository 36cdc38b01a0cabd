"""One call of WeChat's or WeCom's API: token, refresh at most once, error codes by their table."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import orjson

from chassis.errors import is_operational
from services.touchpoints.channels.http import Answer, Caller
from services.touchpoints.domain.deliveries import Outcome, Retry
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.wechat.errors import Action, Rules, outcome, rule
from services.touchpoints.wechat.tokens import Token, Tokens, TokenUnavailable, read

log = logging.getLogger(__name__)

_RID = re.compile(r"rid: ?([0-9a-f-]{8,60})")


@dataclass(frozen=True)
class Done:
    """The provider did what it was asked to; `fields` is its whole answer."""

    fields: Mapping[str, Any]


class Api:
    """The API of all accounts of one provider."""

    def __init__(self, caller: Caller, tokens: Tokens, rules: Rules) -> None:
        self._caller, self._tokens, self._rules = caller, tokens, rules

    async def call(self, endpoint: Endpoint, path: str, body: Mapping[str, Any], attempts: int) -> Done | Outcome:
        """POSTs JSON; a refused token is fetched once more, and the call made once more. `attempts`: made before this one."""
        return await self._called(endpoint, path, {}, orjson.dumps(body), attempts)

    async def get(self, endpoint: Endpoint, path: str, query: Mapping[str, str], attempts: int) -> Done | Outcome:
        """The same with all of it in the address."""
        return await self._called(endpoint, path, query, None, attempts)

    async def _called(
        self, endpoint: Endpoint, path: str, query: Mapping[str, str], body: bytes | None, attempts: int
    ) -> Done | Outcome:
        answer, token = await self._once(endpoint, path, query, body)
        if isinstance(answer, int) and token and rule(answer, self._rules).action is Action.REFRESH_TOKEN:
            try:
                await self._tokens.drop(endpoint, token)
            except Exception as error:
                if not is_operational(error):
                    raise
                return Retry("token_unavailable", sent_perhaps=False)
            answer, _ = await self._once(endpoint, path, query, body)
        return self._judged(endpoint, answer, attempts) if isinstance(answer, int) else answer

    async def _once(
        self, endpoint: Endpoint, path: str, query: Mapping[str, str], body: bytes | None
    ) -> tuple[int | Done | Outcome, Token | None]:
        """(errcode, or what came of it when there is nothing to look up; the token it was tried with)."""
        try:
            token = await self._tokens.of(endpoint)
        except TokenUnavailable as error:
            return (Retry("token_unavailable", sent_perhaps=False) if error.errcode is None else error.errcode), None
        url = f"{endpoint.url.rstrip('/')}{path}?{urlencode({'access_token': token.value, **query})}"
        if body is None:
            answer = await self._caller.get(url, {})
        else:
            answer = await self._caller.post(url, body, {"content-type": "application/json; charset=utf-8"})
        given = read(answer)
        if given is None:
            return (Retry("provider_unreadable") if isinstance(answer, Answer) else answer), token
        errcode = given.get("errcode", 0)
        if not isinstance(errcode, int):
            return Retry("provider_unreadable"), token
        if rule(errcode, self._rules).action is Action.DONE:
            return Done(given), token
        found = _RID.search(str(given.get("errmsg", "")))
        # Support asks for the rid; the rest of the message may quote what we sent.
        log.warning(
            "refused by the provider", extra={"endpoint": endpoint.name, "errcode": errcode, "rid": found[1] if found else ""}
        )
        return errcode, token

    def _judged(self, endpoint: Endpoint, errcode: int, attempts: int) -> Outcome:
        """The outcome of an errcode; one that stops the account is an error that somebody must see."""
        result = outcome(rule(errcode, self._rules), datetime.now(UTC), attempts)
        if isinstance(result, Retry) and result.pauses_endpoint:
            log.error("account paused", extra={"endpoint": endpoint.name, "errcode": errcode, "pause_s": result.after_s})
        return result
