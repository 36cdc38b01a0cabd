"""Steps and the leads that follow from them: steps are added once and never changed, leads are folded anew from them.

Whoever writes steps or changes who is who takes one lock, so that a fold always sees all steps of its humans.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from chassis.db import UnitOfWork
from chassis.merges import below, present
from services.orchestrator.leads.chain import Chain, Stage, Step, fold
from services.orchestrator.store.holding import hold_off_erasures


def _human(step: str) -> str:
    """Expression: who a step's human is now. Of the step and the last move of its anchor the newer says so; without an anchor
    the person, or whom it went into. `step` must have anchor_id, person_id and version.
    """
    return f"""
CASE WHEN {step}.anchor_id > 0 THEN COALESCE((SELECT o.person_id FROM anchor_owner o
  WHERE o.anchor_id = {step}.anchor_id AND o.version > {step}.version), {step}.person_id)
ELSE {present(f"{step}.person_id")} END
"""  # noqa: S608  (names of ours)


_ADD = f"""
INSERT INTO lead_step (step_key, anchor_id, person_id, version, human_id, stage, reached, interest, brand, area, source,
  dealer_code, advisor, reason, author, note, occurred_at)
SELECT s.step_key, s.anchor_id, s.person_id, s.version, {_human("s")}, s.stage, false, s.interest, s.brand, s.area,
  s.source, s.dealer_code, s.advisor, s.reason, s.author, s.note, s.occurred_at
FROM unnest(CAST(:keys AS bytea[]), CAST(:anchors AS bigint[]), CAST(:persons AS bigint[]), CAST(:versions AS bigint[]),
  CAST(:stages AS smallint[]), CAST(:interests AS text[]), CAST(:brands AS text[]), CAST(:areas AS text[]),
  CAST(:sources AS text[]), CAST(:dealers AS text[]), CAST(:advisors AS text[]), CAST(:reasons AS text[]),
  CAST(:authors AS text[]), CAST(:notes AS text[]), CAST(:moments AS timestamptz[]))
  AS s (step_key, anchor_id, person_id, version, stage, interest, brand, area, source, dealer_code, advisor, reason, author,
  note, occurred_at)
ORDER BY s.occurred_at, s.step_key ON CONFLICT (step_key) DO NOTHING RETURNING step_id, human_id
"""  # noqa: S608  (a text of ours)

# Some persons and all who went into them.
_BELOW = below("CAST(:persons AS bigint[])")
# Steps of anchors that moved and of persons that merged or came apart, where that made them somebody else's.
_FOLLOW = f"""
WITH judged AS MATERIALIZED (
  SELECT t.step_id, t.human_id AS old, {_human("t")} AS new FROM lead_step t
  WHERE t.human_id > 0 AND ((t.anchor_id > 0 AND t.anchor_id = ANY(CAST(:anchors AS bigint[])))
    OR (t.anchor_id = 0 AND t.person_id = ANY(CAST(:persons AS bigint[]))))
)
UPDATE lead_step s SET human_id = j.new FROM judged j WHERE s.step_id = j.step_id AND j.new <> j.old RETURNING j.old, j.new
"""  # noqa: S608  (likewise)

_KEEP = """
INSERT INTO lead AS l (founding_step_id, human_id, merged_into, interest, brand, area, source, named_dealer, stage, furthest,
  since, opened_at, last_at, lost_reason)
SELECT * FROM unnest(CAST(:founders AS bigint[]), CAST(:humans AS bigint[]), CAST(:merged AS bigint[]),
  CAST(:interests AS text[]), CAST(:brands AS text[]), CAST(:areas AS text[]), CAST(:sources AS text[]),
  CAST(:dealers AS text[]), CAST(:stages AS smallint[]), CAST(:furthest AS smallint[]), CAST(:since AS timestamptz[]),
  CAST(:opened AS timestamptz[]), CAST(:last AS timestamptz[]), CAST(:reasons AS text[]))
ON CONFLICT (founding_step_id) DO UPDATE SET human_id = EXCLUDED.human_id, merged_into = EXCLUDED.merged_into,
  interest = EXCLUDED.interest, brand = EXCLUDED.brand, area = EXCLUDED.area, source = EXCLUDED.source,
  named_dealer = EXCLUDED.named_dealer, stage = EXCLUDED.stage, furthest = EXCLUDED.furthest, since = EXCLUDED.since,
  opened_at = EXCLUDED.opened_at, last_at = EXCLUDED.last_at, lost_reason = EXCLUDED.lost_reason,
  sla_due_at = CASE WHEN EXCLUDED.stage = 1 THEN l.sla_due_at END,
  next_try_at = CASE WHEN EXCLUDED.stage < 7 AND (l.stage >= 7 OR l.merged_into IS NOT NULL) THEN now() ELSE l.next_try_at END
RETURNING lead_id, founding_step_id
"""

# A step that names nobody counts for who looked after its lead when it was told.
_CREDIT = """
UPDATE lead_step s SET dealer_code = l.dealer_code, advisor = l.advisor FROM lead l
WHERE s.step_id = ANY(CAST(:steps AS bigint[])) AND l.lead_id = s.lead_id AND l.dealer_code <> ''
  AND (s.dealer_code = '' OR (s.dealer_code = l.dealer_code AND s.advisor = ''))
"""

# A lead whose end came while somebody looked after it leaves that somebody's hands.
_END = """
UPDATE lead_assignment a SET ended_at = now(), end_reason = CASE WHEN l.stage = 7 THEN 'delivered' ELSE 'lost' END
FROM lead l WHERE l.lead_id = ANY(CAST(:leads AS bigint[])) AND l.stage >= 7 AND a.lead_id = l.lead_id AND a.ended_at IS NULL
"""

# Assignments of some leads by number and place, where their dealers have the leads now and had them ever since.
_REACHED = """
UPDATE lead l SET attempted_at = COALESCE(l.attempted_at, now()), sla_due_at = NULL
FROM unnest(CAST(:leads AS bigint[]), CAST(:places AS int[])) AS t (lead_id, nth) JOIN lead asked USING (lead_id)
JOIN LATERAL (
  SELECT a.assignment_id, a.dealer_code FROM lead_assignment a WHERE a.lead_id = t.lead_id
  ORDER BY a.assignment_id OFFSET t.nth - 1 LIMIT 1
) told ON true
WHERE l.lead_id = COALESCE(asked.merged_into, asked.lead_id) AND l.dealer_code = told.dealer_code AND NOT EXISTS (
  SELECT FROM lead_assignment o WHERE o.lead_id IN (asked.lead_id, l.lead_id) AND o.assignment_id > told.assignment_id
    AND o.dealer_code <> told.dealer_code)
"""

_STEP_COLUMNS = (
    "keys", "anchors", "persons", "versions", "stages", "moments", "interests", "brands", "areas", "sources", "dealers",
    "advisors", "reasons", "authors", "notes",
)  # fmt: skip
_LEAD_COLUMNS = (
    "founders", "humans", "merged", "interests", "brands", "areas", "sources", "dealers", "stages", "furthest", "since",
    "opened", "last", "reasons",
)  # fmt: skip


class NewStep(NamedTuple):
    """A step to be kept; `anchor_id` 0 where only the person is known, `version` that of the anchor's owner."""

    key: bytes
    anchor_id: int
    person_id: int
    version: int
    stage: Stage
    at: datetime
    interest: str = ""
    brand: str = ""
    area: str = ""
    source: str = ""
    dealer_code: str = ""
    advisor: str = ""
    reason: str = ""
    author: str = ""
    note: str = ""


def step_key(*parts: object) -> bytes:
    """16 bytes for a step that is no event of the bus: the same thing told again has the same."""
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).digest()


class LeadStore:
    """Leads of one transaction. Writing is idempotent and the order of arrival does not matter."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def lock(self) -> None:
        """Keeps all others who change leads waiting until this transaction ends; erasures first, as everywhere."""
        await hold_off_erasures(self._uow)
        await self._uow.rows("SELECT pg_advisory_xact_lock(hashtext('orchestrator leads'))")

    async def try_lock(self) -> bool:
        """The same without waiting; False when somebody else is at it."""
        await hold_off_erasures(self._uow)
        rows = await self._uow.rows("SELECT pg_try_advisory_xact_lock(hashtext('orchestrator leads')) AS ours")
        return bool(rows[0].ours)

    async def add(self, steps: Sequence[NewStep]) -> int:
        """Keeps steps that are not there yet and folds their humans' leads; how many were new."""
        if not steps:
            return 0
        await self.lock()
        columns = list(zip(*steps, strict=True))
        given = {name: list(column) for name, column in zip(_STEP_COLUMNS, columns, strict=True)}
        rows = await self._uow.rows(_ADD, **(given | {"stages": [stage.value for stage in columns[4]]}))
        if rows:
            await self.refold({row.human_id for row in rows})
            await self._uow.execute(_CREDIT, steps=[row.step_id for row in rows])
        return len(rows)

    async def attempted(self, keys: Iterable[bytes]) -> None:
        """The dealers of these steps tried to reach the people of their leads: they are late with them no more.

        Not where the lead was given to somebody else since: what a former dealer did says nothing of the one who has it.
        """
        if asked := list(keys):
            await self._uow.execute(
                "UPDATE lead l SET attempted_at = COALESCE(l.attempted_at, now()), sla_due_at = NULL FROM lead_step s"
                " WHERE s.step_key = ANY(CAST(:keys AS bytea[])) AND l.lead_id = s.lead_id AND NOT EXISTS (SELECT"
                " FROM lead_assignment o WHERE o.lead_id = l.lead_id AND o.dealer_code <> s.dealer_code)",
                keys=asked,
            )

    async def reached(self, tried: Iterable[tuple[int, int]]) -> None:
        """The same of (lead, nth): its nth assignment; a duplicate's means the lead that stands for it.

        It counts while the dealer still has the lead, without anybody else in between.
        """
        asked = sorted(tried)
        await self._uow.execute(_REACHED, leads=[lead for lead, _ in asked], places=[nth for _, nth in asked])

    async def follow(self, anchors: Iterable[int], persons: Iterable[int]) -> None:
        """Folds anew whose anchors moved, and who merged or came apart."""
        moved, changed = sorted(set(anchors)), sorted(set(persons))
        if not moved and not changed:
            return
        await self.lock()
        theirs = {row.person_id for row in await self._uow.rows(_BELOW, persons=changed)} if changed else set()
        rows = await self._uow.rows(_FOLLOW, anchors=moved, persons=sorted(theirs))
        if rows:
            await self.refold({human for row in rows for human in (row.old, row.new)})

    async def refold(self, humans: Iterable[int]) -> None:
        """Works out the leads of some humans from all their steps. The lock must be held."""
        asked = sorted(set(humans))
        steps: dict[int, list[Step]] = {}
        before: dict[int, tuple[int | None, bool]] = {}
        for row in await self._uow.fetch(
            "SELECT step_id, step_key, stage, interest, occurred_at, reason, dealer_code, brand, area, source, human_id,"
            " lead_id, reached FROM lead_step WHERE human_id = ANY($1)",
            asked,
        ):
            step_id, key, stage, *words, human, lead_id, reached = row
            steps.setdefault(human, []).append(Step(step_id, bytes(key), Stage(stage), *words))
            before[step_id] = lead_id, reached
        founded = {
            row["founding_step_id"]: row["lead_id"]
            for row in await self._uow.fetch(
                "SELECT lead_id, founding_step_id FROM lead WHERE founding_step_id = ANY($1)", sorted(before)
            )
        }
        chains = [(human, chain) for human in sorted(steps) for chain in fold(steps[human])]
        numbers = await self._keep(chains, founded)
        await self._mark(chains, numbers, before)
        await self._uow.execute(_END, leads=numbers)

    async def _keep(self, chains: Sequence[tuple[int, Chain]], founded: dict[int, int]) -> list[int]:
        """Writes all leads of some chains; the number of each chain. Of several numbers the smallest, the oldest, stays."""
        records: list[tuple[Any, ...]] = []
        founders: list[int] = []
        for human, chain in chains:
            theirs = sorted((founded[s.step_id], s.step_id) for s in chain.steps if s.step_id in founded)
            keeper = theirs[0][1] if theirs else chain.steps[0].step_id
            founders.append(keeper)
            records.append(_record(human, chain, keeper, None))
            records += [_record(human, chain, founder, theirs[0][0]) for _, founder in theirs[1:]]
        columns = [list(column) for column in zip(*records, strict=True)] or [[] for _ in _LEAD_COLUMNS]
        rows = await self._uow.rows(_KEEP, **dict(zip(_LEAD_COLUMNS, columns, strict=True)))
        present = {row.founding_step_id: row.lead_id for row in rows}
        return [present[founder] for founder in founders]

    async def _mark(
        self, chains: Sequence[tuple[int, Chain]], numbers: Sequence[int], before: dict[int, tuple[int | None, bool]]
    ) -> None:
        """Writes to each step its lead and whether it counts, where that changed."""
        after = {
            step.step_id: (number, step.step_id in chain.reached)
            for (_, chain), number in zip(chains, numbers, strict=True)
            for step in chain.steps
        }
        changed = [(step, *now) for step, now in after.items() if before[step] != now]
        if changed:
            ids, leads, reached = (list(column) for column in zip(*changed, strict=True))
            await self._uow.execute(
                "UPDATE lead_step s SET lead_id = c.lead_id, reached = c.reached FROM unnest(CAST(:steps AS bigint[]),"
                " CAST(:leads AS bigint[]), CAST(:reached AS boolean[])) AS c (step_id, lead_id, reached)"
                " WHERE s.step_id = c.step_id",
                steps=ids,
                leads=leads,
                reached=reached,
            )


def _record(human: int, chain: Chain, founder: int, merged_into: int | None) -> tuple[Any, ...]:
    return (
        founder,
        human,
        merged_into,
        chain.interest,
        chain.last_said("brand"),
        chain.last_said("area"),
        chain.steps[0].source,
        chain.last_said("dealer_code"),
        chain.stage.value,
        chain.furthest.value,
        chain.since,
        chain.opened_at,
        chain.last_at,
        chain.lost_reason,
    )
