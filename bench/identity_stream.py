"""Resolving a stream of new knowledge: identity's resolver, the textbook's way, and the bare store, over the same data.

Each observation is a record of its own (a new claim, the costly kind) with two to four identifiers: six in ten of new
people, three of people known from another record, one joins two people who were strangers until then.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import asyncpg
from troika.identity.v1 import events_pb2

from chassis.db import Database
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import Kind
from services.identity.domain.observations import Observation, signature
from services.identity.handlers import Resolver
from services.identity.keks import EnvironmentKeks
from services.identity.store import Store
from services.identity.tokens import Tokens
from services.identity.vault import Vault

MERGES, KNOWN = 0.1, 0.3
SOURCES = ("app", "call_center", "web", *(f"wechat:wx{i:016}" for i in range(8)))
NOW = 1_772_352_000_000_000
# What the consumer takes at once: eight messages of 500.
BATCH = 4000
# Batches that a process handles at once.
LANES = 2


def vault() -> Vault:
    """One with keys of its own."""
    return Vault(Tokens({1: b"t" * 32}, 1), b"h" * 32, EnvironmentKeks({"k1": b"v" * 32}, "k1"))


def observations(count: int, seed: int, keys: Vault) -> list[Observation]:
    """Seeded, in their normal form: what normalising costs is the door's, and the same for everybody."""
    rng = random.Random(seed)
    people: list[list[Known]] = []
    made = []

    def value(kind: Kind, text: str, scope: str = "") -> Known:
        return Known(kind, scope, text, keys.tokens.of(kind, scope, text))

    for i in range(count):
        source = rng.choice(SOURCES)
        record = value(Kind.CRM_ID, f"R{seed}-{i}", source)
        chance = rng.random()
        if chance < MERGES and len(people) > 1:
            one, other = people.pop(rng.randrange(len(people))), people.pop(rng.randrange(len(people)))
            ids = [rng.choice(one), rng.choice(other)]
            people.append([*one, *other][:4])
        elif chance < MERGES + KNOWN and people:
            person = rng.choice(people)
            ids = [rng.choice(person)]
            if rng.random() < 0.5:
                ids.append(value(Kind.UNIONID, f"oUnion{seed}x{i:010}"))
                person.append(ids[-1])
        else:
            ids = [value(Kind.MOBILE, f"+8613{seed % 10}{i:08}")]
            if rng.random() < 0.6:
                ids.append(value(Kind.UNIONID, f"oUnion{seed}y{i:010}"))
            if rng.random() < 0.3:
                ids.append(value(Kind.OPENID, f"oOpen{seed}z{i:012}", "wx5e1f3a9c0d7b2468"))
            people.append(list(ids))
        persons = tuple(sorted({k.token: k for k in [record, *ids]}.values(), key=lambda k: (k.kind, k.value)))
        made.append(
            Observation(
                event_id=blake2b(f"{seed}:{i}".encode(), digest_size=16).digest(),
                source=source,
                event="Record Updated",
                occurred_us=NOW + i,
                received_us=NOW + i,
                persons=persons,
                vehicles=(),
                person_name="",
                name=0,
                relation="",
                properties=b"",
                vehicle_properties=b"",
                signature=signature(source, persons, (), 0, 0, "", ""),
            )
        )
    return made


async def resolve(database: Database, keys: Vault, seen: Sequence[Observation], lanes: int = LANES) -> float:
    """Observations per second through the product's resolver, one transaction per batch, all that it writes included."""
    store = Store()
    resolver = Resolver(store, keys)
    batches = iter([seen[start : start + BATCH] for start in range(0, len(seen), BATCH)])

    async def lane() -> None:
        for batch in batches:
            async with database.transaction() as uow:
                await store.source_ids(uow, {o.source for o in batch})
                await resolver.resolve(uow, batch)

    # As every service does before it serves.
    gc.collect()
    gc.freeze()
    begin = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(lanes)))
    return len(seen) / (time.perf_counter() - begin)


NAIVE_TABLES = """
CREATE TABLE observation (event_id bytea PRIMARY KEY, source text NOT NULL, occurred_us bigint NOT NULL);
CREATE TABLE identifier (id bigserial PRIMARY KEY, token bytea NOT NULL UNIQUE, kind smallint NOT NULL, sealed bytea NOT NULL,
 key_id bigint NOT NULL, person_id bigint NOT NULL);
CREATE INDEX ON identifier (person_id);
CREATE TABLE link (a bigint, b bigint, source text, seen_us bigint NOT NULL, observations int NOT NULL,
 PRIMARY KEY (a, b, source));
CREATE TABLE subject_key (id bigserial PRIMARY KEY, kek_id text NOT NULL, wrapped bytea NOT NULL);
CREATE TABLE claim (signature bytea PRIMARY KEY, anchor bigint NOT NULL, last_seen_us bigint NOT NULL);
CREATE TABLE outbox (id bigserial PRIMARY KEY, payload bytea NOT NULL);
CREATE TABLE ledger (id bigserial PRIMARY KEY, survivor bigint NOT NULL, merged bigint[] NOT NULL);
CREATE SEQUENCE person_id_seq;
"""


class Naive:
    """What a careful programmer writes first: a transaction per observation that looks up, inserts, links and merges.

    `lean` leaves out what the product owes besides (sealed values, known claims, the event in the outbox, the ledger).
    Neither has guards.
    """

    def __init__(self, keys: Vault, lean: bool) -> None:
        self._keys, self._lean = keys, lean

    async def call(self, connection: asyncpg.Connection, o: Observation) -> None:
        """Resolves one observation."""
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO observation VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", o.event_id, o.source, o.occurred_us
            )
            by_token = {known.token: known for known in o.persons}
            found = await connection.fetch(
                "SELECT id, token, person_id FROM identifier WHERE token = ANY($1::bytea[]) ORDER BY token FOR UPDATE",
                sorted(by_token),
            )
            persons = sorted({row["person_id"] for row in found})
            person = persons[0] if persons else await connection.fetchval("SELECT nextval('person_id_seq')")
            ids = {row["token"]: row["id"] for row in found}
            new = [known for token, known in sorted(by_token.items()) if token not in ids]
            if new:
                ids |= await self._insert(connection, new, person)
            anchor, *values = (ids[known.token] for known in o.persons)
            await connection.execute(
                "INSERT INTO link SELECT $1, b, $3, $4, 1 FROM unnest($2::bigint[]) AS n(b)"
                " ON CONFLICT (a, b, source) DO UPDATE SET seen_us = excluded.seen_us, observations = link.observations + 1",
                anchor,
                values,
                o.source,
                o.occurred_us,
            )
            if len(persons) > 1:
                await connection.execute(
                    "UPDATE identifier SET person_id = $1 WHERE person_id = ANY($2::bigint[])", person, persons[1:]
                )
            if not self._lean:
                await self._tell(connection, o, anchor, person, persons[1:])

    async def _insert(self, connection: asyncpg.Connection, new: Sequence[Known], person: int) -> dict[bytes, int]:
        sealed, key_id = [b""] * len(new), 0
        if not self._lean:
            key_id = await connection.fetchval("SELECT nextval('subject_key_id_seq')")
            subject = self._keys.subject(key_id)
            sealed = [subject.seal(b"identifier", known.value) for known in new]
            await connection.execute("INSERT INTO subject_key VALUES ($1, $2, $3)", key_id, subject.kek_id, subject.wrapped)
        rows = await connection.fetch(
            "INSERT INTO identifier (token, kind, sealed, key_id, person_id) SELECT token, kind, sealed, $4, $5"
            " FROM unnest($1::bytea[], $2::smallint[], $3::bytea[]) AS n(token, kind, sealed)"
            " ON CONFLICT (token) DO UPDATE SET person_id = identifier.person_id RETURNING token, id",
            [known.token for known in new],
            [int(known.kind) for known in new],
            sealed,
            key_id,
            person,
        )
        return {row["token"]: row["id"] for row in rows}

    @staticmethod
    async def _tell(connection: asyncpg.Connection, o: Observation, anchor: int, person: int, merged: Sequence[int]) -> None:
        if merged:
            await connection.execute("INSERT INTO ledger (survivor, merged) VALUES ($1, $2)", person, merged)
        await connection.execute(
            "INSERT INTO claim VALUES ($1, $2, $3) ON CONFLICT (signature) DO UPDATE SET last_seen_us = excluded.last_seen_us",
            o.signature,
            anchor,
            o.occurred_us,
        )
        event = events_pb2.ResolvedEvent(
            event_id=o.event_id,
            source=o.source,
            name=o.event,
            occurred_at_us=o.occurred_us,
            received_at_us=o.received_us,
            person=events_pb2.AnchorOwner(anchor_id=anchor, entity_id=person),
        )
        batch = events_pb2.ResolvedBatch(events=[event])
        await connection.execute("INSERT INTO outbox (payload) VALUES ($1)", batch.SerializeToString())


async def naive(dsn: str, keys: Vault, seen: Sequence[Observation], callers: int, lean: bool) -> float:
    """Observations per second of `Naive`, with so many callers at once on a connection each."""
    one = Naive(keys, lean)
    pool = await asyncpg.create_pool(dsn, min_size=callers, max_size=callers)
    async with pool.acquire() as connection:
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public;" + NAIVE_TABLES)
    waiting = iter(seen)

    async def call() -> None:
        async with pool.acquire() as connection:
            for o in waiting:
                while True:
                    try:
                        await one.call(connection, o)
                    except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
                        continue
                    break

    begin = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    taken = time.perf_counter() - begin
    await pool.close()
    return len(seen) / taken


async def store_limit(source: Database, target: Database) -> float:
    """Observations per second when the rows that the resolver left are merely upserted, in batches of the same size."""
    tables = {
        "subject_key": ("id",),
        "identifier": ("id",),
        "link": ("anchor_id", "value_id", "name", "source_id"),
        "claim": ("signature",),
        "observation": ("event_id",),
    }
    rows: dict[str, Any] = {}
    async with source.read() as uow:
        for table in tables:
            columns = await uow.fetch(
                "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a"
                " WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
                table,
            )
            columns = [column for column in columns if column[0] != "apart"]
            names = ", ".join(column[0] for column in columns)
            order = "occurred_us" if table == "observation" else tables[table][0]
            found = await uow.fetch(f"SELECT {names} FROM {table} ORDER BY {order}")  # noqa: S608
            rows[table] = columns, [list(column) for column in zip(*found, strict=True)], len(found)
    count = rows["observation"][2]
    batches = -(-count // BATCH)
    statements = {}
    for table, (columns, _, _) in rows.items():
        names = ", ".join(column[0] for column in columns)
        arrays = ", ".join(f"${i}::{column[1]}[]" for i, column in enumerate(columns, 1))
        key, last = ", ".join(tables[table]), columns[-1][0]
        statements[table] = (
            f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays})"  # noqa: S608
            f" ON CONFLICT ({key}) DO UPDATE SET {last} = excluded.{last}"
        )
    begin = time.perf_counter()
    for i in range(batches):
        async with target.transaction() as uow:
            for table, (_, values, size) in rows.items():
                part = slice(size * i // batches, size * (i + 1) // batches)
                await uow.fetch(statements[table], *(column[part] for column in values))
    return float(count / (time.perf_counter() - begin))
