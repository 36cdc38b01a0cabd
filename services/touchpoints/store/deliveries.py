"""Pushes: taken over and looked at. What becomes of them is written in engine/store.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chassis.db import UnitOfWork
from services.touchpoints.domain.deliveries import Cap, Delivery

# unnest has no lists of lists: they travel as text and are split.
_SEPARATOR = "\x1f"

# One row per push of a batch; locks are taken in the order of ids so that two batches cannot wait for each other.
LOCK = "SELECT delivery_id FROM delivery WHERE delivery_id = ANY(:ids) ORDER BY delivery_id FOR UPDATE"


async def add(uow: UnitOfWork, deliveries: Sequence[Delivery]) -> int:
    """Takes pushes over; those that are here already stay as they are. Returns how many are new."""
    return await uow.execute(
        "INSERT INTO delivery (delivery_id, theme, person_id, channel, fallback_channels, offer, title, body, purpose, score,"
        " rank, reasons, dealer_code, decided_at, expires_at, due_at, kind, details, quiet_hours,"
        " time_zone, caps, state, updated_at)"
        " SELECT id, theme, person, channel, string_to_array(fallbacks, ',')::smallint[], offer, title, body, purpose, score,"
        " rank, string_to_array(reasons, :separator), dealer, decided, expires, GREATEST(due, now()), kind, details,"
        " hours, zone, caps, 1, now()"
        " FROM unnest(CAST(:ids AS text[]), CAST(:themes AS text[]), CAST(:persons AS bigint[]),"
        " CAST(:channels AS smallint[]), CAST(:fallbacks AS text[]), CAST(:offers AS text[]), CAST(:titles AS text[]),"
        " CAST(:bodies AS text[]), CAST(:purposes AS text[]), CAST(:scores AS double precision[]), CAST(:ranks AS int[]),"
        " CAST(:reasons AS text[]), CAST(:dealers AS text[]), CAST(:decided AS timestamptz[]),"
        " CAST(:expires AS timestamptz[]), CAST(:due AS timestamptz[]),"
        " CAST(:kinds AS text[]), CAST(:details AS text[]),"
        " CAST(:hours AS text[]), CAST(:zones AS text[]), CAST(:caps AS text[]))"
        " AS d(id, theme, person, channel, fallbacks, offer, title, body, purpose, score, rank, reasons, dealer, decided,"
        " expires, due, kind, details, hours, zone, caps) ON CONFLICT DO NOTHING",
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
        kinds=[d.kind for d in deliveries],
        details=[d.details for d in deliveries],
        hours=[d.quiet_hours for d in deliveries],
        zones=[d.time_zone for d in deliveries],
        caps=[caps_text(d.caps) for d in deliveries],
    )


def caps_of(text: str) -> tuple[Cap, ...]:
    """Caps as they are stored: channel's number (0 for any), pushes and seconds, separated by spaces; caps by commas."""
    parts = (cap.split(" ") for cap in text.split(",") if cap)
    return tuple(Cap(int(channel), int(most), float(seconds)) for channel, most, seconds in parts)


def caps_text(caps: Sequence[Cap]) -> str:
    """How caps are stored."""
    return ",".join(f"{cap.channel} {cap.pushes} {cap.seconds:g}" for cap in caps)


async def one(uow: UnitOfWork, delivery_id: str) -> Any | None:
    """A push by its id: person, channel, purpose, state, reason, attempts, update time, dealer; None when there is none."""
    rows = await uow.rows(
        "SELECT delivery_id, theme, person_id, channel, purpose, state, reason, attempts, updated_at, endpoint, anchor_id,"
        " revoked_at, CASE WHEN state <= 2 THEN held ELSE '' END AS held"
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
