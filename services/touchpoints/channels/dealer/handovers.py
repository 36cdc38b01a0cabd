"""Orchestrator's handovers of leads as webhooks to dealers, through the same engine as every push."""

from __future__ import annotations

from collections.abc import Sequence

from chassis.db import UnitOfWork
from services.touchpoints import events
from services.touchpoints.channels.dealer import store
from services.touchpoints.channels.dealer.store import Withdrawal
from services.touchpoints.domain.deliveries import State
from services.touchpoints.domain.handovers import TAKEN, Handover, told
from services.touchpoints.events import Update
from services.touchpoints.store import deliveries, erasures


async def hand_over(uow: UnitOfWork, given: Sequence[Handover]) -> None:
    """Queues what dealers are to be told. Who was not told yet of a lead that was taken again never is, in whatever order."""
    await erasures.hold_off(uow)
    await store.one_by_one(uow, [each.lead for each in given])
    gone = await erasures.erased_persons(uow, (each.person_id for each in given))
    living = [each for each in given if each.person_id not in gone]
    await deliveries.add(uow, list(told(living)))
    withdrawn = await store.withdrawals(uow, [each.lead for each in living if each.kind != TAKEN])
    # One by one in the order of the facts: what takes a lead must not meet what gave it back later.
    for each in living:
        if taken := each if each.takes else _taken(each, withdrawn):
            stopped = await store.revoke(uow, taken.before, taken.dealer_code, taken.number)
            updates = [Update(name, State.SUPPRESSED, store.REVOKED, at) for name, at in stopped]
            for payload in events.update_batches(updates):
                uow.publish(events.UPDATED, payload)


def _taken(given: Handover, withdrawn: Sequence[Withdrawal]) -> Handover | None:
    """What took the lead from the dealer again, of a handover that comes after that; None while the dealer has it."""
    later = [w for w in withdrawn if (w.lead, w.dealer_code) == (given.lead, given.dealer_code) and w.revision > given.revision]
    if given.kind == TAKEN or not later:
        return None
    first = min(later, key=lambda w: w.revision)
    return given.until(first.revision, first.known_as)
