"""Layers that have opened, whom a launch may still decide on, and what the pushes of a layer brought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from chassis.db import UnitOfWork
from services.orchestrator.domain.themes import ThemeId
from services.orchestrator.themes.states import ThemeState
from services.orchestrator.waves.judging import Judgement, Verdict

# Goals as the theme's report counts them (store/decisions.py), of the pushes of one layer whose time to respond is over.
_SEEN = """
WITH RECURSIVE given AS (
  SELECT person_id, outcome, decided_at FROM decision WHERE theme_id = :id AND occasion = 0 AND layer = :layer
), due AS (
  SELECT person_id, decided_at FROM given WHERE outcome = 'push' AND decided_at <= :until
), whole (person_id, present_id) AS (
  SELECT person_id, person_id FROM due
  UNION SELECT w.person_id, a.survivor_id FROM whole w
  JOIN person_alias a ON a.person_id = w.present_id AND a.survivor_id IS NOT NULL
), winner AS (
  SELECT g.person_id, g.occurred_at FROM goal g WHERE g.theme_id = :id
  UNION SELECT o.person_id, g.occurred_at FROM goal g
  JOIN anchor_owner o ON o.anchor_id = g.anchor_id AND o.version > g.version WHERE g.theme_id = :id
), won AS (
  SELECT DISTINCT d.person_id FROM due d JOIN whole w USING (person_id) JOIN winner n ON n.person_id = w.present_id
  WHERE n.occurred_at <= d.decided_at + :window
)
SELECT (SELECT count(*) FROM due) AS pushes, (SELECT count(*) FROM won) AS goals,
  NOT EXISTS (SELECT FROM given WHERE outcome = 'deferred' OR outcome = 'push' AND decided_at > :until) AS over
"""


@dataclass(frozen=True)
class Wave:
    """A layer that has opened; `persons` in it and in earlier ones at most, or `from_score` on. `version`: who judged last."""

    theme_id: ThemeId
    layer: int
    version: int
    persons: int | None
    from_score: float | None
    verdict: Verdict | None
    pushes: int
    goals: int
    low: float
    high: float
    words: str
    opened_at: datetime
    judged_at: datetime | None


@dataclass(frozen=True)
class Seen:
    """Pushes of a layer whose time to respond is over, and goals among them; `over`: nobody of the layer is still to come."""

    pushes: int
    goals: int
    over: bool


class WaveStore:
    """Layers of one transaction."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def open(self, theme_id: ThemeId, layer: int, version: int, persons: int | None, from_score: float | None) -> None:
        """Opens a layer; one that is open already stays as it is."""
        await self._uow.execute(
            "INSERT INTO wave (theme_id, layer, version, persons, from_score, pushes, goals, low, high, words)"
            " VALUES (:id, :layer, :version, :persons, :from_score, 0, 0, 0, 1, '') ON CONFLICT DO NOTHING",
            id=theme_id,
            layer=layer,
            version=version,
            persons=persons,
            from_score=from_score,
        )

    async def all(self, theme_id: ThemeId) -> list[Wave]:
        """The layers of a theme that have opened, in their order."""
        rows = await self._uow.rows("SELECT * FROM wave WHERE theme_id = :id ORDER BY layer", id=theme_id)
        return [_wave(row) for row in rows]

    async def last(self, theme_id: ThemeId) -> Wave | None:
        """The layer that opened last; None for a theme without waves."""
        rows = await self._uow.rows("SELECT * FROM wave WHERE theme_id = :id ORDER BY layer DESC LIMIT 1", id=theme_id)
        return _wave(rows[0]) if rows else None

    async def put(self, theme_id: ThemeId, layer: int, persons: Sequence[int]) -> None:
        """Says that these persons, decided on a moment ago by the theme's launch, are of a layer."""
        await self._uow.execute(
            "UPDATE decision SET layer = :layer WHERE theme_id = :id AND occasion = 0"
            " AND person_id = ANY(CAST(:persons AS bigint[]))",
            id=theme_id,
            layer=layer,
            persons=list(persons),
        )

    async def waiting(self) -> list[ThemeId]:
        """Running themes whose last layer is not judged for good by the version that decides."""
        rows = await self._uow.rows(
            "SELECT t.theme_id FROM theme t JOIN theme_version v ON v.theme_id = t.theme_id AND v.version = t.approved_version"
            " JOIN LATERAL (SELECT version, verdict FROM wave w WHERE w.theme_id = t.theme_id ORDER BY layer DESC LIMIT 1) AS w"
            " ON TRUE WHERE t.state = :running AND (w.version < t.approved_version"
            " OR v.definition -> 'waves' <> 'null' AND (w.verdict IS NULL OR w.verdict = :wait)) ORDER BY t.theme_id",
            running=ThemeState.RUNNING.value,
            wait=Verdict.WAIT.value,
        )
        return [ThemeId(row.theme_id) for row in rows]

    async def seen(self, theme_id: ThemeId, layer: int, window: timedelta, now: datetime) -> Seen:
        """What a layer's pushes brought within a window."""
        row = (await self._uow.rows(_SEEN, id=theme_id, layer=layer, until=now - window, window=window))[0]
        return Seen(row.pushes, row.goals, row.over)

    async def responded(self, theme_id: ThemeId, most: int) -> list[int]:
        """Who has reached the theme's goal, the latest first, as who they are by the last move of their anchors."""
        rows = await self._uow.rows(
            "SELECT CASE WHEN o.version > g.version THEN o.person_id ELSE g.person_id END AS person_id"
            " FROM goal g LEFT JOIN anchor_owner o USING (anchor_id) WHERE g.theme_id = :id AND g.person_id > 0"
            " GROUP BY 1 ORDER BY max(g.occurred_at) DESC LIMIT :most",
            id=theme_id,
            most=most,
        )
        return [row.person_id for row in rows]

    async def judge(self, wave: Wave, version: int, judged: Judgement, words: str) -> None:
        """Keeps what was seen and what follows."""
        await self._uow.execute(
            "UPDATE wave SET version = :version, verdict = :verdict, pushes = :pushes, goals = :goals, low = :low,"
            " high = :high, words = :words, judged_at = now() WHERE theme_id = :id AND layer = :layer",
            id=wave.theme_id,
            layer=wave.layer,
            version=version,
            verdict=judged.verdict.value,
            pushes=judged.pushes,
            goals=judged.goals,
            low=judged.low,
            high=judged.high,
            words=words,
        )

    async def hand_on(self, theme_id: ThemeId, version: int) -> None:
        """Says that a version that has no waves decides now."""
        await self._uow.execute("UPDATE wave SET version = :version WHERE theme_id = :id", id=theme_id, version=version)

    async def stop(self, theme_id: ThemeId) -> None:
        """Takes what is left of the layer's launch from whoever is at it."""
        await self._uow.execute(
            "UPDATE launch SET finished_at = now(), worker = NULL WHERE theme_id = :id AND finished_at IS NULL", id=theme_id
        )

    async def go_on(self, theme_id: ThemeId) -> None:
        """Lets a worker take the theme's launch up again, for the layer that just opened."""
        await self._uow.execute(
            "UPDATE launch SET finished_at = NULL, worker = NULL, lease_until = now() WHERE theme_id = :id", id=theme_id
        )


def _wave(row: Any) -> Wave:
    return Wave(
        ThemeId(row.theme_id),
        row.layer,
        row.version,
        row.persons,
        row.from_score,
        None if row.verdict is None else Verdict(row.verdict),
        row.pushes,
        row.goals,
        row.low,
        row.high,
        row.words,
        row.opened_at,
        row.judged_at,
    )
