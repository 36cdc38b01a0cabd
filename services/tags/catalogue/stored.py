"""The SQL of tags that were added to those of the files, and of the count of changes that replicas follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from chassis.db import UnitOfWork
from services.tags.domain.catalogue import Kind


@dataclass(frozen=True)
class Version:
    """One version of an added tag, as it was written."""

    kind: Kind
    name: str
    version: int
    body: dict[str, Any]
    retired: bool
    created_by: str
    created_at: datetime | None = None


_COLUMNS = "entity_kind, name, version, CAST(body AS text) AS body, retired, created_by, created_at"


async def epoch(uow: UnitOfWork) -> int:
    """How many changes there were."""
    return int((await uow.rows("SELECT epoch FROM catalogue_epoch WHERE id = 1"))[0].epoch)


async def held_epoch(uow: UnitOfWork) -> int:
    """The same, and there will be no other until this transaction ends; waits for one that is being made."""
    return int((await uow.rows("SELECT epoch FROM catalogue_epoch WHERE id = 1 FOR SHARE"))[0].epoch)


async def begin(uow: UnitOfWork) -> int:
    """Keeps others from changing the catalogue or deriving tags until this transaction ends; returns the new epoch."""
    return int((await uow.rows("UPDATE catalogue_epoch SET epoch = epoch + 1 WHERE id = 1 RETURNING epoch"))[0].epoch)


async def current(uow: UnitOfWork) -> list[Version]:
    """The newest version of each added tag, retired ones, too, by kind and name."""
    rows = await uow.rows(
        f"SELECT DISTINCT ON (entity_kind, name) {_COLUMNS} FROM tag_definition"  # noqa: S608
        " ORDER BY entity_kind, name, version DESC"
    )
    return [_version(row) for row in rows]


async def versions(uow: UnitOfWork, kind: Kind, name: str) -> list[Version]:
    """All versions of an added tag, the newest first."""
    rows = await uow.rows(
        f"SELECT {_COLUMNS} FROM tag_definition WHERE entity_kind = :kind AND name = :name ORDER BY version DESC",  # noqa: S608
        kind=int(kind),
        name=name,
    )
    return [_version(row) for row in rows]


async def add(uow: UnitOfWork, added: Sequence[Version]) -> None:
    """Keeps new versions."""
    await uow.execute(
        "INSERT INTO tag_definition (entity_kind, name, version, body, retired, created_by)"
        " SELECT kind, name, version, CAST(body AS json), retired, created_by FROM unnest(CAST(:kinds AS smallint[]),"
        " CAST(:names AS text[]), CAST(:versions AS integer[]), CAST(:bodies AS text[]), CAST(:retired AS boolean[]),"
        " CAST(:callers AS text[])) AS given(kind, name, version, body, retired, created_by)",
        kinds=[int(one.kind) for one in added],
        names=[one.name for one in added],
        versions=[one.version for one in added],
        bodies=[orjson.dumps(one.body).decode() for one in added],
        retired=[one.retired for one in added],
        callers=[one.created_by for one in added],
    )


def _version(row: Any) -> Version:
    body = orjson.loads(row.body)
    return Version(Kind(row.entity_kind), row.name, row.version, body, row.retired, row.created_by, row.created_at)
