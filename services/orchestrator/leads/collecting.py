"""Steps of leads from what others say: events of persons, and pushes that went to dealers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from chassis.db import UnitOfWork
from services.orchestrator.experiments.collecting import Happened
from services.orchestrator.leads.chain import LOST_REASONS, NOT_INTERESTED, ORDER_CANCELLED, OTHER, Stage
from services.orchestrator.leads.store import LeadStore, NewStep, step_key
from services.orchestrator.store.erasures import ErasureStore
from services.orchestrator.store.holding import hold_off_erasures

DEALER_SOURCE = "dealer:"
# A word from outside that is longer is no word.
LONGEST = 100
# States of a push to a dealer (touchpoints.v1.DeliveryState): the dealer spoke to the person, it reached its goal, or did not.
REACHED, GOAL, FAILED = 4, 8, 9
_CANCELLED = "Order Cancelled"
# The catalogue's events of a sale, and what other houses call them.
DEFAULT_STAGES: Mapping[str, Stage] = {
    "Lead Created": Stage.LEAD,
    "Test Drive Requested": Stage.LEAD,
    "Lead Contacted": Stage.CONTACTED,
    "Test Drive Booked": Stage.INVITED,
    "Showroom Visit": Stage.VISIT,
    "Showroom Visited": Stage.VISIT,
    "Test Drive Completed": Stage.TEST_DRIVE,
    "Test Drive Done": Stage.TEST_DRIVE,
    "Order Placed": Stage.ORDER,
    "Order Cancelled": Stage.LOST,
    "Vehicle Delivered": Stage.DELIVERED,
    "Lead Lost": Stage.LOST,
}


class LeadCollector:
    """Steps found in one batch of events; `stages` says what the name of an event means."""

    def __init__(self, stages: Mapping[str, Stage]) -> None:
        self._stages = stages
        self._found: list[NewStep] = []

    @property
    def events(self) -> frozenset[str]:
        """Names of events that are looked at."""
        return frozenset(self._stages)

    def take(self, source: str, event: Happened) -> None:
        """Notes a step; nobody's event says nothing."""
        stage = self._stages.get(event.name)
        if stage is None or not event.person_id:
            return
        properties = event.properties
        dealer = source.removeprefix(DEALER_SOURCE) if source.startswith(DEALER_SOURCE) else _word(properties, "dealer_code")
        self._found.append(
            NewStep(
                event.event_id,
                event.anchor_id,
                event.person_id,
                event.version,
                stage,
                event.occurred_at,
                interest=_word(properties, "model"),
                brand=_word(properties, "brand"),
                area=_word(properties, "area"),
                source=source,
                dealer_code=dealer,
                advisor=_word(properties, "advisor") if dealer else "",
                reason=_reason(event.name, properties) if stage is Stage.LOST else "",
                author="events",
            )
        )

    async def keep(self, uow: UnitOfWork) -> None:
        """Stores what was noted, without what comes late of erased persons."""
        if not self._found:
            return
        erasures = ErasureStore(uow)
        await hold_off_erasures(uow)
        stones = await erasures.tombstones(step.anchor_id for step in self._found)
        living = [s for s in self._found if s.anchor_id not in stones or not stones[s.anchor_id].covers(s.person_id, s.version)]
        await LeadStore(uow).add(living)


def _word(properties: Mapping[str, Any], name: str) -> str:
    given = properties.get(name)
    return given if isinstance(given, str) and len(given) <= LONGEST and given.isprintable() else ""


def _reason(name: str, properties: Mapping[str, Any]) -> str:
    """A reason of the closed list; what is not on it is other."""
    if name == _CANCELLED:
        return ORDER_CANCELLED
    given = _word(properties, "reason")
    return given if given in LOST_REASONS else OTHER


# Webhooks by which touchpoints tells a dealer of "leads/12" have ids of this shape; odd revisions tell of the assignment that
# is the lead's (revision + 1) / 2-th, even ones that it is over (announcing.py).
_HANDOVER = re.compile("lead-([1-9][0-9]{0,17})-([1-9][0-9]{0,5})")


async def follow_handovers(uow: UnitOfWork, updates: Mapping[str, tuple[int, str]]) -> None:
    """Whose dealer tried to reach them, well or in vain: nobody is late with these leads. `updates`: id → (state, reason)."""
    tried = {
        (int(found[1]), (int(found[2]) + 1) // 2)
        for name, (state, reason) in updates.items()
        if (found := _HANDOVER.fullmatch(name)) and (REACHED <= state <= GOAL or (state, reason) == (FAILED, "unreachable"))
        if int(found[2]) % 2
    }
    if tried:
        leads = LeadStore(uow)
        await leads.lock()
        await leads.reached(tried)


async def follow_pushes(uow: UnitOfWork, delivery_ids: Iterable[str]) -> None:
    """A theme's push to a dealer is a lead of that dealer once it got there; what came of it are its further steps.

    Asked of the furthest states as stored, so that the order of updates does not matter. An erased person's push is nobody's.
    """
    rows = await uow.rows(
        "SELECT d.delivery_id, d.theme_id, d.person_id, d.dealer_code, v.state, v.answer, v.occurred_at, d.decided_at"
        " FROM decision d JOIN delivery v USING (delivery_id)"
        " WHERE d.delivery_id = ANY(CAST(:ids AS text[])) AND d.channel = 'dealer' AND d.person_id > 0"
        " AND (v.state BETWEEN 3 AND 8 OR v.answer <> '' OR (v.state = 9 AND v.reason = 'unreachable'))",
        ids=sorted(set(delivery_ids)),
    )
    leads = LeadStore(uow)
    await leads.add([step for row in rows for step in _of_push(row)])
    # Who was not reached was tried all the same.
    await leads.attempted(step_key("push", row.delivery_id, Stage.LEAD.value) for row in rows if row.state == FAILED)


def _of_push(row: Any) -> Sequence[NewStep]:
    def step(stage: Stage, at: datetime, reason: str = "") -> NewStep:
        return NewStep(
            step_key("push", row.delivery_id, stage.value),
            0,
            row.person_id,
            0,
            stage,
            at,
            source=f"themes/{row.theme_id}",
            dealer_code=row.dealer_code,
            reason=reason,
            author="themes",
        )

    # Nobody was spoken to while the state says no more than that the dealer has it, or failed to reach them.
    steps = [step(Stage.LEAD, row.decided_at)]
    if REACHED <= row.state <= GOAL or row.answer:
        steps.append(step(Stage.CONTACTED, max(row.occurred_at, row.decided_at)))
    if row.answer == "yes":
        steps.append(step(Stage.INVITED, max(row.occurred_at, row.decided_at)))
    if row.answer == "no":
        steps.append(step(Stage.LOST, max(row.occurred_at, row.decided_at), NOT_INTERESTED))
    return steps
