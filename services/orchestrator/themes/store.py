"""Themes with all their versions."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson

from chassis.db import UnitOfWork
from services.orchestrator.domain.themes import ThemeId
from services.orchestrator.offers.definitions import OfferId
from services.orchestrator.themes.definitions import (
    Band,
    Budget,
    Choice,
    Exclusion,
    Filling,
    Goal,
    Pacing,
    Schedule,
    ThemeDefinition,
    Waves,
)
from services.orchestrator.themes.states import Review, Theme, ThemeState, VersionState

# The contract's longest goal window.
LONGEST_WINDOW = timedelta(days=365)

# `authors`: whoever edited since the version before it that was approved (3).
_SELECT = (
    "SELECT t.theme_id, v.version, v.definition, v.offer_versions, v.author, v.stated_at, v.state AS version_state,"
    " v.submitter, v.submitted_at, v.reviewer, v.reviewed_at, v.reason, t.owner, t.state, t.version AS latest_version,"
    " COALESCE(t.approved_version, 0) AS approved_version, t.salt, t.launch_failure, t.created_at, t.launched_at,"
    " t.finished_at, EXISTS (SELECT FROM launch l WHERE l.theme_id = t.theme_id AND l.finished_at IS NULL) AS launching,"
    " ARRAY(SELECT DISTINCT w.author FROM theme_version w WHERE w.theme_id = t.theme_id AND w.version <= v.version"
    " AND w.version > COALESCE((SELECT max(a.version) FROM theme_version a WHERE a.theme_id = t.theme_id"
    " AND a.version < v.version AND a.state = 3), 0) ORDER BY 1) AS authors"
    " FROM theme t JOIN theme_version v ON v.theme_id = t.theme_id"
)
_LATEST = _SELECT + " AND v.version = t.version"
_IN_FORCE = _SELECT + " AND v.version = COALESCE(t.approved_version, t.version)"
_DECIDING = _SELECT + " AND v.version = t.approved_version"


class ThemeStore:
    """Themes of one transaction."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def by_request(self, request_id: str) -> Theme | None:
        """The theme that a request made before, in its latest version."""
        return _first(await self._uow.rows(_LATEST + " WHERE t.request_id = :r", r=request_id))

    async def add(self, stated: ThemeDefinition, request_id: str, author: str) -> ThemeId:
        """A new theme in version 1; the one made before when another transaction was faster with the same request."""
        rows = await self._uow.rows(
            "INSERT INTO theme (request_id, version, owner, state, salt, launch_failure)"
            " VALUES (:request_id, 1, :author, :state, :salt, '')"
            # The update changes nothing; it waits for the other transaction and makes RETURNING show its row.
            " ON CONFLICT (request_id) DO UPDATE SET request_id = EXCLUDED.request_id RETURNING theme_id",
            request_id=request_id or None,
            author=author,
            state=ThemeState.DRAFT.value,
            salt=secrets.token_bytes(16),
        )
        theme_id = ThemeId(rows[0].theme_id)
        await self._keep_version(theme_id, 1, stated, author)
        return theme_id

    async def keep(self, theme: Theme) -> None:
        """Stores where a locked theme and the version shown stand now; a version that is new is made."""
        await self._uow.execute(
            "UPDATE theme SET version = :version, approved_version = NULLIF(CAST(:approved AS integer), 0), state = :state,"
            " launch_failure = :failure, launched_at = :launched_at, finished_at = :finished_at WHERE theme_id = :id",
            id=theme.theme_id,
            version=theme.latest_version,
            approved=theme.approved_version,
            state=theme.state.value,
            failure=theme.launch_failure,
            launched_at=theme.launched_at,
            finished_at=theme.finished_at,
        )
        await self._keep_version(theme.theme_id, theme.version, theme.definition, theme.author)
        review = theme.review
        await self._uow.execute(
            "UPDATE theme_version SET offer_versions = :offers, state = :state, submitter = :submitter,"
            " submitted_at = :submitted_at, reviewer = :reviewer, reviewed_at = :reviewed_at, reason = :reason"
            " WHERE theme_id = :id AND version = :version",
            id=theme.theme_id,
            version=theme.version,
            offers=list(theme.offer_versions),
            state=review.state.value,
            submitter=review.submitter,
            submitted_at=review.submitted_at,
            reviewer=review.reviewer,
            reviewed_at=review.reviewed_at,
            reason=review.reason,
        )

    async def _keep_version(self, theme_id: ThemeId, version: int, stated: ThemeDefinition, author: str) -> None:
        await self._uow.execute(
            "INSERT INTO theme_version (theme_id, version, definition, offer_versions, author, state, submitter, reviewer,"
            " reason) VALUES (:id, :version, CAST(:definition AS jsonb), '{}', :author, :draft, '', '', '')"
            " ON CONFLICT DO NOTHING",
            id=theme_id,
            version=version,
            definition=orjson.dumps(stated).decode(),
            author=author,
            draft=VersionState.DRAFT.value,
        )

    async def get(self, theme_id: ThemeId, version: int = 0) -> Theme | None:
        """One theme in a version, 0 for the latest."""
        rows = await self._uow.rows(
            _SELECT + " AND v.version = COALESCE(NULLIF(CAST(:version AS integer), 0), t.version) WHERE t.theme_id = :id",
            id=theme_id,
            version=version,
        )
        return _first(rows)

    async def deciding(self, theme_id: ThemeId) -> Theme | None:
        """One theme in the approved version that decides; None while there is none."""
        return _first(await self._uow.rows(_DECIDING + " WHERE t.theme_id = :id", id=theme_id))

    async def in_force(self, theme_id: ThemeId) -> Theme | None:
        """One theme in the version that decides, in the latest while there is none."""
        return _first(await self._uow.rows(_IN_FORCE + " WHERE t.theme_id = :id", id=theme_id))

    async def lock(self, theme_id: ThemeId) -> Theme | None:
        """One theme in its latest version, kept from others until the transaction ends."""
        await self._uow.rows("SELECT 1 FROM theme WHERE theme_id = :id FOR UPDATE", id=theme_id)
        return await self.get(theme_id)

    async def page(self, before: int, size: int, states: Sequence[ThemeState] = ()) -> list[Theme]:
        """Themes with ids below `before`, newest first; no states for all."""
        rows = await self._uow.rows(
            _LATEST + " WHERE t.theme_id < :before AND (:any OR t.state = ANY(CAST(:states AS smallint[])))"
            " ORDER BY t.theme_id DESC LIMIT :size",
            before=before,
            any=not states,
            states=[state.value for state in states],
            size=size,
        )
        return [_theme(row) for row in rows]

    async def versions(self, theme_id: ThemeId, before: int, size: int) -> list[Theme]:
        """A theme in its versions below `before`, newest first."""
        rows = await self._uow.rows(
            _SELECT + " AND v.version < :before WHERE t.theme_id = :id ORDER BY v.version DESC LIMIT :size",
            id=theme_id,
            before=before,
            size=size,
        )
        return [_theme(row) for row in rows]

    async def due(self, now: datetime) -> list[ThemeId]:
        """Themes whose schedule says that they start or end by now; those that others see to are left out."""
        rows = await self._uow.rows(
            "SELECT t.theme_id FROM theme t JOIN theme_version v ON v.theme_id = t.theme_id AND v.version = t.approved_version"
            " WHERE t.state BETWEEN :approved AND :paused AND (CAST(v.definition -> 'schedule' ->> 'ends_at' AS timestamptz)"
            " <= :now OR t.state = :approved AND t.launch_failure = ''"
            " AND CAST(v.definition -> 'schedule' ->> 'starts_at' AS timestamptz) <= :now)"
            " ORDER BY t.theme_id",
            approved=ThemeState.APPROVED.value,
            paused=ThemeState.PAUSED.value,
            now=now,
        )
        return [ThemeId(row.theme_id) for row in rows]

    async def counting(self, moment: datetime) -> list[Theme]:
        """Launched themes, in the version that decides, whose goals of this moment or later count."""
        rows = await self._uow.rows(
            _DECIDING + " WHERE t.launched_at >= :longest AND t.launched_at + CAST(v.definition -> 'goal' ->> 'window_days'"
            " AS integer) * interval '1 day' >= :moment ORDER BY t.theme_id",
            longest=moment - LONGEST_WINDOW,
            moment=moment,
        )
        return [_theme(row) for row in rows]


def _first(rows: Sequence[Any]) -> Theme | None:
    return _theme(rows[0]) if rows else None


def _theme(row: Any) -> Theme:
    return Theme(
        ThemeId(row.theme_id),
        row.version,
        _definition(row.definition),
        tuple(row.offer_versions),
        row.author,
        row.stated_at,
        Review(_standing(row), row.submitter, row.submitted_at, row.reviewer, row.reviewed_at, row.reason),
        row.owner,
        ThemeState(row.state),
        row.latest_version,
        row.approved_version,
        row.launching,
        bytes(row.salt),
        row.launch_failure,
        row.created_at,
        row.launched_at,
        row.finished_at,
        tuple(row.authors),
    )


def _standing(row: Any) -> VersionState:
    state = VersionState(row.version_state)
    pending = state in (VersionState.DRAFT, VersionState.IN_REVIEW)
    return VersionState.REPLACED if pending and row.version < row.latest_version else state


def _definition(stated: dict[str, Any]) -> ThemeDefinition:
    waves, exclusion, budget = stated["waves"], stated["exclusion"], stated["budget"]
    return ThemeDefinition(
        **{
            **stated,
            "goal": Goal(**stated["goal"]),
            "offers": tuple(OfferId(offer) for offer in stated["offers"]),
            "values": tuple(Filling(**{**each, "time": _moment(each["time"])}) for each in stated["values"]),
            "bands": tuple(Band(band["from_score"], tuple(band["channels"])) for band in stated["bands"]),
            "budget": Budget(**{**budget, "pacing": Pacing(budget["pacing"])}),
            "schedule": Schedule(*(_moment(stated["schedule"][end]) for end in ("starts_at", "ends_at"))),
            "exclusion": Exclusion(**exclusion) if exclusion else None,
            "choice": Choice(stated.get("choice", Choice.ORDER)),
            "waves": waves and Waves(**{**waves, "shares": tuple(waves["shares"]), "from_scores": tuple(waves["from_scores"])}),
        }
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
