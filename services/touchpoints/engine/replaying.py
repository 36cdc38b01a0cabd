"""Parked pushes let go again in bulk: a replay is a row, worked off in chunks by whoever comes by, once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from chassis.db import Reader, UnitOfWork

CHUNK: Final = 1000

# Only what was parked before the replay was asked for: what is parked again afterwards stays.
_MEANT = """
    d.held NOT IN ('', 'turn') AND d.state <= 2 AND d.expires_at > now() AND d.held_at <= r.made_at
    AND (r.endpoint = '' OR d.endpoint = r.endpoint) AND (r.theme = '' OR d.theme = r.theme)
    AND (r.reason = '' OR d.held = r.reason)
    AND (r.held_from IS NULL OR d.held_at >= r.held_from) AND (r.held_to IS NULL OR d.held_at < r.held_to)
"""
ASK = """
    INSERT INTO replay (request_id, endpoint, theme, reason, held_from, held_to, made_at)
    VALUES ($1, $2, $3, $4, $5, $6, now()) ON CONFLICT DO NOTHING RETURNING request_id
"""
# Who asks for a replay says that the receiver works again; it shall not first have to prove it push by push.
CLOSE = f"""
    UPDATE circuit c SET failures = 0, trips = 0, opened_at = NULL, open_until = NULL, probe_until = NULL
    FROM (SELECT DISTINCT d.endpoint FROM delivery d, replay r WHERE r.request_id = $1 AND {_MEANT}) AS e
    WHERE c.endpoint = e.endpoint
"""  # noqa: S608  (constants of ours)
WORK = f"""
    WITH one AS (SELECT request_id FROM replay WHERE finished_at IS NULL ORDER BY made_at LIMIT 1 FOR UPDATE SKIP LOCKED),
    found AS (
        SELECT d.delivery_id FROM delivery d WHERE d.delivery_id IN (
            SELECT d.delivery_id FROM delivery d, replay r JOIN one USING (request_id) WHERE {_MEANT}
            ORDER BY d.arrived LIMIT $1)
        ORDER BY d.delivery_id FOR UPDATE),
    freed AS (
        UPDATE delivery d SET held = '', held_at = NULL, slot_at = NULL, due_at = now() FROM found f
        WHERE d.delivery_id = f.delivery_id AND d.held NOT IN ('', 'turn') AND d.state <= 2 RETURNING d.delivery_id)
    UPDATE replay r SET replayed = replayed + (SELECT count(*) FROM freed),
        finished_at = CASE WHEN (SELECT count(*) FROM found) < $1 THEN now() END
    FROM one WHERE r.request_id = one.request_id RETURNING r.request_id
"""  # noqa: S608  (likewise)
PROGRESS = f"""
    SELECT r.request_id, r.replayed, r.finished_at IS NOT NULL AS finished,
        CASE WHEN r.finished_at IS NULL THEN (SELECT count(*) FROM delivery d WHERE {_MEANT}) ELSE 0 END AS remaining
    FROM replay r WHERE r.request_id = $1
"""  # noqa: S608  (likewise)


@dataclass(frozen=True)
class Replay:
    """Which parked pushes: at an endpoint, of a theme, parked for a reason, parked within a time; empty or None for any."""

    request_id: str
    endpoint: str
    theme: str
    reason: str
    held_from: datetime | None
    held_to: datetime | None


async def ask(uow: UnitOfWork, replay: Replay) -> None:
    """Queues a replay; a repeat of the same request changes nothing."""
    asked = (replay.request_id, replay.endpoint, replay.theme, replay.reason, replay.held_from, replay.held_to)
    if await uow.fetch(ASK, *asked):
        await uow.fetch(CLOSE, replay.request_id)


async def work(uow: UnitOfWork) -> bool:
    """One chunk of the oldest replay; False when there is none left."""
    return bool(await uow.fetch(WORK, CHUNK))


async def progress(reader: Reader, request_id: str) -> Any | None:
    """How far a replay is; None when nobody asked for it."""
    rows = await reader.fetch(PROGRESS, request_id)
    return rows[0] if rows else None
