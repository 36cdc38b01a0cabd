"""SQL of the plan: event types with their versions, and how many unplanned events passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from chassis.db import Reader, UnitOfWork
from services.touchpoints.plan.judging import EventType, Unplanned

_TYPE = "name, version, title, description, schema, sources, retired, aliases, author, saved_at"


@dataclass(frozen=True)
class Saved:
    """A version of an event type, by whom and when; shipped ones by nobody."""

    type: EventType
    author: str = ""
    saved_at: datetime | None = None


async def saved_types(reader: Reader) -> list[Saved]:
    """The newest saved version of each event type."""
    rows = await reader.fetch(f"SELECT DISTINCT ON (name) {_TYPE} FROM event_type ORDER BY name, version DESC")  # noqa: S608 - columns are ours
    return [_saved(row) for row in rows]


async def versions(reader: Reader, name: str) -> list[Saved]:
    """All saved versions of one event type, the oldest first."""
    rows = await reader.fetch(f"SELECT {_TYPE} FROM event_type WHERE name = $1 ORDER BY version", name)  # noqa: S608 - likewise
    return [_saved(row) for row in rows]


async def save(uow: UnitOfWork, given: EventType, author: str) -> Saved | None:
    """Adds a version; None when that version is there already."""
    rows = await uow.rows(
        "INSERT INTO event_type (name, version, title, description, schema, sources, retired, aliases, author, saved_at)"
        " VALUES (:name, :version, :title, :description, :schema, :sources, :retired, :aliases, :author, now())"
        " ON CONFLICT DO NOTHING RETURNING saved_at",
        name=given.name,
        version=given.version,
        title=given.title,
        description=given.description,
        schema=orjson.dumps(given.schema).decode(),
        sources=list(given.sources),
        retired=given.retired,
        aliases=list(given.aliases),
        author=author,
    )
    return Saved(given, author, rows[0].saved_at) if rows else None


async def unplanned(reader: Reader) -> Unplanned:
    """What becomes of unplanned events."""
    rows = await reader.fetch("SELECT unplanned FROM tracking_plan")
    return Unplanned(rows[0]["unplanned"]) if rows else Unplanned.PASS


async def set_unplanned(uow: UnitOfWork, mode: Unplanned) -> None:
    """Says what becomes of unplanned events."""
    await uow.execute(
        "INSERT INTO tracking_plan (one, unplanned) VALUES (true, :mode) ON CONFLICT (one) DO UPDATE SET"
        " unplanned = excluded.unplanned",
        mode=int(mode),
    )


async def add_passed(uow: UnitOfWork, passed: Mapping[tuple[str, str], int]) -> None:
    """Adds to today's counts of unplanned events by source and name."""
    await uow.execute(
        "INSERT INTO unplanned_event AS known (day, source, event, events) SELECT (now() AT TIME ZONE 'UTC')::date, source,"
        " event, events FROM unnest(CAST(:sources AS text[]), CAST(:events AS text[]), CAST(:counts AS bigint[]))"
        " AS given (source, event, events) ORDER BY source, event"
        " ON CONFLICT (day, source, event) DO UPDATE SET events = known.events + excluded.events",
        sources=[source for source, _ in passed],
        events=[event for _, event in passed],
        counts=list(passed.values()),
    )


async def passed_counts(reader: Reader, source: str, days: int) -> Sequence[Any]:
    """Rows (source, event, day, events), the most frequent first."""
    return await reader.fetch(
        "SELECT source, event, day, events FROM unplanned_event WHERE ($1 = '' OR source = $1)"
        " AND ($2 = 0 OR day > (now() AT TIME ZONE 'UTC')::date - $2) ORDER BY events DESC, day DESC, source, event LIMIT 1000",
        source,
        days,
    )


async def forget_passed(uow: UnitOfWork, days: int) -> None:
    """Deletes counts that are older."""
    await uow.execute(
        "DELETE FROM unplanned_event WHERE day < (now() AT TIME ZONE 'UTC')::date - CAST(:days AS integer)", days=days
    )


def _saved(row: Any) -> Saved:
    schema = orjson.loads(row["schema"])
    kind = EventType(
        row["name"],
        row["version"],
        row["title"],
        row["description"],
        schema,
        tuple(row["sources"]),
        row["retired"],
        tuple(row["aliases"]),
    )
    return Saved(kind, row["author"], row["saved_at"])
