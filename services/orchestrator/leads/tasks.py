"""What advisors are to do, and what came of it: results move the chain and say what is to be done next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from chassis.db import UnitOfWork
from services.orchestrator.leads.chain import NOT_INTERESTED, UNREACHABLE, Stage
from services.orchestrator.store.erasures import ErasureStore
from services.orchestrator.store.holding import hold_off_erasures

FIRST_CALL, FOLLOW_UP, ESCALATION, WAKE_UP = "first_call", "follow_up", "escalation", "wake_up"
KINDS = frozenset(
    {FIRST_CALL, FOLLOW_UP, "invite", "confirm_visit", "after_visit", "after_test_drive", WAKE_UP, ESCALATION, "other"}
)


@dataclass(frozen=True)
class Outcome:
    """What a result means: the stage it proves (None: nobody was spoken to) and, of a loss, why."""

    stage: Stage | None
    reason: str = ""


# Results an advisor may report; a closed list.
RESULTS = {
    "not_reached": Outcome(None),
    "call_later": Outcome(Stage.CONTACTED),
    "interested": Outcome(Stage.CONTACTED),
    "visit_agreed": Outcome(Stage.INVITED),
    "visited": Outcome(Stage.VISIT),
    "test_driven": Outcome(Stage.TEST_DRIVE),
    "ordered": Outcome(Stage.ORDER),
    "delivered": Outcome(Stage.DELIVERED),
    NOT_INTERESTED: Outcome(Stage.LOST, NOT_INTERESTED),
    "bought_elsewhere": Outcome(Stage.LOST, "bought_elsewhere"),
    "price": Outcome(Stage.LOST, "price"),
    "wrong_contact": Outcome(Stage.LOST, "wrong_contact"),
}
NOT_REACHED, CALL_LATER = "not_reached", "call_later"
# When to try again after each vain attempt; after the last one the lead counts as lost.
TRY_AGAIN = (timedelta(hours=4), timedelta(days=1), timedelta(days=3), timedelta(days=7))


def after(result: str, attempt: int) -> tuple[Outcome, timedelta | None]:
    """(what it means, when to try again or None) of a result at the so-maniest attempt, from 1."""
    outcome = RESULTS[result]
    if result != NOT_REACHED:
        return outcome, None
    if attempt > len(TRY_AGAIN):
        return Outcome(Stage.LOST, UNREACHABLE), None
    return outcome, TRY_AGAIN[attempt - 1]


@dataclass(frozen=True)
class NewTask:
    """A task to be made. The same `key` makes it once.

    Without `dealer_code` it goes to whoever looks after the person's open lead, else to nobody yet. `words` tell an advisor
    what to do, without personal data. After `expires_at` it is cancelled by itself.
    """

    key: str
    person_id: int
    kind: str
    due_at: datetime
    words: str = ""
    dealer_code: str = ""
    advisor: str = ""
    lead_id: int | None = None
    theme_id: int | None = None
    expires_at: datetime | None = None
    attempt: int = 1
    author: str = "orchestrator"


_CREATE = """
INSERT INTO lead_task (task_key, person_id, lead_id, theme_id, kind, words, dealer_code, advisor, state, attempt, result, note,
  author, due_at, expires_at)
SELECT t.task_key, t.person_id, COALESCE(t.lead_id, l.lead_id), t.theme_id, t.kind, t.words,
  CASE WHEN t.dealer_code = '' THEN COALESCE(l.dealer_code, '') ELSE t.dealer_code END,
  CASE WHEN t.dealer_code = '' THEN COALESCE(l.advisor, '') ELSE t.advisor END,
  1, t.attempt, '', '', t.author, t.due_at, t.expires_at
FROM unnest(CAST(:keys AS text[]), CAST(:persons AS bigint[]), CAST(:kinds AS text[]), CAST(:due AS timestamptz[]),
  CAST(:words AS text[]), CAST(:dealers AS text[]), CAST(:advisors AS text[]), CAST(:leads AS bigint[]),
  CAST(:themes AS bigint[]), CAST(:expires AS timestamptz[]), CAST(:attempts AS int[]), CAST(:authors AS text[]))
  AS t (task_key, person_id, kind, due_at, words, dealer_code, advisor, lead_id, theme_id, expires_at, attempt, author)
LEFT JOIN LATERAL (
  SELECT o.lead_id, o.dealer_code, o.advisor FROM lead o WHERE t.lead_id IS NULL AND o.human_id = t.person_id
    -- By an expression, lest a planner without statistics walk all leads by time.
    AND o.merged_into IS NULL AND o.stage < 7 ORDER BY -extract(epoch FROM o.last_at), o.lead_id LIMIT 1
) l ON true
ORDER BY t.task_key ON CONFLICT (task_key) DO NOTHING
"""
_COLUMNS = (
    "keys", "persons", "kinds", "due", "words", "dealers", "advisors", "leads", "themes", "expires", "attempts", "authors",
)  # fmt: skip


async def create_tasks(uow: UnitOfWork, tasks: Sequence[NewTask]) -> None:
    """Makes tasks that are not there yet; none for persons who were erased."""
    erasures = ErasureStore(uow)
    await hold_off_erasures(uow)
    gone = await erasures.erased(task.person_id for task in tasks)
    records = [
        (
            t.key, t.person_id, t.kind, t.due_at, t.words, t.dealer_code, t.advisor, t.lead_id, t.theme_id, t.expires_at,
            t.attempt, t.author,
        )
        for t in tasks if t.person_id not in gone
    ]  # fmt: skip
    if records:
        columns = [list(column) for column in zip(*records, strict=True)]
        await uow.execute(_CREATE, **dict(zip(_COLUMNS, columns, strict=True)))
