"""The SQL of named audiences: definitions with their versions, what was told of them, and sizes over time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chassis.db import Reader, UnitOfWork
from services.tags.domain.catalogue import Kind


@dataclass(frozen=True)
class Definition:
    """What somebody says an audience is."""

    kind: Kind
    predicate: str
    description: str
    owner: str


@dataclass(frozen=True)
class Named:
    """A named audience as it is now; `deleted_at` None while it lives."""

    audience_id: int
    name: str
    version: int
    definition: Definition
    created_at: datetime | None
    updated_at: datetime | None
    deleted_at: datetime | None


@dataclass(frozen=True)
class Told:
    """What was last told: the how-manieth, of which version, as of which place in the stream and moment, how many members."""

    number: int
    version: int
    position: int
    as_of_us: int
    members: int


_COLUMNS = (
    "audience_id, name, version, entity_kind, predicate, description, owner, created_at, updated_at, deleted_at"  # as _named
)


def _named(row: Any) -> Named:
    definition = Definition(Kind(row["entity_kind"]), row["predicate"], row["description"], row["owner"])
    times = row["created_at"], row["updated_at"], row["deleted_at"]
    return Named(row["audience_id"], row["name"], row["version"], definition, *times)


async def add(uow: UnitOfWork, name: str, definition: Definition, caller: str) -> Named | None:
    """A new audience at its first version; None when the name is taken."""
    rows = await uow.fetch(
        f"INSERT INTO audience (name, entity_kind, version, predicate, description, owner) VALUES ($1, $2, 1, $3, $4, $5)"  # noqa: S608
        f" ON CONFLICT DO NOTHING RETURNING {_COLUMNS}",
        name,
        int(definition.kind),
        definition.predicate,
        definition.description,
        definition.owner,
    )
    if not rows:
        return None
    named = _named(rows[0])
    await _keep_version(uow, named, caller)
    return named


async def change(uow: UnitOfWork, name: str, definition: Definition, version: int, caller: str) -> Named | None:
    """The next version of an audience that lives; None when it is not at this version any more."""
    rows = await uow.fetch(
        "UPDATE audience SET version = version + 1, predicate = $2, description = $3, owner = $4, updated_at = now()"  # noqa: S608
        f" WHERE name = $1 AND version = $5 AND deleted_at IS NULL RETURNING {_COLUMNS}",
        name,
        definition.predicate,
        definition.description,
        definition.owner,
        version,
    )
    if not rows:
        return None
    named = _named(rows[0])
    await _keep_version(uow, named, caller)
    return named


async def _keep_version(uow: UnitOfWork, named: Named, caller: str) -> None:
    await uow.execute(
        "INSERT INTO audience_version (audience_id, version, predicate, description, owner, caller)"
        " VALUES (:id, :version, :predicate, :description, :owner, :caller)",
        id=named.audience_id,
        version=named.version,
        predicate=named.definition.predicate,
        description=named.definition.description,
        owner=named.definition.owner,
        caller=caller,
    )


async def end(uow: UnitOfWork, name: str) -> None:
    """Ends an audience; one that has ended stays as it is."""
    await uow.execute("UPDATE audience SET deleted_at = now() WHERE name = :name AND deleted_at IS NULL", name=name)


async def named(reader: Reader, name: str) -> Named | None:
    """One audience, be it ended."""
    rows = await reader.fetch(f"SELECT {_COLUMNS} FROM audience WHERE name = $1", name)  # noqa: S608
    return _named(rows[0]) if rows else None


async def page(reader: Reader, after: int, limit: int) -> list[Named]:
    """Audiences that have not ended, by number."""
    rows = await reader.fetch(
        f"SELECT {_COLUMNS} FROM audience WHERE audience_id > $1 AND deleted_at IS NULL ORDER BY audience_id LIMIT $2",  # noqa: S608
        after,
        limit,
    )
    return [_named(row) for row in rows]


async def by_number(reader: Reader, audience_ids: Collection[int]) -> list[Named]:
    """Some audiences, be they ended."""
    rows = await reader.fetch(
        f"SELECT {_COLUMNS} FROM audience WHERE audience_id = ANY($1::bigint[]) ORDER BY audience_id",  # noqa: S608
        sorted(audience_ids),
    )
    return [_named(row) for row in rows]


async def to_tell(reader: Reader) -> list[Named]:
    """Audiences that live, and those that ended without anybody having been told."""
    rows = await reader.fetch(
        f"SELECT {_COLUMNS} FROM audience a WHERE deleted_at IS NULL"  # noqa: S608
        " OR EXISTS (SELECT FROM audience_told t WHERE t.audience_id = a.audience_id) ORDER BY audience_id"
    )
    return [_named(row) for row in rows]


async def versions(reader: Reader, audience_id: int) -> Sequence[Any]:
    """(version, predicate, description, owner, caller, created_at), the newest first."""
    return await reader.fetch(
        "SELECT version, predicate, description, owner, caller, created_at FROM audience_version"
        " WHERE audience_id = $1 ORDER BY version DESC",
        audience_id,
    )


async def told(uow: UnitOfWork, audience_id: int) -> Told | None:
    """What was last told, locked; None when nothing was."""
    rows = await uow.rows(
        "SELECT number, version, position, as_of_us, members FROM audience_told WHERE audience_id = :id FOR UPDATE",
        id=audience_id,
    )
    return Told(*rows[0]) if rows else None


async def keep_told(uow: UnitOfWork, audience_id: int, told: Told) -> None:
    """Remembers what was told."""
    await uow.execute(
        "INSERT INTO audience_told (audience_id, number, version, position, as_of_us, members)"
        " VALUES (:id, :number, :version, :position, :as_of_us, :members) ON CONFLICT (audience_id) DO UPDATE SET"
        " number = EXCLUDED.number, version = EXCLUDED.version, position = EXCLUDED.position,"
        " as_of_us = EXCLUDED.as_of_us, members = EXCLUDED.members",
        id=audience_id,
        number=told.number,
        version=told.version,
        position=told.position,
        as_of_us=told.as_of_us,
        members=told.members,
    )


async def blocks(uow: UnitOfWork, audience_id: int) -> dict[int, bytes]:
    """Members as they were told, by block of 65,536 ids."""
    rows = await uow.fetch("SELECT block, members FROM audience_member WHERE audience_id = $1", audience_id)
    return {row["block"]: row["members"] for row in rows}


async def keep_blocks(uow: UnitOfWork, audience_id: int, changed: Mapping[int, bytes]) -> None:
    """Writes blocks; empty ones go."""
    gone = sorted(block for block, members in changed.items() if not members)
    kept = sorted((block, members) for block, members in changed.items() if members)
    if gone:
        await uow.execute(
            "DELETE FROM audience_member WHERE audience_id = :id AND block = ANY(CAST(:blocks AS int[]))",
            id=audience_id,
            blocks=gone,
        )
    if kept:
        await uow.execute(
            "INSERT INTO audience_member (audience_id, block, members)"
            " SELECT :id, * FROM unnest(CAST(:blocks AS int[]), CAST(:members AS bytea[]))"
            " ON CONFLICT (audience_id, block) DO UPDATE SET members = EXCLUDED.members",
            id=audience_id,
            blocks=[block for block, _ in kept],
            members=[members for _, members in kept],
        )


async def forget_told(uow: UnitOfWork, audience_id: int) -> None:
    """Forgets what was told of an audience that ended."""
    for table in ("audience_told", "audience_member"):
        await uow.execute(f"DELETE FROM {table} WHERE audience_id = :id", id=audience_id)  # noqa: S608


async def keep_size(uow: UnitOfWork, audience_id: int, at_us: int, members: int, base: int, version: int) -> None:
    """Keeps a size as the last word of its ten minutes."""
    await uow.execute(
        "INSERT INTO audience_size (audience_id, sampled_at, members, base, version)"
        " VALUES (:id, to_timestamp(:at), :members, :base, :version) ON CONFLICT (audience_id, sampled_at) DO UPDATE SET"
        " members = EXCLUDED.members, base = EXCLUDED.base, version = EXCLUDED.version",
        id=audience_id,
        at=at_us // SAMPLE_US * (SAMPLE_US // 1_000_000),
        members=members,
        base=base,
        version=version,
    )


SAMPLE_US = 600_000_000


async def unsampled(uow: UnitOfWork, at_us: int) -> list[int]:
    """Audiences that live and have no size of the present day (UTC) yet."""
    rows = await uow.rows(
        "SELECT audience_id FROM audience a WHERE deleted_at IS NULL AND NOT EXISTS (SELECT FROM audience_size s"
        " WHERE s.audience_id = a.audience_id AND s.sampled_at >= to_timestamp(:day)) ORDER BY 1",
        day=at_us // 86_400_000_000 * 86_400,
    )
    return [row.audience_id for row in rows]


async def sizes(reader: Reader, audience_id: int, since: datetime, limit: int) -> Sequence[Any]:
    """(sampled_at, members, base, version) by time, the newest `limit`."""
    rows = await reader.fetch(
        "SELECT sampled_at, members, base, version FROM audience_size WHERE audience_id = $1 AND sampled_at >= $2"
        " ORDER BY sampled_at DESC LIMIT $3",
        audience_id,
        since,
        limit,
    )
    return list(reversed(rows))
