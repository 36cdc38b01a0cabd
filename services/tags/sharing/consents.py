"""Who agreed to sharing: statements kept by anchor, the person's answer derived over the anchors that are hers now.

Sharing has no channel: only a separate grant for all of them counts, and a withdrawal from any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chassis.db import UnitOfWork
from services.tags import erasure_store

PURPOSE = "sharing"
# Where a grant has no end.
NO_END = 2**63 - 1
_LOCK = "hashtext('troika tags sharing')"

# Of persons ($1) those who agreed by now ($2, microseconds), with all their anchors: the strictest over these. A grant that has
# run out is none, and brings back the withdrawal that it lifted. Anchors that no fact is known of belong to whom the statement
# named. OFFSET 0 keeps it to look-ups: a page of persons is small beside the tables, the planner's guess is not always.
AGREED = """
WITH hers AS MATERIALIZED (
    SELECT entity_id AS person_id, anchor_id FROM anchor WHERE entity_kind = 1 AND entity_id = ANY($1::bigint[])
), said AS (
    SELECT h.person_id, c.withdrawn_us, c.given_us, c.expires_us FROM hers h
    CROSS JOIN LATERAL (SELECT * FROM sharing_consent WHERE anchor_id = h.anchor_id OFFSET 0) AS c
    UNION ALL
    SELECT c.person_id, c.withdrawn_us, c.given_us, c.expires_us FROM sharing_consent c
    WHERE c.person_id = ANY($1::bigint[])
        AND NOT EXISTS (SELECT FROM anchor a WHERE a.entity_kind = 1 AND a.anchor_id = c.anchor_id OFFSET 0)
), agreed AS (
    SELECT person_id FROM said GROUP BY person_id
    HAVING bool_or(given_us > withdrawn_us AND expires_us > $2)
        AND NOT bool_or(withdrawn_us >= given_us OR (withdrawn_us >= 0 AND expires_us <= $2))
)
SELECT person_id, array_agg(anchor_id) AS anchors FROM hers JOIN agreed USING (person_id) GROUP BY person_id
"""


class Said(NamedTuple):
    """A statement on sharing through an anchor; times in microseconds since the epoch, UTC."""

    anchor_id: int
    person_id: int
    given: bool
    stated_us: int
    expires_us: int


async def keep(uow: UnitOfWork, statements: Sequence[Said]) -> None:
    """Keeps, of each anchor, the latest withdrawal and the latest grant (of two, the shorter). Order and repetition do not
    matter; what is said of erased persons is dropped."""
    await hold_off_erasures(uow)
    stones = await erasure_store.tombstones(uow, {said.anchor_id for said in statements})
    living = [s for s in statements if s.anchor_id not in stones or stones[s.anchor_id].person_id != s.person_id]
    if not living:
        return
    anchors, persons, given, stated, expires = (list(column) for column in zip(*living, strict=True))
    await uow.execute(
        "INSERT INTO sharing_consent AS c (anchor_id, person_id, withdrawn_us, given_us, expires_us)"
        " SELECT anchor, max(person), coalesce(max(stated) FILTER (WHERE NOT given), -1),"
        " coalesce(max(stated) FILTER (WHERE given), -1),"
        " coalesce((array_agg(expires ORDER BY stated DESC, expires) FILTER (WHERE given))[1], CAST(:no_end AS bigint))"
        " FROM unnest(CAST(:anchors AS bigint[]), CAST(:persons AS bigint[]), CAST(:given AS boolean[]),"
        " CAST(:stated AS bigint[]), CAST(:expires AS bigint[])) AS s (anchor, person, given, stated, expires)"
        " GROUP BY anchor ORDER BY anchor"
        " ON CONFLICT (anchor_id) DO UPDATE SET person_id = EXCLUDED.person_id,"
        " withdrawn_us = GREATEST(c.withdrawn_us, EXCLUDED.withdrawn_us), given_us = GREATEST(c.given_us, EXCLUDED.given_us),"
        " expires_us = CASE WHEN EXCLUDED.given_us > c.given_us THEN EXCLUDED.expires_us"
        " WHEN EXCLUDED.given_us < c.given_us THEN c.expires_us ELSE LEAST(c.expires_us, EXCLUDED.expires_us) END",
        no_end=NO_END,
        anchors=anchors,
        persons=persons,
        given=given,
        stated=stated,
        expires=expires,
    )


async def agreed(uow: UnitOfWork, person_ids: Sequence[int], now_us: int) -> list[tuple[int, list[int]]]:
    """Those of some persons who exist and agreed, with their anchors."""
    return [(row["person_id"], row["anchors"]) for row in await uow.fetch(AGREED, list(person_ids), now_us)]


async def hold_off_erasures(uow: UnitOfWork) -> None:
    """Keeps erasures waiting until this transaction ends; for all who write what names anchors."""
    await uow.rows(f"SELECT pg_advisory_xact_lock_shared({_LOCK})")


async def wait_for_uses(uow: UnitOfWork) -> None:
    """Waits for all who hold erasures off, and holds them off until this transaction ends."""
    await uow.rows(f"SELECT pg_advisory_xact_lock({_LOCK})")
