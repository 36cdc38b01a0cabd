"""From the bus into the lake: each message's rows go into the files of its block, one file per day.

A file is a function of the messages it was made from, whatever batches they came in: what is there already is merged by
event. So what was written before a crash and comes again changes nothing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final

import numpy as np
import pyarrow as pa
from prometheus_client import Counter
from troika.identity.v1 import events_pb2 as identity

from chassis.bus import Consumer, Message
from chassis.db import UnitOfWork
from services.tags import erasure_store
from services.tags.domain.catalogue import Kind
from services.tags.erasure_store import Tombstone
from services.tags.lake import files, layout
from services.tags.lake.layout import MESSAGES_PER_BLOCK
from services.tags.lake.locks import one_writer
from services.tags.lake.rows import SCHEMA, Properties
from services.tags.lake.storage import Storage

ROWS_WRITTEN = Counter("troika_lake_rows_total", "Rows that were put into the event lake.")

NAME: Final = "tags-lake"
# A flush costs some milliseconds per file, so it waits for company: at 3,000 events a second for a whole block.
MESSAGES_PER_FLUSH: Final = 64
GATHER_S: Final = 2.0


def consumer(storage: Storage) -> Consumer:
    """The lake's own position on the stream of resolved events."""
    return Consumer(NAME, "troika.events.resolved.v1", LakeWriter(storage), MESSAGES_PER_FLUSH, gather_s=GATHER_S)


class LakeWriter:
    """Writes batches of messages; acknowledged is only what is durable."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def __call__(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Writes all events of the messages but those of erased persons."""
        batches = await asyncio.to_thread(parsed, messages)
        people = {event.person.anchor_id for _, batch in batches for event in batch.events} - {0}
        await one_writer(uow)
        # Asked while nobody else writes: who is erased from now on finds our files.
        stones = await erasure_store.tombstones(uow, people) if people else {}
        ROWS_WRITTEN.inc(await asyncio.to_thread(self._write, batches, stones))

    def _write(self, batches: Batches, stones: Mapping[int, Tombstone]) -> int:
        count = 0
        rows = rows_of(batches, stones)
        generations: dict[date, int] = {}
        for (day, block), table in sorted(rows.items()):
            if day not in generations:
                generations[day] = layout.read_day(day, self._storage.below(layout.folder_of(day))).generation
            path = layout.block_path(day, block * MESSAGES_PER_BLOCK, generations[day])
            files.add(self._storage, path, table)
            count += len(table)
        return count


# Before all days.
_LATE: Final = -(2**40)
Batches = Sequence[tuple[int, identity.ResolvedBatch]]


def parsed(messages: Sequence[Message]) -> Batches:
    """Messages with their place in the stream."""
    return [(message.sequence, identity.ResolvedBatch.FromString(message.data)) for message in messages]


def rows_of(batches: Batches, stones: Mapping[int, Tombstone]) -> dict[tuple[date, int], pa.Table]:
    """Rows by day and block, in the order of the messages."""
    ids: list[bytes] = []
    kinds: list[int] = []
    anchors: list[int] = []
    sources: list[str] = []
    names: list[str] = []
    occurred: list[int] = []
    received: list[int] = []
    sequences: list[int] = []
    properties = Properties()
    for sequence, batch in batches:
        for event in batch.events:
            person, vehicle = event.person, event.vehicle
            for kind, owner, given in (
                (Kind.PERSON, person, event.properties_json),
                (Kind.VEHICLE, vehicle, event.vehicle_properties_json),
            ):
                anchor = owner.anchor_id
                if not anchor:
                    continue
                if stones and kind is Kind.PERSON:
                    stone = stones.get(anchor)
                    if stone is not None and stone.covers(owner.entity_id, owner.version):
                        continue
                ids.append(event.event_id)
                kinds.append(kind)
                anchors.append(anchor)
                sources.append(event.source)
                names.append(event.name)
                occurred.append(event.occurred_at_us)
                received.append(event.received_at_us)
                sequences.append(sequence)
                properties.add(given)
    if not ids:
        return {}
    whole = [each if len(each) == 16 else each[:16].ljust(16, b"\0") for each in ids]
    ties = [int.from_bytes(each[:8], "big") >> 1 for each in whole]
    plain = (whole, ties, kinds, anchors, sources, names, occurred, received)
    table = pa.table(
        [
            *(pa.array(column, field.type) for column, field in zip(plain, SCHEMA, strict=False)),
            *properties.arrays(),
            pa.array(sequences, pa.int64()),
        ],
        schema=SCHEMA,
    )
    return _by_file(table, np.array(sequences, np.int64) // MESSAGES_PER_BLOCK)


def _by_file(table: pa.Table, blocks: np.ndarray[tuple[int], np.dtype[np.int64]]) -> dict[tuple[date, int], pa.Table]:
    occurred, received = table.column("occurred_us").to_numpy(), table.column("received_us").to_numpy()
    days = np.where(received - occurred > layout.LATE_US, _LATE, occurred // layout.DAY_US)
    order = np.lexsort((blocks, days))
    if (order[1:] < order[:-1]).any():
        # What happens now comes in order; only late events are put together.
        table, days, blocks = table.take(pa.array(order)), days[order], blocks[order]
    starts = np.flatnonzero(np.r_[True, (days[1:] != days[:-1]) | (blocks[1:] != blocks[:-1])])
    found: dict[tuple[date, int], list[pa.Table]] = defaultdict(list)
    for start, end in zip(starts, [*starts[1:], len(table)], strict=True):
        day = layout.LATE if days[start] == _LATE else layout.day_of(int(days[start]) * layout.DAY_US)
        key = (day, int(blocks[start]))
        found[key].append(table.slice(start, end - start))
    return {key: pa.concat_tables(tables) for key, tables in found.items()}
