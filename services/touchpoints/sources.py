"""Sources and their write keys, in memory: the ingest doors never wait for the database."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from dataclasses import replace

from chassis.db import Database
from chassis.errors import Unauthenticated, Unavailable, is_operational
from services.touchpoints import store
from services.touchpoints.domain.observed import Source
from services.touchpoints.oidc import Issuer, is_token

log = logging.getLogger(__name__)

REFRESH_S = 2.0
MISS_REFRESH_S = 0.25


class Sources:
    """A copy of the table `source`, at most REFRESH_S old while the database answers."""

    def __init__(self, database: Database, issuer: Issuer | None = None) -> None:
        """`issuer`: whose tokens stand for server keys."""
        self._database, self._issuer = database, issuer
        self._by_key: dict[bytes, Source] = {}
        self._by_text: dict[str, Source] = {}
        self._by_name: dict[str, Source] = {}
        self._loaded_at = float("-inf")
        self._loading = asyncio.Lock()

    async def of(self, write_key: str) -> Source:
        """The source of a write key; raises Unauthenticated, or Unavailable while nothing could be read yet."""
        if source := self._by_text.get(write_key):
            return source
        if self._issuer is not None and is_token(write_key):
            return await self._of_token(self._issuer, write_key)
        hashed = hashlib.sha256(write_key.encode()).digest()
        if hashed not in self._by_key:
            await self._read_since(time.monotonic())
        if source := self._by_key.get(hashed):
            self._by_text[write_key] = source
            return source
        raise Unauthenticated("unknown write key", reason="UNAUTHORIZED", field="authorization")

    async def _of_token(self, issuer: Issuer, token: str) -> Source:
        granted = (await issuer.grants(token)).sources
        if len(granted) == 1:
            if granted[0] not in self._by_name:
                await self._read_since(time.monotonic())
            if source := self._by_name.get(granted[0]):
                return source if source.server_side else replace(source, server_side=True)
        why = "the token must stand for one source that there is, by one word troika:source:<name>"
        raise Unauthenticated(why, reason="UNAUTHORIZED", field="authorization")

    def named(self, name: str) -> Source | None:
        """A source by its name, as last read."""
        return self._by_name.get(name)

    async def _read_since(self, asked_at: float) -> None:
        """Makes the copy newer than an instant: to refuse a key that was just made would cost its events."""
        async with self._loading:
            if self._loaded_at >= asked_at:
                return
            # Strangers' keys must not make us read all the time; meanwhile all of them wait for the same reading.
            await asyncio.sleep(max(0.0, self._loaded_at + MISS_REFRESH_S - time.monotonic()))
            try:
                await self._load()
            except Exception as error:
                if not is_operational(error):
                    raise
                if not self._by_key:
                    raise Unavailable("sources cannot be read, try again") from error

    async def _load(self) -> None:
        started = time.monotonic()
        async with self._database.read() as uow:
            by_key = await store.sources(uow)
        self._by_key, self._by_text, self._loaded_at = by_key, {}, started
        self._by_name = {source.name: source for source in by_key.values()}

    async def run(self) -> None:
        """Reads the table every REFRESH_S until cancelled."""
        while True:
            try:
                async with self._loading:
                    await self._load()
            except Exception as error:
                if not is_operational(error):
                    log.exception("sources not refreshed")
            await asyncio.sleep(REFRESH_S)
