"""Pushes: taken over, claimed, attempted, concluded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chassis.db import UnitOfWork
from services.touchpoints.domain.deliveries import Change, Channel, Delivery, State

# unnest has no lists of lists: they travel as text and are split.
_SEPARATOR = "\x1f"

COLUMNS = (
    "delivery_id, theme, person_id, channel, fallback_channels, offer, title, body, purpose, score, rank, reasons,"
    " dealer_code, decided_at, expires_at, due_at, attempts"
)

# Pushes whose time has come, earliest first, with whatever lease a vanished sender left behind (index ix_delivery_due_at).
CLAIM = f"""
    UPDATE delivery SET due_at = now() + make_interval(secs => :lease)
    WHERE delivery_id IN (
        SELECT delivery_id FROM delivery WHERE state <= 2 AND due_at <= now()
        ORDER BY due_at LIMIT :batch FOR UPDATE SKIP LOCKED)
    RETURNING {COLUMNS}, expires_at <= now() AS expired,
        CAST(extract(epoch FROM now() - unsure_since) AS double precision) AS unsure_s
"""  # noqa: S608  # only our own column names

# One row per push of a batch; locks are taken in the order of ids so that two batches cannot wait for each other.
LOCK = "SELECT delivery_id FROM delivery WHERE delivery_id = ANY(:ids) ORDER BY delivery_id FOR UPDATE"


@dataclass(frozen=True)
class Attempt:
    """A call that is about to be made."""

    delivery_id: str
    endpoint: str
    anchor_id: int


async def add(uow: UnitOfWork, deliveries: Sequence[Delivery]) -> int:
    """Takes pushes over; those that are here already stay as they are. Returns how many are new."""
    return await uow.execute(
        "INSERT INTO delivery (delivery_id, theme, person_id, channel, fallback_channels, offer, title, body, purpose, score,"
        " rank, reasons, dealer_code, decided_at, expires_at, due_at, state, updated_at)"
        " SELECT id, theme, person, channel, string_to_array(fallbacks, ',')::smallint[], offer, title, body, purpose, score,"
        " rank, string_to_array(reasons, :separator), dealer, decided, expires, GREATEST(due, now()), 1, now()"
        " FROM unnest(CAST(:ids AS text[]), CAST(:themes AS text[]), CAST(:persons AS bigint[]),"
        " CAST(:channels AS smallint[]), CAST(:fallbacks AS text[]), CAST(:offers AS text[]), CAST(:titles AS text[]),"
        " CAST(:bodies AS text[]), CAST(:purposes AS text[]), CAST(:scores AS double precision[]), CAST(:ranks AS int[]),"
        " CAST(:reasons AS text[]), CAST(:dealers AS text[]), CAST(:decided AS timestamptz[]),"
        " CAST(:expires AS timestamptz[]), CAST(:due AS timestamptz[]))"
        " AS d(id, theme, person, channel, fallbacks, offer, title, body, purpose, score, rank, reasons, dealer, decided,"
        " expires, due) ON CONFLICT DO NOTHING",
        separator=_SEPARATOR,
        ids=[d.delivery_id for d in deliveries],
        themes=[d.theme for d in deliveries],
        persons=[d.person_id for d in deliveries],
        channels=[int(d.channel) for d in deliveries],
        fallbacks=[",".join(str(int(c)) for c in d.fallback_channels) for d in deliveries],
        offers=[d.offer for d in deliveries],
        titles=[d.title for d in deliveries],
        bodies=[d.body for d in deliveries],
        purposes=[d.purpose for d in deliveries],
        scores=[d.score for d in deliveries],
        ranks=[d.rank for d in deliveries],
        reasons=[_SEPARATOR.join(d.reasons) for d in deliveries],
        dealers=[d.dealer_code for d in deliveries],
        decided=[d.decided_at for d in deliveries],
        expires=[d.expires_at for d in deliveries],
        due=[d.due_at for d in deliveries],
    )


async def claim(uow: UnitOfWork, batch: int, lease_s: float) -> tuple[list[Delivery], list[Delivery]]:
    """(to send, expired): pushes that nobody else gets until the lease ends."""
    rows = await uow.rows(CLAIM, batch=batch, lease=lease_s)
    return [_delivery(r) for r in rows if not r.expired], [_delivery(r) for r in rows if r.expired]


def _delivery(row: Any) -> Delivery:
    fields = dict(row._mapping)
    fields.pop("expired", None)
    fields["channel"] = Channel(row.channel)
    fields["fallback_channels"] = tuple(Channel(c) for c in row.fallback_channels)
    fields["reasons"] = tuple(row.reasons)
    return Delivery(**fields)


async def begin(uow: UnitOfWork, attempts: Sequence[Attempt], lease_s: float) -> dict[str, int]:
    """Notes calls that are about to be made, each push's count of them included; those that ended meanwhile are left out."""
    ids = [a.delivery_id for a in attempts]
    await uow.rows(LOCK, ids=ids)
    rows = await uow.rows(
        "UPDATE delivery d SET state = 2, attempts = attempts + 1, endpoint = a.endpoint, anchor_id = a.anchor,"
        " unsure_since = COALESCE(d.unsure_since, now()),"
        " due_at = now() + make_interval(secs => :lease), updated_at = now()"
        " FROM unnest(CAST(:ids AS text[]), CAST(:endpoints AS text[]), CAST(:anchors AS bigint[])) AS a(id, endpoint, anchor)"
        " WHERE d.delivery_id = a.id AND d.state <= 2 RETURNING d.delivery_id, d.attempts",
        ids=ids,
        endpoints=[a.endpoint for a in attempts],
        anchors=[a.anchor_id for a in attempts],
        lease=lease_s,
    )
    return {row.delivery_id: row.attempts for row in rows}


async def conclude(uow: UnitOfWork, changes: Sequence[Change]) -> list[tuple[str, State, str, datetime]]:
    """Writes outcomes; returns (delivery, state, reason, when) of those that moved on. No state ever goes back."""
    await uow.rows(LOCK, ids=[c.delivery_id for c in changes])
    rows = await uow.rows(
        "UPDATE delivery d SET state = c.state, reason = c.reason,"
        " provider_id = COALESCE(NULLIF(c.provider, ''), d.provider_id),"
        " due_at = CASE WHEN c.due_in >= 0 THEN LEAST(now() + make_interval(secs => c.due_in), GREATEST(d.expires_at, now()))"
        " ELSE d.due_at END, unsure_since = CASE WHEN c.sure THEN NULL ELSE d.unsure_since END, updated_at = now()"
        " FROM unnest(CAST(:ids AS text[]), CAST(:states AS smallint[]), CAST(:reasons AS text[]), CAST(:providers AS text[]),"
        " CAST(:due AS double precision[]), CAST(:sure AS boolean[])) AS c(id, state, reason, provider, due_in, sure),"
        " delivery old"
        " WHERE d.delivery_id = c.id AND old.delivery_id = c.id AND c.state >= d.state"
        " RETURNING d.delivery_id, d.state, d.reason, d.updated_at, old.state AS before",
        ids=[c.delivery_id for c in changes],
        states=[int(c.state) for c in changes],
        reasons=[c.reason for c in changes],
        providers=[c.provider_id for c in changes],
        due=[-1.0 if c.due_in_s is None else c.due_in_s for c in changes],
        sure=[c.sure for c in changes],
    )
    # Feedback may have been faster than the provider's answer: then its number is all there is left to note. Of a push to
    # somebody who was erased meanwhile not even that.
    await uow.execute(
        "UPDATE delivery d SET provider_id = c.provider FROM unnest(CAST(:ids AS text[]), CAST(:providers AS text[]))"
        " AS c(id, provider) WHERE d.delivery_id = c.id AND c.provider <> '' AND d.provider_id = '' AND d.person_id > 0",
        ids=[c.delivery_id for c in changes],
        providers=[c.provider_id for c in changes],
    )
    return [(r.delivery_id, State(r.state), r.reason, r.updated_at) for r in rows if r.state != r.before]


async def defer(uow: UnitOfWork, waits: dict[str, float]) -> None:
    """Lets pushes wait for some seconds without counting an attempt."""
    await uow.rows(LOCK, ids=list(waits))
    await uow.execute(
        "UPDATE delivery d SET due_at = LEAST(now() + make_interval(secs => w.wait), GREATEST(d.expires_at, now()))"
        " FROM unnest(CAST(:ids AS text[]), CAST(:waits AS double precision[])) AS w(id, wait) WHERE d.delivery_id = w.id",
        ids=list(waits),
        waits=list(waits.values()),
    )


async def fall_back(uow: UnitOfWork, delivery_ids: Sequence[str]) -> None:
    """Moves pushes that were never sent to their next channel, due at once."""
    await uow.execute(
        "UPDATE delivery SET channel = fallback_channels[1], fallback_channels = fallback_channels[2:], due_at = now(),"
        " updated_at = now() WHERE delivery_id = ANY(:ids) AND attempts = 0 AND cardinality(fallback_channels) > 0",
        ids=list(delivery_ids),
    )


async def one(uow: UnitOfWork, delivery_id: str) -> Any | None:
    """A push by its id: person, channel, purpose, state, reason, attempts, update time, dealer; None when there is none."""
    rows = await uow.rows(
        "SELECT delivery_id, theme, person_id, channel, purpose, state, reason, attempts, updated_at, endpoint, anchor_id"
        " FROM delivery WHERE delivery_id = :id",
        id=delivery_id,
    )
    return rows[0] if rows else None


async def counts(uow: UnitOfWork, theme: str) -> list[tuple[int, int, int]]:
    """(channel, state, pushes), of one theme or of all."""
    rows = await uow.rows(
        "SELECT channel, state, count(*) AS pushes FROM delivery WHERE :theme = '' OR theme = :theme"
        " GROUP BY channel, state ORDER BY channel, state",
        theme=theme,
    )
    return [(row.channel, row.state, row.pushes) for row in rows]
