"""Changing keys while identity runs: a second token for every row, then only that one; new wraps for every data key.

Every verb works in batches, each its own transaction, and may be stopped and started again at any time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from chassis.db import Database
from chassis.errors import FailedPrecondition
from chassis.run import Verb
from services.identity import graph_store
from services.identity.domain.kinds import Kind
from services.identity.settings import Settings
from services.identity.vault import Vault, identifier_place

BATCH = 2000
TOLD_EVERY_S = 1.0

# Tell(step, done, of).
Tell = Callable[[str, int, int], None]

# $1: the next key's number.
_WITHOUT_NEXT = (
    "sealed <> '' AND get_byte(token, 0) <> $1::integer AND (next_token IS NULL OR get_byte(next_token, 0) <> $1::integer)"
)


async def add_next_tokens(database: Database, vault: Vault, tell: Tell, batch: int = BATCH) -> int:
    """Gives every identifier its token under the next key; returns how many got it.

    Raises FailedPrecondition when no next key is configured, KEK_MISSING, or, at the end, SEALED_VALUE_UNREADABLE.
    """
    following = vault.tokens.following
    if following is None:
        raise FailedPrecondition(
            "set TROIKA_NEXT_TOKEN_KEY_NUMBER first", reason="NO_NEXT_TOKEN_KEY", field="next_token_key_number"
        )
    async with database.read() as uow:
        total = int((await uow.fetch(f"SELECT count(*) FROM identifier WHERE {_WITHOUT_NEXT}", following))[0][0])  # noqa: S608
    after = done = 0
    unreadable: FailedPrecondition | None = None
    while True:
        async with database.read() as uow:
            rows = await uow.fetch(
                "SELECT i.id, i.kind, coalesce(s.name, '') AS scope, i.token, i.sealed, i.subject_key_id,"  # noqa: S608
                " k.kek_id, k.wrapped"
                " FROM (SELECT id, kind, scope_id, token, sealed, subject_key_id FROM identifier"
                f" WHERE id > $2 AND {_WITHOUT_NEXT} ORDER BY id LIMIT $3) i"
                " JOIN subject_key k ON k.id = i.subject_key_id LEFT JOIN scope s ON s.id = i.scope_id ORDER BY i.id",
                following,
                after,
                batch,
            )
        if not rows:
            break
        after = rows[-1]["id"]
        ready = []
        for row in rows:
            place = identifier_place(row["id"])
            try:
                value = vault.open(row["subject_key_id"], row["kek_id"], row["wrapped"], place, row["sealed"])
            except FailedPrecondition as error:
                if error.reason != "SEALED_VALUE_UNREADABLE":
                    raise
                unreadable = error
                continue
            ready.append((row["id"], row["token"], vault.tokens.under(following, Kind(row["kind"]), row["scope"], value)))
        done += await _write_next(database, ready)
        tell("next token", done, total)
    if unreadable:
        raise unreadable
    return done


async def _write_next(database: Database, ready: Sequence[tuple[int, bytes, bytes]]) -> int:
    if not ready:
        return 0
    async with database.transaction() as uow:
        # Short, and under the lock: neither the resolver nor an erasure can be half-way through the same rows.
        await graph_store.lock(uow)
        rows = await uow.fetch(
            "UPDATE identifier i SET next_token = n.next_token"
            " FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS n(id, token, next_token)"
            " WHERE i.id = n.id AND i.token = n.token AND i.sealed <> '' RETURNING 1",
            *map(list, zip(*ready, strict=True)),
        )
    return len(rows)


async def finish(database: Database, vault: Vault, tell: Tell, batch: int = BATCH) -> dict[int, int]:
    """Makes the next token the token; returns how many tombstones still need each older key, by its number.

    Raises FailedPrecondition while the new key is not the active one, or while rows lack their token under it.
    """
    active = vault.tokens.active
    if vault.tokens.following is not None:
        raise FailedPrecondition(
            "make the next key the active one first: TROIKA_TOKEN_KEY_NUMBER, and unset TROIKA_NEXT_TOKEN_KEY_NUMBER",
            reason="TOKEN_KEY_NOT_ACTIVE",
            field="token_key_number",
        )
    async with database.read() as uow:
        left = int((await uow.fetch(f"SELECT count(*) FROM identifier WHERE {_WITHOUT_NEXT}", active))[0][0])  # noqa: S608
        waiting = "next_token IS NOT NULL AND get_byte(next_token, 0) = $1::integer"
        total = int((await uow.fetch(f"SELECT count(*) FROM identifier WHERE {waiting}", active))[0][0])  # noqa: S608
    if left:
        raise FailedPrecondition(
            f"{left} identifiers have no token under key {active}: run rotate-tokens first",
            reason="ROTATION_INCOMPLETE",
            field="token_key_number",
        )
    after = done = 0
    while True:
        async with database.transaction() as uow:
            await graph_store.lock(uow)
            rows = await uow.fetch(
                "UPDATE identifier i SET token = n.next_token, next_token = NULL FROM (SELECT id, next_token FROM identifier"  # noqa: S608
                f" WHERE id > $2 AND {waiting} ORDER BY id LIMIT $3) n WHERE i.id = n.id RETURNING i.id",
                active,
                after,
                batch,
            )
        if not rows:
            break
        after = max(row[0] for row in rows)
        done += len(rows)
        tell("token", done, total)
    async with database.read() as uow:
        older = await uow.fetch(
            "SELECT get_byte(token, 0), count(*) FROM identifier WHERE get_byte(token, 0) <> $1::integer GROUP BY 1", active
        )
    return {int(row[0]): int(row[1]) for row in older}


async def rewrap(database: Database, vault: Vault, tell: Tell, batch: int = BATCH) -> int:
    """Wraps every data key under the active key-encryption key; what is sealed stays as it is. Returns how many it wrapped.

    Raises FailedPrecondition KEK_MISSING when a key is wrapped under one that is not configured; nothing is overwritten.
    """
    active = vault.keks.active().id
    async with database.read() as uow:
        total = int((await uow.fetch("SELECT count(*) FROM subject_key WHERE kek_id <> $1", active))[0][0])
    after = done = 0
    while True:
        async with database.read() as uow:
            rows = await uow.fetch(
                "SELECT id, kek_id, wrapped FROM subject_key WHERE id > $1 AND kek_id <> $2 ORDER BY id LIMIT $3",
                after,
                active,
                batch,
            )
        if not rows:
            return done
        after = rows[-1][0]
        wrapped = [(id_, *vault.rewrap(id_, kek_id, old), kek_id) for id_, kek_id, old in rows]
        async with database.transaction() as uow:
            written = await uow.fetch(
                "UPDATE subject_key k SET kek_id = n.kek_id, wrapped = n.wrapped"
                " FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::text[]) AS n(id, kek_id, wrapped, old_kek_id)"
                " WHERE k.id = n.id AND k.kek_id = n.old_kek_id RETURNING 1",
                *map(list, zip(*wrapped, strict=True)),
            )
        done += len(written)
        tell("wrapped", done, total)


def teller() -> Tell:
    """Writes a line a second, and the last one."""
    began = last = time.monotonic()

    def tell(step: str, done: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < of and now - last < TOLD_EVERY_S:
            return
        last = now
        sys.stdout.write(f"{step}: {done:,} of {of:,}, {done / max(now - began, 1e-6):,.0f}/s\n")
        sys.stdout.flush()

    return tell


async def _rotate_tokens(settings: Settings, arguments: argparse.Namespace) -> None:
    vault, database = Vault.of(settings), Database(settings.postgres_dsn, "identity", 2)
    try:
        if not arguments.finish:
            done = await add_next_tokens(database, vault, teller(), arguments.batch)
            sys.stdout.write(f"{done:,} identifiers got their token under key {vault.tokens.following}\n")
            return
        for number, tombstones in (await finish(database, vault, teller(), arguments.batch)).items():
            sys.stdout.write(f"keep token key {number}: {tombstones:,} erased identifiers are known by it alone\n")
        sys.stdout.write(f"all identifiers stand under token key {vault.tokens.active}\n")
    finally:
        await database.close()


async def _rotate_kek(settings: Settings, arguments: argparse.Namespace) -> None:
    vault, database = Vault.of(settings), Database(settings.postgres_dsn, "identity", 2)
    try:
        done = await rewrap(database, vault, teller(), arguments.batch)
        sys.stdout.write(f"{done:,} data keys were wrapped; all are under {vault.keks.active().id}\n")
    finally:
        await database.close()


def _batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=BATCH, help="rows in one transaction")


def _token_arguments(parser: argparse.ArgumentParser) -> None:
    _batch(parser)
    parser.add_argument("--finish", action="store_true", help="make the next token the token, after the switch of keys")


VERBS: Sequence[Verb[Any]] = (
    Verb(
        "rotate-tokens",
        "give every identifier a token under the next key, or finish the rotation",
        _rotate_tokens,
        _token_arguments,
    ),
    Verb("rotate-kek", "wrap all data keys under the active key-encryption key", _rotate_kek, _batch),
)
