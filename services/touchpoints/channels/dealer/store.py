"""What dealers were told of whom, so that they can be told when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from chassis.db import UnitOfWork
from services.touchpoints.domain.deliveries import CONSENT, NOTICES, Channel, State
from services.touchpoints.store.deliveries import LOCK
from services.touchpoints.store.erasures import THEIRS

REVOKED, UNTOLD = "withdrawn", "never_told"

# Per dealer and person what went there (the dealer may have it, whatever came of the call), with the leads' numbers there.
_TOLD = f"""
SELECT e.scope AS dealer_code, d.person_id, max(d.anchor_id) AS anchor_id,
  array_agg(DISTINCT CASE WHEN d.details = '' THEN d.delivery_id ELSE CAST(d.details AS jsonb) ->> 'lead_id' END) AS leads
FROM delivery d JOIN endpoint e ON e.name = d.endpoint
WHERE d.delivery_id IN ({THEIRS}) AND d.channel = :channel AND d.attempts > 0 AND d.kind <> ALL(CAST(:notices AS text[]))
  AND d.person_id > 0 GROUP BY 1, 2 ORDER BY 1, 2
"""  # noqa: S608  (a text of ours)

# Withdrawals of leads (index ix_delivery_withdrawn), by the leads' numbers as deliveries have them: lead-12-4.
WITHDRAWALS = """
SELECT delivery_id, dealer_code, CAST(details AS jsonb) ->> 'lead_id' AS known_as FROM delivery
WHERE kind = 'lead.withdrawn' AND split_part(delivery_id, '-', 2) = ANY(CAST(:leads AS text[])) AND details <> ''
"""


class Withdrawal(NamedTuple):
    """A lead that a dealer had to give up at a revision, and the number by which the dealer knows it."""

    lead: str
    revision: int
    dealer_code: str
    known_as: str


class Told(NamedTuple):
    """Somebody of whom a dealer was told, as the pushes knew the person, and the leads' numbers at the dealer."""

    dealer_code: str
    person_id: int
    anchor_id: int
    leads: list[str]


async def hold(uow: UnitOfWork, persons: Sequence[int], anchors: Sequence[int]) -> None:
    """Lets none of these persons' pushes begin until this transaction ends."""
    theirs = f"SELECT delivery_id FROM delivery WHERE delivery_id IN ({THEIRS}) ORDER BY delivery_id FOR UPDATE"  # noqa: S608
    await uow.rows(theirs, persons=list(persons), anchors=list(anchors))


async def one_by_one(uow: UnitOfWork, leads: Sequence[str]) -> None:
    """Lets one transaction at a time tell of each of these leads: what gives one must see what takes it, or be seen by it."""
    await uow.rows(
        "SELECT pg_advisory_xact_lock(7003, key) FROM (SELECT DISTINCT hashtext(l) AS key FROM unnest(CAST(:leads AS text[]))"
        " AS l ORDER BY 1) AS keys",
        leads=list(leads),
    )


async def withdrawals(uow: UnitOfWork, leads: Sequence[str]) -> list[Withdrawal]:
    """What dealers had to give up of some leads ("leads/12")."""
    if not leads:
        return []
    rows = await uow.rows(WITHDRAWALS, leads=[lead.removeprefix("leads/") for lead in leads])
    parts = ((row, *row.delivery_id.split("-")[1:]) for row in rows)
    return [Withdrawal(f"leads/{lead}", int(revision), row.dealer_code, row.known_as) for row, lead, revision in parts]


async def told(uow: UnitOfWork, persons: Sequence[int], anchors: Sequence[int]) -> list[Told]:
    """Which dealers know of these persons, or of who was pushed to through these anchors (those of THEIRS)."""
    rows = await uow.rows(
        _TOLD, persons=list(persons), anchors=list(anchors), channel=int(Channel.DEALER), notices=sorted(NOTICES)
    )
    return [Told(row.dealer_code, row.person_id, row.anchor_id, sorted(row.leads)) for row in rows]


async def consents_told(uow: UnitOfWork, persons: Sequence[int]) -> dict[tuple[str, int], bool]:
    """(dealer, person) → whether the last word on consent was a withdrawal; left out where there was none."""
    rows = await uow.rows(
        "SELECT DISTINCT ON (dealer_code, person_id) dealer_code, person_id,"
        " CAST(CAST(details AS jsonb) ->> 'withdrawn' AS boolean) AS withdrawn FROM delivery"
        " WHERE person_id = ANY(CAST(:persons AS bigint[])) AND person_id > 0 AND kind = :kind AND details <> ''"
        " ORDER BY dealer_code, person_id, decided_at DESC",
        persons=sorted(set(persons)),
        kind=CONSENT,
    )
    return {(row.dealer_code, row.person_id): row.withdrawn for row in rows}


async def revoke(uow: UnitOfWork, earlier: Sequence[str], dealer_code: str, notice: str) -> list[tuple[str, datetime]]:
    """Ends what a dealer was told by earlier deliveries: contacts are shut, what is under way stops (returned, with when).

    Where the dealer cannot have heard of any of them the notice is not sent either.
    """
    await uow.rows(LOCK, ids=[*earlier, notice])
    rows = await uow.rows(
        "UPDATE delivery d SET revoked_at = COALESCE(d.revoked_at, now()),"
        " state = CASE WHEN old.state <= :sending THEN :suppressed ELSE old.state END,"
        " reason = CASE WHEN old.state <= :sending THEN :reason ELSE old.reason END, updated_at = now() FROM delivery old"
        " WHERE d.delivery_id = ANY(:ids) AND d.dealer_code = :dealer AND d.channel = :channel"
        " AND old.delivery_id = d.delivery_id RETURNING d.delivery_id, d.attempts, d.updated_at,"
        " old.state <= :sending AS stopped",
        ids=list(earlier),
        dealer=dealer_code,
        channel=int(Channel.DEALER),
        sending=int(State.SENDING),
        suppressed=int(State.SUPPRESSED),
        reason=REVOKED,
    )
    if not any(row.attempts for row in rows):
        await uow.execute(
            "UPDATE delivery SET state = :suppressed, reason = :reason, updated_at = now()"
            " WHERE delivery_id = :id AND attempts = 0 AND state = :queued",
            id=notice,
            queued=int(State.QUEUED),
            suppressed=int(State.SUPPRESSED),
            reason=UNTOLD,
        )
    return [(row.delivery_id, row.updated_at) for row in rows if row.stopped]
