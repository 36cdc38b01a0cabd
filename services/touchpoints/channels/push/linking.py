"""Whose device tokens are: asked of identity until it knows the user, so that an erasure takes them along at once."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import grpc
from troika.identity.v1.identity_service_pb2 import IdentifierRef, ResolveIdentifiersRequest

from chassis.db import Database
from chassis.errors import is_operational
from services.touchpoints.channels.push import tokens
from services.touchpoints.channels.push.tokens import Tokens

if TYPE_CHECKING:
    from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceAsyncStub

log = logging.getLogger(__name__)

EVERY_S: Final = 10.0
AT_ONCE, ROUNDS = 500, 10
TIMEOUT_S: Final = 10.0


class Linker:
    """One per process; any number may run."""

    def __init__(self, database: Database, registry: Tokens, identity: IdentityServiceAsyncStub) -> None:
        self._database, self._registry, self._identity = database, registry, identity
        self._after = 0

    async def run(self) -> None:
        """Links until cancelled."""
        while True:
            try:
                for _ in range(ROUNDS):
                    if not await self.link():
                        break
            except grpc.aio.AioRpcError as error:
                log.warning("device tokens not linked now", extra={"code": error.code().name})
            except Exception as error:
                if not is_operational(error):
                    log.exception("device tokens not linked")
            await asyncio.sleep(EVERY_S)

    async def link(self) -> bool:
        """Asks for some, where the last time ended; False once all were asked for. Who is unknown is asked for again."""
        async with self._database.read() as uow:
            found = await self._registry.unlinked(uow, self._after, AT_ONCE)
        self._after = found[-1][0] if len(found) == AT_ONCE else 0
        if not found:
            return False
        refs = [IdentifierRef(kind="crm_id", scope=source, value=user) for _, source, user in found]
        request = ResolveIdentifiersRequest(identifiers=refs, with_anchors=True)
        answer = await self._identity.ResolveIdentifiers(request, timeout=TIMEOUT_S)
        known = {number: anchor for (number, _, _), anchor in zip(found, answer.anchor_ids, strict=True) if anchor}
        if known:
            async with self._database.transaction(traced=False) as uow:
                await tokens.link(uow, known)
        return self._after > 0
