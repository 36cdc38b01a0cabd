"""What the arbiter reads about a chunk's persons, by index, and what it keeps. Statements take $1, $2 … and many rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chassis.db import UnitOfWork
from services.orchestrator.domain.themes import ThemeId
from services.orchestrator.offers.definitions import OfferId

Ints = NDArray[np.int64]

COLUMNS: Final = (
    "theme_id", "person_id", "occasion", "theme_version", "outcome", "reason", "due_at", "expires_at", "asked_offer_id",
    "offer_id", "channel", "score", "probability", "value", "cost_fen", "position", "call_rank", "channels", "opted_out",
    "closed", "failing", "recent_pushes", "dealer_code", "time_zone", "delivery_id", "decided_at",
)  # fmt: skip

# Whom each person went into, and all who went into that one: (asked, root, other member). Who never merged is not in it.
# The limits say to the planner what it cannot know of recursions: these are few, to be looked up one by one.
FAMILIES = """
WITH RECURSIVE moved AS (
  SELECT a.person_id AS id FROM person_alias a WHERE a.person_id = ANY($1::bigint[]) AND a.survivor_id IS NOT NULL
  UNION SELECT a.survivor_id FROM person_alias a WHERE a.survivor_id = ANY($1::bigint[])
), up (asked, person_id, depth) AS (
  SELECT id, id, 0 FROM moved
  UNION ALL SELECT u.asked, a.survivor_id, u.depth + 1 FROM up u CROSS JOIN LATERAL (
    SELECT survivor_id FROM person_alias a WHERE a.person_id = u.person_id AND a.survivor_id IS NOT NULL LIMIT 1
  ) AS a WHERE u.depth < 100
), root AS (
  SELECT DISTINCT ON (asked) asked, person_id AS root FROM up ORDER BY asked, depth DESC
), down (root, person_id) AS (
  SELECT DISTINCT root, root FROM root
  UNION SELECT d.root, a.person_id FROM down d CROSS JOIN LATERAL (
    SELECT person_id FROM person_alias a WHERE a.survivor_id = d.person_id LIMIT 100000
  ) AS a
)
SELECT r.asked, r.root, d.person_id FROM root r JOIN down d USING (root) WHERE d.person_id <> r.asked
"""

ERASED = "SELECT DISTINCT person_id FROM erased_anchor WHERE person_id = ANY($1::bigint[])"

PUSHED = (
    "SELECT person_id, theme_id, channel, (EXTRACT(EPOCH FROM decided_at) * 1000000)::bigint AS at_us FROM decision"
    " WHERE outcome = 'push' AND person_id = ANY($1::bigint[]) AND decided_at > $2"
)

# What the theme decided about them before, whatever the occasion.
EARLIER = (
    "SELECT person_id, occasion, outcome FROM decision"
    " WHERE theme_id = $1 AND person_id = ANY($2::bigint[]) AND outcome IN ('push', 'holdout')"
)

# For whom a theme that comes first has something to decide now. Only for a minute: what cannot be decided blocks nobody.
OUTRANKED = (
    "SELECT DISTINCT person_id FROM decision WHERE outcome = 'deferred' AND person_id = ANY($1::bigint[])"
    " AND theme_id = ANY($2::bigint[]) AND due_at <= $3 AND due_at > $3 - interval '1 minute' AND expires_at > $3"
)

HIGHER = (
    "SELECT t.theme_id FROM theme t JOIN theme_version v ON v.theme_id = t.theme_id AND v.version = t.approved_version"
    " WHERE t.state = $1 AND (v.definition ->> 'priority')::int > $2"
)

GROUP = (
    "SELECT t.theme_id, (v.definition -> 'exclusion' ->> 'cool_down_days')::int AS days FROM theme t"
    " JOIN theme_version v ON v.theme_id = t.theme_id AND v.version = t.approved_version"
    " WHERE v.definition -> 'exclusion' ->> 'group' = $1 AND t.theme_id <> $2"
)

SPENT = (
    "SELECT coalesce(sum(contacts) FILTER (WHERE day <> $2), 0)::bigint AS contacts_before,"
    " coalesce(sum(contacts) FILTER (WHERE day = $2), 0)::bigint AS contacts_today,"
    " coalesce(sum(calls) FILTER (WHERE day <> $2), 0)::bigint AS calls_before,"
    " coalesce(sum(calls) FILTER (WHERE day = $2), 0)::bigint AS calls_today,"
    " coalesce(sum(cost_fen) FILTER (WHERE day <> $2), 0)::bigint AS cost_before,"
    " coalesce(sum(cost_fen) FILTER (WHERE day = $2), 0)::bigint AS cost_today FROM spending WHERE theme_id = $1"
)

DEALERS = (
    "SELECT code, coalesce((SELECT sum(calls) FROM dealer_calls c WHERE c.theme_id = $2 AND c.dealer_code = code), 0)::bigint"
    " AS ranks, coalesce((SELECT sum(calls) FROM dealer_calls c WHERE c.dealer_code = code AND c.day = $3), 0)::bigint"
    " AS today, (SELECT calls_per_day FROM dealer_capacity c WHERE c.dealer_code = code) AS most"
    " FROM unnest($1::text[]) AS d (code)"
)

# How channels do, if touchpoints spoke of them lately. What was given in the minute before it spoke it may not have counted.
CONDITIONS = (
    "SELECT h.channel, h.failing, h.pushes_left - coalesce((SELECT sum(g.pushes) FROM channel_given g"
    " WHERE g.channel = h.channel AND g.minute > h.at - interval '2 minutes'), 0)::bigint AS pushes_left"
    " FROM channel_health h WHERE h.at > now() - interval '2 minutes' ORDER BY h.channel"
)

# Pieces left of offers that have a stock; none of those that ended, whatever version of them was approved.
STOCK = (
    "SELECT o.offer_id, CASE WHEN o.retired_at IS NOT NULL OR $2 < (v.definition ->> 'valid_from')::timestamptz"
    " OR $2 >= (v.definition ->> 'valid_to')::timestamptz THEN 0 ELSE o.stock - o.reserved - o.taken END AS pieces"
    " FROM offer o JOIN offer_version v USING (offer_id, version) WHERE o.stock IS NOT NULL AND o.offer_id = ANY($1::bigint[])"
)

SETTLE = """
UPDATE decision d SET theme_version = n.theme_version, outcome = n.outcome, reason = n.reason, due_at = n.due_at,
  offer_id = n.offer_id, channel = n.channel, score = n.score, probability = n.probability, value = n.value,
  cost_fen = n.cost_fen, position = n.position, call_rank = n.call_rank, channels = n.channels, opted_out = n.opted_out,
  closed = n.closed, failing = n.failing, recent_pushes = n.recent_pushes, dealer_code = n.dealer_code,
  time_zone = n.time_zone,
  delivery_id = n.delivery_id, decided_at = n.decided_at
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::int[], $5::text[], $6::text[], $7::timestamptz[], $8::bigint[],
  $9::text[], $10::float8[], $11::float8[], $12::float8[], $13::bigint[], $14::bigint[], $15::bigint[], $16::smallint[],
  $17::smallint[], $18::smallint[], $19::smallint[], $20::int[], $21::text[], $22::text[], $23::text[], $24::timestamptz[])
  AS n (theme_id, person_id, occasion, theme_version, outcome, reason, due_at, offer_id, channel, score, probability, value,
  cost_fen, position, call_rank, channels, opted_out, closed, failing, recent_pushes, dealer_code, time_zone, delivery_id,
  decided_at)
WHERE d.theme_id = n.theme_id AND d.person_id = n.person_id AND d.occasion = n.occasion AND d.outcome = 'deferred'
"""
# What a proposal brought with it and what no decision changes.
_KEPT: Final = ("expires_at", "asked_offer_id")

Record = tuple[Any, ...]


@dataclass(frozen=True)
class Due:
    """A proposal or deferral to be decided now."""

    person_id: int
    occasion: int
    offer_id: OfferId | None
    expires_at: datetime
    reason: str


class ArbiterStore:
    """The arbiter's rows in one transaction."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def turn(self) -> None:
        """Waits until no other process decides or erases, and keeps them waiting until this transaction ends."""
        await self._uow.fetch("SELECT pg_advisory_xact_lock(hashtext('orchestrator arbiter'))")

    async def running(self, theme_id: ThemeId, state: int) -> bool:
        """Whether a theme stands in a state; it stays there until this transaction ends."""
        rows = await self._uow.fetch("SELECT state FROM theme WHERE theme_id = $1 FOR SHARE", theme_id)
        return bool(rows) and rows[0]["state"] == state

    async def families(self, persons: Sequence[int]) -> Ints:
        """(asked, root, other member) of persons who merged, one row per other member."""
        return _table(await self._uow.fetch(FAMILIES, persons), 3)

    async def erased(self, persons: Sequence[int]) -> Ints:
        """Those of some persons that were erased, ascending."""
        return np.sort(_table(await self._uow.fetch(ERASED, persons), 1)[:, 0])

    async def pushed(self, persons: Sequence[int], since: datetime) -> Sequence[Any]:
        """(person_id, theme_id, channel, at_us) of pushes after a moment."""
        return await self._uow.fetch(PUSHED, persons, since)

    async def earlier(self, theme_id: ThemeId, persons: Sequence[int]) -> Sequence[Any]:
        """(person_id, occasion, outcome) of those whom a theme pushed or kept out."""
        return await self._uow.fetch(EARLIER, theme_id, persons) if persons else []

    async def higher(self, state: int, priority: int) -> list[int]:
        """Themes in a state that come before a priority."""
        return [row["theme_id"] for row in await self._uow.fetch(HIGHER, state, priority)]

    async def outranked(self, persons: Sequence[int], themes: Sequence[int], now: datetime) -> Ints:
        """For whom one of the themes has a proposal due, ascending."""
        if not themes:
            return np.empty(0, np.int64)
        return np.sort(_table(await self._uow.fetch(OUTRANKED, persons, themes, now), 1)[:, 0])

    async def group(self, name: str, theme_id: ThemeId) -> Mapping[int, int]:
        """The other themes of an exclusion group with their cool-down in days."""
        return {row["theme_id"]: row["days"] for row in await self._uow.fetch(GROUP, name, theme_id)}

    async def spent(self, theme_id: ThemeId, today: date) -> Any:
        """contacts_, calls_ and cost_ of before and of today."""
        return (await self._uow.fetch(SPENT, theme_id, today))[0]

    async def dealers(self, codes: Sequence[str], theme_id: ThemeId, today: date) -> Mapping[str, tuple[int, int, int | None]]:
        """By dealer: (calls of the theme so far, calls of all themes today, most calls a day or None)."""
        if not codes:
            return {}
        rows = await self._uow.fetch(DEALERS, codes, theme_id, today)
        return {row["code"]: (row["ranks"], row["today"], row["most"]) for row in rows}

    async def stock(self, offers: Sequence[OfferId], now: datetime, *, keeping: bool) -> Mapping[OfferId, int]:
        """Pieces left of those offers that have a stock; `keeping` them from others until this transaction ends."""
        if keeping and not await self._uow.fetch(
            "SELECT 1 FROM offer WHERE stock IS NOT NULL AND offer_id = ANY($1::bigint[]) ORDER BY offer_id FOR UPDATE", offers
        ):
            return {}
        return {OfferId(row["offer_id"]): max(0, row["pieces"]) for row in await self._uow.fetch(STOCK, offers, now)}

    async def spend(self, theme_id: ThemeId, today: date, contacts: int, calls: int, cost_fen: int) -> None:
        """Counts what was decided."""
        if contacts:
            await self._uow.fetch(
                "INSERT INTO spending AS s VALUES ($1, $2, $3, $4, $5) ON CONFLICT (theme_id, day) DO UPDATE SET"
                " contacts = s.contacts + $3, calls = s.calls + $4, cost_fen = s.cost_fen + $5",
                theme_id,
                today,
                contacts,
                calls,
                cost_fen,
            )

    async def call(self, theme_id: ThemeId, today: date, calls: Mapping[str, int]) -> None:
        """Counts calls by dealer."""
        if calls:
            codes = sorted(calls)
            await self._uow.fetch(
                "INSERT INTO dealer_calls AS c (theme_id, dealer_code, day, calls)"
                " SELECT $1, code, $2, n FROM unnest($3::text[], $4::bigint[]) AS u (code, n)"
                " ON CONFLICT (theme_id, dealer_code, day) DO UPDATE SET calls = c.calls + EXCLUDED.calls",
                theme_id,
                today,
                codes,
                [calls[code] for code in codes],
            )

    async def add(self, records: Sequence[Record]) -> None:
        """Stores new decisions, in the order of COLUMNS."""
        await self._uow.copy("decision", COLUMNS, records)

    async def settle(self, records: Sequence[Record]) -> None:
        """Decides deferred ones, in the order of COLUMNS."""
        columns = dict(zip(COLUMNS, zip(*records, strict=True), strict=True))
        await self._uow.fetch(SETTLE, *(list(column) for name, column in columns.items() if name not in _KEPT))

    async def conditions(self) -> Mapping[str, tuple[bool, int | None]]:
        """By channel whether it does not work, and how many pushes it takes, as touchpoints said last, if it did of late."""
        return {row["channel"]: (row["failing"], row["pushes_left"]) for row in await self._uow.fetch(CONDITIONS)}

    async def give(self, pushes: Mapping[str, int]) -> None:
        """Counts pushes to channels that take so many and no more."""
        if pushes:
            channels = sorted(pushes)
            await self._uow.fetch(
                "INSERT INTO channel_given AS g (channel, minute, pushes) SELECT channel, date_trunc('minute', now()), n"
                " FROM unnest($1::text[], $2::bigint[]) AS u (channel, n)"
                " ON CONFLICT (channel, minute) DO UPDATE SET pushes = g.pushes + EXCLUDED.pushes",
                channels,
                [pushes[channel] for channel in channels],
            )

    async def themes_due(self, now: datetime, state: int) -> list[ThemeId]:
        """Themes in a state with something to decide now, the one of the highest priority first."""
        rows = await self._uow.fetch(
            "SELECT t.theme_id FROM theme t JOIN theme_version v ON v.theme_id = t.theme_id AND v.version = t.approved_version"
            " WHERE t.state = $1 AND EXISTS (SELECT FROM decision d WHERE d.theme_id = t.theme_id AND d.outcome = 'deferred'"
            " AND d.due_at <= $2) ORDER BY (v.definition ->> 'priority')::int DESC, t.theme_id",
            state,
            now,
        )
        return [ThemeId(row["theme_id"]) for row in rows]

    async def due(self, theme_id: ThemeId, now: datetime, size: int, persons: Sequence[int] | None = None) -> list[Due]:
        """The next to be decided of a theme: who was due first, of these the most valuable. With `persons` only these."""
        rows = await self._uow.fetch(
            "SELECT person_id, occasion, asked_offer_id, expires_at, reason FROM decision WHERE theme_id = $1"
            " AND outcome = 'deferred' AND due_at <= $2 AND ($4::bigint[] IS NULL OR person_id = ANY($4::bigint[]))"
            " ORDER BY due_at, value DESC LIMIT $3",
            theme_id,
            now,
            size,
            persons,
        )
        return [Due(r["person_id"], r["occasion"], r["asked_offer_id"], r["expires_at"], r["reason"]) for r in rows]

    async def drop(self, theme_id: ThemeId, due: Sequence[Due]) -> None:
        """Ends proposals whose time is over with the reason that they were put off for last."""
        await self._uow.fetch(
            "UPDATE decision d SET outcome = CASE d.reason WHEN 'proposed' THEN 'expired' ELSE d.reason END, reason = '',"
            " due_at = NULL FROM unnest($2::bigint[], $3::bigint[]) AS n (person_id, occasion) WHERE d.theme_id = $1"
            " AND d.person_id = n.person_id AND d.occasion = n.occasion AND d.outcome = 'deferred'",
            theme_id,
            [each.person_id for each in due],
            [each.occasion for each in due],
        )

    async def put_off(self, theme_id: ThemeId, now: datetime, until: datetime, reason: str) -> None:
        """Puts off whoever is due of a theme, without looking at anybody."""
        await self._uow.fetch(
            "UPDATE decision SET due_at = $3, reason = $4 WHERE theme_id = $1 AND outcome = 'deferred' AND due_at <= $2",
            theme_id,
            now,
            until,
            reason,
        )

    async def finish(self, state: int, size: int) -> int:
        """Ends what themes in a state (the last one) had put off; returns how many."""
        rows = await self._uow.fetch(
            "UPDATE decision d SET outcome = 'theme_finished', reason = '', due_at = NULL FROM ("
            " SELECT w.* FROM theme t CROSS JOIN LATERAL (SELECT theme_id, person_id, occasion FROM decision w"
            " WHERE w.theme_id = t.theme_id AND w.outcome = 'deferred' LIMIT $2) AS w WHERE t.state = $1 LIMIT $2) AS n"
            " WHERE (d.theme_id, d.person_id, d.occasion) = (n.theme_id, n.person_id, n.occasion) AND d.outcome = 'deferred'"
            " RETURNING 1",
            state,
            size,
        )
        return len(rows)

    async def end_launches(self, state: int) -> None:
        """Ends what is left of launches of themes in a state (the last one)."""
        await self._uow.fetch(
            "UPDATE launch l SET finished_at = now() FROM theme t"
            " WHERE l.finished_at IS NULL AND t.theme_id = l.theme_id AND t.state = $1",
            state,
        )

    async def decided(self, theme_id: ThemeId, after: int, size: int) -> Ints:
        """Persons above a number that a theme's launch has decided on already, ascending."""
        rows = await self._uow.fetch(
            "SELECT person_id FROM decision WHERE theme_id = $1 AND person_id > $2 AND occasion = 0"
            " ORDER BY person_id LIMIT $3",
            theme_id,
            after,
            size,
        )
        return _table(rows, 1)[:, 0]


async def clock_of(uow: UnitOfWork) -> datetime:
    """The database's clock: one for all replicas, whatever their own show."""
    now: datetime = (await uow.fetch("SELECT clock_timestamp() AS now"))[0]["now"]
    return now


def _table(rows: Sequence[Any], width: int) -> Ints:
    return np.array([tuple(row) for row in rows], np.int64).reshape(-1, width)
