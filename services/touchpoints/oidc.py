"""Tokens of an OpenID Connect issuer: what a backend or an owner shows instead of a key of ours.

The issuer's own configuration says who may what, in a claim that lists words, or has them with blanks between, as `scope` does:
`troika:source:<name>` stands for a source's server key, `troika:endpoint:<name>` for an endpoint's management key.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt

from chassis.errors import Unauthenticated, Unavailable
from services.touchpoints.channels.http import Answer, Caller
from services.touchpoints.settings import Settings

log = logging.getLogger(__name__)

# Signatures only: with a shared secret whoever can check a token could make one, and `none` is nobody's.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
SOURCE, ENDPOINT = "troika:source:", "troika:endpoint:"
LEEWAY_S: Final = 60.0
# Who takes a key back takes it out of the list that is read so often; and how often it is asked for in between.
REFRESH_S, RETRY_S = 3600.0, 5.0
MOST_REMEMBERED: Final = 10_000


@dataclass(frozen=True)
class Grants:
    """What a token opens, until `ends_at` (seconds since the epoch)."""

    sources: tuple[str, ...]
    endpoints: frozenset[str]
    ends_at: float


def is_token(key: str) -> bool:
    """Whether a key has the form of a token: three parts, of which the first is a JSON object."""
    return key.startswith("eyJ") and key.count(".") == 2


def granted(claims: Mapping[str, Any], claim: str) -> Grants:
    """What the claims of a checked token say."""
    said = claims.get(claim, "")
    words = said.split() if isinstance(said, str) else [word for word in said if isinstance(word, str)]
    return Grants(
        tuple(word.removeprefix(SOURCE) for word in words if word.startswith(SOURCE)),
        frozenset(word.removeprefix(ENDPOINT).lower() for word in words if word.startswith(ENDPOINT)),
        float(claims["exp"]),
    )


class Issuer:
    """Checks tokens of one issuer with the keys that it publishes."""

    def __init__(self, settings: Settings, caller: Caller, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._audience, self._claim = settings.oidc_issuer, settings.oidc_audience, settings.oidc_claim
        self._caller, self._clock = caller, clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._read_at = self._tried_at = float("-inf")
        self._reading = asyncio.Lock()
        self._known: dict[str, Grants] = {}

    async def grants(self, token: str) -> Grants:
        """Raises Unauthenticated for a token that is not this issuer's, or not for us, or not any more."""
        if found := self._known.get(token):
            if time.time() < found.ends_at + LEEWAY_S and self._clock() - self._read_at < REFRESH_S:
                return found
            del self._known[token]
        if not self._url:
            raise _refused("tokens are not taken here: no issuer is set")
        try:
            key = await self._key(str(jwt.get_unverified_header(token).get("kid", "")))
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._url,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.InvalidTokenError as error:
            # Its text names what is wrong with it (expired, audience, signature), and nothing of what it says.
            raise _refused(f"the token is refused: {error}") from error
        if len(self._known) >= MOST_REMEMBERED:
            self._known.clear()
        return self._known.setdefault(token, granted(claims, self._claim))

    async def _key(self, kid: str) -> jwt.PyJWK:
        asked_at = self._clock()
        due = kid not in self._keys or asked_at - self._read_at >= REFRESH_S
        # Strangers' tokens must not make us ask all the time; meanwhile all of them wait for the same answer.
        if due and asked_at - self._tried_at >= RETRY_S:
            async with self._reading:
                if self._tried_at < asked_at:
                    self._tried_at = asked_at
                    try:
                        await self._read()
                    except Unavailable:
                        if not self._keys:
                            raise
        if not self._keys:
            raise _not_read()
        if kid not in self._keys:
            raise _refused("the token is signed with a key that its issuer does not publish")
        return self._keys[kid]

    async def _read(self) -> None:
        found = (await self._fetched(f"{self._url.rstrip('/')}/.well-known/openid-configuration")).fields()
        if found.get("issuer") != self._url:
            log.error("the OpenID issuer calls itself by another address than TROIKA_OIDC_ISSUER")
            raise _not_read()
        keys: dict[str, jwt.PyJWK] = {}
        for given in (await self._fetched(str(found.get("jwks_uri", "")))).fields().get("keys", []):
            try:
                key = jwt.PyJWK.from_dict(given)
            except jwt.PyJWTError:
                continue  # of a kind that we do not take
            if key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig"):
                keys[str(key.key_id or "")] = key
        self._keys, self._read_at, self._known = keys, self._clock(), {}

    async def _fetched(self, url: str) -> Answer:
        answer = await self._caller.get(url, {"accept": "application/json"})
        if not isinstance(answer, Answer) or answer.status != 200:
            raise _not_read()
        return answer


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated(why, reason="UNAUTHORIZED", field="authorization")


def _not_read() -> Unavailable:
    return Unavailable("the issuer's keys cannot be read, try again", reason="ISSUER_UNAVAILABLE")
