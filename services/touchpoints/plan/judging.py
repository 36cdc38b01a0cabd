"""The plan at one moment: what it says of an event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from services.touchpoints.domain.observed import Invalid, Observed
from services.touchpoints.plan.schemas import Schema

# Reasons of events that a change of the plan can heal.
UNPLANNED, NOT_ALLOWED, MISMATCH = "EVENT_UNPLANNED", "SOURCE_NOT_ALLOWED", "PLAN_MISMATCH"


class Unplanned(IntEnum):
    """What becomes of events that are not in the plan; the numbers are the contract's."""

    PASS = 1
    HOLD = 2


@dataclass(frozen=True)
class EventType:
    """One version of what is planned of an event. `version` 0 is as shipped; `sources` empty: any may send it."""

    name: str
    version: int
    title: str
    description: str
    schema: Mapping[str, Any]
    # A trailing * stands for any end: "dealer:*".
    sources: tuple[str, ...] = ()
    # No longer planned.
    retired: bool = False
    # What else sources call it. Its name without blanks is always one: Sensors' SDKs take no others.
    aliases: tuple[str, ...] = ()


class Judge:
    """An event type ready to judge; raises InvalidSchema."""

    def __init__(self, planned: EventType) -> None:
        self.planned = planned
        self._schema = Schema(planned.schema) if planned.schema else None
        self._names = frozenset(source for source in planned.sources if not source.endswith("*"))
        self._beginnings = tuple(source[:-1] for source in planned.sources if source.endswith("*"))

    def allows(self, source: str) -> bool:
        """Whether a source may send it."""
        return not self.planned.sources or source in self._names or source.startswith(self._beginnings)

    def fault(self, event: Observed) -> Invalid | None:
        """Why an event of this type must be held, or None."""
        if self.planned.sources and not self.allows(event.source):
            return Invalid("", NOT_ALLOWED, "the plan does not allow this source to send it", "/sources")
        if self._schema and (fault := self._schema.fault(event.properties, event.vehicle_properties)):
            return Invalid(fault.field, MISMATCH, fault.message, fault.schema_path)
        return None


class Plan:
    """All event types at one moment."""

    def __init__(self, judges: Iterable[Judge], unplanned: Unplanned) -> None:
        self.judges = {judge.planned.name: judge for judge in judges}
        self.unplanned = unplanned
        self._judging = {name: judge for name, judge in self.judges.items() if not judge.planned.retired}
        self._names = {name.replace(" ", ""): name for name in self._judging}
        self._names |= {alias: name for name, judge in self._judging.items() for alias in judge.planned.aliases}

    @property
    def types(self) -> Sequence[EventType]:
        """By name, retired ones among them."""
        return [self.judges[name].planned for name in sorted(self.judges)]

    def with_type(self, judge: Judge) -> Plan:
        """The plan with one type as it would be."""
        return Plan([*(j for n, j in self.judges.items() if n != judge.planned.name), judge], self.unplanned)

    def taken(self, planned: EventType) -> str:
        """What of a type's name and aliases means another type by now; empty when nothing does."""
        others = [judge.planned for name, judge in self._judging.items() if name != planned.name]
        stated = {each for other in others for each in (other.name, *other.aliases)}
        # A name wins over another one's without blanks, an alias does not.
        implied = stated | {other.name.replace(" ", "") for other in others}
        return next((one for one in planned.aliases if one in implied), planned.name if planned.name in stated else "")

    def named(self, event: Observed) -> Observed:
        """The event under the name that the plan has for it."""
        if event.name in self._judging or (name := self._names.get(event.name)) is None:
            return event
        return event._replace(name=name)

    def fault(self, event: Observed, passed: Counter[tuple[str, str]] | None = None) -> Invalid | None:
        """Why an event must be held, or None; unplanned ones that pass are counted in `passed` by source and name."""
        judge = self._judging.get(event.name)
        if judge is not None:
            return judge.fault(event)
        if self.unplanned is Unplanned.HOLD:
            return Invalid("event", UNPLANNED, "is not in the tracking plan", "")
        if passed is not None:
            passed[event.source, event.name] += 1
        return None
