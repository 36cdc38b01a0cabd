"""Erased persons leave journeys and referrals without a trace."""

from __future__ import annotations

from collections.abc import Sequence

from chassis.db import UnitOfWork

_FORGET = (
    "WITH gone AS (DELETE FROM enrolment WHERE present_id = ANY(CAST(:persons AS bigint[])) RETURNING enrolment_id)"
    " DELETE FROM journey_passage p USING gone WHERE p.enrolment_id = gone.enrolment_id",
    "DELETE FROM journey_side WHERE person_id = ANY(CAST(:persons AS bigint[]))",
    "DELETE FROM referral_code WHERE person_id = ANY(CAST(:persons AS bigint[]))",
    "DELETE FROM referral WHERE referrer_id = ANY(CAST(:persons AS bigint[]))",
    "DELETE FROM referral WHERE referred_id = ANY(CAST(:persons AS bigint[]))",
)


async def forget(uow: UnitOfWork, persons: Sequence[int]) -> None:
    """Deletes all that is of some persons; whoever writes such rows holds erasures off."""
    for statement in _FORGET:
        await uow.execute(statement, persons=list(persons))
