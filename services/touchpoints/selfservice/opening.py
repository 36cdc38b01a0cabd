"""Puts self-service together."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from chassis.db import Database
from chassis.errors import is_operational
from chassis.run import Runtime
from services.touchpoints.channels.http import Caller
from services.touchpoints.endpoints import Endpoints
from services.touchpoints.oidc import Issuer
from services.touchpoints.rpc_endpoints import EndpointRpc
from services.touchpoints.selfservice import store
from services.touchpoints.selfservice.desk import Desk
from services.touchpoints.settings import Settings
from services.touchpoints.vault import Vault
from services.touchpoints.web.described import document
from services.touchpoints.web.endpoints import add_endpoint_doors

log = logging.getLogger(__name__)

FORGET_EVERY_S: Final = 600.0
MOST_AT_ONCE: Final = 20_000


def open_selfservice(
    runtime: Runtime, settings: Settings, endpoints: Endpoints, vault: Vault, caller: Caller, issuer: Issuer
) -> EndpointRpc:
    """Opens the doors of owners, starts forgetting old attempts, and returns the door of operators."""
    desk = Desk(runtime.database, endpoints, vault, caller, issuer, settings.allow_private_endpoints)
    add_endpoint_doors(runtime.app, desk)
    # Owners ask /openapi.json what doors there are.
    runtime.app.openapi = document  # type: ignore[method-assign]
    runtime.spawn(_forget(runtime.database, settings.attempt_days), "old attempts")
    return EndpointRpc(desk)


async def _forget(database: Database, days: float) -> None:
    while True:
        try:
            async with database.transaction(traced=False) as uow:
                forgotten = await store.forget_attempts(uow, days, MOST_AT_ONCE)
        except Exception as error:
            if not is_operational(error):
                log.exception("old attempts not forgotten")
            forgotten = 0
        if forgotten < MOST_AT_ONCE:
            await asyncio.sleep(FORGET_EVERY_S)
