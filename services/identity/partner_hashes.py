"""Makes the hashes that partners are matched by: each sealed value is opened once for all partners, in the order of ids.

Ids are drawn under the graph's lock, so nothing with a smaller id turns up behind the place that was reached.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from chassis.db import Database, UnitOfWork
from chassis.errors import FailedPrecondition, is_operational
from chassis.run import Verb
from services.identity import erasure_store
from services.identity.domain.kinds import Kind
from services.identity.partners import MATCHED, Partners
from services.identity.rotation import BATCH, Tell, teller
from services.identity.settings import Settings
from services.identity.vault import Vault, identifier_place

log = logging.getLogger(__name__)

# Some 20 ms of one core; the doors are asked between.
_SMALL_BATCH = 500
_DROPPED_AT_ONCE = 20_000
# A partner's hashes go when no process had its key for so long: while replicas change one by one, some still have it.
DROPPED_AFTER_S = 300.0
_ONE_AT_A_TIME = "SELECT pg_try_advisory_xact_lock(hashtext('identity partner hashes'))"
_RANGE = "SELECT max(id) FROM (SELECT id FROM identifier WHERE id > $1 ORDER BY id LIMIT $2) AS following"
_SEALED = (
    "SELECT i.id, i.kind, i.sealed, i.subject_key_id, k.kek_id, k.wrapped FROM identifier i"
    " JOIN subject_key k ON k.id = i.subject_key_id"
    " WHERE i.id > $1 AND i.id <= $2 AND i.kind = ANY($3::smallint[]) AND i.sealed <> ''"
)
_KEYS = "unnest($1::text[], $2::bytea[]) AS n(partner, fingerprint)"
_SEEN = (
    f"UPDATE partner_key k SET seen_at = now() FROM {_KEYS}"  # noqa: S608
    " WHERE k.partner = n.partner AND k.fingerprint = n.fingerprint RETURNING k.id, k.partner, k.filled_to, k.complete"
)
_NEW = (
    "INSERT INTO partner_key (partner, fingerprint, filled_to, complete)"  # noqa: S608
    f" SELECT partner, fingerprint, 0, false FROM {_KEYS} WHERE NOT EXISTS (SELECT 1 FROM partner_key k"
    " WHERE k.partner = n.partner AND k.fingerprint = n.fingerprint) ON CONFLICT (partner, fingerprint) DO NOTHING"
)


class Key(NamedTuple):
    """A row of `partner_key`."""

    id: int
    partner: str
    filled_to: int
    complete: bool


async def register(database: Database, partners: Partners) -> dict[str, Key]:
    """Says that this process has these keys; returns their rows by partner."""
    if not partners.fingerprints:
        return {}
    given = [list(partners.fingerprints), list(partners.fingerprints.values())]
    async with database.transaction(traced=False) as uow:
        rows = await uow.fetch(_SEEN, *given)
        if len(rows) < len(partners.fingerprints):
            # Only what is missing: each attempt to insert uses up a number, and numbers are small.
            await uow.fetch(_NEW, *given)
            rows = await uow.fetch(_SEEN, *given)
    return {row["partner"]: Key(*row) for row in rows}


async def fill(database: Database, vault: Vault, partners: Partners, batch: int = BATCH) -> bool:
    """Makes the hashes of the next identifiers, for all partners that lack them; False when none waits or another does it.

    Raises FailedPrecondition KEK_MISSING. A value that does not open has no hash and matches nobody.
    """
    keys = await register(database, partners)
    if not keys:
        return False
    async with database.transaction(traced=False) as uow:
        if not (await uow.fetch(_ONE_AT_A_TIME))[0][0]:
            return False
        # Who is being erased meanwhile is erased after it, hashes and all.
        await erasure_store.hold_off(uow)
        keys = {row["partner"]: Key(*row) for row in await _rows(uow, keys)}
        if not keys:
            # Dropped, for we were silent too long; the next look begins anew.
            return False
        after = min(key.filled_to for key in keys.values())
        to = (await uow.fetch(_RANGE, after, batch))[0][0]
        if to is None:
            if not all(key.complete for key in keys.values()):
                await uow.fetch("UPDATE partner_key SET complete = true WHERE id = ANY($1::smallint[])", _ids(keys))
            return False
        sealed = await uow.fetch(_SEALED, after, to, [int(kind) for kind in MATCHED])
        hashes = await asyncio.to_thread(_hashes, vault, partners, keys, sealed)
        if hashes:
            await uow.fetch(
                "INSERT INTO partner_hash (partner_key_id, token, identifier_id)"
                " SELECT * FROM unnest($1::smallint[], $2::bytea[], $3::bigint[])"
                " ON CONFLICT (partner_key_id, token) DO UPDATE SET identifier_id = excluded.identifier_id",
                *map(list, zip(*hashes, strict=True)),
            )
        await uow.fetch(
            "UPDATE partner_key SET filled_to = $2 WHERE id = ANY($1::smallint[]) AND filled_to < $2", _ids(keys), to
        )
    return True


def _hashes(vault: Vault, partners: Partners, keys: Mapping[str, Key], sealed: Sequence[Any]) -> list[tuple[int, bytes, int]]:
    made = []
    for row in sealed:
        try:
            value = vault.open(row["subject_key_id"], row["kek_id"], row["wrapped"], identifier_place(row["id"]), row["sealed"])
        except FailedPrecondition as error:
            if error.reason != "SEALED_VALUE_UNREADABLE":
                raise
            continue
        kind = Kind(row["kind"])
        made += [(k.id, partners.token(name, kind, value), row["id"]) for name, k in keys.items() if k.filled_to < row["id"]]
    return made


async def _rows(uow: UnitOfWork, keys: Mapping[str, Key]) -> Sequence[Any]:
    return await uow.fetch(
        "SELECT id, partner, filled_to, complete FROM partner_key WHERE id = ANY($1::smallint[])", _ids(keys)
    )


def _ids(keys: Mapping[str, Key]) -> list[int]:
    return [key.id for key in keys.values()]


async def drop(database: Database, after_s: float = DROPPED_AFTER_S, at_once: int = _DROPPED_AT_ONCE) -> bool:
    """Deletes some hashes of a key that no process has any more; False when there are none."""
    async with database.transaction(traced=False) as uow:
        gone = await uow.fetch(
            "SELECT id FROM partner_key WHERE seen_at < now() - make_interval(secs => $1) ORDER BY id LIMIT 1"
            " FOR UPDATE SKIP LOCKED",
            after_s,
        )
        if not gone:
            return False
        # Should the key come back before all are gone, all are made again.
        await uow.fetch("UPDATE partner_key SET filled_to = 0, complete = false WHERE id = $1", gone[0][0])
        rows = await uow.fetch(
            "DELETE FROM partner_hash WHERE (partner_key_id, token) IN"
            " (SELECT partner_key_id, token FROM partner_hash WHERE partner_key_id = $1 LIMIT $2) RETURNING 1",
            gone[0][0],
            at_once,
        )
        if not rows:
            await uow.fetch("DELETE FROM partner_key WHERE id = $1", gone[0][0])
    return True


async def follow(database: Database, vault: Vault, partners: Partners, pause_s: float) -> None:
    """Keeps the hashes complete while the service runs."""
    while True:
        try:
            while await fill(database, vault, partners, _SMALL_BATCH) or await drop(database):
                await asyncio.sleep(0)
        except Exception as error:
            # What waits can wait; nor may a mistake here stop events from being resolved.
            if is_operational(error):
                log.warning("partners' hashes wait for the database")
            else:
                log.exception("making partners' hashes failed and will be tried again")
        await asyncio.sleep(pause_s)


async def waiting(uow: UnitOfWork, key: Key) -> int:
    """Identifiers behind the place that was reached."""
    rows = await uow.fetch("SELECT count(*) FROM identifier WHERE id > $1", key.filled_to)
    return int(rows[0][0])


async def fill_all(database: Database, vault: Vault, partners: Partners, tell: Tell, batch: int = BATCH) -> None:
    """Makes all hashes that are missing."""
    keys = await register(database, partners)
    if not keys:
        raise FailedPrecondition("set TROIKA_PARTNER_KEYS first", reason="NO_PARTNER_KEY", field="partner_keys")
    async with database.read() as uow:
        total = max([await waiting(uow, key) for key in keys.values()])
    done = 0
    while True:
        more = await fill(database, vault, partners, batch)
        keys = await register(database, partners)
        done = min(done + batch, total)
        tell("hashed", done if more else total, total)
        if not more:
            if all(key.complete for key in keys.values()):
                return
            # Another process is at it.
            await asyncio.sleep(0.2)


async def _hash_partners(settings: Settings, arguments: argparse.Namespace) -> None:
    database = Database(settings.postgres_dsn, "identity", 2)
    try:
        await fill_all(database, Vault.of(settings), Partners.of(settings), teller(), arguments.batch)
    finally:
        await database.close()


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=BATCH, help="rows in one transaction")


VERBS: Sequence[Verb[Any]] = (
    Verb("hash-partners", "make the hashes that partners' files are matched by", _hash_partners, _arguments),
)
