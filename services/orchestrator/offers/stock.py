"""Stock: pieces are reserved, then taken or released. Offers are locked in order of id, so batches wait and never deadlock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from chassis.db import UnitOfWork
from services.orchestrator.offers.definitions import OfferId

Hold = tuple[OfferId, str]

# Holds of locked offers whose time has run out; `now()` is the same moment in the whole transaction.
_EXPIRE = """
WITH gone AS (
  UPDATE offer_hold SET state = 3, changed_at = now()
  WHERE offer_id = ANY(CAST(:offers AS bigint[])) AND state = 1 AND expires_at <= now() RETURNING offer_id
)
UPDATE offer o SET reserved = reserved - g.n
FROM (SELECT offer_id, count(*) AS n FROM gone GROUP BY offer_id) g WHERE o.offer_id = g.offer_id
"""

# Who asks first within a batch gets the last piece. A hold that stands already is granted again and counts once.
_RESERVE = """
WITH asked AS (
  SELECT DISTINCT ON (offer_id, hold_id) offer_id, hold_id, n
  FROM unnest(CAST(:offers AS bigint[]), CAST(:holds AS text[])) WITH ORDINALITY AS a (offer_id, hold_id, n)
  ORDER BY offer_id, hold_id, n
), judged AS (
  SELECT a.*, CASE WHEN h.state IN (1, 2) THEN '' WHEN o.offer_id IS NULL THEN 'OFFER_NOT_FOUND'
    WHEN o.retired_at IS NOT NULL THEN 'OFFER_RETIRED'
    WHEN now() < CAST(v.definition ->> 'valid_from' AS timestamptz) THEN 'NOT_VALID_YET'
    WHEN now() >= CAST(v.definition ->> 'valid_to' AS timestamptz) THEN 'EXPIRED' ELSE 'NEW' END AS verdict,
    o.stock - o.reserved - o.taken AS free
  FROM asked a LEFT JOIN offer o USING (offer_id) LEFT JOIN offer_version v USING (offer_id, version)
  LEFT JOIN offer_hold h ON h.offer_id = a.offer_id AND h.hold_id = a.hold_id
), ranked AS (
  SELECT offer_id, hold_id, CASE WHEN verdict <> 'NEW' THEN verdict
    WHEN row_number() OVER (PARTITION BY offer_id, verdict ORDER BY n) > free THEN 'OUT_OF_STOCK' ELSE 'NEW' END AS verdict
  FROM judged
), kept AS (
  INSERT INTO offer_hold AS h (offer_id, hold_id, state, expires_at)
  SELECT offer_id, hold_id, 1, now() + CAST(:lifetime AS interval) FROM ranked WHERE verdict = 'NEW'
  ON CONFLICT (offer_id, hold_id) DO UPDATE SET state = 1, expires_at = EXCLUDED.expires_at, changed_at = now()
  RETURNING offer_id
), counted AS (
  UPDATE offer o SET reserved = reserved + k.n
  FROM (SELECT offer_id, count(*) AS n FROM kept GROUP BY offer_id) k WHERE o.offer_id = k.offer_id
)
SELECT offer_id, hold_id, CASE verdict WHEN 'NEW' THEN '' ELSE verdict END AS verdict FROM ranked
"""

# :goal is 2 (taken) or 3 (released); what is there already is right, all else that is not reserved is refused.
_SETTLE = """
WITH asked AS (
  SELECT DISTINCT offer_id, hold_id FROM unnest(CAST(:offers AS bigint[]), CAST(:holds AS text[])) AS a (offer_id, hold_id)
), judged AS (
  SELECT a.*, CASE WHEN h.state IS NULL THEN 'NOT_RESERVED' WHEN h.state = CAST(:goal AS smallint) THEN ''
    WHEN h.state = 1 THEN 'NEW' WHEN h.state = 2 THEN 'TAKEN_ALREADY' ELSE 'RELEASED_ALREADY' END AS verdict
  FROM asked a LEFT JOIN offer_hold h USING (offer_id, hold_id)
), settled AS (
  UPDATE offer_hold h SET state = CAST(:goal AS smallint), changed_at = now()
  FROM judged j WHERE j.verdict = 'NEW' AND h.offer_id = j.offer_id AND h.hold_id = j.hold_id RETURNING h.offer_id
), counted AS (
  UPDATE offer o SET reserved = reserved - s.n, taken = taken + CASE WHEN CAST(:goal AS smallint) = 2 THEN s.n ELSE 0 END
  FROM (SELECT offer_id, count(*) AS n FROM settled GROUP BY offer_id) s WHERE o.offer_id = s.offer_id
)
SELECT offer_id, hold_id, CASE verdict WHEN 'NEW' THEN '' ELSE verdict END AS verdict FROM judged
"""


class StockStore:
    """Holds of one transaction. Each answer is aligned with what was asked: empty, or an UPPER_SNAKE reason."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def reserve(self, holds: Sequence[Hold], lifetime: timedelta) -> list[str]:
        """Puts pieces aside for a while, as many as there are; repeats count once and prolong nothing."""
        return await self._ask(_RESERVE, holds, lifetime=lifetime)

    async def take(self, holds: Sequence[Hold]) -> list[str]:
        """Reserved pieces go out for good, also of offers that ended meanwhile."""
        return await self._ask(_SETTLE, holds, goal=2)

    async def release(self, holds: Sequence[Hold]) -> list[str]:
        """Reserved pieces come back."""
        return await self._ask(_SETTLE, holds, goal=3)

    async def expire(self, offers: Sequence[OfferId]) -> None:
        """Frees what nobody took in time, of locked offers."""
        await self._uow.execute(_EXPIRE, offers=list(offers))

    async def _ask(self, statement: str, holds: Sequence[Hold], **parameters: object) -> list[str]:
        offers = [offer_id for offer_id, _ in holds]
        # A statement of its own: the next one must see what the transaction before us did.
        await self._uow.rows(
            "SELECT 1 FROM offer WHERE offer_id = ANY(CAST(:offers AS bigint[])) ORDER BY offer_id FOR UPDATE", offers=offers
        )
        await self.expire(offers)
        rows = await self._uow.rows(statement, offers=offers, holds=[hold_id for _, hold_id in holds], **parameters)
        verdicts = {(OfferId(row.offer_id), str(row.hold_id)): str(row.verdict) for row in rows}
        return [verdicts[hold] for hold in holds]
