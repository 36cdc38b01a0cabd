"""Decisions as people read them: page by page, and one explained."""

from __future__ import annotations

from chassis.db import UnitOfWork
from services.orchestrator.domain.explaining import Decision
from services.orchestrator.domain.themes import PersonId, ThemeId

_SELECT = (
    "SELECT person_id, occasion, theme_version, outcome, reason, due_at, expires_at, offer_id, channel, score, probability,"
    " value, cost_fen, position, call_rank, channels, opted_out, closed, failing, recent_pushes, dealer_code, time_zone,"
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
