"""Decisions of a theme, counted: one statement for what became of them, one for how long it took.

A goal counts for the person its anchor belonged to then and for the one it belongs to now; a decision stands for its person and
for whom that person merged into since. Who was pushed, or kept out, on several occasions is one person of the first of them.
"""

from __future__ import annotations

from typing import Final

from chassis.db import UnitOfWork
from services.orchestrator.domain.themes import ThemeId
from services.orchestrator.reports.cells import ANSWERED, BAND_WIDTH, BANDS, Breakdown, Cell
from services.orchestrator.reports.times import EDGES, SHARES, Keyed, Times

_BAND: Final = f"LEAST(GREATEST(floor(score / {BAND_WIDTH}), 0), {BANDS - 1})::integer"
_PARTS: Final = {
    Breakdown.NONE: "''",
    Breakdown.CHANNEL: "channel",
    Breakdown.OFFER: "COALESCE('offers/' || offer_id, '')",
    Breakdown.DEALER: "dealer_code",
    Breakdown.WAVE: "CASE WHEN occasion > 0 THEN 'proposed' WHEN layer > 0 THEN 'layer ' || layer ELSE 'launch' END",
    Breakdown.BAND: f"CASE WHEN score < 0 THEN '' ELSE ({_BAND} * {BAND_WIDTH})::text END",
    Breakdown.VERSION: "CASE theme_version WHEN 0 THEN '' ELSE theme_version::text END",
}
# Of each person the first push or holdout; numbers below 0 are of erased persons, one for each. Only whom more than the launch
# decided on is compared: comparing all sorts them.
_CHOSEN: Final = "outcome IN ('push', 'holdout')"
_AGAIN: Final = f"""
again AS MATERIALIZED (
  SELECT person_id, occasion, {_CHOSEN} AND row_number() OVER
    (PARTITION BY person_id, {_CHOSEN} ORDER BY decided_at, occasion) = 1 AS first
  FROM decision WHERE theme_id = :id {{where}}
  AND person_id IN (SELECT person_id FROM decision WHERE theme_id = :id AND occasion <> 0)
)
"""  # noqa: S608  (constants of ours)
_FIRST: Final = f"COALESCE(again.first, {_CHOSEN}) AS first FROM decision LEFT JOIN again USING (person_id, occasion)"
_PUSHED: Final = "AND outcome = 'push' AND person_id > 0"
# Who reached the goal when: from the goals back to all who went into whom they belong to, for goals are few.
_WON: Final = """
winner (person_id, at) AS (
  SELECT g.person_id, g.occurred_at FROM goal g WHERE g.theme_id = :id
  UNION SELECT o.person_id, g.occurred_at FROM goal g
  JOIN anchor_owner o ON o.anchor_id = g.anchor_id AND o.version > g.version WHERE g.theme_id = :id
), family (person_id, at) AS (
  SELECT person_id, at FROM winner
  UNION SELECT a.person_id, f.at FROM family f JOIN person_alias a ON a.survivor_id = f.person_id
), won AS (
  SELECT person_id, min(at) AS won_at FROM family GROUP BY 1
)
"""

_CELLS: Final = f"""
WITH RECURSIVE {_AGAIN.format(where="")}, given AS (
  SELECT person_id, outcome, CASE outcome WHEN 'deferred' THEN reason ELSE '' END AS reason, channel, cost_fen, delivery_id,
    {_BAND} AS band, {{part}} AS part, {_FIRST} WHERE theme_id = :id
), {_WON}
SELECT d.part, d.outcome, d.reason, d.channel, d.band, COALESCE(v.state, 0)::integer AS state, count(*) AS decisions,
  count(*) FILTER (WHERE d.first) AS persons, count(won.person_id) FILTER (WHERE d.first) AS goals,
  sum(d.cost_fen)::bigint AS cost_fen
FROM given d LEFT JOIN won USING (person_id) LEFT JOIN delivery v ON v.delivery_id = d.delivery_id
GROUP BY 1, 2, 3, 4, 5, 6
"""  # noqa: S608  (constants of ours)

# Of erased persons only the day is known.
_TIMES: Final = f"""
WITH RECURSIVE {_AGAIN.format(where=_PUSHED)}, given AS (
  SELECT person_id, delivery_id, decided_at, {{part}} AS part, {_FIRST} WHERE theme_id = :id {_PUSHED}
), {_WON}, span AS (
  SELECT d.part, 'answer' AS kind, v.occurred_at - d.decided_at AS took
  FROM given d JOIN delivery v ON v.delivery_id = d.delivery_id WHERE v.state = {ANSWERED}
  UNION ALL SELECT d.part, 'goal', won.won_at - d.decided_at FROM given d JOIN won USING (person_id) WHERE d.first
), taken AS (
  SELECT part, kind, (extract(epoch FROM took) / 3600)::double precision AS hours FROM span
)
SELECT CASE GROUPING(part) WHEN 0 THEN part END AS part, kind, count(*) FILTER (WHERE hours >= 0) AS persons,
  count(*) FILTER (WHERE hours < 0) AS earlier,
  percentile_cont(CAST(:shares AS double precision[])) WITHIN GROUP (ORDER BY hours) FILTER (WHERE hours >= 0) AS quantiles,
  ARRAY[{
    ", ".join(
        f"count(*) FILTER (WHERE width_bucket(hours, CAST(:edges AS double precision[])) = {i + 1})" for i in range(len(EDGES))
    )
}] AS histogram
FROM taken GROUP BY GROUPING SETS ((kind), (part, kind))
"""  # noqa: S608  (likewise)


class ReportStore:
    """Decisions of one snapshot."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def cells(self, theme_id: ThemeId, by: Breakdown = Breakdown.NONE) -> list[Cell]:
        """All decisions of a theme, counted by what a report tells apart."""
        return [Cell(*row) for row in await self._uow.rows(_CELLS.format(part=_PARTS[by]), id=theme_id)]

    async def times(self, theme_id: ThemeId, by: Breakdown = Breakdown.NONE) -> Keyed:
        """How long people of the whole (None) and of each part took, by part and kind."""
        rows = await self._uow.rows(_TIMES.format(part=_PARTS[by]), id=theme_id, shares=list(SHARES), edges=list(EDGES))
        return {
            (part, kind): Times(part, kind, count, earlier, tuple(quantiles or ()), tuple(histogram))
            for part, kind, count, earlier, quantiles, histogram in rows
        }
