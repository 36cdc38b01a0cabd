"""What a change of device tokens tells others: on how many devices a user of an app takes notifications now."""

from __future__ import annotations

import orjson

from chassis.db import UnitOfWork
from chassis.sealing import DataKey
from services.touchpoints import events
from services.touchpoints.channels.push.tokens import Registration, Tokens
from services.touchpoints.domain.observed import Observed, event_id

# Of the tracking plan; tags makes has_push of it.
CHANGED = "Push Devices Changed"


async def devices(uow: UnitOfWork, registry: Tokens, given: Registration) -> int:
    """How many tokens of a user are in force (index ix_device_token_owner)."""
    rows = await uow.rows(
        "SELECT count(*) AS n FROM device_token WHERE owner = :owner AND invalid_at IS NULL",
        owner=registry.owner(given.source, given.user_id),
    )
    return int(rows[0].n)


def tell(uow: UnitOfWork, given: Registration, count: int, key: DataKey, received_us: int) -> None:
    """States the new number; neither a token nor, in the clear, whose it is."""
    at_us = round(given.at.timestamp() * 1_000_000)
    observed = Observed(
        event_id(given.source, f"{CHANGED}\0{given.user_id}\0{count}\0{received_us}"),
        given.source,
        CHANGED,
        at_us,
        [("crm_id", given.source, given.user_id)],
        "",
        0,
        orjson.dumps({"devices": count}),
        b"",
    )
    uow.publish(events.OBSERVED, events.key_prefix(key) + events.sealed_batch([observed], key, received_us))
