"""Decisions as people read them: page by page, one explained, all folded into counts."""

from __future__ import annotations

from chassis.db import UnitOfWork
from services.orchestrator.domain.explaining import Decision
from services.orchestrator.domain.reporting import BAND_WIDTH, BANDS, Cell
from services.orchestrator.domain.themes import PersonId, ThemeId

_SELECT = (
    "SELECT person_id, occasion, theme_version, outcome, reason, due_at, expires_at, offer_id, channel, score, probability,"
    " value, cost_fen, position, call_rank, channels, opted_out, closed, recent_pushes, dealer_code, time_zone,"
    " COALESCE(delivery_id, '') AS delivery_id, decided_at FROM decision WHERE theme_id = :id"
)


class DecisionStore:
    """Decisions of one snapshot."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def page(self, theme_id: ThemeId, after: tuple[int, int], size: int) -> list[Decision]:
        """Decisions after a (person, occasion), in that order."""
        rows = await self._uow.rows(
            _SELECT + " AND (person_id, occasion) > (:person, :occasion) ORDER BY person_id, occasion LIMIT :size",
            id=theme_id,
            person=after[0],
            occasion=after[1],
            size=size,
        )
        return [Decision(*row) for row in rows]

    async def get(self, theme_id: ThemeId, person_id: PersonId, occasion: int) -> Decision | None:
        """The decision about a person on an occasion."""
        rows = await self._uow.rows(
            _SELECT + " AND person_id = :person AND occasion = :occasion",
            id=theme_id,
            person=person_id,
            occasion=occasion,
        )
        return Decision(*rows[0]) if rows else None

    async def cells(self, theme_id: ThemeId) -> list[Cell]:
        """All decisions of a theme, counted by what the report tells apart.

        A goal counts for the person its anchor belonged to then and for the one it belongs to now; a decision stands
        for its person and for whom that person merged into since. Who was pushed, or kept out, on several occasions is one
        person of the first of them.
        """
        rows = await self._uow.rows(
            "WITH RECURSIVE given AS (SELECT person_id, outcome, channel, score, delivery_id, outcome IN ('push', 'holdout')"
            " AND row_number() OVER (PARTITION BY person_id, outcome IN ('push', 'holdout') ORDER BY decided_at, occasion) = 1"
            " AS first FROM decision WHERE theme_id = :id),"
            " whole (person_id, present_id) AS (SELECT person_id, person_id FROM given"
            " WHERE first UNION SELECT w.person_id, a.survivor_id FROM whole w"
            " JOIN person_alias a ON a.person_id = w.present_id AND a.survivor_id IS NOT NULL),"
            " winner AS (SELECT g.person_id FROM goal g WHERE g.theme_id = :id UNION SELECT o.person_id FROM goal g"
            " JOIN anchor_owner o ON o.anchor_id = g.anchor_id AND o.version > g.version WHERE g.theme_id = :id),"
            " won AS (SELECT DISTINCT w.person_id FROM whole w JOIN winner ON winner.person_id = w.present_id)"
            " SELECT d.outcome, d.channel, LEAST(GREATEST(floor(d.score / :width), 0), :top)::integer AS band,"
            " COALESCE(v.state, 0) AS state, count(*) AS decisions, count(*) FILTER (WHERE d.first) AS persons,"
            " count(won.person_id) FILTER (WHERE d.first) AS goals FROM given d LEFT JOIN won USING (person_id)"
            " LEFT JOIN delivery v ON v.delivery_id = d.delivery_id GROUP BY 1, 2, 3, 4",
            id=theme_id,
            width=BAND_WIDTH,
            top=BANDS - 1,
        )
        return [Cell(r.outcome, r.channel, r.band, r.state, r.decisions, r.persons, r.goals) for r in rows]
