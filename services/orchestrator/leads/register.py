"""The register of dealers and advisors, and how each of them is doing: what a distribution has to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from chassis.db import UnitOfWork
from chassis.errors import FailedPrecondition
from services.orchestrator.leads.distributing import Desk

# Success is judged over half a year, punctuality over a quarter: staff change, and so do their habits.
JUDGED, TIMED = timedelta(days=180), timedelta(days=90)


@dataclass(frozen=True)
class Advisor:
    """One of a dealer's staff, by number; empty brands: all of the dealer's."""

    advisor: str
    capacity_per_day: int
    brands: tuple[str, ...] = ()
    away: bool = False


@dataclass(frozen=True)
class Dealer:
    """A dealer; empty areas or brands: all. `sla_minutes` is how soon a lead must be spoken to.

    `calls_per_day` are those of all themes together, which the arbiter keeps to; None for the house's usual number.
    """

    dealer_code: str
    areas: tuple[str, ...]
    brands: tuple[str, ...]
    capacity_per_day: int
    sla_minutes: int
    closed: bool
    advisors: tuple[Advisor, ...]
    version: int = 0
    author: str = ""
    calls_per_day: int | None = None


_DESKS = """
WITH desk AS (
  SELECT d.dealer_code, COALESCE(a.advisor, '') AS advisor, d.areas, d.brands, COALESCE(a.brands, '{}') AS own_brands,
    d.capacity_per_day AS dealer_capacity, COALESCE(a.capacity_per_day, d.capacity_per_day) AS capacity, d.sla_minutes
  FROM dealer d LEFT JOIN advisor a ON a.dealer_code = d.dealer_code AND NOT a.away
  WHERE NOT d.closed AND (a.advisor IS NOT NULL OR NOT EXISTS (SELECT FROM advisor x WHERE x.dealer_code = d.dealer_code))
), today AS (
  SELECT dealer_code, advisor, count(*) AS n FROM lead_assignment WHERE assigned_at >= :today GROUP BY 1, 2
), busy AS (
  SELECT dealer_code, advisor, count(*) FILTER (WHERE stage < 7) AS open_leads,
    count(*) FILTER (WHERE assigned_at >= :judged AND (stage >= 6 OR assigned_at < :ripe)) AS judged,
    count(*) FILTER (WHERE assigned_at >= :judged AND furthest >= 6) AS won
  FROM lead WHERE dealer_code <> '' AND merged_into IS NULL GROUP BY 1, 2
), late AS (
  SELECT dealer_code, advisor, count(*) AS timed, count(*) FILTER (WHERE end_reason <> 'lapsed') AS kept
  FROM lead_assignment WHERE assigned_at >= :timed AND assigned_at < :today GROUP BY 1, 2
)
SELECT desk.*, COALESCE(t.n, 0) AS today, COALESCE(b.open_leads, 0) AS open_leads, COALESCE(b.judged, 0) AS judged,
  COALESCE(b.won, 0) AS won, COALESCE(l.timed, 0) AS timed, COALESCE(l.kept, 0) AS kept,
  COALESCE((SELECT sum(x.n) FROM today x WHERE x.dealer_code = desk.dealer_code), 0) AS dealer_today
FROM desk LEFT JOIN today t USING (dealer_code, advisor) LEFT JOIN busy b USING (dealer_code, advisor)
  LEFT JOIN late l USING (dealer_code, advisor)
ORDER BY desk.dealer_code, desk.advisor
"""
# How long a lead may take to an order before it counts as one that came to none.
RIPE = timedelta(days=60)


class RegisterStore:
    """The register in one transaction."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def keep(self, dealer: Dealer, author: str) -> Dealer:
        """Writes a dealer with all advisors, upon `version` (0: a new one); raises FailedPrecondition upon another one."""
        rows = await self._uow.rows(
            "INSERT INTO dealer AS d (dealer_code, version, areas, brands, capacity_per_day, sla_minutes, closed, author)"
            " SELECT :code, 1, :areas, :brands, :capacity, :sla, :closed, :author"
            " WHERE :version = 0 OR EXISTS (SELECT FROM dealer WHERE dealer_code = :code)"
            " ON CONFLICT (dealer_code) DO UPDATE SET version = d.version + 1, areas = EXCLUDED.areas,"
            " brands = EXCLUDED.brands, capacity_per_day = EXCLUDED.capacity_per_day, sla_minutes = EXCLUDED.sla_minutes,"
            " closed = EXCLUDED.closed,"
            " author = EXCLUDED.author, stated_at = now() WHERE d.version = :version RETURNING version",
            code=dealer.dealer_code,
            version=dealer.version,
            areas=list(dealer.areas),
            brands=list(dealer.brands),
            capacity=dealer.capacity_per_day,
            sla=dealer.sla_minutes,
            closed=dealer.closed,
            author=author,
        )
        if not rows:
            raise FailedPrecondition(
                f"{dealer.dealer_code} has been changed since, or is not there",
                reason="VERSION_CHANGED",
                field="dealer.version",
            )
        await self._uow.execute("DELETE FROM advisor WHERE dealer_code = :code", code=dealer.dealer_code)
        await self._uow.copy(
            "advisor",
            ("dealer_code", "advisor", "brands", "capacity_per_day", "away"),
            [(dealer.dealer_code, a.advisor, list(a.brands), a.capacity_per_day, a.away) for a in dealer.advisors],
        )
        await self._uow.execute("DELETE FROM dealer_capacity WHERE dealer_code = :code", code=dealer.dealer_code)
        await self._uow.execute(
            "INSERT INTO dealer_capacity (dealer_code, calls_per_day) SELECT :code, CAST(:calls AS int)"
            " WHERE CAST(:calls AS int) IS NOT NULL",
            code=dealer.dealer_code,
            calls=dealer.calls_per_day,
        )
        return (await self.page(dealer.dealer_code, 1, just=True))[0]

    async def page(self, after: str, size: int, just: bool = False) -> list[Dealer]:
        """Dealers with codes above `after`, ascending; `just` that one."""
        dealers = await self._uow.rows(
            "SELECT d.*, c.calls_per_day FROM dealer d LEFT JOIN dealer_capacity c USING (dealer_code)"
            " WHERE CASE WHEN :just THEN dealer_code = :after ELSE dealer_code > :after END ORDER BY dealer_code LIMIT :size",
            after=after,
            just=just,
            size=size,
        )
        advisors: dict[str, list[Advisor]] = {}
        for row in await self._uow.rows(
            "SELECT * FROM advisor WHERE dealer_code = ANY(CAST(:codes AS text[])) ORDER BY dealer_code, advisor",
            codes=[row.dealer_code for row in dealers],
        ):
            known = advisors.setdefault(row.dealer_code, [])
            known.append(Advisor(row.advisor, row.capacity_per_day, tuple(row.brands), row.away))
        return [
            Dealer(
                row.dealer_code,
                tuple(row.areas),
                tuple(row.brands),
                row.capacity_per_day,
                row.sla_minutes,
                row.closed,
                tuple(advisors.get(row.dealer_code, ())),
                row.version,
                row.author,
                row.calls_per_day,
            )
            for row in dealers
        ]

    async def desks(self, now: datetime, today: datetime) -> tuple[Sequence[Desk], dict[str, int]]:
        """(who may be given leads, minutes of SLA by dealer); `today` is when the house's day began."""
        rows = await self._uow.rows(_DESKS, today=today, judged=now - JUDGED, ripe=now - RIPE, timed=now - TIMED)
        desks = [
            Desk(
                row.dealer_code,
                row.advisor,
                frozenset(row.areas),
                frozenset(row.own_brands or row.brands),
                row.capacity,
                max(0, row.capacity - row.today),
                max(0, row.dealer_capacity - row.dealer_today),
                row.open_leads,
                row.judged,
                row.won,
                row.timed,
                row.kept,
            )
            for row in rows
        ]
        return desks, {row.dealer_code: row.sla_minutes for row in rows}
