"""Erased persons: their pushes stop, what is known of past ones goes, and what comes late finds a tombstone.

Of a push stays that it was: its id (so that a repeated request makes no second one), theme, offer, channel, state and when, so
that a theme's counts remain. Person, anchor, endpoint, provider's number, dealer, score, reasons and answer go, feedback too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from chassis.db import UnitOfWork
from services.touchpoints.domain.deliveries import State
from services.touchpoints.store.deliveries import LOCK

ERASED = "erased"

# A person's pushes, by their number and by the anchors that pushes went to (indexes ix_delivery_person_id and _anchor_id).
THEIRS = (
    "SELECT delivery_id FROM delivery WHERE person_id = ANY(CAST(:persons AS bigint[])) AND person_id > 0"
    " UNION SELECT delivery_id FROM delivery WHERE anchor_id = ANY(CAST(:anchors AS bigint[])) AND anchor_id > 0"
)


class Stopped(NamedTuple):
    """A push that was under way."""

    delivery_id: str
    stopped_at: datetime


async def hold_off(uow: UnitOfWork) -> None:
    """Keeps erasures waiting until this transaction ends; for all who take over what names persons."""
    await uow.rows("SELECT pg_advisory_xact_lock_shared(hashtext('touchpoints erasure'))")


async def alone(uow: UnitOfWork) -> None:
    """Waits for all of them, and keeps them waiting; taken before any push is locked, as they take theirs."""
    await uow.rows("SELECT pg_advisory_xact_lock(hashtext('touchpoints erasure'))")


async def erased_persons(uow: UnitOfWork, persons: Iterable[int]) -> set[int]:
    """Those of some persons that were erased."""
    rows = await uow.rows(
        "SELECT DISTINCT person_id FROM erased_anchor WHERE person_id = ANY(CAST(:persons AS bigint[]))",
        persons=sorted(set(persons)),
    )
    return {row.person_id for row in rows}


async def buried(uow: UnitOfWork, anchors: Iterable[int]) -> set[tuple[int, int]]:
    """(anchor, erased person) of those of some anchors that were an erased person's."""
    rows = await uow.rows(
        "SELECT anchor_id, person_id FROM erased_anchor WHERE anchor_id = ANY(CAST(:anchors AS bigint[]))",
        anchors=sorted(set(anchors)),
    )
    return {(row.anchor_id, row.person_id) for row in rows}


async def erase(uow: UnitOfWork, erased: Iterable[tuple[int, int]]) -> list[Stopped]:
    """Forgets (anchor, person); returns the pushes that were under way. Repeats change nothing."""
    await alone(uow)
    pairs = sorted(set(erased))
    anchors, persons = [anchor for anchor, _ in pairs], [person for _, person in pairs]
    await uow.execute(
        "INSERT INTO erased_anchor (anchor_id, person_id) SELECT * FROM unnest(CAST(:anchors AS bigint[]),"
        " CAST(:persons AS bigint[])) ON CONFLICT DO NOTHING",
        anchors=anchors,
        persons=persons,
    )
    for table in ("consent", "anchor_owner", "device_token", "wechat_allowance", "ad_click"):
        await uow.execute(f"DELETE FROM {table} WHERE anchor_id = ANY(CAST(:anchors AS bigint[]))", anchors=anchors)  # noqa: S608
    return await strip(uow, sorted(set(persons)), anchors)


async def strip(uow: UnitOfWork, persons: Sequence[int], anchors: Sequence[int] = ()) -> list[Stopped]:
    """Stops pushes to persons and takes everything of them off past ones; returns those that were under way."""
    rows = await uow.rows(THEIRS, persons=list(persons), anchors=list(anchors))
    ids = [row.delivery_id for row in rows]
    if not ids:
        return []
    await uow.rows(LOCK, ids=ids)
    stripped = await uow.rows(
        "UPDATE delivery d SET state = CASE WHEN d.state <= :sending THEN :suppressed ELSE d.state END,"
        " reason = CASE WHEN d.state <= :sending THEN :erased ELSE d.reason END,"
        " updated_at = CASE WHEN d.state <= :sending THEN now() ELSE d.updated_at END,"
        " person_id = 0, anchor_id = 0, endpoint = '', provider_id = '', answer = '', answered_at = NULL, score = 0, rank = 0,"
        " reasons = '{}', dealer_code = '', fallback_channels = '{}', details = '', unsure_since = NULL FROM delivery old"
        " WHERE d.delivery_id = ANY(:ids) AND old.delivery_id = d.delivery_id"
        " RETURNING d.delivery_id, d.updated_at, old.state <= :sending AS stopped",
        ids=ids,
        sending=int(State.SENDING),
        suppressed=int(State.SUPPRESSED),
        erased=ERASED,
    )
    for table in ("feedback", "delivery_attempt", "wechat_spend"):
        await uow.execute(f"DELETE FROM {table} WHERE delivery_id = ANY(:ids)", ids=ids)  # noqa: S608
    return [Stopped(row.delivery_id, row.updated_at) for row in stripped if row.stopped]
