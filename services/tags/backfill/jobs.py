"""The SQL of backfills: which tags wait for their past, from which cut, and how far it has come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chassis.db import UnitOfWork
from services.tags.domain.catalogue import Kind


@dataclass(frozen=True)
class Job:
    """Tags of one kind that get the events of messages up to `cut`; all anchors up to `after_anchor` have them."""

    id: int
    kind: Kind
    tags: tuple[str, ...]
    cut: int
    after_anchor: int
    anchors: int
    finished: bool


_COLUMNS = "id, entity_kind, tags, cut, after_anchor, anchors, finished_at"


async def add(uow: UnitOfWork, kind: Kind, tags: Sequence[str], cut: int) -> None:
    """Keeps that tags wait for their past."""
    await uow.execute(
        "INSERT INTO backfill (entity_kind, tags, cut, after_anchor, anchors) VALUES (:kind, :tags, :cut, 0, 0)",
        kind=int(kind),
        tags=list(tags),
        cut=cut,
    )


async def waiting(uow: UnitOfWork) -> list[Job]:
    """What is not done yet, oldest first."""
    rows = await uow.rows(f"SELECT {_COLUMNS} FROM backfill WHERE finished_at IS NULL ORDER BY id")  # noqa: S608
    return [_job(row) for row in rows]


async def of_tag(uow: UnitOfWork, kind: Kind, name: str) -> Job | None:
    """The backfill of a tag; None when there never was one."""
    rows = await uow.rows(
        f"SELECT {_COLUMNS} FROM backfill WHERE entity_kind = :kind AND :name = ANY(tags)",  # noqa: S608
        kind=int(kind),
        name=name,
    )
    return _job(rows[0]) if rows else None


async def cuts(uow: UnitOfWork) -> Mapping[Kind, Mapping[str, int]]:
    """By tag up to where messages say nothing of it, while its backfill is not done."""
    found: dict[Kind, dict[str, int]] = defaultdict(dict)
    for job in await waiting(uow):
        found[job.kind].update(dict.fromkeys(job.tags, job.cut))
    return found


async def held(uow: UnitOfWork, job: Job) -> bool:
    """Holds a backfill; False when another replica has gone on with it."""
    rows = await uow.rows("SELECT after_anchor, finished_at FROM backfill WHERE id = :id FOR UPDATE", id=job.id)
    return [(job.after_anchor, None)] == [tuple(row) for row in rows]


async def advance(uow: UnitOfWork, job: Job) -> None:
    """Keeps how far it has come."""
    await uow.execute(
        "UPDATE backfill SET after_anchor = :after, anchors = :anchors WHERE id = :id",
        after=job.after_anchor,
        anchors=job.anchors,
        id=job.id,
    )


async def finish(uow: UnitOfWork, job: Job) -> None:
    """Keeps that it is done."""
    await uow.execute("UPDATE backfill SET finished_at = now() WHERE id = :id", id=job.id)


async def largest_anchor(uow: UnitOfWork, kind: Kind) -> int:
    """Anchors are numbered densely, so that this tells how much there is to do."""
    rows = await uow.rows("SELECT max(anchor_id) AS largest FROM anchor WHERE entity_kind = :kind", kind=int(kind))
    return int(rows[0].largest or 0)


async def one_filler(uow: UnitOfWork) -> bool:
    """Whether no other replica is at it; if so none will be until this transaction ends."""
    rows = await uow.rows("SELECT pg_try_advisory_xact_lock(hashtext('troika tags backfill')) AS held")
    return bool(rows[0].held)


def _job(row: Any) -> Job:
    kind, tags, finished = Kind(row.entity_kind), tuple(row.tags), row.finished_at is not None
    return Job(row.id, kind, tags, row.cut, row.after_anchor, row.anchors, finished)
