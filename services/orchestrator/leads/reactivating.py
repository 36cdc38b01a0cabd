"""Silent leads spoken to again, the likeliest to come back first: proposed to a theme, whose arbiter decides, or as tasks.

Nobody is pushed from here. A lead is proposed once per silence: its occasion is the number of its last step, below zero, so
that it meets no number of another room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any

import numpy as np

from chassis.errors import FailedPrecondition, NotFound
from services.orchestrator.arbiter.proposing import Proposal, propose
from services.orchestrator.domain.themes import PersonId, ThemeId
from services.orchestrator.leads.consents import MARKETING, closed_to_dealers
from services.orchestrator.leads.handlers import Counter
from services.orchestrator.leads.tasks import WAKE_UP, NewTask, create_tasks
from services.orchestrator.targets.scoring_door import RankingDoor
from services.orchestrator.themes.states import ThemeState
from services.orchestrator.themes.store import ThemeStore

SILENT_DAYS = 30
# How long a proposal may wait for the arbiter, a task for its advisor.
PATIENCE = timedelta(days=7)
MOST = 100_000


class Silent(IntEnum):
    """Which leads went silent; numbers are those of the contract."""

    DORMANT = 1
    OFF_SITE = 2
    LOST = 3


_WHICH = {
    Silent.DORMANT: "l.stage < 4",
    Silent.OFF_SITE: "l.stage IN (4, 5)",
    Silent.LOST: "l.stage = 8 AND l.lost_reason IN ('price', 'no_budget', 'timing', 'model_unavailable', 'financing_refused',"
    " 'unreachable')",
}

# The latest such lead of each human of whom nothing was heard at all.
_SILENT = """
SELECT DISTINCT ON (l.human_id) l.human_id, l.lead_id, l.dealer_code, l.advisor,
  (SELECT max(s.step_id) FROM lead_step s WHERE s.lead_id = l.lead_id) AS last_step
FROM lead l WHERE l.merged_into IS NULL AND l.last_at < :before AND /* which */ AND NOT EXISTS (
  SELECT FROM lead o WHERE o.human_id = l.human_id AND o.merged_into IS NULL AND o.last_at >= :before)
ORDER BY l.human_id, l.last_at DESC LIMIT :most
"""


@dataclass(frozen=True)
class Wish:
    """Whom to wake up; `theme_id` None for tasks."""

    among: Silent
    silent_days: int
    predicate: str
    limit: int
    from_score: float
    theme_id: int | None
    dry_run: bool


@dataclass(frozen=True)
class Chosen:
    """A lead worth while."""

    lead_id: int
    person_id: int
    score: float
    probability: float
    last_step: int


@dataclass(frozen=True)
class Reactivated:
    """Who was silent, how many of them have a score, and who was chosen, the likeliest first."""

    silent: int
    scored: int
    chosen: Sequence[Chosen]


async def reactivate(room: Counter, scoring: RankingDoor, wish: Wish, caller: str) -> Reactivated:
    """Chooses among the silent and, unless it is a dry run, has them spoken to; raises for a theme that is not running."""
    now = datetime.now(UTC)
    async with room.database.read() as uow:
        if wish.theme_id is not None:
            theme = await ThemeStore(uow).get(ThemeId(wish.theme_id))
            if theme is None:
                raise NotFound("there is no such theme", reason="THEME_NOT_FOUND", field="theme")
            if theme.state is not ThemeState.RUNNING:
                raise FailedPrecondition(f"{theme.name} is not running", reason="THEME_NOT_RUNNING", field="theme")
        before = now - timedelta(days=wish.silent_days)
        rows = await uow.rows(_SILENT.replace("/* which */", _WHICH[wish.among]), before=before, most=MOST)
        humans = [row.human_id for row in rows]
        if wish.theme_id is None and humans:
            closed = await closed_to_dealers(uow, humans, room.settings.consent_regimes, now, MARKETING)
            rows = [row for row in rows if row.human_id not in closed]
    scored, chosen = await _choose(scoring, room.settings.dormant_model, rows, wish)
    if chosen and not wish.dry_run:
        await _speak(room, wish, chosen, {row.lead_id: row for row in rows}, now, caller)
    return Reactivated(len(humans), scored, chosen)


async def _choose(scoring: RankingDoor, model: str, rows: Sequence[Any], wish: Wish) -> tuple[int, list[Chosen]]:
    """(how many have a score, the best of them); with a predicate scoring ranks whom it holds for, else just these persons."""
    await scoring.require(model, "predicate")
    if not rows:
        return 0, []
    persons = np.array([row.human_id for row in rows], np.int64)
    if wish.predicate:
        ranked, _ = await scoring.ranked(model, wish.predicate, 0, "predicate")
        kept = np.isin(persons, ranked)
        rows, persons = [row for row, keep in zip(rows, kept, strict=True) if keep], persons[kept]
    scores, probabilities = await scoring.scores(model, persons, "predicate")
    order = np.lexsort((persons, -scores))
    good = [n for n in order.tolist() if scores[n] >= max(0.0, wish.from_score)][: wish.limit]
    found = [
        Chosen(rows[n].lead_id, int(persons[n]), float(scores[n]), float(probabilities[n]), rows[n].last_step) for n in good
    ]
    return int((scores >= 0).sum()), found


async def _speak(room: Counter, wish: Wish, chosen: Sequence[Chosen], rows: dict[int, Any], now: datetime, caller: str) -> None:
    async with room.database.transaction() as uow:
        if wish.theme_id is not None:
            theme = ThemeId(wish.theme_id)
            await propose(
                uow, [Proposal(theme, PersonId(c.person_id), -c.last_step, None, now, now + PATIENCE) for c in chosen]
            )
            return
        tasks = [
            NewTask(
                f"wake_up/{c.lead_id}/{c.last_step}",
                c.person_id,
                WAKE_UP,
                now + timedelta(days=1),
                words=f"silent for {wish.silent_days} days or more; score {c.score:.0f} of 1000",
                dealer_code=rows[c.lead_id].dealer_code,
                advisor=rows[c.lead_id].advisor,
                lead_id=c.lead_id,
                expires_at=now + PATIENCE,
                author=caller,
            )
            for c in chosen
        ]
        await create_tasks(uow, tasks)
