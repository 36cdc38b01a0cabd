"""Launches: who is at work on which, the plan kept once, the pushes handed over once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chassis.db import UnitOfWork
from services.orchestrator.domain.themes import ThemeId
from services.orchestrator.themes.states import ThemeState

# Rows per COPY call: bounds the memory of a plan for millions.
COPY_ROWS = 20_000
DECISION_COLUMNS = (
    "theme_id", "person_id", "outcome", "channel", "score", "probability", "position", "call_rank", "channels",
    "opted_out", "recent_pushes", "dealer_code", "delivery_id", "decided_at",
)  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A launch that this worker holds until its lease runs out; `planned` when the decisions are stored already.

    `traceparent` is that of the request that asked for it.
    """

    theme_id: ThemeId
    worker: str
    planned: bool
    traceparent: str


class LaunchStore:
    """Launches of one transaction."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def queue(self, theme_id: ThemeId, frequency_cap: int, traceparent: str) -> None:
        """Makes a launch free for any worker; a launch that is there already stays as it is."""
        await self._uow.execute(
            "INSERT INTO launch (theme_id, lease_until, frequency_cap, traceparent) VALUES (:id, now(), :cap, :traceparent)"
            " ON CONFLICT DO NOTHING",
            id=theme_id,
            cap=frequency_cap,
            traceparent=traceparent,
        )

    async def claim(self, worker: str, lease_s: float) -> Claim | None:
        """Takes the oldest unfinished launch whose lease has run out."""
        rows = await self._uow.rows(
            "UPDATE launch SET worker = :worker, lease_until = now() + :lease * interval '1 second' WHERE theme_id ="
            " (SELECT l.theme_id FROM launch l JOIN theme t USING (theme_id) WHERE l.finished_at IS NULL"
            " AND l.lease_until <= now() AND t.state = :running ORDER BY theme_id LIMIT 1 FOR UPDATE OF l SKIP LOCKED)"
            " RETURNING theme_id, planned_at, traceparent",
            worker=worker,
            lease=lease_s,
            running=ThemeState.RUNNING.value,
        )
        return Claim(ThemeId(rows[0].theme_id), worker, rows[0].planned_at is not None, rows[0].traceparent) if rows else None

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

    async def hold(self, claim: Claim) -> Any:
        """The launch's row (frequency_cap, planned_at, finished_at), locked; None when it is no longer this worker's.

        Also None when the theme does not run: who pauses it waits for what is under way, and nothing follows.
        """
        rows = await self._uow.rows(
            "SELECT l.frequency_cap, l.planned_at, l.finished_at FROM launch l JOIN theme t USING (theme_id)"
            " WHERE l.theme_id = :id AND l.worker = :worker AND t.state = :running FOR UPDATE OF l FOR SHARE OF t",
            id=claim.theme_id,
            worker=claim.worker,
            running=ThemeState.RUNNING.value,
        )
        return rows[0] if rows else None

    async def serialise(self) -> None:
        """Lets one plan at a time see and store pushes: the frequency cap spans all themes."""
        await self._uow.execute("SELECT pg_advisory_xact_lock(hashtext('orchestrator plan'))")

    async def keep_plan(self, theme_id: ThemeId, records: Sequence[Sequence[Any]]) -> None:
        """Stores all decisions of a theme; `records` in the order of DECISION_COLUMNS."""
        for start in range(0, len(records), COPY_ROWS):
            await self._uow.copy("decision", DECISION_COLUMNS, records[start : start + COPY_ROWS])
        await self._uow.execute("UPDATE launch SET planned_at = now() WHERE theme_id = :id", id=theme_id)

    async def merged_since_plan(self, theme_id: ThemeId) -> tuple[list[tuple[int, int]], dict[int, tuple[bool, int]]]:
        """(aliases, pushes) as `merging.superfluous` wants them, of people who merged about when or after we planned.

        A quarter of an hour before counts too: the audience may not have known the merge yet. Usually empty, by index.
        """
        aliases = await self._uow.rows(
            "WITH RECURSIVE lately AS (SELECT a.person_id, a.survivor_id FROM launch l"
            " JOIN person_alias a ON a.changed_at >= l.planned_at - interval '15 minutes'"
            " WHERE l.theme_id = :id AND a.survivor_id IS NOT NULL"
            " UNION SELECT a.person_id, a.survivor_id FROM lately JOIN person_alias a ON a.person_id = lately.survivor_id"
            " AND a.survivor_id IS NOT NULL) SELECT person_id, survivor_id FROM lately",
            id=theme_id,
        )
        if not aliases:
            return [], {}
        pairs = [(int(row.person_id), int(row.survivor_id)) for row in aliases]
        pushes = await self._uow.rows(
            "SELECT person_id, handed_over_at IS NOT NULL AS done, position FROM decision"
            " WHERE theme_id = :id AND outcome = 'push' AND person_id = ANY(CAST(:persons AS bigint[]))",
            id=theme_id,
            persons=sorted({person for pair in pairs for person in pair}),
        )
        return pairs, {int(row.person_id): (bool(row.done), int(row.position)) for row in pushes}

    async def drop(self, theme_id: ThemeId, persons: Sequence[int]) -> None:
        """Turns pushes not yet handed over into nobody-pushed, because the same human is pushed already."""
        await self._uow.execute(
            "UPDATE decision SET outcome = 'merged', channel = '', call_rank = 0, delivery_id = NULL WHERE theme_id = :id"
            " AND person_id = ANY(CAST(:persons AS bigint[])) AND outcome = 'push' AND handed_over_at IS NULL",
            id=theme_id,
            persons=list(persons),
        )

    async def hand_over(self, theme_id: ThemeId, size: int, now: datetime) -> Sequence[Any]:
        """Marks the next pushes, best first, as handed over and returns their rows; empty when all are."""
        rows = await self._uow.rows(
            "UPDATE decision SET handed_over_at = :now WHERE theme_id = :id AND person_id IN (SELECT person_id FROM decision"
            " WHERE theme_id = :id AND outcome = 'push' AND handed_over_at IS NULL ORDER BY position LIMIT :size)"
            " RETURNING delivery_id, person_id, channel, score, position, call_rank, channels, opted_out, dealer_code,"
            " decided_at",
            id=theme_id,
            size=size,
            now=now,
        )
        return sorted(rows, key=lambda row: int(row.position))

    async def finish(self, theme_id: ThemeId) -> None:
        """Nothing is left to hand over."""
        await self._uow.execute("UPDATE launch SET finished_at = now() WHERE theme_id = :id", id=theme_id)

    async def forget(self, theme_id: ThemeId) -> None:
        """Removes a launch that never came to a plan."""
        await self._uow.execute("DELETE FROM launch WHERE theme_id = :id AND planned_at IS NULL", id=theme_id)
