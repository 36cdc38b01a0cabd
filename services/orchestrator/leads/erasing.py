"""What is forgotten of erased persons. What a dealer's targets count stays, as a day of nobody's; all else is deleted."""

from __future__ import annotations

from collections.abc import Sequence

from chassis.db import UnitOfWork
from services.orchestrator.leads.store import LeadStore

_THEIRS = (
    "SELECT step_id FROM lead_step WHERE human_id = ANY(CAST(:persons AS bigint[]))"
    " OR (anchor_id > 0 AND anchor_id = ANY(CAST(:anchors AS bigint[])))"
    " OR (anchor_id = 0 AND person_id = ANY(CAST(:persons AS bigint[])))"
)
# Test drives, orders and deliveries that count. The day is that of China's clock, so that it stays in its month.
_COUNTED = """
UPDATE lead_step SET step_key = uuid_send(gen_random_uuid()), anchor_id = 0, person_id = -step_id, version = 0,
  human_id = -step_id, lead_id = NULL, interest = '', brand = '', area = '', source = '', reason = '', author = '', note = '',
  occurred_at = date_trunc('day', occurred_at + interval '8 hours', 'UTC') - interval '8 hours',
  recorded_at = date_trunc('day', recorded_at)
WHERE step_id = ANY(CAST(:steps AS bigint[])) AND reached AND stage IN (5, 6, 7)
"""


async def forget(uow: UnitOfWork, persons: Sequence[int], anchors: Sequence[int]) -> None:
    """Forgets the steps, leads, assignments, tasks and places on lists of erased persons and of their anchors."""
    await LeadStore(uow).lock()
    given = {"persons": list(persons), "anchors": list(anchors)}
    steps = [row.step_id for row in await uow.rows(_THEIRS, **given)]
    leads = [
        row.lead_id
        for row in await uow.rows(
            "DELETE FROM lead WHERE founding_step_id = ANY(CAST(:steps AS bigint[]))"
            " OR human_id = ANY(CAST(:persons AS bigint[])) RETURNING lead_id",
            steps=steps,
            persons=list(persons),
        )
    ]
    await uow.execute("DELETE FROM lead_assignment WHERE lead_id = ANY(CAST(:leads AS bigint[]))", leads=leads)
    for column, ids in (("lead_id", leads), ("person_id", list(persons))):
        await uow.execute(f"DELETE FROM lead_task WHERE {column} = ANY(CAST(:ids AS bigint[]))", ids=ids)  # noqa: S608
    await uow.execute("DELETE FROM opportunity WHERE person_id = ANY(CAST(:persons AS bigint[]))", persons=list(persons))
    await uow.execute(_COUNTED, steps=steps)
    await uow.execute("DELETE FROM lead_step WHERE step_id = ANY(CAST(:steps AS bigint[])) AND human_id > 0", steps=steps)
    # Steps that are somebody else's by now must not name who had their anchor before.
    await uow.execute(
        "UPDATE lead_step SET person_id = human_id WHERE person_id = ANY(CAST(:persons AS bigint[]))", persons=list(persons)
    )
