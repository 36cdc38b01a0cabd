"""SQL of the engine: pushes claimed, begun, concluded, put off and held. Statements take $1, $2 … and many rows.

A held push stays queued or sending, is due only at its end, and says in `held` what it waits for: TURN for the one before it
at an endpoint that takes one at a time, any other word for somebody to replay it (it is parked).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from chassis.db import UnitOfWork
from services.touchpoints.domain.deliveries import NOTICES, UNHEARD, Change, Channel, Delivery, State
from services.touchpoints.domain.handovers import NOTICE_LIFE
from services.touchpoints.store.deliveries import caps_of

TURN: Final = "turn"
# Locks are taken in the order of ids so that two batches cannot wait for each other, all of them before the first row is
# looked at. Nothing is joined to them: that would be a loop within a loop, for nobody knows how many they are.
_LOCKED = "locked AS (SELECT delivery_id FROM delivery WHERE delivery_id = ANY($1::text[]) ORDER BY delivery_id FOR UPDATE)"
_ALL_LOCKED = "(SELECT count(*) FROM locked) >= 0"

# Pushes whose time has come, earliest first, with whatever lease a vanished sender left behind (index ix_delivery_due_at). A
# slot that was missed is kept for a second: whoever was away for longer must not send all that was booked meanwhile at once.
CLAIM = """
    UPDATE delivery SET due_at = now() + make_interval(secs => $2)
    WHERE delivery_id IN (
        SELECT delivery_id FROM delivery WHERE state <= 2 AND due_at <= now()
        ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING delivery_id, theme, person_id, channel, fallback_channels, offer, title, body, purpose, score, rank, reasons,
        dealer_code, decided_at, expires_at, due_at, attempts, quiet_hours, time_zone, caps, kind, details, endpoint,
        anchor_id, arrived, expires_at <= now() AS expired, slot_at > now() - interval '1 second' AS booked, now() AS at,
        CAST(extract(epoch FROM now() - unsure_since) AS double precision) AS unsure_s
"""

# Pushes that were sent to each person within a cap's window; the seconds until the cap opens again, where it is closed. What
# dealers are told of a person (`kind`) is no push to her.
CAPPED = """
    SELECT u.id, CAST(max(w.opens_s) AS double precision) AS opens_s
    FROM unnest($1::text[], $2::bigint[], $3::smallint[], $4::int[], $5::double precision[])
        AS u(id, person, channel, most, secs)
    JOIN LATERAL (
        SELECT extract(epoch FROM d.sent_at - now()) + u.secs AS opens_s FROM delivery d
        WHERE d.person_id = u.person AND d.person_id > 0 AND d.sent_at > now() - make_interval(secs => u.secs)
            AND d.delivery_id <> u.id AND d.kind = '' AND (d.state < 9 OR d.reason = 'outcome_unknown')
            AND (u.channel = 0 OR d.channel = u.channel)
        ORDER BY d.sent_at DESC OFFSET u.most - 1 LIMIT 1) AS w ON true
    GROUP BY u.id
"""

BEGIN = f"""
    WITH {_LOCKED}
    UPDATE delivery d SET state = 2, attempts = attempts + 1, endpoint = a.endpoint, anchor_id = a.anchor,
        unsure_since = COALESCE(d.unsure_since, now()), sent_at = COALESCE(d.sent_at, now()), slot_at = NULL,
        due_at = now() + make_interval(secs => $4), updated_at = now()
    FROM unnest($1::text[], $2::text[], $3::bigint[]) AS a(id, endpoint, anchor)
    WHERE {_ALL_LOCKED} AND a.id = d.delivery_id AND d.state <= 2 AND d.held = ''
    RETURNING d.delivery_id, d.attempts
"""  # noqa: S608  (constants of ours)

# A call that was noted and not made. Its place at a rate is kept for as long as a missed one.
TAKE_BACK = f"""
    WITH {_LOCKED}
    UPDATE delivery d SET attempts = b.attempts, state = CASE WHEN b.attempts = 0 THEN 1 ELSE d.state END,
        unsure_since = CASE WHEN b.unsure THEN d.unsure_since END,
        sent_at = CASE WHEN b.attempts > 0 THEN d.sent_at END, slot_at = now(), due_at = now(), updated_at = now()
    FROM unnest($1::text[], $2::int[], $3::smallint[], $4::boolean[]) AS b(id, attempts, channel, unsure)
    WHERE {_ALL_LOCKED} AND b.id = d.delivery_id AND d.state <= 2
        AND d.attempts = b.attempts + 1 AND d.channel = b.channel
"""  # noqa: S608  (likewise)

# Feedback may have been faster than the provider's answer: then its number is all there is left to note. Of a push to somebody
# who was erased meanwhile not even that. That a call was taken is true whenever it is heard; any other word of a call counts
# only until the next one has begun, for it says nothing of that one.
CONCLUDE = f"""
    WITH {_LOCKED}
    UPDATE delivery d SET state = GREATEST(d.state, c.state),
        reason = CASE WHEN c.state >= d.state THEN c.reason ELSE d.reason END,
        provider_id = CASE WHEN d.person_id > 0 THEN COALESCE(NULLIF(c.provider, ''), d.provider_id) ELSE '' END,
        due_at = CASE WHEN c.due_in >= 0 THEN LEAST(now() + make_interval(secs => c.due_in), GREATEST(d.expires_at, now()))
            WHEN c.parked <> '' THEN GREATEST(d.expires_at, now()) ELSE d.due_at END,
        held = CASE WHEN c.parked <> '' THEN c.parked ELSE d.held END,
        held_at = CASE WHEN c.parked <> '' THEN now() ELSE d.held_at END,
        -- A notice of an erasure names the person, as its receiver does, only until it is heard.
        details = CASE WHEN c.state > 2 AND d.person_id = 0 THEN '' ELSE d.details END,
        unsure_since = CASE WHEN c.sure THEN NULL ELSE d.unsure_since END,
        attempts = d.attempts - CASE WHEN c.counts THEN 0 ELSE 1 END, updated_at = now()
    FROM unnest($1::text[], $2::smallint[], $3::text[], $4::text[], $5::double precision[], $6::boolean[], $7::int[],
        $8::smallint[], $9::boolean[], $10::text[])
        AS c(id, state, reason, provider, due_in, sure, attempts, channel, counts, parked), delivery old
    WHERE {_ALL_LOCKED} AND c.id = d.delivery_id AND old.delivery_id = d.delivery_id
        AND (c.state >= d.state OR (c.provider <> '' AND d.provider_id = ''))
        AND (c.attempts IS NULL OR (d.state <= 2 AND c.attempts = d.attempts AND c.channel = d.channel))
    RETURNING d.delivery_id, d.state, d.reason, d.updated_at, old.state AS before
"""  # noqa: S608  (likewise)

# To the next channel, due at once, as if it had never been sent: nothing of it was.
FALL_BACK = f"""
    WITH {_LOCKED}
    UPDATE delivery d SET channel = d.fallback_channels[1], fallback_channels = d.fallback_channels[2:], state = 1,
        reason = c.reason, attempts = 0, unsure_since = NULL, sent_at = NULL, slot_at = NULL, endpoint = '', anchor_id = 0,
        due_at = now(), updated_at = now()
    FROM unnest($1::text[], $2::text[], $3::int[], $4::smallint[]) AS c(id, reason, attempts, channel)
    WHERE {_ALL_LOCKED} AND c.id = d.delivery_id AND d.state <= 2 AND d.held = ''
        AND c.attempts = d.attempts AND c.channel = d.channel AND cardinality(d.fallback_channels) > 0
"""  # noqa: S608  (likewise)

DEFER = f"""
    WITH {_LOCKED}
    UPDATE delivery d SET due_at = LEAST(now() + make_interval(secs => w.wait), GREATEST(d.expires_at, now())),
        slot_at = CASE WHEN w.slot THEN now() + make_interval(secs => w.wait) ELSE d.slot_at END,
        reason = CASE WHEN d.state <= 2 AND w.reason <> '' THEN w.reason ELSE d.reason END
    FROM unnest($1::text[], $2::double precision[], $3::text[], $4::boolean[]) AS w(id, wait, reason, slot)
    WHERE {_ALL_LOCKED} AND w.id = d.delivery_id
"""  # noqa: S608  (likewise)

HOLD = f"""
    WITH {_LOCKED}
    UPDATE delivery d SET held = h.why, held_at = now(), endpoint = h.endpoint, due_at = GREATEST(d.expires_at, now()),
        slot_at = NULL
    FROM unnest($1::text[], $2::text[], $3::text[]) AS h(id, why, endpoint)
    WHERE {_ALL_LOCKED} AND h.id = d.delivery_id AND d.state <= 2 AND d.held = ''
"""  # noqa: S608  (likewise)

# Notices whose time is over: they stay for whoever replays them, and get their time anew. Waiting for a turn goes on.
PARK = """
    UPDATE delivery d SET held = CASE d.held WHEN '' THEN $2 ELSE d.held END, held_at = COALESCE(d.held_at, now()),
        slot_at = NULL, expires_at = now() + $3::interval, due_at = now() + $3::interval
    WHERE d.delivery_id = ANY($1::text[]) AND d.state <= 2
"""

# At an endpoint that takes one at a time: whoever comes first, unless somebody has the turn who may still be sent, or somebody
# who came before waits for it.
TAKE_TURN = """
    INSERT INTO turn AS t (endpoint, delivery_id)
    SELECT DISTINCT ON (a.endpoint) a.endpoint, a.id
    FROM unnest($1::text[], $2::text[], $3::bigint[]) AS a(endpoint, id, arrived) LEFT JOIN turn h USING (endpoint)
    WHERE h.delivery_id = a.id OR NOT EXISTS (
        SELECT FROM delivery w WHERE w.endpoint = a.endpoint AND w.held = 'turn' AND w.state <= 2 AND w.arrived < a.arrived)
    ORDER BY a.endpoint, COALESCE(h.delivery_id = a.id, false) DESC, a.arrived
    ON CONFLICT (endpoint) DO UPDATE SET delivery_id = excluded.delivery_id
    WHERE t.delivery_id = excluded.delivery_id OR NOT EXISTS (
        SELECT FROM delivery d WHERE d.delivery_id = t.delivery_id AND d.state <= 2 AND d.held = '')
    RETURNING delivery_id
"""

# Gives turns that nobody has any more to those who have waited longest (index ix_delivery_held).
NEXT_TURN = """
    WITH free AS (
        SELECT t.endpoint FROM turn t
        WHERE ($1::text[] IS NULL OR t.endpoint = ANY($1::text[])) AND NOT EXISTS (
            SELECT FROM delivery d WHERE d.delivery_id = t.delivery_id AND d.state <= 2 AND d.held = '')
        ORDER BY t.endpoint FOR UPDATE OF t SKIP LOCKED
    ), following AS (
        SELECT f.endpoint, n.delivery_id FROM free f CROSS JOIN LATERAL (
            SELECT w.delivery_id FROM delivery w WHERE w.endpoint = f.endpoint AND w.held = 'turn' AND w.state <= 2
            ORDER BY w.arrived LIMIT 1) AS n
    ), woken AS (
        UPDATE delivery d SET held = '', held_at = NULL, due_at = now() FROM following f WHERE d.delivery_id = f.delivery_id
        RETURNING d.endpoint, d.delivery_id
    )
    UPDATE turn t SET delivery_id = w.delivery_id FROM woken w WHERE t.endpoint = w.endpoint RETURNING t.endpoint
"""


class Claimed(NamedTuple):
    """A push that is ours until its lease ends. `endpoint` and `anchor_id` are those of the attempt before, if any."""

    delivery: Delivery
    endpoint: str
    anchor_id: int
    # In which order pushes came.
    arrived: int
    # Whether it has been given a time at this rate already, and this is it.
    booked: bool
    # By the database's clock, which all replicas share.
    at: datetime


class Attempt(NamedTuple):
    """A call that is about to be made."""

    delivery_id: str
    endpoint: str
    anchor_id: int


class Wait(NamedTuple):
    """A push that is put off without counting an attempt."""

    delivery_id: str
    seconds: float
    reason: str = ""
    # It comes back at the time that it was given by its rate.
    slot: bool = False


class Hold(NamedTuple):
    """A push that is held at an endpoint."""

    delivery_id: str
    why: str
    endpoint: str


class Moved(NamedTuple):
    """A push that came into another state."""

    delivery_id: str
    state: State
    reason: str
    at: datetime


async def claim(uow: UnitOfWork, batch: int, lease_s: float) -> tuple[list[Claimed], list[str]]:
    """(to send, ids of expired ones) that nobody else gets until the lease ends; notices do not expire but are parked."""
    rows = await uow.fetch(CLAIM, batch, lease_s)
    due = [_claimed(row) for row in rows if not row["expired"]]
    over = [(row["delivery_id"], row["kind"] in NOTICES) for row in rows if row["expired"]]
    if unheard := [name for name, notice in over if notice]:
        await uow.fetch(PARK, unheard, UNHEARD, NOTICE_LIFE)
    return due, [name for name, notice in over if not notice]


def _claimed(row: Any) -> Claimed:
    delivery = Delivery(
        row["delivery_id"],
        row["theme"],
        row["person_id"],
        Channel(row["channel"]),
        tuple(map(Channel, row["fallback_channels"])),
        row["offer"],
        row["title"],
        row["body"],
        row["purpose"],
        row["score"],
        row["rank"],
        tuple(row["reasons"]),
        row["dealer_code"],
        row["decided_at"],
        row["expires_at"],
        row["due_at"],
        row["attempts"],
        row["unsure_s"],
        row["quiet_hours"],
        row["time_zone"],
        caps_of(row["caps"]),
        row["kind"],
        row["details"],
    )
    return Claimed(delivery, row["endpoint"], row["anchor_id"], row["arrived"], bool(row["booked"]), row["at"])


async def capped(uow: UnitOfWork, deliveries: Sequence[Delivery]) -> dict[str, float]:
    """Seconds until a cap opens, by the id of pushes that one closes. Until this transaction ends nobody else counts them."""
    asked = [(d, cap) for d in deliveries for cap in d.caps]
    if not asked:
        return {}
    # Two pushes to one person must not each see that the other has not gone yet.
    await uow.fetch(
        "SELECT pg_advisory_xact_lock(7002, key) FROM (SELECT DISTINCT hashint8(p) AS key FROM unnest($1::bigint[]) AS p"
        " ORDER BY 1) AS keys",
        [d.person_id for d, _ in asked],
    )
    rows = await uow.fetch(
        CAPPED,
        [d.delivery_id for d, _ in asked],
        [d.person_id for d, _ in asked],
        [cap.channel for _, cap in asked],
        [cap.pushes for _, cap in asked],
        [cap.seconds for _, cap in asked],
    )
    return {row["id"]: row["opens_s"] for row in rows}


async def begin(uow: UnitOfWork, attempts: Sequence[Attempt], lease_s: float) -> dict[str, int]:
    """Notes calls that are about to be made, each push's count of them included; those that ended meanwhile are left out."""
    rows = await uow.fetch(BEGIN, *_columns(attempts), lease_s)
    return {row["delivery_id"]: row["attempts"] for row in rows}


async def take_back(uow: UnitOfWork, deliveries: Sequence[Delivery]) -> None:
    """Makes pushes again what they were before `begin`, as they were claimed; those that were not begun stay as they are."""
    rows = [(d.delivery_id, d.attempts, int(d.channel), d.unsure_s is not None) for d in deliveries]
    await uow.fetch(TAKE_BACK, *_columns(rows))


async def conclude(uow: UnitOfWork, changes: Sequence[Change]) -> list[Moved]:
    """Writes outcomes; returns those that moved on. No state ever goes back."""
    rows = await uow.fetch(
        CONCLUDE,
        [c.delivery_id for c in changes],
        [int(c.state) for c in changes],
        [c.reason for c in changes],
        [c.provider_id for c in changes],
        [-1.0 if c.due_in_s is None else c.due_in_s for c in changes],
        [c.sure for c in changes],
        [c.attempts for c in changes],
        [c.channel for c in changes],
        [c.counts for c in changes],
        [c.parked for c in changes],
    )
    return [
        Moved(row["delivery_id"], State(row["state"]), row["reason"], row["updated_at"])
        for row in rows
        if row["state"] != row["before"]
    ]


async def defer(uow: UnitOfWork, waits: Sequence[Wait]) -> None:
    """Lets pushes wait."""
    await uow.fetch(DEFER, *_columns(waits))


async def hold(uow: UnitOfWork, holds: Sequence[Hold]) -> None:
    """Holds pushes until they are let go, or their time is over."""
    await uow.fetch(HOLD, *_columns(holds))


async def fall_back(uow: UnitOfWork, changes: Sequence[Change]) -> None:
    """Moves pushes of which nothing was sent to their next channel; a turn that they had goes to somebody else."""
    names = [c.delivery_id for c in changes]
    await uow.fetch("DELETE FROM turn WHERE delivery_id = ANY($1::text[])", names)
    reasons, attempts, channels = zip(*((c.reason, c.attempts, c.channel) for c in changes), strict=True)
    await uow.fetch(FALL_BACK, names, list(reasons), list(attempts), list(channels))


async def take_turns(uow: UnitOfWork, wanted: Sequence[tuple[str, str, int]]) -> set[str]:
    """Of (endpoint, push, in which order it came) the pushes that may go now, one at an endpoint."""
    return {row["delivery_id"] for row in await uow.fetch(TAKE_TURN, *_columns(wanted))}


async def pass_turns(uow: UnitOfWork, endpoints: Sequence[str] | None) -> int:
    """Lets the next go at these endpoints, or at all; returns at how many."""
    return len(await uow.fetch(NEXT_TURN, None if endpoints is None else list(endpoints)))


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
