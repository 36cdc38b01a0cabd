"""Who a new contact in WeCom is elsewhere: WeCom says the unionid, which accounts of WeChat have, too (CONVENTIONS 3.7).

Asked for behind the callback, which has five seconds, and again until WeCom answers. What is asked about stands sealed in a row
until then, and never for long.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidTag

from chassis.db import Database
from chassis.errors import is_operational
from services.touchpoints import events
from services.touchpoints.domain.deliveries import Refused, retry_delay_s
from services.touchpoints.domain.observed import Observed, event_id
from services.touchpoints.endpoints import Endpoint, Endpoints
from services.touchpoints.sealer import Sealer
from services.touchpoints.vault import Vault
from services.touchpoints.wechat import store
from services.touchpoints.wechat.api import Api, Done
from services.touchpoints.wechat.store import AskedContact
from services.touchpoints.wechat.tokens import account

log = logging.getLogger(__name__)

EVENT: Final = "Identified"
PATH: Final = "/cgi-bin/externalcontact/get"
BATCH: Final = 20
POLL_S: Final = 1.0
# Longer than the call, its token and its repeat may take.
LEASE_S: Final = 120.0
_UNIONID: Final = re.compile(r"[\w-]{10,64}", re.ASCII)


def place(name: str, contact: bytes) -> str:
    """Under which name a contact of an account is sealed."""
    return f"{name}/contact/{contact.hex()}"


class Contacts:
    """Asks about contacts; any number of processes may."""

    def __init__(self, database: Database, endpoints: Endpoints, api: Api, sealer: Sealer, vault: Vault) -> None:
        self._database, self._endpoints, self._api = database, endpoints, api
        self._sealer, self._vault = sealer, vault

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            asked = 0
            try:
                asked = await self.round()
            except Exception as error:
                if not is_operational(error):
                    log.exception("contacts not asked about")
            if asked < BATCH:
                await asyncio.sleep(POLL_S)

    async def round(self) -> int:
        """Asks about those that are due; returns how many there were."""
        async with self._database.transaction(traced=False) as uow:
            due = await store.due_contacts(uow, BATCH, LEASE_S)
        for asked in due:
            await self._ask(asked)
        return len(due)

    async def _ask(self, asked: AskedContact) -> None:
        endpoint = await self._endpoints.named(asked.endpoint)
        contact = self._shown(asked, endpoint) if endpoint and not endpoint.disabled else ""
        if endpoint is None or not contact:
            await self._forget(asked)
            return
        answer = await self._api.get(endpoint, PATH, {"external_userid": contact}, asked.attempts)
        if isinstance(answer, Done):
            await self._take(asked, endpoint, contact, unionid_in(answer.fields))
        elif isinstance(answer, Refused):
            # Not a contact any more, or never one.
            log.warning("a contact that WeCom does not tell of", extra={"endpoint": endpoint.name, "reason": answer.reason})
            await self._forget(asked)
        else:
            wait_s = retry_delay_s(asked.attempts, getattr(answer, "after_s", 0.0), random.random())
            async with self._database.transaction() as uow:
                await store.put_off_contact(uow, asked, wait_s)

    def _shown(self, asked: AskedContact, endpoint: Endpoint) -> str:
        try:
            return self._vault.show(asked.sealed, place(account(endpoint), asked.contact))
        except (InvalidTag, ValueError):
            log.error("a contact was sealed under another key", extra={"endpoint": asked.endpoint})
            return ""

    async def _take(self, asked: AskedContact, endpoint: Endpoint, contact: str, unionid: str) -> None:
        """Both numbers in one event are one person to identity. Without a unionid there is nothing to say."""
        source, now_us = account(endpoint), time.time_ns() // 1000
        said = Observed(
            event_id(source, f"{EVENT}\0{contact}"),
            source,
            EVENT,
            now_us,
            [("crm_id", source, contact), ("unionid", "", unionid)],
            "",
            0,
            b"",
            b"",
        )
        key = self._sealer.key()
        async with self._database.transaction() as uow:
            if unionid:
                uow.publish(events.OBSERVED, events.key_prefix(key) + events.sealed_batch([said], key, now_us))
            await store.forget_contact(uow, asked)

    async def _forget(self, asked: AskedContact) -> None:
        async with self._database.transaction() as uow:
            await store.forget_contact(uow, asked)


def unionid_in(fields: Mapping[str, Any]) -> str:
    """The unionid of an answer; empty for contacts without one (of other corporations, or of an account that is not bound)."""
    found = fields.get("external_contact")
    unionid = found.get("unionid") if isinstance(found, Mapping) else None
    return unionid if isinstance(unionid, str) and _UNIONID.fullmatch(unionid) else ""
