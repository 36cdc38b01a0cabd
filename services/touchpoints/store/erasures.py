"""Erased persons: their pushes stop, what is known of past ones goes, and what comes late finds a tombstone.

Of a push stays that it was: its id (so that a repeated request makes no second one), theme, offer, channel, state and when, so
that a theme's counts remain. Person, anchor, endpoint, provider's number, dealer, score, reasons and answer go, feedback too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from chassis.db import UnitOfWork
from chassis.merges import below, present
from services.touchpoints.domain.deliveries import State
from services.touchpoints.store.deliveries import LOCK

ERASED = "erased"

# A person's pushes, by their number and by the anchors that pushes went to (indexes ix_delivery_person_id and _anchor_id).
THEIRS = (
    "SELECT delivery_id FROM delivery WHERE person_id = ANY(CAST(:persons AS bigint[])) AND person_id > 0"
    " UNION SELECT delivery_id FROM delivery WHERE anchor_id = ANY(CAST(:anchors AS bigint[])) AND anchor_id > 0"
)

ERASED_PERSONS = (
    "SELECT p AS person_id FROM unnest(CAST(:persons AS bigint[])) AS p"  # noqa: S608  (an expression of ours)
    f" WHERE EXISTS (SELECT FROM erased_person e WHERE e.person_id = {present('p')})"
)
FAMILY = below("CAST(:persons AS bigint[])")


class Alias(NamedTuple):
    """A person who went into another, None when it came apart again, as an entry of identity's ledger says."""

    person_id: int
    survivor_id: int | None
    op_id: int


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
    """Those of some persons that were erased, or went into somebody who was."""
    rows = await uow.rows(ERASED_PERSONS, persons=sorted(set(persons)))
    return {row.person_id for row in rows}


async def family(uow: UnitOfWork, persons: Iterable[int]) -> list[int]:
    """Some persons and all who went into them: what is kept under those numbers is theirs, too."""
    rows = await uow.rows(FAMILY, persons=sorted(set(persons)))
    return sorted({row.person_id for row in rows})


async def keep_aliases(uow: UnitOfWork, aliases: Iterable[Alias]) -> list[int]:
    """Keeps who went into whom, of each person the newest entry; returns those who are an erased person's by that."""
    newest: dict[int, Alias] = {}
    for alias in aliases:
        if alias.person_id not in newest or alias.op_id > newest[alias.person_id].op_id:
            newest[alias.person_id] = alias
    latest = [newest[person] for person in sorted(newest)]
    await uow.execute(
        "INSERT INTO person_alias AS a (person_id, survivor_id, op_id)"
        " SELECT * FROM unnest(CAST(:persons AS bigint[]), CAST(:survivors AS bigint[]), CAST(:ops AS bigint[]))"
        " ON CONFLICT (person_id) DO UPDATE SET survivor_id = excluded.survivor_id, op_id = excluded.op_id"
        " WHERE excluded.op_id > a.op_id",
        persons=[each.person_id for each in latest],
        survivors=[each.survivor_id for each in latest],
        ops=[each.op_id for each in latest],
    )
    return await family(uow, await erased_persons(uow, newest))


async def buried(uow: UnitOfWork, anchors: Iterable[int]) -> set[tuple[int, int]]:
    """(anchor, erased person) of those of some anchors that were an erased person's, by each number the person had."""
    rows = await uow.rows(
        "SELECT anchor_id, person_id FROM erased_anchor WHERE anchor_id = ANY(CAST(:anchors AS bigint[]))",
        anchors=sorted(set(anchors)),
    )
    if not rows:
        return set()
    numbers: dict[int, list[int]] = {}
    for row in await uow.rows(FAMILY, persons=sorted({row.person_id for row in rows})):
        numbers.setdefault(row.root, []).append(row.person_id)
    return {(row.anchor_id, person) for row in rows for person in numbers[row.person_id]}


async def erase(uow: UnitOfWork, erased: Iterable[tuple[int, Sequence[int]]]) -> list[Stopped]:
    """Forgets (person, the anchors it consisted of, if any) and all who went into them; returns the pushes under way.

    Repeats change nothing.
    """
    await alone(uow)
    pairs = sorted({(anchor, person) for person, anchors in erased for anchor in anchors})
    anchors, persons = [anchor for anchor, _ in pairs], sorted({person for person, _ in erased})
    await uow.execute(
        "INSERT INTO erased_anchor (anchor_id, person_id) SELECT * FROM unnest(CAST(:anchors AS bigint[]),"
        " CAST(:persons AS bigint[])) ON CONFLICT DO NOTHING",
        anchors=anchors,
        persons=[person for _, person in pairs],
    )
    await uow.execute(
        "INSERT INTO erased_person (person_id) SELECT unnest(CAST(:persons AS bigint[])) ON CONFLICT DO NOTHING",
        persons=persons,
    )
    for table in ("consent", "anchor_owner", "device_token", "wechat_allowance", "ad_click"):
        await uow.execute(f"DELETE FROM {table} WHERE anchor_id = ANY(CAST(:anchors AS bigint[]))", anchors=anchors)  # noqa: S608
    return await strip(uow, await family(uow, persons), anchors)


async def strip(uow: UnitOfWork, persons: Sequence[int], anchors: Sequence[int] = ()) -> list[Stopped]:
    """Stops pushes to persons and takes everything of them off past ones; returns those that were under way."""
    # What was said through anchors that are somebody else's by now is theirs; it must not name who had them before.
    await uow.execute("DELETE FROM anchor_owner WHERE person_id = ANY(CAST(:persons AS bigint[]))", persons=list(persons))
    await uow.execute(
        "DELETE FROM consent c USING erased_anchor e WHERE c.person_id = ANY(CAST(:persons AS bigint[]))"
        " AND e.anchor_id = c.anchor_id",
        persons=list(persons),
    )
    await uow.execute(
        "UPDATE consent c SET person_id = COALESCE((SELECT o.person_id FROM anchor_owner o WHERE o.anchor_id = c.anchor_id), 0)"
        " WHERE c.person_id = ANY(CAST(:persons AS bigint[]))",
        persons=list(persons),
    )
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
    for table in ("feedback", "delivery_attempt", "wechat_spend", "push_call"):
        await uow.execute(f"DELETE FROM {table} WHERE delivery_id = ANY(:ids)", ids=ids)  # noqa: S608
    return [Stopped(row.delivery_id, row.updated_at) for row in stripped if row.stopped]
