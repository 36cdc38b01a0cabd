"""SQL of the data-use ledger: entries are appended, one transaction at a time, and read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from chassis.db import UnitOfWork
from services.tags.domain.ledger import GENESIS, NONCE_BYTES, Tree, Use, leaf

_NAMES = tuple(field.name for field in fields(Use))
_COLUMNS = ", ".join(_NAMES)
_ENTRIES_PER_PAGE, _LEAVES_PER_PAGE = 1_000, 50_000
_INCLUSION = ("number", "position", "anchor_id", "line", "nonce")
_LEAF = "coalesce(leaf, sha256(decode('00', 'hex') || nonce || int8send(anchor_id) || int8send(line)))"

OF_PERSON = (
    "SELECT i.number, i.line, i.anchor_id, u.points, coalesce(s.points, 0) AS spent FROM anchor a"
    " JOIN data_use_inclusion i ON i.anchor_id = a.anchor_id JOIN data_use u ON u.number = i.number"
    " LEFT JOIN points_spent s ON s.anchor_id = i.anchor_id AND s.number = i.number"
    " WHERE a.entity_kind = 1 AND a.entity_id = $1 AND i.anchor_id > 0"
)


class Head(NamedTuple):
    """The newest entry."""

    number: int
    hash: bytes


class Recorded(NamedTuple):
    """An entry with its hash as it was recorded."""

    use: Use
    hash: bytes


class Inclusion(NamedTuple):
    """An anchor as a leaf of an entry's tree."""

    anchor_id: int
    line: int
    nonce: bytes
    position: int


async def lock_head(uow: UnitOfWork) -> Head:
    """The newest entry; nobody else appends until this transaction ends."""
    await uow.rows("SELECT pg_advisory_xact_lock(hashtext('troika data use'))")
    rows = await uow.rows("SELECT number, hash FROM data_use ORDER BY number DESC LIMIT 1")
    return Head(rows[0].number, bytes(rows[0].hash)) if rows else Head(0, GENESIS)


async def include(uow: UnitOfWork, number: int, tree: Tree, first_line: int, anchors: Sequence[Sequence[int]]) -> None:
    """Appends leaves for the anchors of some persons, who stand in lines from `first_line` on."""
    await uow.copy("data_use_inclusion", _INCLUSION, await asyncio.to_thread(_grow, number, tree, first_line, anchors))


def _grow(number: int, tree: Tree, first_line: int, anchors: Sequence[Sequence[int]]) -> list[tuple[Any, ...]]:
    records = []
    for line, of_person in enumerate(anchors, start=first_line):
        for anchor_id in of_person:
            nonce = os.urandom(NONCE_BYTES)
            records.append((number, tree.size, anchor_id, line, nonce))
            tree.add(leaf(nonce, anchor_id, line))
    return records


async def append(uow: UnitOfWork, use: Use) -> Head:
    """Appends an entry; the head must be locked."""
    head = Head(use.number, use.hash())
    await uow.fetch(
        f"INSERT INTO data_use ({_COLUMNS}, hash)"  # noqa: S608
        f" VALUES ({', '.join(f'${place}' for place in range(1, len(_NAMES) + 2))})",
        *(list(value) if isinstance(value := getattr(use, name), tuple) else value for name in _NAMES),
        head.hash,
    )
    return head


async def entries(uow: UnitOfWork) -> AsyncIterator[Recorded]:
    """All entries by number."""
    after = 0
    while rows := await uow.fetch(
        f"SELECT {_COLUMNS}, hash FROM data_use WHERE number > $1 ORDER BY number LIMIT $2",  # noqa: S608
        after,
        _ENTRIES_PER_PAGE,
    ):
        for row in rows:
            yield _recorded(row)
        after = rows[-1]["number"]


async def leaves(uow: UnitOfWork, number: int) -> AsyncIterator[tuple[int, bytes]]:
    """(position, leaf) of all leaves of an entry, by position."""
    after = -1
    while rows := await uow.fetch(
        f"SELECT position, {_LEAF} AS leaf FROM data_use_inclusion WHERE number = $1 AND position > $2"  # noqa: S608
        " ORDER BY position LIMIT $3",
        number,
        after,
        _LEAVES_PER_PAGE,
    ):
        for row in rows:
            yield row["position"], row["leaf"]
        after = rows[-1]["position"]


async def orphans(uow: UnitOfWork) -> list[int]:
    """Numbers that persons are recorded under though there is no such entry."""
    rows = await uow.fetch(
        "SELECT DISTINCT number FROM data_use_inclusion i"
        " WHERE NOT EXISTS (SELECT FROM data_use u WHERE u.number = i.number) ORDER BY number LIMIT 100"
    )
    return [row["number"] for row in rows]


async def page(uow: UnitOfWork, share_id: int, before: int, size: int) -> list[Recorded]:
    """Entries of a share, or of all (0), by falling number, those below `before`."""
    rows = await uow.fetch(
        f"SELECT {_COLUMNS}, hash FROM data_use WHERE number < $1 AND ($2::bigint = 0 OR share_id = $2)"  # noqa: S608
        " ORDER BY number DESC LIMIT $3",
        before,
        share_id,
        size,
    )
    return [_recorded(row) for row in rows]


async def numbered(uow: UnitOfWork, numbers: Sequence[int]) -> dict[int, Recorded]:
    """Some entries by number."""
    rows = await uow.fetch(
        f"SELECT {_COLUMNS}, hash FROM data_use WHERE number = ANY($1::bigint[])",  # noqa: S608
        list(numbers),
    )
    return {row["number"]: _recorded(row) for row in rows}


async def inclusions(uow: UnitOfWork, person_id: int, number: int) -> list[Inclusion]:
    """How a person's present anchors are in one use."""
    rows = await uow.fetch(
        "SELECT i.anchor_id, i.line, i.nonce, i.position FROM anchor a JOIN data_use_inclusion i"
        " ON i.anchor_id = a.anchor_id AND i.number = $2"
        " WHERE a.entity_kind = 1 AND a.entity_id = $1 AND i.anchor_id > 0 ORDER BY i.position",
        person_id,
        number,
    )
    return [Inclusion(*row) for row in rows]


def _recorded(row: Any) -> Recorded:
    content = {name: row[name] for name in _NAMES}
    return Recorded(Use(**content | {"tags": tuple(content["tags"])}), bytes(row["hash"]))
