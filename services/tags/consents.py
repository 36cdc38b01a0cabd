"""Who allowed and forbade what, as far as tags need it: statements kept by anchor; a person's answer is derived over hers.

Planner and sender keep their own and ask again at their moments; this is for looking ahead (reach) and for sharing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from chassis import consents
from chassis.db import UnitOfWork
from services.tags import erasure_store

MARKETING: Final = "marketing"
# With recipients outside, under pseudonyms.
SHARING: Final = "sharing"
# What is kept: also what goes with marketing where a dealer gets to know of somebody.
PURPOSES: Final = frozenset({MARKETING, consents.SHARING, SHARING})
# Where a grant has no end.
NO_END: Final = 2**63 - 1
_LOCK: Final = "hashtext('troika tags persons')"


class Said(NamedTuple):
    """A statement through an anchor; times in microseconds since the epoch, UTC."""

    anchor_id: int
    person_id: int
    purpose: str
    channel: str
    separate: bool
    given: bool
    stated_us: int
    expires_us: int


async def keep(uow: UnitOfWork, statements: Sequence[Said]) -> None:
    """Keeps, of each anchor, purpose and channel, the latest withdrawal and the latest grant (of two, the shorter).

    Order and repetition do not matter; what is said of erased persons is dropped.
    """
    await hold_off_erasures(uow)
    stones = await erasure_store.tombstones(uow, {said.anchor_id for said in statements})
    living = [s for s in statements if s.anchor_id not in stones or stones[s.anchor_id].person_id != s.person_id]
    if not living:
        return
    columns = [list(column) for column in zip(*living, strict=True)]
    await uow.execute(
        "INSERT INTO consent AS c (anchor_id, purpose, channel, separate, person_id, withdrawn_us, given_us, expires_us)"
        " SELECT anchor, purpose, channel, separate, max(person), coalesce(max(stated) FILTER (WHERE NOT given), -1),"
        " coalesce(max(stated) FILTER (WHERE given), -1),"
        " coalesce((array_agg(expires ORDER BY stated DESC, expires) FILTER (WHERE given))[1], CAST(:no_end AS bigint))"
        " FROM unnest(CAST(:anchors AS bigint[]), CAST(:persons AS bigint[]), CAST(:purposes AS text[]),"
        " CAST(:channels AS text[]), CAST(:separate AS boolean[]), CAST(:given AS boolean[]), CAST(:stated AS bigint[]),"
        " CAST(:expires AS bigint[])) AS s (anchor, person, purpose, channel, separate, given, stated, expires)"
        " GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
        " ON CONFLICT (anchor_id, purpose, channel, separate) DO UPDATE SET person_id = EXCLUDED.person_id,"
        " withdrawn_us = GREATEST(c.withdrawn_us, EXCLUDED.withdrawn_us), given_us = GREATEST(c.given_us, EXCLUDED.given_us),"
        " expires_us = CASE WHEN EXCLUDED.given_us > c.given_us THEN EXCLUDED.expires_us"
        " WHEN EXCLUDED.given_us < c.given_us THEN c.expires_us ELSE LEAST(c.expires_us, EXCLUDED.expires_us) END",
        no_end=NO_END,
        **dict(
            zip(("anchors", "persons", "purposes", "channels", "separate", "given", "stated", "expires"), columns, strict=True)
        ),
    )


async def forget(uow: UnitOfWork, anchors: Sequence[int]) -> None:
    """Forgets what was said through some anchors."""
    await uow.execute("DELETE FROM consent WHERE anchor_id = ANY(CAST(:anchors AS bigint[]))", anchors=list(anchors))


async def hold_off_erasures(uow: UnitOfWork) -> None:
    """Keeps erasures waiting until this transaction ends; for all who write what names anchors and lock no persons."""
    await uow.rows(f"SELECT pg_advisory_xact_lock_shared({_LOCK})")


async def wait_for_writers(uow: UnitOfWork) -> None:
    """Waits for all who hold erasures off, and keeps others waiting until this transaction ends."""
    await uow.rows(f"SELECT pg_advisory_xact_lock({_LOCK})")
