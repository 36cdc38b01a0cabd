"""Whom a channel may carry marketing to: statements kept by anchor, the person's answer the strictest over her anchors now.

As planner and sender understand it (`chassis.consents`); they ask again at their moments, this is for looking ahead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from pyroaring import BitMap

from chassis.consents import ALL_CHANNELS, OPT_OUT, SEPARATE, regime, uses
from chassis.db import Database
from services.tags.consents import MARKETING

# How old an answer may be.
FRESH_S: Final = 10.0


class Listed(NamedTuple):
    """Persons who are named for a channel: those it may carry marketing to, or all but whom it may."""

    persons: BitMap
    is_allowed: bool

    def allowed(self, members: BitMap) -> int:
        """How many of some persons it may."""
        common: int = members.intersection_cardinality(self.persons)
        return common if self.is_allowed else len(members) - common


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
        FROM consent WHERE purpose = u.use AND channel IN ($5, u.channel) GROUP BY anchor_id
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
