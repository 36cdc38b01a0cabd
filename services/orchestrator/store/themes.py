"""Themes."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from chassis.db import UnitOfWork
from services.orchestrator.domain.themes import Budget, Goal, Offer, Theme, ThemeDraft, ThemeId, ThemeState

_SELECT = (
    "SELECT theme_id, title, audience, goal_event, goal_field, goal_value, offer_name, offer_title, offer_body, purpose,"
    " max_contacts, max_calls, unit_cost_fen, holdout_share, model, call_score, state, salt, launch_failure, created_at,"
    " launched_at FROM theme"
)


class ThemeStore:
    """Themes of one transaction."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def by_request(self, request_id: str) -> Theme | None:
        """The theme that a request made before."""
        return _first(await self._uow.rows(_SELECT + " WHERE request_id = :r", r=request_id))

    async def add(self, draft: ThemeDraft, request_id: str) -> Theme:
        """A new theme; the one made before when another transaction was faster with the same request."""
        rows = await self._uow.rows(
            "INSERT INTO theme (request_id, title, audience, goal_event, goal_field, goal_value, offer_name, offer_title,"
            " offer_body, purpose, max_contacts, max_calls, unit_cost_fen, holdout_share, model, call_score, state, salt,"
            " launch_failure) VALUES (:request_id, :title, :audience, :goal_event, :goal_field, :goal_value, :offer_name,"
            " :offer_title, :offer_body, :purpose, :max_contacts, :max_calls, CAST(:unit_cost_fen AS jsonb), :holdout_share,"
            " :model, :call_score, :state, :salt, '')"
            # The update changes nothing; it waits for the other transaction and makes RETURNING show its row.
            " ON CONFLICT (request_id) DO UPDATE SET request_id = EXCLUDED.request_id RETURNING theme_id",
            request_id=request_id or None,
            title=draft.title,
            audience=draft.audience,
            goal_event=draft.goal.event,
            goal_field=draft.goal.field,
            goal_value=draft.goal.value,
            offer_name=draft.offer.name,
            offer_title=draft.offer.title,
            offer_body=draft.offer.body,
            purpose=draft.offer.purpose,
            max_contacts=draft.budget.max_contacts,
            max_calls=draft.budget.max_calls,
            unit_cost_fen=orjson.dumps(dict(draft.budget.unit_cost_fen)).decode(),
            holdout_share=draft.holdout_share,
            model=draft.model,
            call_score=draft.call_score,
            state=ThemeState.DRAFT.value,
            salt=secrets.token_bytes(16),
        )
        return _theme((await self._uow.rows(_SELECT + " WHERE theme_id = :id", id=rows[0].theme_id))[0])

    async def get(self, theme_id: ThemeId) -> Theme | None:
        """One theme."""
        return _first(await self._uow.rows(_SELECT + " WHERE theme_id = :id", id=theme_id))

    async def lock(self, theme_id: ThemeId) -> Theme | None:
        """One theme, kept from others until the transaction ends."""
        return _first(await self._uow.rows(_SELECT + " WHERE theme_id = :id FOR UPDATE", id=theme_id))

    async def page(self, before: int, size: int) -> list[Theme]:
        """Themes with ids below `before`, newest first."""
        rows = await self._uow.rows(
            _SELECT + " WHERE theme_id < :before ORDER BY theme_id DESC LIMIT :size",
            before=before,
            size=size,
        )
        return [_theme(row) for row in rows]

    async def launched_since(self, moment: datetime) -> list[Theme]:
        """Launching and running themes launched after a moment."""
        rows = await self._uow.rows(_SELECT + " WHERE state > 1 AND launched_at >= :moment ORDER BY theme_id", moment=moment)
        return [_theme(row) for row in rows]

    async def set_state(self, theme_id: ThemeId, state: ThemeState, launch_failure: str = "") -> None:
        """Moves a theme; `launched_at` is the first moment it left DRAFT and empties when it goes back."""
        await self._uow.execute(
            "UPDATE theme SET state = CAST(:state AS smallint), launch_failure = :failure,"
            " launched_at = CASE WHEN CAST(:state AS smallint) > 1 THEN COALESCE(launched_at, now()) END WHERE theme_id = :id",
            id=theme_id,
            state=state.value,
            failure=launch_failure,
        )


def _first(rows: Sequence[Any]) -> Theme | None:
    return _theme(rows[0]) if rows else None


def _theme(row: Any) -> Theme:
    draft = ThemeDraft(
        row.title,
        row.audience,
        Goal(row.goal_event, row.goal_field, row.goal_value),
        Offer(row.offer_name, row.offer_title, row.offer_body, row.purpose),
        Budget(row.max_contacts, row.max_calls, row.unit_cost_fen),
        row.holdout_share,
        row.model,
        row.call_score,
    )
    state = ThemeState(row.state)
    return Theme(ThemeId(row.theme_id), draft, state, bytes(row.salt), row.launch_failure, row.created_at, row.launched_at)
