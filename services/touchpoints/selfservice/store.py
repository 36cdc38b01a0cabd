"""SQL of self-service: management of endpoints, attempts, replays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from chassis.db import UnitOfWork
from services.touchpoints.domain.deliveries import Channel


@dataclass(frozen=True)
class Managed:
    """An endpoint as its owner sees it."""

    name: str
    channel: Channel
    scope: str
    url: str
    signed: bool
    event_types_off: tuple[str, ...]
    previous_until: datetime | None
    verified_at: datetime | None
    disabled_at: datetime | None
    # Of the key that opened it.
    management_key_sha256: bytes = field(repr=False)


async def managed(uow: UnitOfWork, name: str, key_sha256: bytes | None) -> Managed | None:
    """The endpoint of a name whose management key has this hash; None for who has shown something else than a key."""
    rows = await uow.rows(
        "SELECT name, channel, scope, url, secret <> '' AS signed, event_types_off, verified_at, disabled_at,"
        " management_key_sha256,"
        " CASE WHEN previous_until > now() THEN previous_until END AS previous_until"
        " FROM endpoint WHERE name = :name"
        " AND (CAST(:key AS bytea) IS NULL OR (management_key_sha256 = :key AND management_key_sha256 <> ''))",
        name=name,
        key=key_sha256,
    )
    if not rows:
        return None
    found = dict(rows[0]._mapping)
    return Managed(**found | {"channel": Channel(found["channel"]), "event_types_off": tuple(found["event_types_off"])})


async def lock(uow: UnitOfWork, mine: Managed) -> bool:
    """Keeps the endpoint as it is until the transaction's end; False when the key that opened it is not its key any more."""
    rows = await uow.rows(
        "SELECT name FROM endpoint WHERE name = :name AND management_key_sha256 = :key FOR UPDATE",
        name=mine.name,
        key=mine.management_key_sha256,
    )
    return bool(rows)


async def set_key(uow: UnitOfWork, name: str, key_sha256: bytes) -> bool:
    """Gives an endpoint another management key, or none (empty); False without such a signed endpoint."""
    rows = await uow.rows(
        "UPDATE endpoint SET management_key_sha256 = :key WHERE name = :name AND secret <> '' RETURNING name",
        name=name,
        key=key_sha256,
    )
    return bool(rows)


async def set_address(uow: UnitOfWork, name: str, url: str) -> None:
    """Sends to another address from now on; it has just answered."""
    await uow.execute(
        "UPDATE endpoint SET url = :url, verified_at = now(), disabled_at = NULL WHERE name = :name", name=name, url=url
    )


async def rotate(uow: UnitOfWork, name: str, secret: bytes, hours: float) -> datetime | None:
    """Another secret; the old one stays good for so long. None while an older one still is, unless `hours` is 0."""
    rows = await uow.rows(
        "UPDATE endpoint SET previous_secret = CASE WHEN :hours > 0 THEN secret ELSE '' END,"
        " previous_until = now() + make_interval(secs => :hours * 3600), secret = :secret"
        " WHERE name = :name AND (:hours = 0 OR previous_until IS NULL OR previous_until <= now()) RETURNING previous_until",
        name=name,
        secret=secret,
        hours=float(hours),
    )
    return rows[0].previous_until if rows else None


async def set_event_types_off(uow: UnitOfWork, name: str, types: Sequence[str]) -> None:
    """Types of webhooks that it does without."""
    await uow.execute("UPDATE endpoint SET event_types_off = :types WHERE name = :name", name=name, types=sorted(types))


async def may_test(uow: UnitOfWork, name: str, every_s: float) -> bool:
    """Notes a test, unless the last one was just now: nobody makes us send as fast as he can ask."""
    rows = await uow.rows(
        "UPDATE endpoint SET tested_at = now() WHERE name = :name"
        " AND (tested_at IS NULL OR tested_at < now() - make_interval(secs => :every)) RETURNING name",
        name=name,
        every=every_s,
    )
    return bool(rows)


@dataclass(frozen=True)
class Tried:
    """One call of a receiver; no body, no address."""

    delivery_id: str
    endpoint: str
    # accepted, retry or refused.
    outcome: str
    reason: str
    milliseconds: int
    attempt_id: int = 0
    attempted_at: datetime | None = None


async def note_attempts(uow: UnitOfWork, tried: Sequence[Tried]) -> None:
    """Adds calls that have ended, as one statement."""
    await uow.fetch(
        "INSERT INTO delivery_attempt (delivery_id, endpoint, outcome, reason, milliseconds, attempted_at)"
        " SELECT *, now() FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[])",
        [t.delivery_id for t in tried],
        [t.endpoint for t in tried],
        [t.outcome for t in tried],
        [t.reason for t in tried],
        [t.milliseconds for t in tried],
    )


async def attempts(uow: UnitOfWork, endpoint: str, *, before: int, outcome: str, delivery_id: str, most: int) -> list[Tried]:
    """Attempts at an endpoint, newest first, before a number; of one outcome or push, or all where empty."""
    rows = await uow.rows(
        "SELECT delivery_id, endpoint, outcome, reason, milliseconds, attempt_id, attempted_at FROM delivery_attempt"
        " WHERE endpoint = :endpoint AND attempt_id < :before AND (:outcome = '' OR outcome = :outcome)"
        " AND (:delivery = '' OR delivery_id = :delivery) ORDER BY attempt_id DESC LIMIT :most",
        endpoint=endpoint,
        before=before,
        outcome=outcome,
        delivery=delivery_id,
        most=most,
    )
    return [Tried(**row._mapping) for row in rows]


async def forget_attempts(uow: UnitOfWork, days: float, most: int) -> int:
    """Deletes old ones, at most so many; returns how many."""
    return await uow.execute(
        "DELETE FROM delivery_attempt WHERE ctid = ANY(ARRAY(SELECT ctid FROM delivery_attempt"
        " WHERE attempted_at < now() - make_interval(secs => :days * 86400) LIMIT :most))",
        days=float(days),
        most=most,
    )


async def replay(uow: UnitOfWork, endpoint: str, delivery_ids: Sequence[str], since: datetime | None, most: int) -> list[str]:
    """Lets parked pushes of an endpoint go again that are not yet expired; returns their ids. What has its end keeps it."""
    await uow.execute(
        # Who asks says that the receiver works again; it shall not first have to prove it push by push.
        "UPDATE circuit SET failures = 0, trips = 0, opened_at = NULL, open_until = NULL, probe_until = NULL"
        " WHERE endpoint = :endpoint",
        endpoint=endpoint,
    )
    rows = await uow.rows(
        "WITH theirs AS (SELECT delivery_id FROM delivery WHERE endpoint = :endpoint AND expires_at > now()"
        " AND state <= 2 AND held NOT IN ('', 'turn') AND (:all OR delivery_id = ANY(CAST(:ids AS text[])))"
        " AND held_at >= COALESCE(CAST(:since AS timestamptz), '-infinity')"
        " ORDER BY delivery_id LIMIT :most FOR UPDATE SKIP LOCKED)"
        " UPDATE delivery d SET held = '', held_at = NULL, slot_at = NULL, due_at = now(), updated_at = now() FROM theirs"
        " WHERE d.delivery_id = theirs.delivery_id RETURNING d.delivery_id",
        endpoint=endpoint,
        all=not delivery_ids,
        ids=list(delivery_ids),
        since=since,
        most=most,
    )
    return sorted(row.delivery_id for row in rows)
