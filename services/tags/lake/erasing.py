"""Erased persons leave the lake: what is asked is kept in a queue until no file has a row of theirs any more.

A row of the queue goes through two steps: all files that are read are rewritten without the anchors (`rewritten_at`), then
the old files, which readers may still have open, are deleted in their time. Each step may be repeated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from chassis.db import UnitOfWork
from services.tags.domain.catalogue import Kind
from services.tags.lake import files
from services.tags.lake.layout import Day, Part
from services.tags.lake.reading import Lake
from services.tags.lake.rows import conformed
from services.tags.lake.storage import File

AT_ONCE: Final = 10_000


class Asked(NamedTuple):
    """Anchors that are to leave the lake; `rewritten_ns` is None until no file that is read has them."""

    anchor_id: int
    rewritten_ns: int | None


async def queue(uow: UnitOfWork, anchor_ids: Iterable[int]) -> None:
    """Asks that persons' anchors leave the lake, durably with the transaction."""
    await uow.execute(
        "INSERT INTO lake_erasure (anchor_id) SELECT DISTINCT unnest(CAST(:ids AS bigint[]))"
        " ON CONFLICT (anchor_id) DO UPDATE SET rewritten_at = NULL",
        ids=sorted(anchor_ids),
    )


async def queued(uow: UnitOfWork) -> list[Asked]:
    """What is still asked, oldest first."""
    rows = await uow.rows(
        "SELECT anchor_id, CAST(EXTRACT(epoch FROM rewritten_at) * 1e9 AS bigint) AS rewritten_ns FROM lake_erasure"
        " ORDER BY queued_at, anchor_id LIMIT :most",
        most=AT_ONCE,
    )
    return [Asked(row.anchor_id, row.rewritten_ns) for row in rows]


async def is_rewriting(uow: UnitOfWork) -> bool:
    """Whether a file that is read may have an erased anchor."""
    return bool(await uow.rows("SELECT 1 FROM lake_erasure WHERE rewritten_at IS NULL LIMIT 1"))


async def moment(uow: UnitOfWork) -> datetime:
    """The present, by the clock that erasures are dated with."""
    return (await uow.rows("SELECT clock_timestamp() AS now"))[0].now  # type: ignore[no-any-return]


async def were_asked(uow: UnitOfWork, anchor_ids: Collection[int], since: datetime) -> bool:
    """Whether files that were opened at that moment may have one of these anchors although it was erased."""
    return bool(
        await uow.rows(
            "SELECT 1 FROM lake_erasure WHERE anchor_id = ANY(CAST(:ids AS bigint[]))"
            " AND (rewritten_at IS NULL OR rewritten_at >= :since) LIMIT 1",
            ids=sorted(anchor_ids),
            since=since,
        )
    )


async def mark_rewritten(uow: UnitOfWork, anchor_ids: Collection[int]) -> None:
    """No file that is read has these any more."""
    await uow.execute(
        "UPDATE lake_erasure SET rewritten_at = now() WHERE anchor_id = ANY(CAST(:ids AS bigint[]))", ids=sorted(anchor_ids)
    )


async def forget(uow: UnitOfWork, anchor_ids: Collection[int]) -> None:
    """No file at all has these any more."""
    await uow.execute("DELETE FROM lake_erasure WHERE anchor_id = ANY(CAST(:ids AS bigint[]))", ids=sorted(anchor_ids))


def is_gone(asked: Asked, days: Sequence[Day], aside: Sequence[File]) -> bool:
    """Whether no old file, and none that a killed run left aside, is from before the anchor was taken out of the others."""
    rewritten = asked.rewritten_ns
    if rewritten is None or any(file.changed_ns <= rewritten for file in aside):
        return False
    return not any(old.since_ns <= rewritten for day in days for old in day.superseded)


def holding(lake: Lake, day: Day, anchors: Collection[int]) -> list[File]:
    """The day's files that have rows of these persons' anchors."""
    wanted = _theirs(anchors)
    return [file for file in day.live if lake.dataset_of([file]).count_rows(filter=wanted)]


def rewrite(lake: Lake, day: Day, file: File, anchors: Collection[int]) -> None:
    """Takes the rows out of one file while nobody else writes: a block in place, a part as its next version."""
    part = next((part for part, each in day.parts if each == file), None)
    if part is None:
        table = files.read(lake.storage, file.path)
        if table is not None:
            lake.storage.publish(file.path, files.encoded(table.filter(~_theirs(anchors)).combine_chunks()))
        return
    with lake.storage.stage(_next(part).path(day.day)) as staged, lake.storage.files.open_input_file(file.path) as source:
        files.write(staged.sink, _without(pq.ParquetFile(source), anchors))
        staged.finish()
        staged.publish()


def _without(source: pq.ParquetFile, anchors: Collection[int]) -> Iterator[pa.Table]:
    for group in range(source.num_row_groups):
        yield conformed(source.read_row_group(group)).filter(~_theirs(anchors)).combine_chunks()


def _next(part: Part) -> Part:
    return replace(part, version=part.version + 1)


def _theirs(anchors: Collection[int]) -> Any:
    # Only persons are erased: what their events say of cars stays with the cars.
    return (ds.field("entity_kind") == pa.scalar(int(Kind.PERSON), pa.int16())) & pc.is_in(
        ds.field("anchor_id"), pa.array(sorted(anchors), pa.int64())
    )
