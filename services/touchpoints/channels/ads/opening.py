"""Puts the room of advertising together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from prometheus_client import Gauge
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub

from chassis.db import Database
from chassis.errors import is_operational
from services.touchpoints.channels.ads import conversions, store
from services.touchpoints.channels.ads.conversions import Conversions
from services.touchpoints.channels.ads.uploading import Peers, Uploader
from services.touchpoints.channels.http import Caller
from services.touchpoints.channels.opening import Opening
from services.touchpoints.rpc_ads import AdvertisingRpc

log = logging.getLogger(__name__)

PRUNE_S, LOOK_S = 3600.0, 30.0

STUCK = Gauge("touchpoints_ad_lists_stuck", "Lists at advertising platforms that failed, or go on failing.")
LEAVING = Gauge("touchpoints_ad_members_leaving", "Hashes that are to be taken off such lists and are still there.")


def open_ads(given: Opening, caller: Caller) -> AdvertisingRpc:
    """Starts keeping lists up and hearing of conversions, and returns the door of operators."""
    runtime, endpoints, vault = given.runtime, given.endpoints, given.vault
    database, regimes = runtime.database, given.settings.consent_regimes
    tags: Any = TagsServiceStub(runtime.client(given.settings.tags_target))
    uploader = Uploader(database, endpoints, vault, caller, Peers(given.identity, tags), regimes)
    runtime.spawn(uploader.run(), "advertising lists")
    runtime.consumes(Conversions(endpoints, vault).consumer())
    runtime.spawn(_every(PRUNE_S, partial(_prune, database)), "advertising clicks")
    runtime.spawn(_every(LOOK_S, partial(_look, database)), "advertising health")
    return AdvertisingRpc(database, endpoints, tags)


async def _every(pause_s: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except Exception as error:
            if not is_operational(error):
                log.exception("advertising not looked after")
        await asyncio.sleep(pause_s)


async def _prune(database: Database) -> None:
    async with database.transaction(traced=False) as uow:
        await conversions.prune(uow)


async def _look(database: Database) -> None:
    stuck, leaving = await store.trouble(database)
    STUCK.set(stuck)
    LEAVING.set(leaving)
