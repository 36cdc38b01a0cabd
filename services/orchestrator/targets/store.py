"""Targets, what is reached, whom a list may name, and the lists of past days; set-based, persons as they are now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import orjson

from chassis.db import UnitOfWork
from chassis.errors import FailedPrecondition
from services.orchestrator.leads.chain import Stage
from services.orchestrator.targets.closing import Metric

# Numbers of the stages that a month counts, by metric.
STAGES = {metric: metric.stage.value for metric in Metric}
# Whoever bought is asked about another car after so long.
RESTED = timedelta(days=180)

_HUMANS = """
WITH RECURSIVE up (person_id, present, n) AS (
  SELECT p, p, 0 FROM unnest(CAST(:persons AS bigint[])) AS p
  UNION ALL SELECT up.person_id, a.survivor_id, up.n + 1 FROM up JOIN person_alias a ON a.person_id = up.present
    AND a.survivor_id IS NOT NULL WHERE up.n < 50
), human AS (
  SELECT DISTINCT ON (person_id) person_id, present AS human_id FROM up ORDER BY person_id, n DESC
)
"""

# What is known of some persons: their latest open lead, else their latest; who was spoken to when; what they reached lately.
_KNOWN = """
SELECT p.person_id, l.lead_id, l.interest, l.stage, l.dealer_code, l.advisor, l.opened_at,
  (SELECT max(s.occurred_at) FROM lead_step s WHERE s.human_id = p.person_id AND s.stage BETWEEN 2 AND 7) AS spoken_at,
  (SELECT bit_or(1 << s.stage) FROM lead_step s WHERE s.human_id = p.person_id AND s.reached AND s.stage IN (5, 6, 7)
    AND s.occurred_at > :rested) AS lately,
  EXISTS (SELECT FROM erased_anchor e WHERE e.person_id = p.person_id) AS erased
FROM unnest(CAST(:persons AS bigint[])) AS p (person_id) LEFT JOIN LATERAL (
  SELECT * FROM lead WHERE human_id = p.person_id AND merged_into IS NULL ORDER BY stage < 7 DESC, last_at DESC, lead_id LIMIT 1
) l ON true
"""

# Of each place on the lists: what came of it. Only what happened after the list was made counts.
_OUTCOMES = """
SELECT o.dealer_code, o.day, o.person_id, o.rank, o.own_rank, o.probability, h.human_id,
  EXISTS (SELECT FROM lead_step s WHERE s.human_id = h.human_id AND s.reached AND s.stage = :stage
    AND s.occurred_at >= d.finished_at AND s.occurred_at < d.finished_at + CAST(:window AS interval)) AS converted,
  (SELECT min(s.occurred_at) FROM lead_step s WHERE s.human_id = h.human_id AND s.stage BETWEEN 2 AND 7
    AND s.occurred_at >= d.finished_at AND s.occurred_at < d.finished_at + CAST(:window AS interval)) AS contacted_at
FROM opportunity o JOIN human h USING (person_id) JOIN opportunity_day d USING (dealer_code, day)
WHERE o.metric = :metric AND (:dealer = '' OR o.dealer_code = :dealer) AND o.day >= :since
  AND d.finished_at <= :ripe AND (cardinality(CAST(:days AS int[])) = 0 OR extract(day FROM o.day) = ANY(CAST(:days AS int[])))
ORDER BY o.dealer_code, o.day, o.rank
"""


@dataclass(frozen=True)
class Target:
    """What a dealer (advisor empty) or advisor is to reach; `values_fen` by interest."""

    advisor: str
    metric: Metric
    goal: int
    value_fen: int
    values_fen: Mapping[str, int]
    version: int = 0
    author: str = ""


@dataclass(frozen=True)
class Known:
    """What is known of a customer; `lately` are metrics reached in half a year."""

    person_id: int
    lead_id: int | None
    interest: str
    stage: Stage | None
    dealer_code: str
    advisor: str
    opened_at: datetime | None
    spoken_at: datetime | None
    lately: frozenset[Metric]
    erased: bool


class TargetStore:
    """Targets and lists of one transaction."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def targets(self, dealer_code: str, month: date) -> list[Target]:
        """All of a dealer's month, the whole dealer first."""
        rows = await self._uow.rows(
            "SELECT advisor, metric, goal, value_fen, values_fen, version, author FROM dealer_target"
            " WHERE dealer_code = :dealer AND month = :month ORDER BY advisor, metric",
            dealer=dealer_code,
            month=month,
        )
        return [Target(r.advisor, Metric(r.metric), r.goal, r.value_fen, r.values_fen, r.version, r.author) for r in rows]

    async def keep(self, dealer_code: str, month: date, targets: Sequence[Target], author: str) -> None:
        """Writes targets, each upon its version; raises FailedPrecondition, naming the first that was changed meanwhile."""
        columns = [
            (n, t.advisor, t.metric.value, t.goal, t.value_fen, orjson.dumps(dict(t.values_fen)).decode(), t.version)
            for n, t in enumerate(targets)
        ]
        names = ("places", "advisors", "metrics", "goals", "values", "tables", "versions")
        given = dict(zip(names, map(list, zip(*columns, strict=True)), strict=True))
        rows = await self._uow.rows(
            "INSERT INTO dealer_target AS d (dealer_code, advisor, month, metric, goal, value_fen, values_fen, version, author)"
            " SELECT :dealer, t.advisor, CAST(:month AS date), t.metric, t.goal, t.value_fen, CAST(t.values_fen AS jsonb), 1,"
            " :author FROM unnest(CAST(:places AS int[]), CAST(:advisors AS text[]), CAST(:metrics AS smallint[]),"
            " CAST(:goals AS int[]), CAST(:values AS bigint[]), CAST(:tables AS text[]), CAST(:versions AS int[]))"
            " AS t (place, advisor, metric, goal, value_fen, values_fen, version)"
            " WHERE t.version = COALESCE((SELECT x.version FROM dealer_target x WHERE x.dealer_code = :dealer"
            " AND x.advisor = t.advisor AND x.month = CAST(:month AS date) AND x.metric = t.metric), 0)"
            " ORDER BY t.advisor, t.metric"
            " ON CONFLICT (dealer_code, advisor, month, metric) DO UPDATE SET goal = EXCLUDED.goal,"
            " value_fen = EXCLUDED.value_fen, values_fen = EXCLUDED.values_fen, version = d.version + 1,"
            " author = EXCLUDED.author, stated_at = now() RETURNING advisor, metric",
            dealer=dealer_code,
            month=month,
            author=author,
            **given,
        )
        kept = {(row.advisor, row.metric) for row in rows}
        for place, target in enumerate(targets):
            if (target.advisor, target.metric.value) not in kept:
                raise FailedPrecondition(
                    "this target has been changed since, or is not there",
                    reason="VERSION_CHANGED",
                    field=f"targets[{place}].version",
                )

    async def serialise(self, dealer_code: str) -> None:
        """Keeps others who state targets of this dealer waiting."""
        await self._uow.rows("SELECT pg_advisory_xact_lock(hashtext('targets of ' || :dealer))", dealer=dealer_code)

    async def actuals(self, dealer_code: str, since: datetime, until: datetime) -> dict[tuple[str, Metric], int]:
        """How many of each advisor and metric; "" for the whole dealer."""
        rows = await self._uow.rows(
            "SELECT advisor, stage, count(*) AS n FROM lead_step WHERE dealer_code = :dealer AND reached AND stage IN (5, 6, 7)"
            " AND occurred_at >= :since AND occurred_at < :until GROUP BY 1, 2",
            dealer=dealer_code,
            since=since,
            until=until,
        )
        found: dict[tuple[str, Metric], int] = {}
        for row in rows:
            metric = next(m for m, stage in STAGES.items() if stage == row.stage)
            for advisor in {"", row.advisor}:
                found[advisor, metric] = found.get((advisor, metric), 0) + row.n
        return found

    async def own_customers(self, dealer_code: str, most: int) -> list[int]:
        """Whose open leads a dealer looks after, those last heard of first."""
        rows = await self._uow.rows(
            "SELECT human_id FROM lead WHERE dealer_code = :dealer AND merged_into IS NULL AND stage < 7"
            " ORDER BY last_at DESC, lead_id LIMIT :most",
            dealer=dealer_code,
            most=most,
        )
        return [row.human_id for row in rows]

    async def known(self, persons: Sequence[int], now: datetime) -> dict[int, Known]:
        """What is known of some persons, as they are now."""
        rows = await self._uow.rows(_KNOWN, persons=list(persons), rested=now - RESTED)
        return {row.person_id: _known(row) for row in rows}

    async def outcomes(
        self,
        dealer_code: str,
        metric: Metric,
        since: date,
        window: timedelta,
        ripe: datetime,
        days: Sequence[int] = (),
    ) -> Sequence[Any]:
        """Every place of the lists since a day that were made before `ripe`, with what came of it.

        `days` of the month; empty for all.
        """
        persons = await self._uow.rows(
            "SELECT DISTINCT person_id FROM opportunity WHERE metric = :metric AND day >= :since"
            " AND (:dealer = '' OR dealer_code = :dealer)"
            " AND (cardinality(CAST(:days AS int[])) = 0 OR extract(day FROM day) = ANY(CAST(:days AS int[])))",
            metric=metric.value,
            since=since,
            dealer=dealer_code,
            days=list(days),
        )
        return await self._uow.rows(
            _HUMANS + _OUTCOMES,
            persons=[row.person_id for row in persons],
            metric=metric.value,
            stage=metric.stage.value,
            dealer=dealer_code,
            since=since,
            window=window,
            ripe=ripe,
            days=list(days),
        )

    async def dealers_with_targets(self, month: date) -> list[str]:
        """Dealers who are to reach anything in a month."""
        rows = await self._uow.rows(
            "SELECT DISTINCT dealer_code FROM dealer_target WHERE month = :month ORDER BY 1", month=month
        )
        return [row.dealer_code for row in rows]


def _known(row: Any) -> Known:
    lately = frozenset(metric for metric, stage in STAGES.items() if (row.lately or 0) >> stage & 1)
    stage = Stage(row.stage) if row.stage else None
    return Known(
        row.person_id,
        row.lead_id,
        row.interest or "",
        stage,
        row.dealer_code or "",
        row.advisor or "",
        row.opened_at,
        row.spoken_at,
        lately,
        row.erased,
    )
