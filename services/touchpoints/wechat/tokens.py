"""Access tokens (CONVENTIONS 3.1, 3.7): one per account for all replicas, fetched by one of them, never forced.

The token lies sealed in the table `provider_token`. Whoever finds it stale takes a lease and fetches it, with no transaction
open meanwhile; the others wait for what it brings.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import urlencode

import orjson

from chassis.db import Database
from chassis.errors import is_operational
from services.touchpoints.channels.http import Answer, Caller
from services.touchpoints.domain.deliveries import Channel, Refused, Retry
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.vault import Vault
from services.touchpoints.wechat import store

# WeChat makes a new token this long before the old one ends; both are valid meanwhile.
OVERLAP_S = 300
# However often a token is refused: WeChat gives the same one again, and counts the questions.
LEAST_LIFE_S = 5.0
WAIT_S, POLL_S = 10.0, 0.1


class TokenUnavailable(Exception):
    """No token now; `errcode` is the provider's reason, or None when it did not answer."""

    def __init__(self, errcode: int | None) -> None:
        super().__init__(errcode)
        self.errcode = errcode


@dataclass(frozen=True)
class Token:
    """A token as it was fetched; `generation` tells it from the ones before and after it."""

    value: str = field(repr=False)
    generation: int
    fresh_until: float


class Tokens:
    """The tokens of all accounts."""

    def __init__(self, database: Database, vault: Vault, caller: Caller) -> None:
        self._database, self._vault, self._caller = database, vault, caller
        self._tokens: dict[str, Token] = {}

    async def of(self, endpoint: Endpoint) -> Token:
        """A valid token; raises TokenUnavailable."""
        name = account(endpoint)
        known = self._tokens.get(name)
        if known and time.monotonic() < known.fresh_until:
            return known
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    if token := await self._shared(name) or await self._fetched(name, endpoint):
                        self._tokens[name] = token
                        return token
                    await asyncio.sleep(POLL_S)
        except TimeoutError as error:
            raise TokenUnavailable(None) from error
        except Exception as error:
            if not is_operational(error):
                raise
            raise TokenUnavailable(None) from error

    async def drop(self, endpoint: Endpoint, token: Token) -> None:
        """Marks a token that was refused as stale, for all replicas, unless it was replaced already."""
        name = account(endpoint)
        if (known := self._tokens.get(name)) and known.generation == token.generation:
            del self._tokens[name]
        async with self._database.transaction() as uow:
            await store.drop_token(uow, name, token.generation, LEAST_LIFE_S)

    async def _shared(self, name: str) -> Token | None:
        async with self._database.read() as uow:
            row = await store.token(uow, name)
        if row is None or row.fresh_s <= 0:
            return None
        return Token(self._vault.show(row.token, f"{name}/token"), row.generation, time.monotonic() + row.fresh_s)

    async def _fetched(self, name: str, endpoint: Endpoint) -> Token | None:
        """A token straight from the provider; None when another replica is fetching it."""
        async with self._database.transaction() as uow:
            leased = await store.lease_token(uow, name, WAIT_S)
        if not leased:
            return None
        try:
            value, life_s = await self._ask(endpoint)
        except TokenUnavailable:
            async with self._database.transaction() as uow:
                # Whoever waits asks the provider itself, a second from now at the earliest.
                await store.release_token(uow, name, 1.0)
            raise
        fresh_s = max(life_s - OVERLAP_S, LEAST_LIFE_S)
        async with self._database.transaction() as uow:
            generation = await store.save_token(uow, name, self._vault.hide(value, f"{name}/token"), fresh_s)
        return Token(value, generation, time.monotonic() + fresh_s)

    async def _ask(self, endpoint: Endpoint) -> tuple[str, float]:
        base = endpoint.url.rstrip("/")
        if endpoint.channel is Channel.WECOM:
            query = urlencode({"corpid": endpoint.scope, "corpsecret": endpoint.secrets["corp_secret"]})
            answer = await self._caller.get(f"{base}/cgi-bin/gettoken?{query}", {})
        else:
            asked = {
                "grant_type": "client_credential",
                "appid": endpoint.scope,
                "secret": endpoint.secrets["app_secret"],
                "force_refresh": False,
            }
            headers = {"content-type": "application/json"}
            answer = await self._caller.post(f"{base}/cgi-bin/stable_token", orjson.dumps(asked), headers)
        given = read(answer) or {}
        token, life, errcode = given.get("access_token"), given.get("expires_in"), given.get("errcode")
        if isinstance(token, str) and token and isinstance(life, (int, float)):
            return token, float(life)
        raise TokenUnavailable(errcode if isinstance(errcode, int) and errcode != 0 else None)


def account(endpoint: Endpoint) -> str:
    """The name of an account, which is also that of the source its events come under."""
    return f"{endpoint.channel.label}:{endpoint.scope}"


def read(answer: Answer | Retry | Refused) -> dict[str, object] | None:
    """The provider's JSON object; None when there was no answer or it was none of theirs."""
    return (answer.fields() or None) if isinstance(answer, Answer) and answer.status == 200 else None
