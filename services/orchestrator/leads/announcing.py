"""Handovers of leads as facts on the bus, from what the table of assignments says and has not told yet.

Whoever changes assignments calls `announce` in the same transaction; what ends by itself (an order, a loss) is told by the next
round of distribution. Each assignment is told twice, once when it begins and once when it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from chassis.db import UnitOfWork
from chassis.moments import to_us
from services.orchestrator import events
from services.orchestrator.events import GIVEN, PASSED_ON, TAKEN, Handover
from services.orchestrator.leads.reading import name_of

UNTOLD, BEGUN = 0, 1

# Assignments with something to tell (index ix_lead_assignment_untold), `before` what was told of each, `nth` its place among
# those of its lead, `delivery_id` the theme's push that told the same dealer of the same lead.
NEWS = """
WITH told AS (
  UPDATE lead_assignment SET told = CASE WHEN told = 1 THEN 2 WHEN ended_at IS NULL THEN 1 ELSE 3 END
  WHERE told = 0 OR (told = 1 AND ended_at IS NOT NULL)
  RETURNING assignment_id, lead_id, dealer_code, advisor, assigned_at, ended_at, end_reason,
    CASE WHEN told = 2 THEN 1 ELSE 0 END AS before
)
SELECT t.*, l.human_id, l.interest, l.sla_due_at, (SELECT count(*) FROM lead_assignment o WHERE o.lead_id = t.lead_id
    AND o.assignment_id <= t.assignment_id) AS nth,
  COALESCE((SELECT min(d.delivery_id) FROM lead_step s JOIN decision d ON d.person_id = s.person_id AND d.outcome = 'push'
    WHERE s.lead_id = t.lead_id AND s.author = 'themes' AND s.stage = 1 AND s.dealer_code = t.dealer_code
      AND d.channel = 'dealer' AND d.dealer_code = t.dealer_code AND s.source = 'themes/' || d.theme_id), '') AS delivery_id
FROM told t JOIN lead l USING (lead_id) WHERE l.human_id > 0 ORDER BY t.assignment_id
"""


async def announce(uow: UnitOfWork) -> None:
    """States what assignments began and ended; the lock of leads must be held."""
    for payload in events.leads_assigned(list(handovers(await uow.rows(NEWS)))):
        uow.publish(events.LEADS_ASSIGNED, payload)


def handovers(rows: Sequence[Any]) -> Iterator[Handover]:
    """What each row means to its dealer; one that begins where another of the same lead and dealer ends is passed on."""
    begun = {(row.lead_id, row.dealer_code) for row in rows if row.before == UNTOLD and row.ended_at is None}
    ended = {(row.lead_id, row.dealer_code) for row in rows if row.before == BEGUN}
    for row in rows:
        same = row.lead_id, row.dealer_code
        if row.before == BEGUN:
            if same not in begun:
                yield _handover(row, TAKEN, 2 * row.nth, row.ended_at, row.end_reason)
        elif row.ended_at is None:
            yield _handover(row, PASSED_ON if same in ended else GIVEN, 2 * row.nth - 1, row.assigned_at, "")


def _handover(row: Any, kind: int, revision: int, at: datetime, reason: str) -> Handover:
    return Handover(
        name_of(row.lead_id),
        revision,
        row.human_id,
        row.dealer_code,
        row.advisor,
        kind,
        reason,
        row.interest,
        to_us(at),
        to_us(row.sla_due_at) if row.sla_due_at and kind != TAKEN else 0,
        row.delivery_id,
    )
