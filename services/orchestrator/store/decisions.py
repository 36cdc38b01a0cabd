"""Decisions as people read them: page by page, one explained, all folded into counts."""

from __future__ import annotations

from typing import Any

from chassis.db import UnitOfWork
from services.orchestrator.domain.explaining import Decision
from services.orchestrator.domain.reporting import BAND_WIDTH, BANDS, Cell
from services.orchestrator.domain.themes import PersonId, ThemeId

_SELECT = (
    "SELECT person_id, outcome, channel, score, probability, delivery_id, decided_at, position, call_rank, channels,"
    " opted_out, recent_pushes, dealer_code, (SELECT frequency_cap FROM launch WHERE theme_id = :id) AS frequency_cap"
    " FROM decision WHERE theme_id = :id"
)


class DecisionStore:
    """Decisions of one snapshot."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def page(self, theme_id: ThemeId, after: int, size: int) -> list[Decision]:
        """Decisions of persons with ids above `after`, ascending."""
        rows = await self._uow.rows(
            _SELECT + " AND person_id > :after ORDER BY person_id LIMIT :size",
            id=theme_id,
            after=after,
            size=size,
        )
        return [_decision(row) for row in rows]

    async def get(self, theme_id: ThemeId, person_id: PersonId) -> tuple[Decision, int] | None:
        """The decision about a person and the frequency cap it was made under."""
        rows = await self._uow.rows(
            _SELECT + " AND person_id = :person",
            id=theme_id,
            person=person_id,
        )
        return (_decision(rows[0]), rows[0].frequency_cap) if rows else None

    async def cells(self, theme_id: ThemeId) -> list[Cell]:
        """All decisions of a theme, counted by what the report tells apart.

        A goal counts for the person its anchor belonged to then and for the one it belongs to now; a decision stands
        for its person and for whom that person merged into since.
        """
        rows = await self._uow.rows(
            "WITH RECURSIVE whole (person_id, present_id) AS (SELECT person_id, person_id FROM decision"
            " WHERE theme_id = :id AND outcome IN ('push', 'holdout') UNION SELECT w.person_id, a.survivor_id FROM whole w"
            " JOIN person_alias a ON a.person_id = w.present_id AND a.survivor_id IS NOT NULL),"
            " winner AS (SELECT g.person_id FROM goal g WHERE g.theme_id = :id UNION SELECT o.person_id FROM goal g"
            " JOIN anchor_owner o ON o.anchor_id = g.anchor_id AND o.version > g.version WHERE g.theme_id = :id),"
            " won AS (SELECT DISTINCT w.person_id FROM whole w JOIN winner ON winner.person_id = w.present_id)"
            " SELECT d.outcome, d.channel, LEAST(GREATEST(floor(d.score / :width), 0), :top)::integer AS band,"
            " d.handed_over_at IS NOT NULL AS requested, COALESCE(v.state, 0) AS state, count(*) AS persons,"
            " count(won.person_id) AS goals FROM decision d LEFT JOIN won USING (person_id)"
            " LEFT JOIN delivery v ON v.delivery_id = d.delivery_id WHERE d.theme_id = :id GROUP BY 1, 2, 3, 4, 5",
            id=theme_id,
            width=BAND_WIDTH,
            top=BANDS - 1,
        )
        return [Cell(r.outcome, r.channel, r.band, r.requested, r.state, r.persons, r.goals) for r in rows]


def _decision(row: Any) -> Decision:
    return Decision(
        PersonId(row.person_id),
        row.outcome,
        row.channel,
        row.score,
        row.probability,
        row.delivery_id or "",
        row.decided_at,
        row.position,
        row.call_rank,
        row.channels,
        row.opted_out,
        row.recent_pushes,
        row.dealer_code,
    )
