"""Endpoints with their secrets in clear, in memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

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
    secret: str = field(default="", repr=False)
    wechat_secret: str = field(default="", repr=False)
    wechat_callback_token: str = field(default="", repr=False)
    wechat_template_id: str = ""
    disabled: bool = False


class Endpoints:
    """A copy of the table `endpoint`, at most REFRESH_S old when it is asked."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database, self._vault = database, vault
        self._all: tuple[Endpoint, ...] = ()
        self._loaded_at = float("-inf")

    async def all(self) -> tuple[Endpoint, ...]:
        """Every endpoint, disabled ones too."""
        if time.monotonic() - self._loaded_at > REFRESH_S:
            async with self._database.read() as uow:
                rows = await store.endpoints(uow)
            self._all, self._loaded_at = tuple(self._open(row) for row in rows), time.monotonic()
        return self._all

    async def named(self, name: str) -> Endpoint | None:
        """The endpoint of a name, read anew when it is not known yet."""
        for _ in range(2):
            for endpoint in await self.all():
                if endpoint.name == name:
                    return endpoint
            if time.monotonic() - self._loaded_at > REFRESH_S / 10:
                self.forget()
        return None

    async def of_appid(self, appid: str) -> Endpoint | None:
        """The WeChat endpoint of an appid."""
        return next((e for e in await self.all() if e.channel is Channel.WECHAT and e.scope == appid), None)

    def forget(self) -> None:
        """Makes the next question read the table."""
        self._loaded_at = float("-inf")

    async def register(self, uow: UnitOfWork, given: Endpoint) -> str:
        """Makes or changes an endpoint; returns the webhook secret of a new one, else empty. `given.secret` is not read."""
        name, hide = given.name, self._vault.hide
        secret = "" if given.channel is Channel.WECHAT else webhooks.new_secret()
        row = EndpointRow(
            name,
            given.channel,
            given.scope,
            given.url,
            hide(secret, f"{name}/secret"),
            hide(given.wechat_secret, f"{name}/wechat_secret"),
            hide(given.wechat_callback_token, f"{name}/wechat_callback_token"),
            given.wechat_template_id,
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
            show(row.secret, f"{row.name}/secret"),
            show(row.wechat_secret, f"{row.name}/wechat_secret"),
            show(row.wechat_callback_token, f"{row.name}/wechat_callback_token"),
            row.wechat_template_id,
            row.disabled,
        )
