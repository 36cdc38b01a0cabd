"""Keys change while identity runs: nobody is doubled, nobody is lost, and a missing key is named before harm is done."""

from __future__ import annotations

import asyncio
import itertools
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from troika.identity.v1 import events_pb2 as out

from chassis.db import Database
from chassis.errors import FailedPrecondition, Unavailable
from chassis.sealing import DataKey
from chassis.testing import DatabaseFactory
from services.identity import erasure, rotation, token_keys
from services.identity.consumers import Opener, observed
from services.identity.handlers import Resolver
from services.identity.keks import EnvironmentKeks, KekProvider
from services.identity.store import Store
from services.identity.tokens import Tokens
from services.identity.vault import Vault, identifier_place, profile_place
from tests.conftest import ROOT
from tests.integration.identity.world import NOW, World

KEYS = {1: b"t" * 32, 2: b"u" * 32}
KEKS = {"k1": b"v" * 32, "k2": b"w" * 32}
Event = tuple[Any, ...]


def vault(numbers: Sequence[int], active: int, following: int | None = None, keks: KekProvider | None = None) -> Vault:
    tokens = Tokens({number: KEYS[number] for number in numbers}, active, following)
    return Vault(tokens, b"h" * 32, keks or EnvironmentKeks({"k1": KEKS["k1"]}, "k1"))


# The configurations that a rotation goes through; each may live beside the one before and the one after.
BEFORE, PREPARED, SWITCHED, AFTER = vault([1], 1), vault([1, 2], 1, 2), vault([1, 2], 2), vault([2], 2)


class Replica(World):
    """One more process on the same database, with keys of its own."""

    _firsts = itertools.count(1)

    def __init__(self, database: Database, keys: Vault) -> None:
        super().__init__(database)
        self.vault, self.store = keys, Store()
        self.opener = Opener({"k1": self.private_key}, keys)
        self.handle = observed(self.opener, self.store, Resolver(self.store, keys))
        self._numbers = itertools.count(next(self._firsts) * 1_000_000)

    async def see(self, *events: tuple[Any, ...], **extra: Any) -> list[out.ResolvedEvent]:
        """Without what other replicas published before."""
        await self.published()
        return await super().see(*events, **extra)


@pytest.fixture
async def database(databases: DatabaseFactory) -> AsyncIterator[Database]:
    async with databases.database("identity") as found:
        yield found


def population(seed: int, records: int = 40) -> list[Event]:
    draw = random.Random(seed)
    names = ["张伟", "李娜", "王芳", "刘洋", "陈静", "杨帆", "赵磊"]
    events: list[Event] = []
    for number in range(records):
        source = draw.choice(["dealer:D001", "app", "call_center"])
        values = [("mobile", f"139{draw.randrange(9):04}5679")]
        if draw.random() < 0.5:
            values.append(("unionid", f"oUnionUnionUnion{draw.randrange(9):04}"))
        who = draw.choice(names) if draw.random() < 0.8 else ""
        events.append((source, ("crm_id", source, f"N{draw.randrange(30)}"), *values, {"who": who, "at": NOW + number}))
    return events


async def opened(world: World, keys: Vault) -> list[tuple[str, int]]:
    """(Kind, scope, value) of each row in the clear, with its person."""
    rows = await world.rows(
        "SELECT i.id, i.kind, s.name AS scope, i.entity_id, i.sealed, k.id AS key_id, k.kek_id, k.wrapped FROM identifier i"
        " JOIN subject_key k ON k.id = i.subject_key_id LEFT JOIN scope s ON s.id = i.scope_id"
    )
    return [
        (f"{r.kind} {r.scope} {keys.open(r.key_id, r.kek_id, r.wrapped, identifier_place(r.id), r.sealed)}", r.entity_id)
        for r in rows
    ]


async def clusters(world: World, keys: Vault) -> set[frozenset[str]]:
    """Who is one with whom, in values; raises when a value stands in two rows."""
    rows = await opened(world, keys)
    assert len(rows) == len({value for value, _ in rows})
    groups: dict[int, set[str]] = {}
    for value, entity in rows:
        groups.setdefault(entity, set()).add(value)
    return {frozenset(group) for entity, group in groups.items() if entity}


async def never_rotated(databases: DatabaseFactory, events: Sequence[Event]) -> set[frozenset[str]]:
    async with databases.database("identity") as other:
        world = World(other)
        for event in events:
            await world.see(event)
        return await clusters(world, world.vault)


def silent(step: str, done: int, of: int) -> None:
    """Nobody listens."""


async def feed(replicas: Sequence[World], events: Sequence[Event]) -> None:
    """Every replica gets every event, all at the same time and in orders of their own."""

    async def one(replica: World, order: list[Event]) -> None:
        for event in order:
            await replica.see(event)

    await asyncio.gather(
        *(one(replica, random.Random(number).sample(events, len(events))) for number, replica in enumerate(replicas))
    )


@pytest.mark.parametrize("seed", range(2))
async def test_clusters_are_the_same_whatever_replicas_of_old_and_new_keys_saw(
    database: Database, databases: DatabaseFactory, seed: int
) -> None:
    events = population(seed)
    parts = [events[start : start + 10] for start in range(0, 40, 10)]
    await feed([Replica(database, BEFORE)], parts[0])
    await feed([Replica(database, BEFORE), Replica(database, PREPARED)], parts[1])
    assert 0 < await rotation.add_next_tokens(database, PREPARED, silent, batch=7)
    await feed([Replica(database, PREPARED), Replica(database, SWITCHED)], parts[0] + parts[2])
    # What the older replica stored meanwhile has its second token, too.
    assert {} == await rotation.finish(database, SWITCHED, silent, batch=7)
    await feed([Replica(database, SWITCHED), Replica(database, AFTER)], parts[1] + parts[3])
    last = Replica(database, AFTER)
    assert {2} == await numbers(database)
    assert await never_rotated(databases, events) == await clusters(last, AFTER)


async def numbers(database: Database) -> set[int]:
    async with database.read() as uow:
        return await token_keys.key_numbers(uow)


async def test_tokens_rotate_under_load(database: Database, databases: DatabaseFactory) -> None:
    events = population(7, 60)
    await feed([Replica(database, PREPARED)], events[:30])
    await asyncio.gather(
        feed([Replica(database, PREPARED)], events[:45]),
        rotation.add_next_tokens(database, PREPARED, silent, batch=3),
    )
    await asyncio.gather(feed([Replica(database, SWITCHED)], events), rotation.finish(database, SWITCHED, silent, batch=3))
    assert {} == await rotation.finish(database, SWITCHED, silent)
    assert await never_rotated(databases, events) == await clusters(Replica(database, AFTER), AFTER)


async def test_a_stopped_rotation_goes_on_where_it_was(database: Database) -> None:
    world = Replica(database, BEFORE)
    await feed([world], population(1))
    (rows,) = await world.rows("SELECT count(*) AS n FROM identifier")
    told: list[int] = []

    def stop(step: str, done: int, of: int) -> None:
        told.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await rotation.add_next_tokens(database, PREPARED, stop, batch=5)
    assert [5] == told
    assert rows.n - 5 == await rotation.add_next_tokens(database, PREPARED, silent, batch=5)
    assert 0 == await rotation.add_next_tokens(database, PREPARED, silent)


async def test_a_rotation_that_is_not_ready_is_not_finished(database: Database) -> None:
    await feed([Replica(database, BEFORE)], population(2, 5))
    for keys, expected in ((PREPARED, "TOKEN_KEY_NOT_ACTIVE"), (SWITCHED, "ROTATION_INCOMPLETE")):
        with pytest.raises(FailedPrecondition) as error:
            await rotation.finish(database, keys, silent)
        assert expected == error.value.reason
    with pytest.raises(FailedPrecondition) as error:
        await rotation.add_next_tokens(database, BEFORE, silent)
    assert "NO_NEXT_TOKEN_KEY" == error.value.reason
    assert {1} == await numbers(database)


async def test_a_claim_is_learned_once_more_under_a_new_key_and_then_known(database: Database) -> None:
    event = population(3, 1)[0]
    old, new = Replica(database, PREPARED), Replica(database, SWITCHED)
    counts = []
    for replica in (old, old, new, new):
        await replica.see(event)
        counts.append((await replica.rows("SELECT count(*) AS n FROM claim"))[0].n)
    assert [1, 1, 2, 2] == counts
    assert [1] == [row.n for row in await new.rows("SELECT count(*) AS n FROM identifier WHERE anchor")]


async def test_where_a_token_key_is_missing_nothing_is_stored(database: Database) -> None:
    events = population(4, 5)
    await feed([Replica(database, BEFORE)], events)
    wanted = ("identifier", "link", "claim", "observation", "subject_key", "profile")
    blind = Replica(database, AFTER)
    before = {table: await blind.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in wanted}
    for event in events:
        with pytest.raises(Unavailable, match="token key 1") as error:
            await blind.see(event)
        assert "TOKEN_KEY_MISSING" == error.value.reason
    assert before == {table: await blind.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in wanted}
    with pytest.raises(Unavailable):
        await token_keys.check(database, AFTER)
    with pytest.raises(FailedPrecondition, match="token key 1"):
        await token_keys.wait(database, AFTER)
    await token_keys.wait(database, SWITCHED)


async def test_an_erased_person_stays_out_after_the_keys_were_changed(database: Database) -> None:
    event = ("app", ("crm_id", "app", "U1"), ("mobile", "13912345679"), {"who": "张伟"})
    late = ("app", ("crm_id", "app", "U2"), ("mobile", "15012345679"), {"who": "李娜"})
    world = Replica(database, BEFORE)
    erased = []
    for request, one in (("r1", event), ("r2", late)):
        (seen,) = await world.see(one)
        if request == "r2":
            await rotation.add_next_tokens(database, PREPARED, silent)
        async with database.transaction() as uow:
            done = await erasure.erase(
                uow, world.store, PREPARED, person_id=seen.person.entity_id, request_id=request, caller="operator", reason="x",
                dry_run=False,
            )  # fmt: skip
        erased.append(done)
    # Nobody can know the value of the first any more, so it goes on being known under the old key alone.
    assert {1: 2} == await rotation.finish(database, SWITCHED, silent)
    switched = Replica(database, SWITCHED)
    assert [] == await switched.see(event, late)
    with pytest.raises(Unavailable, match="token key 1"):
        await token_keys.check(database, AFTER)
    async with database.transaction() as uow:
        await erasure.lift(uow, SWITCHED, request_id="r1", identifiers=(), caller="operator", reason="x")
    # The second was erased when it had its second token already: the old key may go.
    await token_keys.check(database, AFTER)
    assert [] == await Replica(database, AFTER).see(late)


async def test_wrapping_anew_changes_no_sealed_byte(database: Database) -> None:
    await feed([Replica(database, BEFORE)], population(5))
    both = vault([1], 1, keks=EnvironmentKeks(KEKS, "k2"))
    only = vault([1], 1, keks=EnvironmentKeks({"k2": KEKS["k2"]}, "k2"))
    world = Replica(database, both)
    statement = "SELECT id, sealed FROM identifier UNION ALL SELECT anchor_id, sealed FROM profile ORDER BY 1, 2"
    before, values = await world.rows(statement), sorted(await opened(world, BEFORE))
    (keys,) = await world.rows("SELECT count(*) AS n FROM subject_key")

    def stop(step: str, done: int, of: int) -> None:
        assert (4, keys.n) == (done, of)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await rotation.rewrap(database, both, stop, batch=4)
    assert values == sorted(await opened(world, both))
    assert keys.n - 4 == await rotation.rewrap(database, both, silent, batch=4)
    assert 0 == await rotation.rewrap(database, both, silent)
    assert before == await world.rows(statement)
    assert values == sorted(await opened(world, only))
    for row in await world.rows(
        "SELECT p.anchor_id, p.sealed, k.* FROM profile p JOIN subject_key k ON k.id = p.subject_key_id"
    ):
        assert "name" in only.open(row.id, row.kek_id, row.wrapped, profile_place(row.anchor_id), row.sealed)


async def test_without_the_old_key_nothing_is_wrapped_anew(database: Database) -> None:
    await feed([Replica(database, BEFORE)], population(6, 4))
    world = Replica(database, BEFORE)
    before = await world.rows("SELECT * FROM subject_key ORDER BY id")
    with pytest.raises(FailedPrecondition, match="k1") as error:
        await rotation.rewrap(database, vault([1], 1, keks=EnvironmentKeks({"k2": KEKS["k2"]}, "k2")), silent)
    assert "KEK_MISSING" == error.value.reason
    without = vault([1, 2], 1, 2, keks=EnvironmentKeks({"k2": KEKS["k2"]}, "k2"))
    with pytest.raises(FailedPrecondition, match="k1"):
        await rotation.add_next_tokens(database, without, silent)
    assert before == await world.rows("SELECT * FROM subject_key ORDER BY id")
    assert [] == await world.rows("SELECT id FROM identifier WHERE next_token IS NOT NULL")


async def test_records_keep_coming_while_the_key_of_their_older_profile_is_missing(database: Database) -> None:
    event = ("app", ("crm_id", "app", "U1"), ("mobile", "13912345679"))
    await Replica(database, BEFORE).see((*event, {"who": "张伟"}))
    blind = vault([1], 1, keks=EnvironmentKeks({"k2": KEKS["k2"]}, "k2"))
    assert 1 == len(await Replica(database, blind).see((*event, {"who": "张强", "at": NOW + 1})))
    (row,) = await World(database).rows(
        "SELECT p.anchor_id, p.sealed, k.* FROM profile p JOIN subject_key k ON k.id = p.subject_key_id"
    )
    assert '{"name":"张强"}' == blind.open(row.id, row.kek_id, row.wrapped, profile_place(row.anchor_id), row.sealed)


async def test_what_doors_sealed_for_the_key_before_still_opens(database: Database) -> None:
    old, new = Replica(database, BEFORE), X25519PrivateKey.from_private_bytes(b"n" * 32)
    keys = old.key(), DataKey.agree(new.public_key().public_bytes_raw(), "k2")
    old.opener = Opener({"k1": old.private_key, "k2": new}, BEFORE)
    old.handle = observed(old.opener, old.store, Resolver(old.store, BEFORE))
    for number, key in enumerate(keys):
        await old.take(old.batch(key, [old.event(key, "app", ("crm_id", "app", f"U{number}"))]))
    resolved, _, dead = await old.published()
    assert (2, []) == (len(resolved), dead)
    # Once the old pair is gone, what was sealed for it waits among the dead letters.
    gone = Replica(database, BEFORE)
    gone.handle = observed(Opener({"k2": new}, BEFORE), gone.store, Resolver(gone.store, BEFORE))
    await gone.take(gone.batch(keys[0], [gone.event(keys[0], "app", ("crm_id", "app", "U9"))]))
    assert [("UNKNOWN_SEALING_KEY")] == [reason for reason, _ in (await gone.published())[2]]


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.identity", *words],
        check=False,
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


async def test_the_process_says_what_it_did_or_what_to_do(environment: dict[str, str]) -> None:
    done = await asyncio.to_thread(run, environment, "rotate-kek")
    assert (0, "0 data keys were wrapped; all are under k1\n") == (done.returncode, done.stdout)
    done = await asyncio.to_thread(run, environment, "rotate-tokens")
    assert 1 == done.returncode and "NO_NEXT_TOKEN_KEY: set TROIKA_NEXT_TOKEN_KEY_NUMBER first" in done.stderr
    database = Database(environment["TROIKA_POSTGRES_DSN"], "identity", 2)
    await Replica(database, SWITCHED).see(("app", ("crm_id", "app", "U1")))
    await database.close()
    done = await asyncio.to_thread(run, environment, "serve")
    assert 1 == done.returncode
    assert "TOKEN_KEY_MISSING: identifiers stand under token key 2, which is not configured" in done.stderr
