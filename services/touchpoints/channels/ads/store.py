"""Lists at platforms in SQL: what is to be on them, what may be there, and how far somebody is with making both the same.

Of a member is kept a keyed digest, by which it is known again, and the platform's hash, sealed: without it nobody could be
taken off who withdrew consent. A row goes through `called` (it may be there) and `sent` (it is there); `leaving` sends it off.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from chassis.consents import ALL_CHANNELS, PERSONALISATION
from chassis.db import Database, Reader, UnitOfWork
from chassis.errors import NotFound
from chassis.leases import LostLease
from services.touchpoints.domain.consents import Statement
from services.touchpoints.domain.deliveries import Channel
from services.touchpoints.store import erasures

PURPOSE: Final = "marketing"
ACTIVE, ENDING, ENDED, FAILED = "active", "ending", "ended", "failed"
LEASE_S: Final = 30.0
# In a row: somebody should look.
MANY_FAILURES: Final = 5
_FIELDS: Final = (
    "name, endpoint, predicate, every_s, state, reason, pass_no, passing, page_token, looked_at, added, removed, failures,"
    " passed_at, created_at, pass_at <= now() AS pass_due"
)
# What leaves first; then what is to come. Rows of one list are locked in the order of their digests.
LEAVING = """
    SELECT digest, sealed, called FROM ad_member WHERE list = $1 AND leaving ORDER BY digest LIMIT $2
"""
SEND_OFF = """
    UPDATE ad_member SET leaving = true, person_id = CASE WHEN $2 THEN 0 ELSE person_id END WHERE (list, digest) IN (
        SELECT list, digest FROM ad_member WHERE person_id = ANY($1::bigint[]) AND person_id > 0
        ORDER BY list, digest FOR UPDATE
    ) RETURNING list
"""
COUNT = "SELECT count(*) FILTER (WHERE called AND NOT leaving), count(*) FILTER (WHERE leaving) FROM ad_member WHERE list = $1"


@dataclass(frozen=True)
class AdList:
    """A list at a platform. `passing`: a look through the audience is under way, up to `page_token`."""

    name: str
    endpoint: str
    predicate: str
    every_s: float
    state: str
    reason: str
    pass_no: int
    passing: bool
    page_token: str
    looked_at: int
    added: int
    removed: int
    failures: int
    passed_at: datetime | None
    created_at: datetime
    pass_due: bool


class Row(NamedTuple):
    """A member: the digest by which it is known, the sealed hash, and whose it is now."""

    digest: bytes
    sealed: bytes
    person_id: int


async def save(uow: UnitOfWork, name: str, endpoint: str, predicate: str, every_s: float) -> AdList:
    """Makes a list or changes it; the audience is looked through anew at once."""
    rows = await uow.fetch(
        "INSERT INTO ad_list AS l (name, endpoint, predicate, every_s, state) VALUES ($1, $2, $3, $4, 'active')"  # noqa: S608
        " ON CONFLICT (name) DO UPDATE SET predicate = excluded.predicate, every_s = excluded.every_s, state = 'active',"
        " reason = '', failures = 0, passing = false, page_token = '', pass_at = now(), due_at = now(), woken = true"
        f" WHERE l.endpoint = excluded.endpoint RETURNING {_FIELDS}",
        name,
        endpoint,
        predicate,
        every_s,
    )
    if not rows:
        raise NotFound("a list of this name is at another endpoint", reason="LIST_ELSEWHERE", field="list.name")
    return AdList(*rows[0])


async def get(reader: Reader, name: str) -> AdList:
    """Raises NotFound."""
    rows = await reader.fetch(f"SELECT {_FIELDS} FROM ad_list WHERE name = $1", name)  # noqa: S608
    if not rows:
        raise NotFound("there is no such list", reason="LIST_NOT_FOUND", field="name")
    return AdList(*rows[0])


async def page(reader: Reader, after: str, size: int) -> list[AdList]:
    """Lists by name."""
    rows = await reader.fetch(f"SELECT {_FIELDS} FROM ad_list WHERE name > $1 ORDER BY name LIMIT $2", after, size)  # noqa: S608
    return [AdList(*row) for row in rows]


async def members(reader: Reader, name: str) -> tuple[int, int]:
    """(how many are there, how many are to leave)."""
    (row,) = await reader.fetch(COUNT, name)
    return row[0], row[1]


async def trouble(reader: Reader) -> tuple[int, int]:
    """(how many lists failed or go on failing, how many hashes should have left by now)."""
    (row,) = await reader.fetch(
        "SELECT (SELECT count(*) FROM ad_list WHERE state = 'failed' OR failures >= $1) AS stuck,"
        " (SELECT count(*) FROM ad_member WHERE leaving) AS leaving",
        MANY_FAILURES,
    )
    return row["stuck"], row["leaving"]


async def hurry(uow: UnitOfWork, name: str) -> AdList:
    """Has the audience looked through at once, also after a failure. Raises NotFound."""
    await uow.fetch(
        "UPDATE ad_list SET pass_at = now(), due_at = now(), woken = true, failures = 0, reason = '',"
        " state = CASE state WHEN 'failed' THEN 'active' ELSE state END WHERE name = $1",
        name,
    )
    return await get(uow, name)


async def end(uow: UnitOfWork, name: str) -> AdList:
    """Has everybody taken off a list. Raises NotFound."""
    await uow.fetch(
        "UPDATE ad_list SET state = 'ending', passing = false, page_token = '', failures = 0, reason = '', due_at = now(),"
        " woken = true WHERE name = $1 AND state <> 'ended'",
        name,
    )
    return await get(uow, name)


async def claim(database: Database) -> AdList | None:
    """Takes a list that is due or that somebody has to leave, and that nobody works on. One that is stuck only lets leave."""
    async with database.transaction(traced=False) as uow:
        rows = await uow.fetch(
            "UPDATE ad_list SET leased_until = now() + make_interval(secs => $1), woken = false WHERE name = (SELECT name"  # noqa: S608
            " FROM ad_list WHERE leased_until < now() AND CASE WHEN state = 'ended' THEN false"
            " WHEN failures = 0 AND woken THEN true ELSE due_at <= now() AND (state <> 'failed' OR failures > 0) END"
            " ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)"
            f" RETURNING {_FIELDS}",
            LEASE_S,
        )
    return AdList(*rows[0]) if rows else None


async def renew(database: Database, name: str) -> bool:
    """Says that somebody is at it; False when there is nothing to do any more."""
    async with database.transaction(traced=False) as uow:
        rows = await uow.fetch(
            "UPDATE ad_list SET leased_until = now() + make_interval(secs => $2) WHERE name = $1 AND state <> 'ended'"
            " RETURNING name",
            name,
            LEASE_S,
        )
    return bool(rows)


async def release(database: Database, name: str) -> None:
    """Leaves a list that is up to date until its audience is to be looked through again."""
    async with database.transaction(traced=False) as uow:
        await uow.fetch(
            "UPDATE ad_list SET leased_until = now(), due_at = pass_at, failures = 0, reason = '' WHERE name = $1", name
        )


async def put_off(database: Database, name: str, wait_s: float, reason: str) -> None:
    """Leaves a list for a while because something failed; without a reason nothing did."""
    async with database.transaction(traced=False) as uow:
        await uow.fetch(
            "UPDATE ad_list SET leased_until = now(), due_at = now() + make_interval(secs => $2),"
            " reason = CASE WHEN state = 'failed' THEN reason ELSE $3 END,"
            " failures = CASE WHEN $3 = '' THEN failures ELSE failures + 1 END WHERE name = $1",
            name,
            wait_s,
            reason,
        )


async def stop(database: Database, name: str, state: str, reason: str = "") -> None:
    """Ends the work on a list."""
    async with database.transaction() as uow:
        await uow.fetch(
            "UPDATE ad_list SET state = $2, reason = $3, failures = 0, leased_until = now() WHERE name = $1",
            name,
            state,
            reason,
        )


async def begin(database: Database, name: str) -> AdList:
    """Begins to look through the audience. Raises LostLease."""
    return await _update(
        database,
        "pass_no = pass_no + 1, passing = true, page_token = '', looked_at = 0 WHERE name = $1 AND state = 'active'",
        name,
    )


async def advance(database: Database, ads: AdList, token: str, looked: int, added: int) -> AdList:
    """Notes a page. Raises LostLease when the list was changed meanwhile."""
    return await _update(
        database,
        "page_token = $2, looked_at = looked_at + $3, added = added + $4, failures = 0, reason = ''"
        " WHERE name = $1 AND state = 'active' AND passing AND pass_no = $5",
        ads.name,
        token,
        looked,
        added,
        ads.pass_no,
    )


async def finish(database: Database, ads: AdList) -> AdList:
    """The audience was looked through: whoever was not seen leaves. Raises LostLease."""
    async with database.transaction() as uow:
        await uow.fetch(
            "UPDATE ad_member SET leaving = true WHERE (list, digest) IN (SELECT list, digest FROM ad_member"
            " WHERE list = $1 AND seen <> $2 AND NOT leaving ORDER BY digest FOR UPDATE)",
            ads.name,
            ads.pass_no,
        )
    return await _update(
        database,
        "passing = false, page_token = '', passed_at = now(), pass_at = now() + make_interval(secs => every_s)"
        " WHERE name = $1 AND state = 'active' AND passing AND pass_no = $2",
        ads.name,
        ads.pass_no,
    )


async def _update(database: Database, change: str, *values: Any) -> AdList:
    async with database.transaction(traced=False) as uow:
        rows = await uow.fetch(f"UPDATE ad_list SET {change} RETURNING {_FIELDS}", *values)  # noqa: S608
    if not rows:
        raise LostLease("the list was changed, or another one works on it")
    return AdList(*rows[0])


async def see(uow: UnitOfWork, ads: AdList, rows: Sequence[Row]) -> set[bytes]:
    """Keeps who belongs on a list now; returns the digests of those who are to be added."""
    ordered = sorted(rows)
    found = await uow.fetch(
        "INSERT INTO ad_member AS m (list, digest, sealed, person_id, seen)"
        " SELECT $1, d, s, p, $2 FROM unnest($3::bytea[], $4::bytea[], $5::bigint[]) AS u(d, s, p)"
        " ON CONFLICT (list, digest) DO UPDATE SET seen = excluded.seen, person_id = excluded.person_id"
        " RETURNING digest, sent OR leaving AS settled",
        ads.name,
        ads.pass_no,
        [row.digest for row in ordered],
        [row.sealed for row in ordered],
        [row.person_id for row in ordered],
    )
    return {bytes(row["digest"]) for row in found if not row["settled"]}


async def call(uow: UnitOfWork, name: str, digests: Iterable[bytes]) -> set[bytes]:
    """Notes that these may be on the list from now on; returns those who were not sent off meanwhile."""
    found = await uow.fetch(
        "UPDATE ad_member SET called = true WHERE (list, digest) IN (SELECT list, digest FROM ad_member WHERE list = $1"
        " AND digest = ANY($2::bytea[]) AND NOT leaving ORDER BY digest FOR UPDATE) RETURNING digest",
        name,
        sorted(digests),
    )
    return {bytes(row["digest"]) for row in found}


async def confirm(uow: UnitOfWork, name: str, digests: Iterable[bytes]) -> None:
    """Notes that these are on the list."""
    await uow.fetch(
        "UPDATE ad_member SET sent = true WHERE (list, digest) IN (SELECT list, digest FROM ad_member WHERE list = $1"
        " AND digest = ANY($2::bytea[]) ORDER BY digest FOR UPDATE)",
        name,
        sorted(digests),
    )


async def off(uow: UnitOfWork, name: str, digests: Iterable[bytes]) -> None:
    """Forgets members that are not on the list any more, or never were."""
    gone = await uow.fetch(
        "DELETE FROM ad_member WHERE (list, digest) IN (SELECT list, digest FROM ad_member WHERE list = $1"
        " AND digest = ANY($2::bytea[]) AND leaving ORDER BY digest FOR UPDATE) RETURNING called",
        name,
        sorted(digests),
    )
    called = sum(row["called"] for row in gone)
    await uow.fetch("UPDATE ad_list SET removed = removed + $2, failures = 0 WHERE name = $1", name, called)


async def leaving(reader: Reader, name: str, most: int) -> Sequence[Any]:
    """Rows (digest, sealed, called) of those who are to leave."""
    return await reader.fetch(LEAVING, name, most)


async def send_off(uow: UnitOfWork, persons: Iterable[int], *, erased: bool = False) -> None:
    """Sends persons off all lists, the next moment: who withdrew, or was erased and whose number is forgotten here."""
    found = await uow.fetch(SEND_OFF, sorted(set(persons)), erased)
    if found:
        lists = sorted({row["list"] for row in found})
        await uow.fetch("UPDATE ad_list SET woken = true WHERE name = ANY($1::text[])", lists)


async def after_statements(uow: UnitOfWork, said: Iterable[Statement]) -> None:
    """Sends off who does not want advertising there any more, or to be picked out for any."""
    channels, purposes = (ALL_CHANNELS, Channel.ADS.consent_channel), (PURPOSE, PERSONALISATION)
    persons = {s.person_id for s in said if not s.given and s.channel in channels and s.purpose in purposes}
    if persons:
        # A list may know somebody by the number before a merge.
        await send_off(uow, await erasures.family(uow, persons))


async def send_off_all(uow: UnitOfWork, name: str) -> None:
    """Sends everybody off a list."""
    await uow.fetch(
        "UPDATE ad_member SET leaving = true WHERE (list, digest) IN (SELECT list, digest FROM ad_member"
        " WHERE list = $1 AND NOT leaving ORDER BY digest FOR UPDATE)",
        name,
    )
