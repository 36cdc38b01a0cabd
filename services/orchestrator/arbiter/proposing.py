"""Whoever wants somebody to be pushed proposes it on behalf of a theme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from chassis.db import UnitOfWork
from services.orchestrator.domain.themes import PersonId, ThemeId
from services.orchestrator.offers.definitions import OfferId
from services.orchestrator.store.holding import hold_off_erasures

# The occasion of a theme's own launch.
LAUNCH: Final = 0

# Of persons who were erased nobody proposes anything any more: what proposes them is late.
_PROPOSE = """
INSERT INTO decision (theme_id, person_id, occasion, outcome, reason, due_at, expires_at, asked_offer_id, decided_at)
SELECT p.theme_id, p.person_id, p.occasion, 'deferred', 'proposed', p.due_at, p.expires_at, p.offer_id, now()
FROM unnest(CAST(:themes AS bigint[]), CAST(:persons AS bigint[]), CAST(:occasions AS bigint[]), CAST(:offers AS bigint[]),
  CAST(:due AS timestamptz[]), CAST(:ends AS timestamptz[]))
  AS p (theme_id, person_id, occasion, offer_id, due_at, expires_at)
WHERE NOT EXISTS (SELECT FROM erased_anchor e WHERE e.person_id = p.person_id)
ORDER BY 1, 2, 3 ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True)
class Proposal:
    """A person whom a theme is to push.

    `occasion`: 0 for the theme's own launch, else the proposing room's number, unique per theme and person. `offer_id` None:
    the theme's offers compete. Not before `due_at`; after `expires_at` it is dropped with its last reason.
    """

    theme_id: ThemeId
    person_id: PersonId
    occasion: int
    offer_id: OfferId | None
    due_at: datetime
    expires_at: datetime


async def propose(uow: UnitOfWork, proposals: Sequence[Proposal]) -> None:
    """Puts proposals before the arbiter; those it has already are left as they are."""
    if not proposals:
        return
    await hold_off_erasures(uow)
    await uow.execute(
        _PROPOSE,
        themes=[each.theme_id for each in proposals],
        persons=[each.person_id for each in proposals],
        occasions=[each.occasion for each in proposals],
        offers=[each.offer_id for each in proposals],
        due=[each.due_at for each in proposals],
        ends=[each.expires_at for each in proposals],
    )
