"""The programs of journeys, read once; versions stand still once they are approved."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from chassis.db import UnitOfWork
from services.orchestrator.journeys import programs
from services.orchestrator.journeys.programs import Program
from services.orchestrator.journeys.states import State
from services.orchestrator.journeys.store import JourneyStore

REMEMBERED: Final = 1_000


@dataclass(frozen=True)
class Running:
    """A journey under way: its programs by version. `version`: the one that people enter."""

    journey_id: int
    state: State
    version: int
    salt: bytes
    started_at: datetime
    programs: Mapping[int, Program]

    @property
    def program(self) -> Program:
        """What people enter."""
        return self.programs[self.version]


class Shelf:
    """Programs of one process, the most recently used ones."""

    def __init__(self) -> None:
        self._programs: OrderedDict[tuple[int, int], Program] = OrderedDict()

    async def program(self, uow: UnitOfWork, journey_id: int, version: int) -> Program:
        """The program of a version that was checked when it was made."""
        key = (journey_id, version)
        found = self._programs.pop(key, None)
        if found is None:
            found, faults = programs.read(await JourneyStore(uow).document(journey_id, version))
            if found is None:
                raise RuntimeError(f"journey {journey_id} version {version} cannot be read: {faults[0].message}")
            if len(self._programs) >= REMEMBERED:
                self._programs.popitem(last=False)
        self._programs[key] = found
        return found

    async def live(self, uow: UnitOfWork) -> list[Running]:
        """Journeys that run or pause, as this transaction sees them."""
        by_journey: dict[int, list[Any]] = {}
        for row in await JourneyStore(uow).live():
            by_journey.setdefault(row.journey_id, []).append(row)
        return [await self._running(uow, rows) for rows in by_journey.values()]

    async def _running(self, uow: UnitOfWork, rows: Sequence[Any]) -> Running:
        first = rows[0]
        found = {row.version: await self.program(uow, row.journey_id, row.version) for row in rows}
        salt, state = bytes(first.salt), State(first.state)
        return Running(first.journey_id, state, first.running_version, salt, first.started_at, found)
