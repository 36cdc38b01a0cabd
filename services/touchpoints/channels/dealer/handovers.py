"""Orchestrator's handovers of leads as webhooks to dealers, through the same engine as every push."""

from __future__ import annotations

from collections.abc import Sequence

from chassis.db import UnitOfWork
from services.touchpoints import events
from services.touchpoints.channels.dealer import store
from services.touchpoints.domain.deliveries import State
from services.touchpoints.domain.handovers import Handover, told
from services.touchpoints.events import Update
from services.touchpoints.store import deliveries, erasures


async def hand_over(uow: UnitOfWork, given: Sequence[Handover]) -> None:
    """Queues what dealers are to be told. Who was not told yet of a lead that is taken again never is."""
    await erasures.hold_off(uow)
    gone = await erasures.erased_persons(uow, (each.person_id for each in given))
    living = [each for each in given if each.person_id not in gone]
    await deliveries.add(uow, list(told(living)))
    # One by one in the order of the facts: what takes a lead must not meet what gave it back later.
    for each in living:
        if each.takes:
            stopped = await store.revoke(uow, each.before, each.dealer_code, each.number)
            updates = [Update(name, State.SUPPRESSED, store.REVOKED, at) for name, at in stopped]
            for payload in events.update_batches(updates):
                uow.publish(events.UPDATED, payload)
