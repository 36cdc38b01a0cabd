"""Feedback: each event kept once, the pushes moved on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from chassis.db import UnitOfWork
from chassis.moments import from_us
from services.touchpoints.domain.deliveries import NOTICES, WITHDRAWN, Channel, State
from services.touchpoints.domain.feedback import Feedback
from services.touchpoints.domain.handovers import told_before
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

    @property
    def silent(self) -> bool:
        """A notice of which nothing says any more whom it is about."""
        return self.kind in NOTICES and not self.anchor_id


# Notices go to no address: they are about whom the dealer was told of the lead before.
_ABOUT = """
SELECT DISTINCT ON (n.id) n.id, d.anchor_id FROM unnest(CAST(:ids AS text[]), CAST(:tellers AS text[])) AS n(id, teller)
JOIN delivery d ON d.delivery_id = n.teller JOIN delivery notice ON notice.delivery_id = n.id
WHERE d.anchor_id > 0 AND d.dealer_code = notice.dealer_code AND d.attempts > 0 ORDER BY n.id, d.arrived DESC
"""


async def pushed(uow: UnitOfWork, delivery_ids: Sequence[str]) -> dict[str, Pushed]:
    """Pushes by id, locked in the order of ids until the end of the transaction."""
    await uow.rows(LOCK, ids=list(delivery_ids))
    rows = await uow.rows(
        "SELECT delivery_id, endpoint, channel, theme, person_id, anchor_id, kind,"
        " COALESCE(said ->> 'interest', '') AS interest, COALESCE(said ->> 'lead_id', '') AS known_as"
        " FROM (SELECT *, CAST(NULLIF(details, '') AS jsonb) AS said FROM delivery WHERE delivery_id = ANY(:ids)) AS d",
        ids=list(delivery_ids),
    )
    earlier = [(r.delivery_id, each) for r in rows if r.kind == WITHDRAWN for each in told_before(r.delivery_id, r.known_as)]
    about = {}
    if earlier:
        ids, tellers = zip(*earlier, strict=True)
        about = {r.id: r.anchor_id for r in await uow.rows(_ABOUT, ids=list(ids), tellers=list(tellers))}
    return {
        r.delivery_id: Pushed(
            r.delivery_id,
            r.endpoint,
            Channel(r.channel),
            r.theme,
            r.person_id,
            about.get(r.delivery_id, r.anchor_id),
            r.kind,
            r.interest,
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
