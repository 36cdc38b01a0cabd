"""Who agreed to sharing: the strictest over the anchors that are hers now.

Sharing has no channel: only a separate grant for all of them counts, and a withdrawal from any.
"""

from __future__ import annotations

from collections.abc import Sequence

from chassis.consents import ALL_CHANNELS
from chassis.db import UnitOfWork
from services.tags.consents import SHARING

# What the statements through one anchor come to; without any, nothing was given and nothing withdrawn.
_WHOLE = f"FILTER (WHERE separate AND channel = '{ALL_CHANNELS}')"
_ANCHORS_WORD = (
    f"coalesce(max(withdrawn_us), -1) AS withdrawn_us, coalesce(max(given_us) {_WHOLE}, -1) AS given_us,"
    f" coalesce((array_agg(expires_us ORDER BY given_us DESC, expires_us) {_WHOLE})[1], 0) AS expires_us"
)
# Of persons ($1) those who agreed by now ($2, microseconds), with all their anchors: the strictest over these. A grant that has
# run out is none, and brings back the withdrawal that it lifted. Anchors that no fact is known of belong to whom the statement
# named. OFFSET 0 keeps it to look-ups: a page of persons is small beside the tables, the planner's guess is not always.
AGREED = f"""
WITH hers AS MATERIALIZED (
    SELECT entity_id AS person_id, anchor_id FROM anchor WHERE entity_kind = 1 AND entity_id = ANY($1::bigint[])
), said AS (
    SELECT h.person_id, c.withdrawn_us, c.given_us, c.expires_us FROM hers h
    CROSS JOIN LATERAL (
        SELECT {_ANCHORS_WORD} FROM consent WHERE anchor_id = h.anchor_id AND purpose = '{SHARING}' OFFSET 0
    ) AS c
    UNION ALL
    SELECT max(person_id), {_ANCHORS_WORD} FROM consent c
    WHERE person_id = ANY($1::bigint[]) AND purpose = '{SHARING}'
        AND NOT EXISTS (SELECT FROM anchor a WHERE a.entity_kind = 1 AND a.anchor_id = c.anchor_id OFFSET 0)
    GROUP BY anchor_id
), agreed AS (
    SELECT person_id FROM said GROUP BY person_id
    HAVING bool_or(given_us > withdrawn_us AND expires_us > $2)
        AND NOT bool_or(withdrawn_us >= 0 AND (withdrawn_us >= given_us OR expires_us <= $2))
)
SELECT person_id, array_agg(anchor_id) AS anchors FROM hers JOIN agreed USING (person_id) GROUP BY person_id
"""  # noqa: S608  (constants of ours)


async def agreed(uow: UnitOfWork, person_ids: Sequence[int], now_us: int) -> list[tuple[int, list[int]]]:
    """Those of some persons who exist and agreed, with their anchors."""
    return [(row["person_id"], row["anchors"]) for row in await uow.fetch(AGREED, list(person_ids), now_us)]
