"""SQL of held events and of the replays over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from chassis.db import Reader, UnitOfWork

# $1 … $6 of every statement over held events.
_WANTED = (
    "($1 = '' OR source = $1) AND ($2 = '' OR event = $2) AND ($3 = '' OR reason = $3)"
    " AND ($4::timestamptz IS NULL OR received_at >= $4) AND ($5::timestamptz IS NULL OR received_at < $5)"
    " AND (cardinality($6::bytea[]) = 0 OR event_id = ANY($6))"
)


@dataclass(frozen=True)
class Wanted:
    """Which held events are meant; what is empty does not matter."""

    source: str = ""
    event: str = ""
    reason: str = ""
    since: datetime | None = None
    until: datetime | None = None
    ids: tuple[bytes, ...] = ()

    @property
    def values(self) -> tuple[Any, ...]:
        """As the statements take it."""
        return self.source, self.event, self.reason, self.since, self.until, list(self.ids)

    @property
    def is_all(self) -> bool:
        """True when every held event is meant."""
        return self == Wanted()

    def written(self) -> str:
        """As JSON, for a replay's row."""
        since, until = (moment and moment.isoformat() for moment in (self.since, self.until))
        return orjson.dumps([self.source, self.event, self.reason, since, until, [one.hex() for one in self.ids]]).decode()

    @classmethod
    def read(cls, written: str) -> Wanted:
        """Back from JSON."""
        source, event, reason, since, until, ids = orjson.loads(written)
        begin, end = (datetime.fromisoformat(moment) if moment else None for moment in (since, until))
        return cls(source, event, reason, begin, end, tuple(bytes.fromhex(one) for one in ids))


Row = tuple[bytes, str, str, str, str, str, str, datetime, bytes]
_COLUMNS = ("event_id", "source", "event", "reason", "field", "message", "schema_path", "received_at", "sealed")


async def hold(uow: UnitOfWork, rows: Sequence[Row]) -> int:
    """Adds events that are not held yet; how many."""
    types = ("bytea", "text", "text", "text", "text", "text", "text", "timestamptz", "bytea")
    given = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in zip(_COLUMNS, types, strict=True))
    return await uow.execute(
        f"INSERT INTO quarantined ({', '.join(_COLUMNS)}) SELECT * FROM unnest({given}) ON CONFLICT (event_id) DO NOTHING",  # noqa: S608 - columns are ours
        **dict(zip(_COLUMNS, map(list, zip(*rows, strict=True)), strict=True)),
    )


async def counts(reader: Reader, wanted: Wanted) -> tuple[Sequence[Any], int, int]:
    """(rows of source, event, reason, field, day, events; how many in all; their bytes)."""
    rows = await reader.fetch(
        "SELECT source, event, reason, field, (received_at AT TIME ZONE 'UTC')::date AS day, count(*) AS events,"  # noqa: S608 - ours
        " sum(count(*)) OVER () AS total, sum(sum(length(sealed))) OVER () AS bytes"
        f" FROM quarantined WHERE {_WANTED} GROUP BY 1, 2, 3, 4, 5 ORDER BY events DESC, 5 DESC, 1, 2, 3, 4 LIMIT 1000",
        *wanted.values,
    )
    return rows, int(rows[0]["total"]) if rows else 0, int(rows[0]["bytes"]) if rows else 0


async def page(reader: Reader, wanted: Wanted, below: int, most: int) -> Sequence[Any]:
    """Held events with an id below, newest first."""
    return await reader.fetch(
        f"SELECT id, {', '.join(_COLUMNS)} FROM quarantined WHERE {_WANTED} AND id < $7 ORDER BY id DESC LIMIT $8",  # noqa: S608 - ours
        *wanted.values,
        below,
        most,
    )


async def claim(uow: UnitOfWork, wanted: Wanted, after: int, up_to: int, most: int) -> Sequence[Any]:
    """Held events with ids above and up to, the oldest first; locked until the transaction ends."""
    return await uow.fetch(
        f"SELECT id, event_id, source, event, reason, received_at, sealed FROM quarantined WHERE {_WANTED}"  # noqa: S608 - ours
        " AND id > $7 AND id <= $8 ORDER BY id LIMIT $9 FOR UPDATE",
        *wanted.values,
        after,
        up_to,
        most,
    )


async def release(uow: UnitOfWork, ids: Sequence[int]) -> None:
    """Deletes what goes on."""
    await uow.execute("DELETE FROM quarantined WHERE id = ANY(:ids)", ids=list(ids))


async def explain(uow: UnitOfWork, rows: Sequence[tuple[int, str, str, str, str]]) -> None:
    """Why events are still held: (id, reason, field, message, schema path)."""
    if rows:
        names = ("ids", "reasons", "fields", "messages", "paths")
        await uow.execute(
            "UPDATE quarantined SET reason = told.reason, field = told.field, message = told.message,"
            " schema_path = told.schema_path FROM unnest(CAST(:ids AS bigint[]), CAST(:reasons AS text[]),"
            " CAST(:fields AS text[]), CAST(:messages AS text[]), CAST(:paths AS text[]))"
            " AS told (id, reason, field, message, schema_path) WHERE quarantined.id = told.id",
            **dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)),
        )


async def discard(uow: UnitOfWork, wanted: Wanted) -> int:
    """Deletes for good; how many."""
    rows = await uow.fetch(
        f"WITH gone AS (DELETE FROM quarantined WHERE {_WANTED} RETURNING 1) SELECT count(*) FROM gone",  # noqa: S608 - ours
        *wanted.values,
    )
    return int(rows[0][0])


async def expire(uow: UnitOfWork, days: float, most_bytes: int) -> tuple[int, int]:
    """(how many were deleted for their age, how many of the oldest for lack of room)."""
    old = await uow.execute("DELETE FROM quarantined WHERE received_at < now() - make_interval(secs => :s)", s=days * 86_400)
    rows = await uow.fetch(
        "WITH sized AS (SELECT id, sum(length(sealed) + 300) OVER (ORDER BY id DESC) AS newer FROM quarantined),"
        " gone AS (DELETE FROM quarantined USING sized WHERE quarantined.id = sized.id AND sized.newer > $1 RETURNING 1)"
        " SELECT count(*) FROM gone",
        most_bytes,
    )
    await uow.execute(
        "DELETE FROM quarantine_replay WHERE done AND updated_at < now() - make_interval(secs => :s)", s=days * 86_400
    )
    return old, int(rows[0][0])


@dataclass(frozen=True)
class Replay:
    """A replay and how far it is."""

    replay_id: str
    wanted: Wanted
    patch: str
    position: int
    up_to: int
    total: int
    examined: int
    healed: int
    done: bool
    created_at: datetime
    updated_at: datetime


_REPLAY = "replay_id, wanted, patch, position, up_to, total, examined, healed, done, created_at, updated_at"


async def begin(uow: UnitOfWork, replay_id: str, wanted: Wanted, patch: str) -> None:
    """Begins a replay of what is held now, unless it was begun already."""
    await uow.fetch(
        "INSERT INTO quarantine_replay (replay_id, wanted, patch, up_to, total)"  # noqa: S608 - ours
        f" SELECT $7, $8, $9, coalesce(max(id), 0), count(*) FROM quarantined WHERE {_WANTED} ON CONFLICT DO NOTHING",
        *wanted.values,
        replay_id,
        wanted.written(),
        patch,
    )


async def replay(reader: Reader, replay_id: str) -> Replay | None:
    """One replay."""
    rows = await reader.fetch(f"SELECT {_REPLAY} FROM quarantine_replay WHERE replay_id = $1", replay_id)  # noqa: S608 - ours
    return _replay(rows[0]) if rows else None


async def claim_replay(uow: UnitOfWork) -> Replay | None:
    """The oldest replay that is not through and that nobody works on at the moment."""
    rows = await uow.fetch(
        f"SELECT {_REPLAY} FROM quarantine_replay WHERE NOT done ORDER BY created_at, replay_id LIMIT 1 FOR UPDATE SKIP LOCKED"  # noqa: S608 - ours
    )
    return _replay(rows[0]) if rows else None


async def advance(uow: UnitOfWork, replay_id: str, position: int, examined: int, healed: int, done: bool) -> None:
    """Notes one step."""
    await uow.execute(
        "UPDATE quarantine_replay SET position = :position, examined = examined + :examined, healed = healed + :healed,"
        " done = :done, updated_at = now() WHERE replay_id = :id",
        id=replay_id,
        position=position,
        examined=examined,
        healed=healed,
        done=done,
    )


def _replay(row: Any) -> Replay:
    rest = {key: row[key] for key in ("replay_id", "patch", "position", "up_to", "total", "examined", "healed", "done")}
    return Replay(wanted=Wanted.read(row["wanted"]), created_at=row["created_at"], updated_at=row["updated_at"], **rest)
