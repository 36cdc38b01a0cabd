"""Events that experiments measure, kept by anchor: whose they are is asked when results are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from chassis.db import UnitOfWork
from services.orchestrator.experiments.definitions import Experiment, Kind, Metric
from services.orchestrator.experiments.store import Event, ExperimentStore
from services.orchestrator.store.erasures import ErasureStore
from services.orchestrator.store.holding import hold_off_erasures

# A number beyond this is a mistake, and squared would drown everybody else's.
MOST = 1e12
# Events may be as late as the bus keeps them, windows as long as the contract lets them be.
LONGEST = timedelta(hours=8760) + timedelta(days=7)


class Happened(NamedTuple):
    """An event that may be measured; `properties` as they came."""

    event_id: bytes
    name: str
    anchor_id: int
    person_id: int
    version: int
    occurred_at: datetime
    properties: dict[str, Any]


class Collector:
    """The metrics of experiments that are not over, by the name of their event, for one batch of messages."""

    def __init__(self, experiments: Sequence[Experiment]) -> None:
        self._by_event: dict[str, list[tuple[Experiment, int, Metric]]] = {}
        for experiment in experiments:
            for number, metric in enumerate(experiment.definition.metrics):
                self._by_event.setdefault(metric.event, []).append((experiment, number, metric))
        self._found: list[Event] = []

    @classmethod
    async def of(cls, uow: UnitOfWork) -> Collector:
        """The collector of what this transaction sees."""
        return cls(await ExperimentStore(uow).collecting(datetime.now(UTC) - LONGEST))

    @property
    def events(self) -> frozenset[str]:
        """Names of events that are looked at."""
        return frozenset(self._by_event)

    def take(self, event: Happened) -> None:
        """Notes what an event says of each metric; nobody's event says nothing."""
        for experiment, number, metric in self._by_event.get(event.name, ()):
            amount = measured(metric, event.properties)
            end = experiment.stopped_at
            if event.person_id and amount is not None and (end is None or event.occurred_at <= end + metric.window):
                self._found.append(
                    Event(
                        experiment.experiment_id,
                        experiment.version,
                        number,
                        event.event_id,
                        event.anchor_id,
                        event.person_id,
                        event.version,
                        event.occurred_at,
                        amount,
                    )
                )

    async def keep(self, uow: UnitOfWork) -> None:
        """Stores what was noted, without what comes late of erased persons."""
        if not self._found:
            return
        erasures = ErasureStore(uow)
        await hold_off_erasures(uow)
        stones = await erasures.tombstones(event.anchor_id for event in self._found)
        living = [e for e in self._found if e.anchor_id not in stones or not stones[e.anchor_id].covers(e.person_id, e.version)]
        if living:
            await ExperimentStore(uow).collect(living)


def measured(metric: Metric, properties: dict[str, Any]) -> float | None:
    """What an event of the metric's name adds: 1 for a share, the number for a sum or mean; None for nothing."""
    given = properties.get(metric.field) if metric.field else None
    if metric.kind is not Kind.SHARE:
        if isinstance(given, bool) or not isinstance(given, (int, float)):
            return None
        return float(given) if math.isfinite(given) and abs(given) < MOST else None
    if not metric.field:
        return 1.0
    if isinstance(given, bool):
        return 1.0 if metric.value == ("true" if given else "false") else None
    return 1.0 if given is not None and metric.value == str(given) else None
