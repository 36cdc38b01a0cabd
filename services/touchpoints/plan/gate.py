"""Between reading events and publishing them: what fits the plan goes on, the rest is sealed for the quarantine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chassis.outbox import Outgoing
from services.touchpoints.domain.observed import Invalid, Observed
from services.touchpoints.plan.held import Held, Holder, unreadable
from services.touchpoints.plan.live import LivePlan

Context = Callable[[int], Sequence[Any]]


class Gate:
    """Judges by the plan of the moment."""

    def __init__(self, live: LivePlan, holder: Holder) -> None:
        self._live, self._holder = live, holder

    def fault(self, event: Observed) -> Invalid | None:
        """Why a record's event does not fit the plan, naming the field as records do; None when it goes on.

        Raises Unavailable while there is no plan.
        """
        if fault := self._live.now().fault(event, self._live.passed):
            return _in_record(fault)
        return None

    def sift(
        self,
        source: str,
        door: str,
        message: Callable[[int], Any],
        observe: Sequence[Callable[[], Observed]],
        context: Context,
        *,
        count: bool,
    ) -> tuple[list[Observed], list[Held]]:
        """(events that go on, those that must be held); raises Unavailable while there is no plan.

        `message`: what came at an index, asked for only where it is held; `context`: what of its request it needs to be read
        again.
        """
        plan, passed = self._live.now(), self._live.passed if count else None
        observed: list[Observed] = []
        held: list[Held] = []
        for index, read in enumerate(observe):
            try:
                event = plan.named(read())
            except Invalid as error:
                held.append(unreadable(source, door, message(index), context(index), error))
                continue
            if fault := plan.fault(event, passed):
                held.append(Held(event.event_id, source, event.name, fault, door, message(index), context(index)))
            else:
                observed.append(event)
        return observed, held

    def aside(self, held: Sequence[Held], received_us: int) -> list[Outgoing]:
        """Bus messages that bring events into the quarantine."""
        return list(self._holder.messages(held, received_us)) if held else []


def _in_record(fault: Invalid) -> Invalid:
    part, _, rest = fault.field.partition(".")
    if not fault.schema_path or not fault.field:
        return fault
    field = f"vehicle.attributes.{rest}" if part == "vehicle" and rest else f"attributes.{fault.field}"
    return Invalid(field, fault.reason, fault.message, fault.schema_path)
