"""Endpoints with their secrets in clear, in memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from chassis.db import Database, UnitOfWork
from services.touchpoints import store, webhooks
from services.touchpoints.domain.deliveries import Channel
from services.touchpoints.store import EndpointRow
from services.touchpoints.vault import Vault

REFRESH_S = 2.0


@dataclass(frozen=True)
class Endpoint:
    """Where a channel pushes to."""

    name: str
    channel: Channel
    scope: str
    url: str
    # While it is exchanged both, the newer one first, separated by a space.
    secret: str = field(default="", repr=False)
    # What the channel's form declares.
    settings: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    disabled: bool = False
    # Types of webhooks that its owner does without.
    event_types_off: frozenset[str] = frozenset()

    def wants(self, kind: str) -> bool:
        """Whether a type of webhook goes there."""
        return kind not in self.event_types_off


class Endpoints:
    """A copy of the table `endpoint`, at most REFRESH_S old when it is asked."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database, self._vault = database, vault
        self._all: tuple[Endpoint, ...] = ()
        self._loaded_at, self._forgotten = float("-inf"), 0

    async def all(self) -> tuple[Endpoint, ...]:
        """Every endpoint, disabled ones too."""
        if time.monotonic() - self._loaded_at > REFRESH_S:
            asked = self._forgotten
            async with self._database.read() as uow:
                self._all = await self.read(uow)
            # What was changed while it was being read may not be in it.
            if asked == self._forgotten:
                self._loaded_at = time.monotonic()
        return self._all

    async def read(self, uow: UnitOfWork) -> tuple[Endpoint, ...]:
        """Every endpoint as a transaction sees it."""
        return tuple(self._open(row) for row in await store.endpoints(uow))

    async def named(self, name: str) -> Endpoint | None:
        """The endpoint of a name, read anew when it is not known yet."""
        for _ in range(2):
            for endpoint in await self.all():
                if endpoint.name == name:
                    return endpoint
            if time.monotonic() - self._loaded_at > REFRESH_S / 10:
                self.forget()
        return None

    async def of(self, channel: Channel, scope: str) -> Endpoint | None:
        """The endpoint of a channel with this scope."""
        return next((e for e in await self.all() if e.channel is channel and e.scope == scope), None)

    def forget(self) -> None:
        """Makes the next question read the table."""
        self._loaded_at = float("-inf")
        self._forgotten += 1

    async def register(self, uow: UnitOfWork, given: Endpoint, signed: bool) -> str:
        """Makes or changes an endpoint; returns the webhook secret of a new one that is `signed`, else empty.

        `given.secret` is not read: an endpoint keeps the one it was made with, until it is given another scope.
        """
        secret = webhooks.new_secret() if signed else ""
        row = EndpointRow(
            given.name,
            given.channel,
            given.scope,
            given.url,
            self._vault.hide(secret, f"{given.name}/secret"),
            orjson.dumps(dict(given.settings)).decode(),
            self._vault.hide(orjson.dumps(dict(given.secrets)).decode(), f"{given.name}/secrets"),
        )
        made = await store.save_endpoint(uow, row)
        return secret if made else ""

    def _open(self, row: EndpointRow) -> Endpoint:
        show = self._vault.show
        return Endpoint(
            row.name,
            row.channel,
            row.scope,
            row.url,
            " ".join(show(one, f"{row.name}/secret") for one in (row.secret, row.previous_secret) if one),
            orjson.loads(row.settings),
            orjson.loads(show(row.secrets, f"{row.name}/secrets") or "{}"),
            row.disabled,
            frozenset(row.event_types_off),
        )
