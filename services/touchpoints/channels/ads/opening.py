"""Puts the room of advertising together."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub

from chassis.db import Database
from chassis.errors import is_operational
from services.touchpoints.channels.ads import conversions
from services.touchpoints.channels.ads.conversions import Conversions
from services.touchpoints.channels.ads.uploading import Peers, Uploader
from services.touchpoints.channels.http import Caller
from services.touchpoints.channels.opening import Opening
from services.touchpoints.rpc_ads import AdvertisingRpc

log = logging.getLogger(__name__)

PRUNE_S = 3600.0


def open_ads(given: Opening, caller: Caller) -> AdvertisingRpc:
    """Starts keeping lists up and hearing of conversions, and returns the door of operators."""
    runtime, endpoints, vault = given.runtime, given.endpoints, given.vault
    database, regimes = runtime.database, given.settings.consent_regimes
    tags: Any = TagsServiceStub(runtime.client(given.settings.tags_target))
    uploader = Uploader(database, endpoints, vault, caller, Peers(given.identity, tags), regimes)
    runtime.spawn(uploader.run(), "advertising lists")
    runtime.consumes(Conversions(endpoints, vault).consumer())
    runtime.spawn(_prune(database), "advertising clicks")
    return AdvertisingRpc(database, endpoints)


async def _prune(database: Database) -> None:
    while True:
        try:
            async with database.transaction(traced=False) as uow:
                await conversions.prune(uow)
        except Exception as error:
            if not is_operational(error):
                log.exception("clicks not pruned")
        await asyncio.sleep(PRUNE_S)
