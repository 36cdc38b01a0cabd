"""Who looks after which lead: new ones are given out, late ones are given to somebody else, all in sets and by any replica.

One transaction does it all under the leads' lock; a replica that finds it taken leaves the work to the one that has it. What it
works on is state in tables, so that a killed process leaves nothing half done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from chassis.db import Database, UnitOfWork
from chassis.errors import FailedPrecondition, is_operational
from chassis.quiet_hours import QuietHours
from services.orchestrator.leads.announcing import announce
from services.orchestrator.leads.consents import closed_to_dealers
from services.orchestrator.leads.distributing import Desk, Given, Waiting, Why, distribute
from services.orchestrator.leads.register import RegisterStore
from services.orchestrator.leads.store import LeadStore
from services.orchestrator.leads.tasks import ESCALATION, FIRST_CALL, FOLLOW_UP, NewTask, create_tasks
from services.orchestrator.settings import Settings

log = logging.getLogger(__name__)

# More at once would hold the lock for longer than those who tell of leads should wait.
AT_ONCE = 500
RETRY_S = 1.0
# How long a lead waits that nobody can have now.
WAIT = timedelta(minutes=5)
CONSENT = "consent"
ASSIGNER = "distribution"

_EXPIRE = "UPDATE lead_task SET state = 3, completed_at = :now WHERE state = 1 AND expires_at <= :now"

# Leads nobody spoke to in time leave the hands they were in; the leads, for the record.
_LAPSE = """
WITH late AS (
  SELECT lead_id FROM lead WHERE sla_due_at <= :now ORDER BY sla_due_at LIMIT :most
), freed AS (
  UPDATE lead l SET dealer_code = '', advisor = '', sla_due_at = NULL, next_try_at = :now FROM late
  WHERE l.lead_id = late.lead_id AND l.stage = 1 AND l.attempted_at IS NULL AND l.merged_into IS NULL RETURNING l.lead_id
), passed AS (
  UPDATE lead l SET sla_due_at = NULL FROM late WHERE l.lead_id = late.lead_id AND NOT (l.stage = 1
    AND l.attempted_at IS NULL AND l.merged_into IS NULL)
), ended AS (
  UPDATE lead_assignment a SET ended_at = :now, end_reason = 'lapsed' FROM freed
  WHERE a.lead_id = freed.lead_id AND a.ended_at IS NULL
), cancelled AS (
  UPDATE lead_task t SET state = 3, completed_at = :now FROM freed WHERE t.lead_id = freed.lead_id AND t.state = 1
    AND t.kind = 'first_call'
)
SELECT count(*) AS n FROM freed
"""

# Leads that wait for somebody, with who had them before and who looks after their duplicates.
_WAITING = """
SELECT l.lead_id, l.human_id, l.stage, l.brand, l.area, l.named_dealer, l.source, l.opened_at, l.escalated_at,
  ARRAY(SELECT DISTINCT a.dealer_code || E'\\n' || a.advisor FROM lead_assignment a
    WHERE a.lead_id = l.lead_id AND a.end_reason = 'lapsed') AS tried,
  -- No LIMIT: it makes a planner without statistics walk the primary key instead of asking for the duplicates.
  (SELECT (array_agg(d.dealer_code ORDER BY d.lead_id))[1] FROM lead d
    WHERE d.merged_into = l.lead_id AND d.dealer_code <> '') AS known
FROM lead l WHERE l.dealer_code = '' AND l.stage < 7 AND l.merged_into IS NULL AND l.escalated_at IS NULL
  AND l.next_try_at <= :now ORDER BY l.next_try_at, l.lead_id LIMIT :most
"""

_GIVE = """
WITH given AS (
  SELECT * FROM unnest(CAST(:leads AS bigint[]), CAST(:dealers AS text[]), CAST(:advisors AS text[]),
    CAST(:scores AS float8[]), CAST(:parts AS text[]), CAST(:due AS timestamptz[]))
    AS g (lead_id, dealer_code, advisor, score, parts, due_at)
), kept AS (
  UPDATE lead l SET dealer_code = g.dealer_code, advisor = g.advisor, assigned_at = :now, withheld = '',
    sla_due_at = CASE WHEN l.stage = 1 AND l.attempted_at IS NULL THEN g.due_at END, escalated_at = NULL
  FROM given g WHERE l.lead_id = g.lead_id
), ended AS (
  UPDATE lead_assignment a SET ended_at = :now, end_reason = 'reassigned' FROM given g
  WHERE a.lead_id = g.lead_id AND a.ended_at IS NULL
), adopted AS (
  UPDATE lead_task t SET dealer_code = g.dealer_code, advisor = g.advisor FROM given g JOIN lead l USING (lead_id)
  WHERE t.person_id = l.human_id AND t.state = 1 AND t.dealer_code = '' AND t.kind <> 'escalation'
)
INSERT INTO lead_assignment (lead_id, dealer_code, advisor, score, parts, author, assigned_at)
SELECT g.lead_id, g.dealer_code, g.advisor, g.score, CAST(g.parts AS jsonb), :author, :now FROM given g ORDER BY g.lead_id
RETURNING assignment_id, lead_id
"""

_HOLD = """
UPDATE lead l SET withheld = h.why, next_try_at = :later,
  escalated_at = CASE WHEN h.why = 'all_tried' THEN :now ELSE l.escalated_at END
FROM unnest(CAST(:leads AS bigint[]), CAST(:whys AS text[])) AS h (lead_id, why) WHERE l.lead_id = h.lead_id
"""


@dataclass(frozen=True)
class Distribution:
    """What a round of giving out did, or would do. `withheld`: lead → why nobody has it."""

    lapsed: int
    given: Sequence[Given]
    withheld: Mapping[int, str]


def due(now: datetime, sla: timedelta, quiet: QuietHours | None) -> datetime:
    """When somebody must have been spoken to: quiet hours do not count."""
    if quiet is None:
        return now + sla
    start = quiet.earliest(now)
    left = sla
    while True:
        end = start + left
        # The next moment at which it becomes quiet.
        local = start.astimezone(quiet.zone)
        begin = local.replace(hour=quiet.start.hour, minute=quiet.start.minute, second=0, microsecond=0)
        if begin <= local:
            begin += timedelta(days=1)
        if end <= begin:
            return end
        left -= begin - start
        start = quiet.earliest(begin.astimezone(now.tzinfo))


class Distributor:
    """One worker. Any number may run, in one process or many."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings

    async def run(self) -> None:
        """Gives out leads until cancelled."""
        while True:
            try:
                done = await self.work_once()
                if done is None or not done.given:
                    await asyncio.sleep(self._settings.lead_assign_every_s)
            except Exception as error:
                if not is_operational(error):
                    log.exception("leads were not given out")
                await asyncio.sleep(RETRY_S)

    async def work_once(self, now: datetime | None = None) -> Distribution | None:
        """One round; None when another replica is at it."""
        async with self._database.transaction(traced=False) as uow:
            if not await LeadStore(uow).try_lock():
                return None
            return await self.give_out(uow, now or datetime.now(UTC))

    async def preview(self) -> Distribution:
        """What a round would do now; nothing is kept."""
        now = datetime.now(UTC)
        async with self._database.read() as uow:
            _, given, _, held = await self._decide(uow, now)
        return Distribution(0, given, held)

    async def give_out(self, uow: UnitOfWork, now: datetime) -> Distribution:
        """A round within a transaction that holds the lock."""
        await uow.execute(_EXPIRE, now=now)
        lapsed = (await uow.rows(_LAPSE, now=now, most=AT_ONCE))[0].n
        rows, given, minutes, held = await self._decide(uow, now)
        people = {row.lead_id: row for row in rows}
        await self._keep(uow, given, people, minutes, now)
        if held:
            await uow.execute(_HOLD, leads=list(held), whys=list(held.values()), now=now, later=now + WAIT)
        escalated = [lead for lead, why in held.items() if why == Why.ALL_TRIED.value]
        await create_tasks(
            uow,
            [
                NewTask(f"lead/{lead}/escalation/{int(now.timestamp())}", people[lead].human_id, ESCALATION, now, lead_id=lead)
                for lead in escalated
            ],
        )
        await announce(uow)
        return Distribution(lapsed, given, held)

    async def give_by_hand(
        self, uow: UnitOfWork, lead_id: int, human_id: int, dealer_code: str, advisor: str, caller: str
    ) -> None:
        """Gives a lead to somebody in a transaction that holds the lock; raises FailedPrecondition where consent forbids it."""
        now = datetime.now(UTC)
        if await closed_to_dealers(uow, [human_id], self._settings.consent_regimes, now):
            raise FailedPrecondition("no dealer may be told of this person", reason="CONSENT_MISSING", field="name")
        await uow.execute(
            "UPDATE lead_task SET state = 3, completed_at = :now WHERE lead_id = :id AND state = 1"
            " AND kind IN ('first_call', 'follow_up', 'escalation')",
            id=lead_id,
            now=now,
        )
        desk = Desk(dealer_code, advisor, frozenset(), frozenset(), 0, 0, 0)
        [row] = await uow.rows("SELECT human_id, stage FROM lead WHERE lead_id = :id", id=lead_id)
        _, minutes = await RegisterStore(uow).desks(now, self._today(now))
        await self._keep(uow, [Given(lead_id, desk, 0.0, {"by hand": 0.0})], {lead_id: row}, minutes, now, caller)
        await announce(uow)

    async def _decide(
        self, uow: UnitOfWork, now: datetime
    ) -> tuple[Sequence[Any], list[Given], dict[str, int], dict[int, str]]:
        rows = await uow.rows(_WAITING, now=now, most=AT_ONCE)
        if not rows:
            return [], [], {}, {}
        humans = sorted({row.human_id for row in rows})
        closed = await closed_to_dealers(uow, humans, self._settings.consent_regimes, now)
        desks, minutes = await RegisterStore(uow).desks(now, self._today(now))
        registered = {desk.dealer_code for desk in desks}
        free = [row for row in rows if row.human_id not in closed]
        # A theme's push has told its dealer already, registered or not.
        told = [row for row in free if row.source.startswith("themes/") and row.named_dealer not in registered]
        told = [row for row in told if row.named_dealer and not row.tried]
        numbers = {row.lead_id for row in told}
        leads = [self._waiting(row, registered, now) for row in free if row.lead_id not in numbers]
        # A thread: hundreds of leads and of desks take a while that the doors must not wait for.
        given, left = await asyncio.to_thread(distribute, leads, desks, self._settings.lead_weights)
        given += [
            Given(row.lead_id, Desk(row.named_dealer, "", frozenset(), frozenset(), 0, 0, 0), 0.0, {"told": 0.0})
            for row in told
        ]
        held = {row.lead_id: CONSENT for row in rows if row.human_id in closed}
        return rows, given, minutes, held | {lead: why.value for lead, why in left.items()}

    def _waiting(self, row: Any, registered: set[str], now: datetime) -> Waiting:
        tried = frozenset((dealer, advisor) for dealer, _, advisor in (word.partition("\n") for word in row.tried))
        named = row.known or row.named_dealer
        # Who was named has the first word, for as long as an answer usually takes.
        fresh = now - row.opened_at < timedelta(minutes=self._settings.lead_sla_minutes)
        bound = named in registered and fresh and not any(dealer == named for dealer, _ in tried)
        return Waiting(row.lead_id, row.brand, row.area, named, bound, tried)

    def _today(self, now: datetime) -> datetime:
        clock = self._settings.clock()
        return (now + clock).replace(hour=0, minute=0, second=0, microsecond=0) - clock

    async def _keep(
        self,
        uow: UnitOfWork,
        given: Sequence[Given],
        people: Mapping[int, Any],
        minutes: Mapping[str, int],
        now: datetime,
        author: str = ASSIGNER,
    ) -> None:
        if not given:
            return
        quiet, usual = self._settings.quiet(), self._settings.lead_sla_minutes
        times = {
            code: due(now, timedelta(minutes=minutes.get(code) or usual), quiet) for code in {g.desk.dealer_code for g in given}
        }
        rows = await uow.rows(
            _GIVE,
            leads=[g.lead_id for g in given],
            dealers=[g.desk.dealer_code for g in given],
            advisors=[g.desk.advisor for g in given],
            scores=[g.score for g in given],
            parts=[orjson.dumps(dict(g.parts) | ({"again": 1.0} if g.again else {})).decode() for g in given],
            due=[times[g.desk.dealer_code] for g in given],
            now=now,
            author=author,
        )
        assignments = {row.lead_id: row.assignment_id for row in rows}
        tasks = []
        for g in given:
            row = people[g.lead_id]
            kind = FIRST_CALL if row.stage == 1 else FOLLOW_UP
            tasks.append(
                NewTask(
                    f"assignment/{assignments[g.lead_id]}",
                    row.human_id,
                    kind,
                    times[g.desk.dealer_code],
                    dealer_code=g.desk.dealer_code,
                    advisor=g.desk.advisor,
                    lead_id=g.lead_id,
                )
            )
        await create_tasks(uow, tasks)
