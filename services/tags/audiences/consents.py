"""Whom a channel may carry marketing to: statements kept by anchor, the person's answer the strictest over her anchors now.

As planner and sender understand it (`chassis.consents`); they ask again at their moments, this is for looking ahead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from pyroaring import BitMap

from chassis.consents import ALL_CHANNELS, OPT_OUT, SEPARATE, SHARING, regime, uses
from chassis.db import Database, UnitOfWork
from services.tags import erasure_store
from services.tags.sharing.consents import hold_off_erasures

MARKETING: Final = "marketing"
# What is kept: marketing, and what goes with it where a dealer gets to know of somebody.
PURPOSES: Final = frozenset({MARKETING, SHARING})
# How old an answer may be.
FRESH_S: Final = 10.0
NO_END: Final = 2**63 - 1


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


class Listed(NamedTuple):
    """Persons who are named for a channel: those it may carry marketing to, or all but whom it may."""

    persons: BitMap
    is_allowed: bool

    def allowed(self, members: BitMap) -> int:
        """How many of some persons it may."""
        common: int = members.intersection_cardinality(self.persons)
        return common if self.is_allowed else len(members) - common


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
        "INSERT INTO reach_consent AS c (anchor_id, purpose, channel, separate, person_id, withdrawn_us, given_us, expires_us)"
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
    await uow.execute("DELETE FROM reach_consent WHERE anchor_id = ANY(CAST(:anchors AS bigint[]))", anchors=list(anchors))


# For each channel ($1) and use that goes with it ($2; $3: whether only a separate grant counts) the persons of whom something
# was said, the strictest over all anchors that are hers now. $4: now, $5: the name of all channels.
_SAID = """
SELECT channel, use, person_id, bool_or(withdrawn) AS withdrawn, bool_or(given) AS given FROM (
    SELECT u.channel, u.use, coalesce(o.entity_id, a.person_id) AS person_id,
        a.withdrawn_us >= a.given_us OR (a.withdrawn_us >= 0 AND a.expires_us <= $4) AS withdrawn,
        a.given_us > a.withdrawn_us AND a.expires_us > $4 AS given
    FROM unnest($1::text[], $2::text[], $3::boolean[]) AS u (channel, use, only_separate)
    CROSS JOIN LATERAL (
        SELECT anchor_id, max(person_id) AS person_id, max(withdrawn_us) AS withdrawn_us,
            coalesce(max(given_us) FILTER (WHERE separate OR NOT u.only_separate), -1) AS given_us,
            coalesce((array_agg(expires_us ORDER BY given_us DESC, expires_us)
                FILTER (WHERE separate OR NOT u.only_separate))[1], 0) AS expires_us
        FROM reach_consent WHERE purpose = u.use AND channel IN ($5, u.channel) GROUP BY anchor_id
    ) AS a
    LEFT JOIN anchor o ON o.entity_kind = 1 AND o.anchor_id = a.anchor_id
    WHERE a.withdrawn_us >= 0 OR a.given_us >= 0
) AS said GROUP BY channel, use, person_id HAVING bool_or(withdrawn) OR bool_or(given)
"""


class ReachConsents:
    """Who may be reached through which channel, as of at most FRESH_S ago."""

    def __init__(self, database: Database, regimes: Mapping[str, str], channels: Sequence[str]) -> None:
        self._database, self._regimes, self._channels = database, regimes, channels
        self._known: dict[str, Listed] = {}
        self._at = -FRESH_S
        self._lock = asyncio.Lock()

    async def listed(self) -> Mapping[str, Listed]:
        """By channel."""
        async with self._lock:
            if time.monotonic() - self._at >= FRESH_S:
                self._known = await listed(self._database, self._regimes, self._channels, time.time_ns() // 1000)
                self._at = time.monotonic()
        return self._known


async def listed(database: Database, regimes: Mapping[str, str], channels: Sequence[str], now_us: int) -> dict[str, Listed]:
    """By channel, as of a moment: who withdrew, or, where a use needs a grant, who gave all that is needed and kept to it."""
    asked = [(channel, use, regime(regimes, use, channel)) for channel in channels for use in uses(MARKETING, channel)]
    rows = await database.fetch(
        _SAID,
        [channel for channel, _, _ in asked],
        [use for _, use, _ in asked],
        [needs == SEPARATE for _, _, needs in asked],
        now_us,
        ALL_CHANNELS,
    )
    withdrawn: dict[str, BitMap] = {channel: BitMap() for channel in channels}
    given: dict[tuple[str, str], BitMap] = {(channel, use): BitMap() for channel, use, _ in asked}
    for channel, use, person_id, is_withdrawn, is_given in rows:
        if is_withdrawn:
            withdrawn[channel].add(person_id)
        if is_given:
            given[channel, use].add(person_id)
    found = {}
    for channel in channels:
        needed = [given[channel, use] for of, use, needs in asked if of == channel and needs != OPT_OUT]
        if needed:
            found[channel] = Listed(BitMap.intersection(needed[0], *needed) - withdrawn[channel], True)
        else:
            found[channel] = Listed(withdrawn[channel], False)
    return found
