"""Of whom a dealer may be told, and what happens to their leads when that changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from chassis.db import UnitOfWork
from services.orchestrator.leads.announcing import announce
from services.orchestrator.leads.store import LeadStore
from services.orchestrator.store.consents import ConsentStore

# Somebody who asked to be called is served; who is called unasked is marketed to.
SERVICE, MARKETING = "service", "marketing"

# Nobody looks after these humans' leads any more; the distribution gives them out again once consent allows it.
_WITHDRAW = """
WITH freed AS (
  UPDATE lead SET dealer_code = '', advisor = '', sla_due_at = NULL, withheld = 'consent', next_try_at = :now
  WHERE human_id = ANY(CAST(:humans AS bigint[])) AND dealer_code <> '' AND stage < 7 RETURNING lead_id
), ended AS (
  UPDATE lead_assignment a SET ended_at = :now, end_reason = 'consent' FROM freed
  WHERE a.lead_id = freed.lead_id AND a.ended_at IS NULL
)
UPDATE lead_task SET state = 3, completed_at = :now
WHERE state = 1 AND (lead_id IN (SELECT lead_id FROM freed) OR person_id = ANY(CAST(:humans AS bigint[])))
"""


async def closed_to_dealers(
    uow: UnitOfWork, humans: Sequence[int], regimes: Mapping[str, str], now: datetime, purpose: str = SERVICE
) -> set[int]:
    """Of which humans no dealer may be told for a purpose."""
    found = await ConsentStore(uow).forbidden(purpose, {"dealer": 1}, regimes, now, humans)
    marked = {int(person): int(mask) for person, mask in zip(found.persons, found.masks, strict=True)}
    return {human for human in humans if marked.get(human, found.others)}


async def withdraw(uow: UnitOfWork, persons: Iterable[int], regimes: Mapping[str, str]) -> None:
    """Takes leads and tasks from dealers who may no longer be told of these persons, who said something about consent."""
    asked = sorted(set(persons))
    if not asked:
        return
    await LeadStore(uow).lock()
    rows = await uow.rows(
        "SELECT DISTINCT l.human_id FROM lead l WHERE l.human_id = ANY(CAST(:persons AS bigint[])) AND l.dealer_code <> ''"
        " UNION SELECT t.person_id FROM lead_task t WHERE t.person_id = ANY(CAST(:persons AS bigint[])) AND t.state = 1",
        persons=asked,
    )
    humans, now = [row.human_id for row in rows], datetime.now(UTC)
    if humans and (closed := await closed_to_dealers(uow, humans, regimes, now)):
        await uow.execute(_WITHDRAW, humans=sorted(closed), now=now)
        await announce(uow)
