"""Messages for the lake, what it then holds, and a storage that dies at a wished moment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
from troika.identity.v1 import events_pb2 as identity

from chassis.bus import Message
from chassis.db import Database
from services.tags.lake import rows
from services.tags.lake.keeping import Rules
from services.tags.lake.layout import day_of, start_us
from services.tags.lake.reading import Lake
from services.tags.lake.storage import Storage
from services.tags.lake.writing import LakeWriter
from tests.integration.tags.world import event

NOW = Rules(grace_s=0)
EVERYTHING = (0, 2**62)
DAY = start_us(day_of(1_772_323_200_000_000)) // 1_000_000  # 2026-03-01


def messages(count: int = 200, per_message: int = 5, days: int = 3) -> list[Message]:
    """Messages of events over some days; every third is about a vehicle, too."""
    made = []
    for sequence in range(1, count + 1):
        events = [_event(sequence * per_message + n, days) for n in range(per_message)]
        made.append(Message(f"m{sequence}", "s", identity.ResolvedBatch(events=events).SerializeToString(), {}, sequence))
    return made


def _event(number: int, days: int) -> identity.ResolvedEvent:
    return event(
        number,
        "Order Placed",
        person=(number % 40 + 1, number % 40 + 1, 1),
        vehicle=(number % 7 + 1, number % 7 + 1, 1) if number % 3 == 0 else (0, 0, 0),
        at=DAY + (number % days) * 86_400 + number % 1000,
        properties={"amount": number, "model": f"M{number % 4}", "paid": number % 2 == 0, "sold_on": "2022-03-01"},
        vehicle_properties={"mileage_km": number},
    )


def batch(sequence: int, *events: identity.ResolvedEvent) -> Message:
    return Message(f"m{sequence}", "s", identity.ResolvedBatch(events=events).SerializeToString(), {}, sequence)


def imported(count: int = 300, days: int = 100) -> list[Message]:
    """Messages of an import: what happened over many days long ago, received now."""
    made = []
    for n in range(count):
        each = event(100_000 + n, person=(n % 10 + 1, 1, 1), at=DAY + n % days * 86_400 + n, properties={"amount": n})
        each.received_at_us = (DAY + 400 * 86_400) * 1_000_000
        made.append(each)
    return [batch(1 + start // 3, *made[start : start + 3]) for start in range(0, count, 3)]


async def written(database: Database, storage: Storage, given: Sequence[Message]) -> None:
    """One transaction of the lake's consumer, without inbox: whatever is given comes as if for the first time."""
    async with database.transaction() as uow:
        await LakeWriter(storage)(uow, given)


def content(storage: Storage) -> dict[str, bytes]:
    """All files that rows are in, by path."""
    return {file.path: storage.read(file.path) or b"" for file in storage.below("rows")}


def held(lake: Lake) -> list[dict[str, Any]]:
    """All rows as a reader sees them: each event of a kind once, in order."""
    return ordered(lake.dataset().to_table())


def raw(lake: Lake) -> int:
    """How many rows a reader sees before it takes each once."""
    return int(lake.dataset().count_rows())


def ordered(table: pa.Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rows.merged([table]).to_pylist()
    return found


class Killed(BaseException):
    """The process died here."""


class MortalStorage(Storage):
    """A storage whose process dies before its n-th change of a file."""

    def __init__(self, storage: Storage, steps: int) -> None:
        self.__dict__.update(storage.__dict__)
        self.left = steps

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def publish(self, path: str, content: Any) -> None:
        self._step()
        super().publish(path, content)

    def _open(self, path: str) -> Any:
        self._step()
        return super()._open(path)

    def _move(self, path: str, target: str) -> None:
        self._step()
        super()._move(path, target)

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            # What is aside goes with the process' own cleaning up; a dead one does not clean up.
            self._step()
            super().delete([path])
