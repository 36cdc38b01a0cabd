"""Launches: who is at work on which."""

from __future__ import annotations

from dataclasses import dataclass

from chassis.db import UnitOfWork
from services.orchestrator.domain.themes import ThemeId


@dataclass(frozen=True)
class Claim:
    """A launch that this worker holds until its lease runs out; `traceparent` is that of the request that asked for it."""

    theme_id: ThemeId
    worker: str
    traceparent: str


class LaunchStore:
    """Launches of one transaction."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def queue(self, theme_id: ThemeId, traceparent: str) -> None:
        """Makes a launch free for any worker; a launch that is there already stays as it is."""
        await self._uow.execute(
            "INSERT INTO launch (theme_id, lease_until, traceparent) VALUES (:id, now(), :traceparent) ON CONFLICT DO NOTHING",
            id=theme_id,
            traceparent=traceparent,
        )

    async def claim(self, worker: str, lease_s: float, state: int) -> Claim | None:
        """Takes an unfinished launch whose lease has run out, of a theme in a state; the highest priority, then the oldest."""
        rows = await self._uow.rows(
            "UPDATE launch SET worker = :worker, lease_until = now() + :lease * interval '1 second' WHERE theme_id ="
            " (SELECT l.theme_id FROM launch l JOIN theme t USING (theme_id)"
            " JOIN theme_version v ON v.theme_id = t.theme_id AND v.version = t.approved_version"
            " WHERE l.finished_at IS NULL AND l.lease_until <= now() AND t.state = :state"
            " ORDER BY (v.definition ->> 'priority')::int DESC, l.theme_id LIMIT 1"
            " FOR UPDATE OF l SKIP LOCKED) RETURNING theme_id, traceparent",
            worker=worker,
            lease=lease_s,
            state=state,
        )
        return Claim(ThemeId(rows[0].theme_id), worker, rows[0].traceparent) if rows else None

    async def renew(self, claim: Claim, lease_s: float) -> bool:
        """A sign of life; False when somebody else has taken the launch over."""
        renewed = await self._uow.execute(
            "UPDATE launch SET lease_until = now() + :lease * interval '1 second' WHERE theme_id = :id AND worker = :worker",
            id=claim.theme_id,
            worker=claim.worker,
            lease=lease_s,
        )
        return renewed == 1

    async def release(self, claim: Claim) -> None:
        """Lets go of a launch at once, so that a stopping process holds nobody up."""
        await self._uow.execute(
            "UPDATE launch SET lease_until = now() WHERE theme_id = :id AND worker = :worker AND finished_at IS NULL",
            id=claim.theme_id,
            worker=claim.worker,
        )

    async def hold(self, claim: Claim) -> bool:
        """Locks the launch's row; False when it is no longer this worker's, or done."""
        rows = await self._uow.rows(
            "SELECT 1 FROM launch WHERE theme_id = :id AND worker = :worker AND finished_at IS NULL FOR UPDATE",
            id=claim.theme_id,
            worker=claim.worker,
        )
        return bool(rows)

    async def finish(self, theme_id: ThemeId) -> None:
        """Everybody is decided on."""
        await self._uow.execute("UPDATE launch SET finished_at = now() WHERE theme_id = :id", id=theme_id)

    async def forget(self, theme_id: ThemeId) -> bool:
        """Removes a launch that decided on nobody; False when it has decided already."""
        removed = await self._uow.execute(
            "DELETE FROM launch WHERE theme_id = :id"
            " AND NOT EXISTS (SELECT FROM decision WHERE theme_id = :id AND occasion = 0)",
            id=theme_id,
        )
        return removed == 1
