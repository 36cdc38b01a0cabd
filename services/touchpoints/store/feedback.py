"""Feedback: each event kept once, the pushes moved on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from chassis.db import UnitOfWork
from services.touchpoints.domain.deliveries import Channel, State
from services.touchpoints.domain.feedback import Feedback
from services.touchpoints.events import from_us
from services.touchpoints.store.deliveries import LOCK


@dataclass(frozen=True)
class Pushed:
    """What feedback needs to know about the push it is about."""

    delivery_id: str
    endpoint: str
    channel: Channel
    theme: str
    person_id: int
    anchor_id: int
    # Where nobody decided on a push: what was told, and what the lead is about.
    kind: str = ""
    interest: str = ""


async def pushed(uow: UnitOfWork, delivery_ids: Sequence[str]) -> dict[str, Pushed]:
    """Pushes by id, locked in the order of ids until the end of the transaction."""
    await uow.rows(LOCK, ids=list(delivery_ids))
    rows = await uow.rows(
        "SELECT delivery_id, endpoint, channel, theme, person_id, anchor_id, kind, CASE WHEN details <> ''"
        " THEN COALESCE(CAST(details AS jsonb) ->> 'interest', '') ELSE '' END AS interest"
        " FROM delivery WHERE delivery_id = ANY(:ids)",
        ids=list(delivery_ids),
    )
    return {
        r.delivery_id: Pushed(
            r.delivery_id, r.endpoint, Channel(r.channel), r.theme, r.person_id, r.anchor_id, r.kind, r.interest
        )
        for r in rows
    }


async def by_provider_id(uow: UnitOfWork, provider_id: str, endpoint: str) -> str | None:
    """The push that a provider knows under its own number (index ix_delivery_provider_id)."""
    rows = await uow.rows(
        "SELECT delivery_id FROM delivery WHERE provider_id = :id AND provider_id <> '' AND endpoint = :endpoint",
        id=provider_id,
        endpoint=endpoint,
    )
    return str(rows[0].delivery_id) if rows else None


async def keep(uow: UnitOfWork, feedback: Sequence[Feedback]) -> list[Feedback]:
    """Stores events and returns those that were not known yet."""
    distinct = {(f.delivery_id, f.kind, f.key): f for f in feedback}
    rows = await uow.rows(
        "INSERT INTO feedback (delivery_id, kind, key, data, occurred_at, received_at)"
        " SELECT id, kind, key, CAST(data AS jsonb), occurred, now() FROM unnest(CAST(:ids AS text[]), CAST(:kinds AS text[]),"
        " CAST(:keys AS text[]), CAST(:data AS text[]), CAST(:occurred AS timestamptz[])) AS f(id, kind, key, data, occurred)"
        " ON CONFLICT DO NOTHING RETURNING delivery_id, kind, key",
        ids=[f.delivery_id for f in distinct.values()],
        kinds=[f.kind for f in distinct.values()],
        keys=[f.key for f in distinct.values()],
        data=[orjson.dumps(dict(f.data)).decode() for f in distinct.values()],
        occurred=[from_us(f.occurred_at_us) for f in distinct.values()],
    )
    return [distinct[r.delivery_id, r.kind, r.key] for r in rows]


@dataclass(frozen=True)
class Progress:
    """What the feedback of one message makes of one push."""

    delivery_id: str
    state: State
    reason: str
    occurred_at: datetime
    answer: str = ""


async def advance(uow: UnitOfWork, progress: Sequence[Progress]) -> list[Any]:
    """Moves pushes on, never back; of two answers the later counts. Returns rows that changed (one per push given).

    Rows: delivery_id, state, reason, answer.
    """
    return list(
        await uow.rows(
            "UPDATE delivery d SET state = GREATEST(d.state, p.state),"
            " reason = CASE WHEN p.state > d.state THEN p.reason ELSE d.reason END,"
            " answer = CASE WHEN p.later THEN p.answer ELSE d.answer END,"
            " answered_at = CASE WHEN p.later THEN p.occurred ELSE d.answered_at END, updated_at = now()"
            " FROM (SELECT q.*, q.answer <> '' AND (q.occurred, q.answer) >"
            "   (COALESCE(o.answered_at, '-infinity'), o.answer) AS later"
            "   FROM unnest(CAST(:ids AS text[]), CAST(:states AS smallint[]), CAST(:reasons AS text[]),"
            "   CAST(:occurred AS timestamptz[]), CAST(:answers AS text[])) AS q(id, state, reason, occurred, answer)"
            "   JOIN delivery o ON o.delivery_id = q.id) p"
            " WHERE d.delivery_id = p.id AND (p.state > d.state OR p.later)"
            " RETURNING d.delivery_id, d.state, d.reason, d.answer, p.occurred",
            ids=[p.delivery_id for p in progress],
            states=[int(p.state) for p in progress],
            reasons=[p.reason for p in progress],
            occurred=[p.occurred_at for p in progress],
            answers=[p.answer for p in progress],
        )
    )


async def count(uow: UnitOfWork) -> int:
    """Feedback events kept so far."""
    rows = await uow.rows("SELECT count(*) AS events FROM feedback")
    return int(rows[0].events)
