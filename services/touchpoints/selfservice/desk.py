"""What the owner of an endpoint may do with its management key, and nobody else with it."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from chassis.db import Database, UnitOfWork
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unauthenticated
from services.touchpoints import webhooks
from services.touchpoints.channels.http import Answer, Caller, forbidden
from services.touchpoints.endpoints import Endpoint, Endpoints
from services.touchpoints.oidc import Issuer, is_token
from services.touchpoints.outgoing import TEST, types_of
from services.touchpoints.selfservice import store
from services.touchpoints.selfservice.store import Managed, Tried
from services.touchpoints.vault import Vault

TEST_EVERY_S: Final = 5.0
MOST_REPLAYED: Final = 500
MOST_HOURS: Final = 168.0
_PREFIX: Final = "mk_"


def hashed(key: str) -> bytes:
    """What is kept of a management key."""
    return hashlib.sha256(key.encode()).digest()


def _not_the_key() -> Unauthenticated:
    return Unauthenticated("not the management key of this endpoint", reason="UNAUTHORIZED", field="authorization")


@dataclass(frozen=True)
class Tested:
    """What a test came to; status 0 when there was no answer."""

    ok: bool
    status: int
    reason: str
    milliseconds: int


class Desk:
    """Opens for a name and its key; every other method takes what `open` returned."""

    def __init__(
        self, database: Database, endpoints: Endpoints, vault: Vault, caller: Caller, issuer: Issuer, allow_private: bool
    ) -> None:
        self._database, self._endpoints, self._vault, self._caller = database, endpoints, vault, caller
        self._issuer, self._allow_private = issuer, allow_private

    async def new_key(self, name: str) -> str:
        """Another management key for an endpoint, shown once; the old one ends."""
        key = _PREFIX + secrets.token_urlsafe(32)
        await self._set_key(name, hashed(key))
        return key

    async def revoke_key(self, name: str) -> None:
        """No key opens it any more."""
        await self._set_key(name, b"")

    async def _set_key(self, name: str, key_sha256: bytes) -> None:
        async with self._database.transaction() as uow:
            if not await store.set_key(uow, name, key_sha256):
                raise NotFound("no such endpoint with a webhook secret", reason="ENDPOINT_NOT_FOUND", field="name")

    async def open(self, name: str, key: str) -> Managed:
        """The endpoint, by its key or a token that names it; raises Unauthenticated for a wrong one or an unknown name."""
        token = is_token(key)
        if token and name not in (await self._issuer.grants(key)).endpoints:
            raise _not_the_key()
        async with self._database.read() as uow:
            found = await store.managed(uow, name, None if token else hashed(key)) if token or key.startswith(_PREFIX) else None
        if found is None:
            raise _not_the_key()
        return found

    @asynccontextmanager
    async def _change(self, mine: Managed) -> AsyncIterator[UnitOfWork]:
        """A transaction of the owner's; raises Unauthenticated when the key was revoked since it opened the endpoint."""
        async with self._database.transaction() as uow:
            if not await store.lock(uow, mine):
                raise _not_the_key()
            yield uow

    async def move(self, mine: Managed, url: str) -> Tested:
        """Sends to another address once it has answered a signed test with 2xx; raises when it does not."""
        if why := forbidden(url, self._allow_private):
            raise InvalidArgument(why, field="url")
        tested = await self._test(mine, url)
        if not tested.ok:
            told = {"status": str(tested.status), "reason": tested.reason}
            raise FailedPrecondition(
                f"the address did not answer the test with 2xx: {tested.reason}",
                reason="ADDRESS_NOT_ANSWERING",
                field="url",
                metadata=told,
            )
        async with self._change(mine) as uow:
            await store.set_address(uow, mine.name, url)
        self._endpoints.forget()
        return tested

    async def test(self, mine: Managed) -> Tested:
        """Calls the present address."""
        if not mine.url:
            raise FailedPrecondition("the endpoint has no address yet", reason="NO_ADDRESS", field="url")
        return await self._test(mine, mine.url)

    async def _test(self, mine: Managed, url: str) -> Tested:
        async with self._change(mine) as uow:
            if not await store.may_test(uow, mine.name, TEST_EVERY_S):
                raise ResourceExhausted(f"one test every {TEST_EVERY_S:g} s", reason="TESTED_JUST_NOW")
        endpoint = await self._endpoint(mine)
        body = webhooks.envelope(TEST, {"endpoint": mine.name}, datetime.now(UTC))
        headers = webhooks.signed_headers(endpoint.secret, f"test_{secrets.token_hex(12)}", body)
        began = time.perf_counter()
        answer = await self._caller.post(url, body, headers)
        milliseconds = round((time.perf_counter() - began) * 1000)
        if not isinstance(answer, Answer):
            return Tested(False, 0, answer.reason, milliseconds)
        ok = 200 <= answer.status < 300
        return Tested(ok, answer.status, "" if ok else f"http_{answer.status}", milliseconds)

    async def _endpoint(self, mine: Managed) -> Endpoint:
        # Read anew: what was changed a moment ago signs already.
        self._endpoints.forget()
        endpoint = await self._endpoints.named(mine.name)
        if endpoint is None:
            raise NotFound("no such endpoint", reason="ENDPOINT_NOT_FOUND", field="name")
        return endpoint

    async def rotate(self, mine: Managed, hours: float) -> tuple[str, datetime]:
        """(new secret, until when the old one is good too); we sign with both and take either."""
        secret = webhooks.new_secret()
        async with self._change(mine) as uow:
            until = await store.rotate(uow, mine.name, self._vault.hide(secret, f"{mine.name}/secret"), hours)
        if until is None:
            raise FailedPrecondition(
                "the secret before this one is still good: wait for its end, or end all old ones with hours 0",
                reason="ROTATION_UNDER_WAY",
                field="hours",
            )
        self._endpoints.forget()
        return secret, until

    async def choose(self, mine: Managed, wanted: Sequence[str]) -> None:
        """Only these types from now on."""
        known = types_of(mine.channel)
        for name in wanted:
            if name not in known:
                raise InvalidArgument(f"{name} is not among {', '.join(known)}", field="event_types")
        off = [name for name in known if name not in wanted]
        for name in off:
            if not known[name].optional:
                raise FailedPrecondition(f"{name} cannot be done without", reason="EVENT_TYPE_REQUIRED", field="event_types")
        async with self._change(mine) as uow:
            await store.set_event_types_off(uow, mine.name, off)
        self._endpoints.forget()

    async def attempts(self, mine: Managed, before: int, outcome: str, delivery_id: str, most: int) -> list[Tried]:
        """Calls of this endpoint, newest first."""
        async with self._database.read() as uow:
            return await store.attempts(uow, mine.name, before=before, outcome=outcome, delivery_id=delivery_id, most=most)

    async def replay(self, mine: Managed, delivery_ids: Sequence[str], since: datetime | None) -> list[str]:
        """Sends again what is parked at this endpoint."""
        if mine.disabled_at is not None:
            raise FailedPrecondition("register a working address first", reason="ENDPOINT_DISABLED", field="url")
        async with self._change(mine) as uow:
            return await store.replay(uow, mine.name, delivery_ids, since, MOST_REPLAYED)
