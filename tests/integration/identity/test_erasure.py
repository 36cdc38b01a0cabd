"""An erased person is nowhere, backups included, and takes nobody else along."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest
from troika.identity.v1 import events_pb2
from troika.identity.v1 import identity_service_pb2 as pb
from troika.identity.v1 import vault_service_pb2 as vault_pb

from chassis.bus import Message
from chassis.errors import FailedPrecondition
from chassis.rpc import reason_of
from chassis.testing import DatabaseFactory
from services.identity import erasure, erasure_store, inference, suggestions, tables
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import NUMBERS, Reason
from services.identity.keks import EnvironmentKeks
from services.identity.suggestions import Pair
from services.identity.vault import Vault, identifier_place, profile_place
from tests.integration.identity.erasing import (
    LI,
    MOBILE,
    PERSON,
    VIN,
    ZHANG,
    ZHANGS,
    Doors,
    Event,
    both,
    erase,
    failed_checks,
    ref,
    resolve,
    snapshot,
)
from tests.integration.identity.world import NOW, World


async def test_an_erased_person_is_found_by_nothing(world: World, doors: Doors) -> None:
    _, zhang = await both(world)
    assert {zhang} == set(await resolve(doors, *ZHANGS))
    manifest = await erase(doors, zhang)
    assert {0} == set(await resolve(doors, *ZHANGS))
    for question in (
        doors.operator.GetEntity(pb.GetEntityRequest(entity_kind=PERSON, entity_id=zhang)),
        doors.operator.ExplainLink(pb.ExplainLinkRequest(a=ZHANGS[0], b=ZHANGS[1])),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await question
        assert grpc.StatusCode.NOT_FOUND == error.value.code()
    for kind, scope in (("mobile", ""), ("crm_id", "app")):
        request = pb.RevealAddressesRequest(person_ids=[zhang], kind=kind, scope=scope, purpose="push")
        assert [] == list((await doors.touchpoints.RevealAddresses(request)).addresses)
    assert {} == await failed_checks(doors)
    assert (3, len(ZHANGS)) == (len(manifest.anchor_ids), len(manifest.tombstone_ids))
    assert 0 < len(manifest.destroyed_key_ids) and 0 < manifest.removed["link"] and 0 < manifest.removed["profile"]


async def test_the_proof_looks_for_itself(world: World, doors: Doors) -> None:
    _, zhang = await both(world)
    manifest = await erase(doors, zhang)
    tombstone, key = manifest.tombstone_ids[0], manifest.destroyed_key_ids[0]
    async with world.database.transaction() as uow:
        await uow.execute("UPDATE identifier SET sealed = 'x', entity_id = 77 WHERE id = :id", id=tombstone)
        await uow.execute("INSERT INTO subject_key (id, kek_id, wrapped) VALUES (:id, 'k1', 'w')", id=key)
        await uow.execute(
            "INSERT INTO link VALUES (:id, :id, 0, 1, 0, 0, 0, 1)",
            id=tombstone,
        )
        await uow.execute("DELETE FROM suppression WHERE identifier_id = :id", id=tombstone)
    wanted = ("identifier.sealed", "identifier.entity_id", "subject_key", "link", "ResolveIdentifiers", "not suppressed")
    assert dict.fromkeys(wanted, 1) == await failed_checks(doors)


async def test_what_others_need_is_sealed_again_before_a_key_goes(world: World, doors: Doors) -> None:
    # Zhang's call comes first, so that Li's phone and Zhang's car lie under his key.
    await world.see(ZHANG[2], ZHANG[0])
    (li,) = await world.see(*LI)
    (zhang,) = {*await resolve(doors, ZHANGS[0])}
    manifest = await erase(doors, zhang)
    rows = await world.rows(
        "SELECT i.id, i.kind, i.sealed, k.id AS key_id, k.kek_id, k.wrapped FROM identifier i"
        " LEFT JOIN subject_key k ON k.id = i.subject_key_id WHERE i.sealed <> ''"
    )
    opened = {world.vault.open(r.key_id, r.kek_id, r.wrapped, identifier_place(r.id), r.sealed) for r in rows}
    assert {"D2", "+86" + MOBILE, VIN} == opened
    assert not {row.key_id for row in rows} & set(manifest.destroyed_key_ids)
    assert [li.person.entity_id] == await resolve(doors, ref("mobile", MOBILE))


async def test_a_restored_backup_of_the_values_opens_no_more(world: World, doors: Doors) -> None:
    _, zhang = await both(world)
    backup = await world.rows("SELECT id, sealed, subject_key_id FROM identifier WHERE kind < 9")
    profiles = await world.rows("SELECT anchor_id, sealed, subject_key_id FROM profile")
    manifest = await erase(doors, zhang)
    async with world.database.transaction() as uow:
        for row in backup:
            await uow.execute(
                "UPDATE identifier SET sealed = :sealed, subject_key_id = :key WHERE id = :id",
                sealed=row.sealed, key=row.subject_key_id, id=row.id,
            )  # fmt: skip
    keys = {row.id: row for row in await world.rows("SELECT id, kek_id, wrapped FROM subject_key")}
    lost = {row.id for row in backup if row.subject_key_id not in keys}
    assert set(manifest.tombstone_ids) == lost
    assert {row.anchor_id for row in profiles if row.subject_key_id not in keys} <= set(manifest.anchor_ids)
    # No key that is left opens them either.
    for row in (row for row in backup if row.id in lost):
        for key in keys.values():
            with pytest.raises(FailedPrecondition):
                world.vault.open(key.id, key.kek_id, key.wrapped, identifier_place(row.id), row.sealed)


async def test_older_profiles_are_shredded_with_the_latest(world: World, doors: Doors) -> None:
    await world.see(ZHANG[0])
    (old,) = await world.rows("SELECT anchor_id, sealed, subject_key_id FROM profile")
    await world.see(("dealer:D001", ("crm_id", "dealer:D001", "D1"), {"who": "张卫", "at": NOW + 1}))
    await world.see(("dealer:D001", ("crm_id", "dealer:D001", "D1"), {"who": "张威", "at": NOW + 2}))
    (zhang,) = await resolve(doors, ZHANGS[0])
    await erase(doors, zhang)
    for key in await world.rows("SELECT id, kek_id, wrapped FROM subject_key"):
        with pytest.raises(FailedPrecondition):
            world.vault.open(key.id, key.kek_id, key.wrapped, profile_place(old.anchor_id), old.sealed)
    assert [] == list(await world.rows("SELECT id FROM subject_key WHERE id = :id", id=old.subject_key_id))


async def test_a_dry_run_says_what_goes_and_changes_nothing(world: World, doors: Doors) -> None:
    _, zhang = await both(world)
    before = await snapshot(world)
    tried = await erase(doors, zhang, dry_run=True)
    assert before == await snapshot(world)
    done = await erase(doors, zhang)
    assert 0 == tried.erasure_id != done.erasure_id
    assert (dict(tried.removed), list(tried.tombstone_ids), list(tried.destroyed_key_ids)) == (
        dict(done.removed),
        list(done.tombstone_ids),
        list(done.destroyed_key_ids),
    )


async def test_the_same_request_erases_once(world: World, doors: Doors) -> None:
    li, zhang = await both(world)
    first = await erase(doors, zhang)
    before = await snapshot(world)
    assert first == await erase(doors, zhang)
    assert before == await snapshot(world)
    for person, request, expected in (
        (li, "r1", "REQUEST_ID_TAKEN"),
        (zhang, "r2", "ENTITY_NOT_FOUND"),
        (9999, "r3", "ENTITY_NOT_FOUND"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await erase(doors, person, request)
        assert expected == reason_of(error.value)[0]
    assert before == await snapshot(world)


async def test_a_missing_key_stops_an_erasure_that_would_lose_others_values(world: World, doors: Doors) -> None:
    await world.see(ZHANG[2])
    await world.see(*LI)
    (zhang,) = await resolve(doors, ZHANGS[2])
    before = await snapshot(world)
    # The operator lost the old key-encryption key.
    without = Vault(world.vault.tokens, b"h" * 32, EnvironmentKeks({"k2": b"w" * 32}, "k2"))
    with pytest.raises(FailedPrecondition, match="k1") as error:
        async with world.database.transaction() as uow:
            await erasure.erase(
                uow, world.store, without, person_id=zhang, request_id="r1", caller="operator", reason="x", dry_run=False
            )
    assert "KEK_MISSING" == error.value.reason
    assert before == await snapshot(world)


async def test_an_erasure_waits_for_events_that_are_being_resolved(world: World, doors: Doors) -> None:
    """Else they would be told after it, of a person whom the other services have forgotten."""
    _, zhang = await both(world)
    await world.published()
    key = world.key()
    batch = world.batch(key, [world.event(key, *ZHANG[1], name="App Opened")])
    async with world.database.transaction() as uow:
        await world.handle(uow, [Message("m1", "s", batch, {}, 0)])
        erasing = asyncio.create_task(erase(doors, zhang))
        await asyncio.sleep(0.5)
        assert not erasing.done()
    await erasing
    rows = await world.rows("SELECT subject, payload FROM outbox ORDER BY id")
    subjects = [row.subject for row in rows]
    erased_at = next(
        at
        for at, row in enumerate(rows)
        if row.subject == "troika.entities.changed.v1" and events_pb2.EntitiesChanged.FromString(row.payload).erasures
    )
    assert "troika.events.resolved.v1" in subjects[:erased_at]
    assert "troika.events.resolved.v1" not in subjects[erased_at:]
    assert {} == await failed_checks(doors)


async def test_erasures_amid_events_leave_nothing_behind(world: World, doors: Doors) -> None:
    _, zhang = await both(world)

    async def chatter(number: int) -> None:
        source, *identifiers = ZHANG[number % 3][: -1 if isinstance(ZHANG[number % 3][-1], dict) else None]
        new = ("crm_id", source, f"N{number}")
        await world.see((source, new, *[i for i in identifiers if i[0] != "crm_id"], {"who": "张伟", "at": NOW + number}))

    await asyncio.gather(*(chatter(n) for n in range(6)), erase(doors, zhang), *(chatter(n) for n in range(6, 12)))
    # What came in before the erasure went with it, what came after was refused.
    assert {0} == set(await resolve(doors, *ZHANGS))
    assert {} == await failed_checks(doors)


async def test_linkage_that_read_an_erased_person_leaves_nothing_behind(world: World, doors: Doors) -> None:
    li, zhang = await both(world)
    rows = await world.rows("SELECT id, entity_id FROM identifier WHERE anchor AND kind = 1 ORDER BY id")
    hers, his = (next(row.id for row in rows if row.entity_id == person) for person in (li, zhang))
    await erase(doors, zhang)
    async with world.database.transaction() as uow:
        pairs = [Pair(hers, his, 0.99, {}), Pair(his, hers, 0.5, {})]
        assert (0, 0) == await suggestions.suggest(uow, world.store, pairs[:1], 0.9)
        assert (0, 0) == await suggestions.suggest(uow, world.store, pairs[1:], 0.9)
    assert {} == await failed_checks(doors)


async def test_relations_of_an_erased_person_are_taken_back(world: World, doors: Doors) -> None:
    _, zhang = await both(world)
    while (await inference.infer(world.database)).anchors:
        pass
    await world.published()
    told = await world.rows("SELECT kind FROM relation WHERE subject_kind = 1 AND subject_id = :zhang", zhang=zhang)
    assert "owns" in {row.kind for row in told}
    await erase(doors, zhang)
    while (await inference.infer(world.database)).anchors:
        pass
    _, changed, _ = await world.published()
    taken_back = [c for batch in changed for c in batch.relation_changes if c.subject_kind == PERSON and c.subject_id == zhang]
    assert sorted(row.kind for row in told) == sorted(c.kind for c in taken_back)
    assert {0.0} == {c.confidence for c in taken_back}
    assert [] == await world.rows("SELECT kind FROM relation WHERE subject_kind = 1 AND subject_id = :zhang", zhang=zhang)


async def test_only_the_operator_erases(doors: Doors) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await doors.not_operator.ErasePerson(vault_pb.ErasePersonRequest(person_id=1, request_id="r", reason="x"))
    assert grpc.StatusCode.PERMISSION_DENIED == error.value.code()


def population(seed: int) -> list[Event]:
    """Records of nine persons with phones, cars and devices that pass from hand to hand."""
    draw = random.Random(seed)
    names = ["张伟", "李娜", "王芳", "刘洋", "陈静", "杨帆", "赵磊", "黄敏", "周杰"]
    phones = [f"139{number:04}5679" for number in range(7)]
    events: list[Event] = []
    for number in range(36):
        source = draw.choice(["dealer:D001", "dealer:D002", "app", "call_center"])
        values = [("mobile", draw.choice(phones))]
        if draw.random() < 0.3:
            values.append(("unionid", f"oUnionUnionUnion{draw.randrange(9):04}"))
        if draw.random() < 0.3:
            values.append(("device", f"a8f5f167f44f{draw.randrange(9):04}"))
        who = draw.choice(names) if draw.random() < 0.8 else ""
        extra = {"who": who, "at": NOW + number}
        events.append((source, ("crm_id", source, f"N{draw.randrange(24)}"), *values, extra))
    return events


async def partition(world: World) -> dict[bytes, tuple[frozenset[bytes], int]]:
    """Record → the records of its person, and the guard on it."""
    rows = await world.rows("SELECT token, entity_id, person_guard FROM identifier WHERE anchor AND kind = 1 AND sealed <> ''")
    groups: dict[int, set[bytes]] = {}
    for row in rows:
        groups.setdefault(row.entity_id, set()).add(row.token)
    return {row.token: (frozenset(groups[row.entity_id]), row.person_guard) for row in rows}


@pytest.mark.parametrize("seed", [1, 3, 5])
async def test_who_is_left_is_as_if_the_erased_person_had_never_been(databases: DatabaseFactory, seed: int) -> None:
    async with databases.database("identity") as one, databases.database("identity") as other:
        with_all, without = World(one), World(other)
        events = population(seed)
        for event in events:
            await with_all.see(event)
        rows = await with_all.rows("SELECT token, entity_id FROM identifier WHERE anchor AND kind = 1 ORDER BY entity_id")
        person = random.Random(seed).choice([row.entity_id for row in rows])
        gone = {row.token for row in rows if row.entity_id == person}
        async with one.transaction() as uow:
            await erasure.erase(
                uow,
                with_all.store,
                with_all.vault,
                person_id=person,
                request_id="r",
                caller="operator",
                reason="x",
                dry_run=False,
            )
        for event in events:
            known = with_all.vault.known(*event[1])
            if isinstance(known, Known) and known.token not in gone:
                await without.see(event)
        left = await partition(without)
        assert left == await partition(with_all)
        # When all records come again, exactly those of the erased person are refused, and nothing changes.
        for event in events:
            known = with_all.vault.known(*event[1])
            admitted = await with_all.see((*event[:-1], {**event[-1], "at": NOW + 10**12}))
            assert isinstance(known, Known) and (known.token not in gone) == bool(admitted)
        assert left == await partition(with_all)


def test_every_table_is_erased_from_or_stays_for_a_reason() -> None:
    """A new table must say what becomes of it when a person is erased."""
    gone = {*erasure_store.OF_ANCHORS, *erasure_store.OF_IDENTIFIERS, "link", "relation", "subject_key"}
    about_persons = ("anchor", "person", "identifier", "value_id", "subject_id", "entity", "payload")
    suspects = {
        table.name
        for table in tables.metadata.tables.values()
        if any(part in column.name for column in table.columns for part in about_persons)
    }
    assert set() == suspects - gone - set(erasure_store.KEPT)


def test_tombstones_bear_a_reason_of_their_own() -> None:
    assert 6 == NUMBERS[Reason.ERASED]
